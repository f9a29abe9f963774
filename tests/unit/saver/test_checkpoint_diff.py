"""What differs between two checkpoints, worked out by hand."""

import collections
import io
import json
import math
import tracemalloc

import numpy as np
import pytest
import torch
from click.testing import CliRunner

import penstock
from penstock import container
from penstock.cli import penstock as command
from penstock.client.checkpoint_diff import Difference, diff_checkpoints
from penstock.container import Base, Reader


def difference(old, new, compress="small"):
    files = []
    for state in (old, new):
        files.append(io.BytesIO())
        container.write(state, files[-1], compress=compress)
    with Reader(files[0]) as before, Reader(files[1]) as after:
        return diff_checkpoints(before, after)


def only_change(old, new):
    found = difference({"x": old}, {"x": new})
    (change,) = found.changed
    assert (found.equal, found.values, found.reformed) == (0, [], [])
    assert change.path == "state['x']"
    return change


def test_equal_states_have_no_difference_whatever_their_profile():
    state = {"w": torch.randn(1000), "a": np.arange(5), "n": [1, 2.5, float("nan"), b"x" * 9000]}
    for compress in ("small", "fast", "none"):
        found = difference(state, state, compress)
        assert not found
        assert found == Difference(equal=2)


def test_largest_difference_and_relative_norm_are_those_of_the_definition():
    change = only_change(torch.tensor([3.0, 4.0, 0.0]), torch.tensor([3.0, 4.5, -0.25]))
    assert (change.changed, change.elements) == (2, 3)
    assert change.max_abs == 0.5
    assert change.relative_norm == pytest.approx(math.sqrt(0.25 + 0.0625) / 5)


def test_change_from_zeros_has_no_relative_norm():
    change = only_change(torch.zeros(3), torch.ones(3))
    assert (change.max_abs, change.relative_norm) == (1, None)


def test_zeros_of_either_sign_differ_by_nothing_yet_are_not_equal():
    change = only_change(torch.tensor([0.0, 1.0]), torch.tensor([-0.0, 1.0]))
    assert (change.changed, change.max_abs, change.relative_norm) == (1, 0, 0)


@pytest.mark.parametrize(
    ("dtype", "old", "new", "distance"),
    [
        ("int64", [-(2**63), 0], [2**63 - 1, 0], 2**64 - 1),
        ("int64", [2**60], [2**60 + 1], 1),
        ("uint64", [2**64 - 1], [0], 2**64 - 1),
        ("int8", [-128], [127], 255),
        ("bool", [False, True], [True, True], 1),
        (">i4", [5], [3], 2),
        ("float64", [1e308], [-1e308], math.inf),
        ("float16", [65504.0], [-65504.0], 131008.0),
        ("complex64", [3 + 4j], [0], 5),
    ],
)
def test_distance_is_exact_for_every_kind_of_number(dtype, old, new, distance):
    assert only_change(np.array(old, dtype), np.array(new, dtype)).max_abs == distance


def test_norms_of_very_large_and_very_small_numbers_neither_overflow_nor_vanish():
    for scale in (1e300, 1e-300):
        change = only_change(np.array([4.0, 0.0]) * scale, np.array([4.0, 2.0]) * scale)
        assert change.relative_norm == pytest.approx(0.5)


def test_what_is_not_finite_is_counted_by_itself():
    old = torch.tensor([1.0, float("nan"), 2.0, float("nan"), float("inf")])
    new = torch.tensor([float("inf"), 1.0, 2.5, float("nan"), float("inf")])
    change = only_change(old, new)
    assert (change.changed, change.not_finite, change.max_abs) == (3, 2, 0.5)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float8_e4m3fn, torch.float8_e5m2])
def test_small_floats_are_compared_as_bytes(dtype):
    old, new = torch.tensor([1.0, 2.0]).to(dtype), torch.tensor([1.0, 4.0]).to(dtype)
    assert not difference([old], [old.clone()])
    change = only_change(old, new)
    assert (change.changed, change.max_abs, change.relative_norm) == (1, None, None)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (np.array(["ab", "c"]), np.array(["ab", "d"])),
        (np.array(["2020-01-01"], "M8[s]"), np.array(["2020-01-02"], "M8[s]")),
    ],
)
def test_texts_and_times_are_equal_or_not(old, new):
    assert not difference([old], [old])
    assert (only_change(old, new).changed, only_change(old, new).max_abs) == (1, None)


def test_tensors_that_lie_scattered_in_memory_are_compared_by_their_elements():
    base = torch.arange(24.0).reshape(4, 6)
    old = {"all": base, "turned": base.t(), "columns": base[:, ::2]}
    new_base = base.clone()
    new_base[3, 1] = 100  # in no even column
    new = {"all": new_base, "turned": new_base.t(), "columns": new_base[:, ::2]}
    found = difference(old, new)
    assert [(change.path, change.changed) for change in found.changed] == [
        ("state['all']", 1),
        ("state['turned']", 1),
    ]
    assert found.equal == 1
    # Order is that of the elements, not of the memory.
    assert not difference({"x": base.t().contiguous()}, {"x": base.t().contiguous()})


def test_same_values_in_another_layout_are_equal():
    base = torch.arange(24.0).reshape(4, 6)
    old, new = {"x": [base.t(), base]}, {"x": [base.t().contiguous(), base]}
    assert not difference(old, new)


def test_large_tensors_are_compared_across_chunks_in_bounded_memory():
    old = {"x": torch.zeros(12_000_000), "tied": None}
    new = {"x": torch.zeros(12_000_000), "tied": None}
    for place in (0, 262_143, 262_144, 11_999_999):
        new["x"][place] = 2
    files = []
    for state in (old, new):
        files.append(io.BytesIO())
        container.write(state, files[-1])
    tracemalloc.start()
    with Reader(files[0]) as before, Reader(files[1]) as after:
        found = diff_checkpoints(before, after)
    _, peak_bytes = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    (change,) = found.changed
    assert (change.changed, change.elements, change.max_abs) == (4, 12_000_000, 2)
    assert peak_bytes < 20 << 20


def test_what_is_in_one_state_only_or_has_another_form_is_named():
    old = {"a": torch.ones(2), "b": np.ones(2), "g": {"gone": 1}, "same": torch.ones(1)}
    new = {"b": np.ones(2, np.float32), "c": torch.ones(3, 4), "e": {}, "same": torch.ones(1)}
    found = difference(old, new)
    assert found.only_in_old == {"state['a']": "torch float32 (2,)"}
    assert found.only_in_new == {"state['c']": "torch float32 (3, 4)"}
    ((path, before, after),) = [(c.path, c.old, c.new) for c in found.reformed]
    assert (path, before, after) == ("state['b']", "numpy <f8 (2,)", "numpy <f4 (2,)")
    assert {c.path: (c.old, c.new) for c in found.values} == {
        "state['g']['gone']": ("1", "(absent)"),
        "state['e']": ("(absent)", "dict of 0"),
    }
    assert found.equal == 1


@pytest.mark.parametrize(
    ("old", "new", "shown"),
    [
        (1, 2, ("1", "2")),
        (1, True, ("1", "True")),
        (1, 1.0, ("1", "1.0")),
        (0.0, -0.0, ("0.0", "-0.0")),
        ("(absent)", "x", ("'(absent)'", "'x'")),
        (np.float32(1), np.float64(1), ("np.float32(1.0)", "np.float64(1.0)")),
        (torch.float32, torch.float16, ("torch.dtype float32", "torch.dtype float16")),
        (torch.Size([1]), torch.Size([2]), ("torch.Size (1,)", "torch.Size (2,)")),
        ((1,), [1], ("tuple of 1", "list of 1")),
        (b"a" * 9000, b"a" * 8999 + b"b", ("9000 bytes", "9000 bytes")),
        (torch.ones(1), 5, ("(absent)", "5")),
    ],
)
def test_plain_values_that_differ_are_shown(old, new, shown):
    (change,) = difference({"x": old}, {"x": new}).values
    assert (change.path, change.old, change.new) == ("state['x']", *shown)


def test_keys_of_another_type_and_another_order_are_told_apart():
    found = difference({1: "a"}, {"1": "a"})
    assert {change.path for change in found.values} == {"state[1]", "state['1']"}
    ordered = difference({"a": 1, "b": 2}, {"b": 2, "a": 1})
    assert [change.new for change in ordered.values] == ["dict with the keys 'b', 'a'"]
    (kind,) = difference({"a": 1}, collections.OrderedDict(a=1)).values
    assert kind.path == "state"


def test_checkpoint_on_a_base_is_compared_by_what_it_means():
    first, second = io.BytesIO(), io.BytesIO()
    state = {"w": torch.randn(400_000), "b": torch.ones(9)}
    later = {"w": state["w"] * 1.0001, "b": state["b"]}
    done = container.write(state, first)
    base = Base(done.ref(1), first, done.hashes)
    container.write(later, second, compress="delta", base=base)
    with (
        Reader(first) as old,
        Reader(second, open_base=lambda _: Reader(first)) as new,
    ):
        assert new.index.base is not None
        found = diff_checkpoints(old, new)
    assert [change.path for change in found.changed] == ["state['w']"]
    assert found.equal == 1


@pytest.fixture
def target(tmp_path):
    target = f"file://{tmp_path}/store"
    with penstock.open_checkpoints(target) as client:
        client.save({"w": torch.ones(2), "n": 1}, "arm", 1, tags=("best",))
        client.save({"w": torch.ones(2) * 3, "n": 2}, "arm", 2)
        client.save({"w": torch.ones(2), "n": 1}, "leg", 9)
    return target


def typed(*words):
    return CliRunner().invoke(command, ["checkpoints", "diff", *words])


def test_command_says_what_differs_and_ends_as_diff_does(target):
    done = typed(target, "arm", "best", "latest")
    assert done.exit_code == 1
    assert "state['w']" in done.output
    assert "2 of 2" in done.output
    assert "arm/1 and arm/2 differ: tensors: 0 equal, 1 changed" in done.output
    same = typed(target, "arm", "1", "9", "--other-run", "leg")
    assert (same.exit_code, "arm/1 and leg/9 are equal: tensors: 1 equal" in same.output) == (
        0,
        True,
    )
    trouble = typed(target, "arm", "1", "77")
    assert trouble.exit_code == 2
    assert "error: run 'arm' has no step 77" in trouble.output


def test_command_speaks_json(target):
    done = typed(target, "arm", "1", "2", "--json")
    found = json.loads(done.output)
    assert (found["old"], found["new"], found["differs"], done.exit_code) == (
        "arm/1",
        "arm/2",
        True,
        1,
    )
    assert found["changed"] == [
        {
            "path": "state['w']",
            "changed": 2,
            "elements": 2,
            "max_abs": 2.0,
            "relative_norm": 2.0,
            "not_finite": 0,
        }
    ]
    assert found["values"] == [{"path": "state['n']", "old": "1", "new": "2"}]
