"""The shape of a state finds the leaves of another one of the same form, in order, or says no."""

import collections
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from penstock.container.shape import Shape


class Leaf:
    """Anything that is no container, told apart by identity."""


def relabelled(state):
    """The same containers with new leaves; gives these in order too."""
    leaves = []

    def copied(value):
        if isinstance(value, dict):
            result = type(value)((key, copied(child)) for key, child in value.items())
            if hasattr(value, "_metadata"):
                result._metadata = dict(value._metadata)
            return result
        if isinstance(value, (list, tuple)):
            return type(value)(copied(child) for child in value)
        leaves.append(Leaf())
        return leaves[-1]

    return copied(state), leaves


KEYS = st.one_of(
    st.text(max_size=2), st.integers(0, 3), st.booleans(), st.none(), st.just((1, "x"))
)
STATES = st.recursive(
    st.builds(Leaf),
    lambda children: st.one_of(
        st.lists(children, max_size=4),
        st.lists(children, max_size=4).map(tuple),
        st.dictionaries(KEYS, children, max_size=4),
        st.dictionaries(KEYS, children, max_size=4).map(collections.OrderedDict),
    ),
    max_leaves=12,
)


@given(STATES)
def test_leaves_come_in_the_order_of_the_state(state):
    labelled, leaves = relabelled(state)
    shape = Shape(labelled)
    assert shape.forget_leaves() == leaves
    assert shape.forget_leaves() == []
    other, others = relabelled(state)
    assert shape.leaves_of(other) == others


@given(STATES, STATES)
def test_leaves_of_another_state_are_as_many_or_none(first, second):
    first, leaves = relabelled(first)
    second, _ = relabelled(second)
    found = Shape(first).leaves_of(second)
    if found is not None:
        assert len(found) == len(leaves)
        # Containers where leaves were: whoever asks looks at the types.
        if not any(isinstance(leaf, (dict, list, tuple)) for leaf in found):
            assert repr_of_form(second) == repr_of_form(first)


def repr_of_form(value):
    if isinstance(value, dict):
        return type(value), [(type(k), k, repr_of_form(v)) for k, v in value.items()]
    if isinstance(value, (list, tuple)):
        return type(value), [repr_of_form(v) for v in value]
    return None


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ([1], (1,)),
        ([1], [1, 2]),
        ([1, 2], [1]),
        ([[1], 2], [[1, 2], 2]),
        ([[1], 2], [1, 2]),
        ([[]], [1]),
        ({"a": 1}, {"b": 1}),
        ({"a": 1, "b": 2}, {"b": 2, "a": 1}),
        ({"a": 1}, {"a": 1, "b": 2}),
        ({"a": 1}, collections.OrderedDict(a=1)),
        ({1: "x"}, {True: "x"}),
        ({1: "x"}, {1.0: "x"}),
        ({0: "x"}, {"0": "x"}),
        ({"a": 1}, ["a"]),
        ({}, []),
        ((), []),
        ({"a": [1]}, collections.defaultdict(list, a=[1])),
        ([1], torch.Size([1])),
        ([1], None),
        ({"a": {"b": 1}}, {"a": {"c": 1}}),
        ([{"a": 1}, {"a": 2}], [{"a": 1}, {"b": 2}]),
        ([{"a": 1}, {"a": 2}], [{"a": 1}, {"a": 2, "b": 3}]),
        ([{"a": 1}, {"a": 2}], [{"a": 1}, {}]),
        ([{"a": 1}, {"a": 2}], [{"a": 1}, ["a"]]),
        ([{"a": 1}, {"a": 2}], [{"a": 1}, collections.OrderedDict(a=2)]),
        ([{"a": 1}, {"a": 2}], [{"a": 1}, 2]),
        ([{"a": 1}, {"a": 2}], [{"a": 1}]),
        ([{"a": 1, "b": 2}, {"a": 3, "b": 4}], [{"a": 1, "b": 2}, {"b": 4, "a": 3}]),
        ([{}, {}], [{}, {"a": 1}]),
        ([{1: "x"}, {1: "y"}], [{1: "x"}, {True: "y"}]),
    ],
    ids=repr,
)
def test_other_form_has_no_leaves(first, second):
    assert Shape(first).leaves_of(second) is None
    assert Shape(first).leaves_of(first) is not None


@pytest.mark.parametrize(
    "keys", [(0.0, -0.0), ((1,), (True,)), ((1,), (1.0,)), ((0.0,), (-0.0,))], ids=repr
)
def test_equal_keys_of_another_kind_are_another_form(keys):
    for first, second in (keys, keys[::-1]):
        assert Shape({first: 1}).leaves_of({second: 1}) is None
        assert Shape({first: 1}).leaves_of({first: 2}) == [2]


def test_key_that_is_not_a_number_is_itself_and_no_other():
    key = math.nan
    assert Shape({key: 1}).leaves_of({key: 2}) == [2]
    assert Shape({key: 1}).leaves_of({float("nan"): 2}) is None


def test_versions_of_modules_belong_to_the_form():
    def state(version):
        result = collections.OrderedDict(a=1)
        result._metadata = {"": {"version": version}}
        return result

    shape = Shape(state(1))
    assert shape.leaves_of(state(1)) == [1]
    assert shape.leaves_of(state(2)) is None
    assert shape.leaves_of(collections.OrderedDict(a=1)) is None
    assert Shape(collections.OrderedDict(a=1)).leaves_of(state(1)) is None


def test_versions_that_are_changed_in_place_are_another_form():
    state = torch.nn.BatchNorm1d(2).state_dict()
    shape = Shape(state)
    state._metadata[""]["version"] = 7
    assert shape.leaves_of(state) is None


def test_a_size_is_a_leaf_though_it_is_a_tuple():
    size = torch.Size([2, 3])
    assert Shape([size]).leaves_of([torch.Size([4])]) == [torch.Size([4])]


def test_leaves_are_the_objects_themselves_and_none_is_kept():
    import weakref

    leaf = Leaf()
    gone = weakref.ref(leaf)
    shape = Shape({"a": [leaf]})
    assert shape.forget_leaves()[0] is leaf
    del leaf
    assert gone() is None
    assert shape.leaves_of({"a": [7]}) == [7]
