"""What goes into a checkpoint comes out as it was: values, types, sharing."""

import collections
import enum
import io
import random
from typing import NamedTuple

import numpy as np
import pytest
import torch

from penstock import container
from penstock.container import Limits
from penstock.errors import InvalidInput, LimitExceeded


def round_trip(state, **options):
    file = io.BytesIO()
    container.write(state, file, **options)
    return container.read(file)


@pytest.mark.parametrize(
    "value",
    [
        None,
        True,
        False,
        0,
        -1,
        2**63 - 1,
        -(2**63),
        2**63,
        -(2**200),
        0.1,
        -0.0,
        float("inf"),
        float("-inf"),
        5e-324,
        1 + 2j,
        "",
        "grüße\n\0",
        "\ud800",
        b"",
        b"\x00\xff",
        b"x" * 100_000,
        [],
        (),
        {},
        [1, [2, [3]]],
        (1, (2.0, "3")),
        {"a": 1, 1: "a", 2.5: None, None: 0, (1, "b"): [1], b"k": 2},
        torch.Size([2, 3]),
        torch.Size([]),
        torch.bfloat16,
        torch.device("cuda", 1),
        torch.device("cpu"),
    ],
    ids=lambda value: f"{type(value).__name__} {value!r:.30}",
)
def test_value_keeps_type_and_value(value):
    result = round_trip({"value": value})["value"]
    assert type(result) is type(value)
    assert result == value
    assert repr(result) == repr(value)


def test_not_a_number_stays_one():
    assert np.isnan(round_trip([float("nan")])[0])


def test_integer_key_does_not_become_a_string():
    assert list(round_trip({0: "int", "0": "str"}).items()) == [(0, "int"), ("0", "str")]


def test_boolean_keys_do_not_become_integers():
    (key,) = round_trip({True: "x"})
    assert key is True


def test_ordered_dict_keeps_kind_order_and_module_versions():
    state = torch.nn.BatchNorm1d(2).state_dict()
    result = round_trip(state)
    assert type(result) is collections.OrderedDict
    assert list(result) == list(state)
    assert result._metadata == state._metadata == {"": {"version": 2}}


@pytest.mark.parametrize(
    "dtype",
    [
        torch.float64,
        torch.float32,
        torch.float16,
        torch.bfloat16,
        torch.float8_e4m3fn,
        torch.int64,
        torch.int32,
        torch.int16,
        torch.int8,
        torch.uint8,
        torch.uint16,
        torch.uint64,
        torch.bool,
        torch.complex64,
        torch.complex128,
    ],
    ids=str,
)
@pytest.mark.parametrize("compress", ["small", "fast", "delta", "none"])
def test_tensor_of_every_dtype_keeps_its_bits(dtype, compress):
    tensor = torch.arange(0, 3000).reshape(30, 100).remainder(2).to(dtype)
    result = round_trip([tensor], compress=compress)[0]
    assert result.dtype == dtype
    assert result.shape == (30, 100)
    assert result.view(torch.uint8).tolist() == tensor.view(torch.uint8).tolist()


@pytest.mark.parametrize(
    "tensor",
    [
        torch.tensor(3.5),
        torch.empty(0),
        torch.empty(3, 0, 2),
        torch.arange(12.0).reshape(3, 4).t(),
        torch.arange(12.0)[::3],
        torch.arange(12.0).reshape(3, 4)[:, 1],
        torch.arange(3.0).expand(4, 3),
        torch.arange(24.0).reshape(1, 2, 3, 4).to(memory_format=torch.channels_last),
        torch.view_as_complex(torch.arange(6.0).reshape(3, 2)).conj(),
        torch.arange(10)[10:],
        torch.arange(2_000_000, dtype=torch.int32),
    ],
    ids=lambda tensor: f"{tuple(tensor.shape)} {tensor.stride()}",
)
def test_tensor_of_every_layout_keeps_its_values(tensor):
    result = round_trip([tensor])[0]
    assert result.shape == tensor.shape
    assert result.dtype == tensor.dtype
    assert torch.equal(result, tensor.resolve_conj())


def test_channels_last_weights_stay_channels_last():
    tensor = torch.randn(2, 3, 4, 4).to(memory_format=torch.channels_last)
    assert round_trip([tensor])[0].is_contiguous(memory_format=torch.channels_last)


def test_small_view_does_not_drag_its_large_storage_along():
    file = io.BytesIO()
    written = container.write({"view": torch.randn(1_000_000)[500:510]}, file)
    assert written.raw_size_bytes == 10 * 4 + 500 * 4 % 16


def test_expanded_tensor_does_not_grow():
    file = io.BytesIO()
    assert container.write(torch.ones(1).expand(10**9), file).raw_size_bytes == 4
    assert container.read(file).shape == (10**9,)


def test_same_tensor_twice_is_one_object_again():
    tensor = torch.ones(3)
    first, second = round_trip([tensor, tensor])
    assert first is second


def test_tied_weights_are_stored_once_and_stay_tied():
    weight = torch.randn(1000)
    file = io.BytesIO()
    written = container.write({"a": weight.detach(), "b": weight.detach()}, file)
    assert written.raw_size_bytes == 4000
    result = container.read(file)
    result["a"][7] = 42.0
    assert result["b"][7] == 42.0


def test_overlapping_views_share_memory_again():
    base = torch.arange(10.0)
    result = round_trip({"base": base, "part": base[2:6], "rows": base.view(2, 5)})
    result["base"][3] = -1.0
    assert result["part"].tolist() == [2.0, -1.0, 4.0, 5.0]
    assert result["rows"].tolist() == [[0, 1, 2, -1, 4], [5, 6, 7, 8, 9]]


def test_view_with_another_dtype_shares_memory_again():
    base = torch.zeros(8, dtype=torch.float32)
    result = round_trip([base, base[4:].view(torch.int32)])
    result[1][0] = 0x3F800000
    assert result[0].tolist() == [0, 0, 0, 0, 1, 0, 0, 0]


def test_disjoint_views_become_independent():
    base = torch.arange(1_000_000.0)
    file = io.BytesIO()
    written = container.write([base[:4], base[-4:]], file)
    assert written.raw_size_bytes == 32
    assert [part.tolist() for part in container.read(file)] == [
        [0, 1, 2, 3],
        [999996, 999997, 999998, 999999],
    ]


def test_parameter_stays_a_parameter():
    frozen = torch.nn.Parameter(torch.ones(2), requires_grad=False)
    trained = torch.nn.Parameter(torch.ones(2))
    first, second, plain = round_trip([frozen, trained, torch.ones(2, requires_grad=True)])
    assert type(first) is type(second) is torch.nn.Parameter
    assert (first.requires_grad, second.requires_grad, plain.requires_grad) == (False, True, True)


@pytest.mark.parametrize(
    "array",
    [
        np.arange(6.0).reshape(2, 3),
        np.array(3, np.int16),
        np.zeros((0, 4), np.float32),
        np.asfortranarray(np.arange(6).reshape(2, 3)),
        np.arange(10)[::-2],
        np.arange(4, dtype=">i4"),
        np.array(["ab", "cde"]),
        np.array([b"ab", b""]),
        np.array([True, False]),
        np.array([1 + 2j]),
        np.array(["2020-01-01", "NaT"], "datetime64[ns]"),
        np.array([5], "timedelta64[D]"),
        np.ones(3, np.float16),
    ],
    ids=lambda array: f"{array.dtype.str} {array.shape}",
)
def test_array_keeps_dtype_shape_and_values(array):
    result = round_trip([array])[0]
    assert result.dtype.str == array.dtype.str
    assert result.shape == array.shape
    np.testing.assert_array_equal(result, array)
    assert result.flags.writeable or result.size == 0


@pytest.mark.parametrize(
    "scalar", [np.float32(0.1), np.int64(-5), np.bool_(1), np.str_("é"), np.datetime64(1, "s")]
)
def test_numpy_scalar_keeps_its_type(scalar):
    result = round_trip([scalar])[0]
    assert type(result) is type(scalar)
    assert result == scalar


def test_random_number_generators_go_on_where_they_were():
    generator = np.random.default_rng(5)
    generator.normal(size=3)
    numpy_legacy, python = np.random.RandomState(3), random.Random(4)  # noqa: S311 - what is tested
    numpy_legacy.normal()
    torch_generator = torch.Generator().manual_seed(6)
    state = round_trip(
        {
            "generator": generator.bit_generator.state,
            "legacy": numpy_legacy.get_state(),
            "python": python.getstate(),
            "torch": torch_generator.get_state(),
        }
    )
    expected = (
        generator.normal(),
        numpy_legacy.normal(),
        python.random(),
        torch.rand(3, generator=torch_generator).tolist(),
    )
    fresh, fresh_legacy, fresh_python = (
        np.random.default_rng(),
        np.random.RandomState(),
        random.Random(),  # noqa: S311 - what is tested
    )
    fresh_torch = torch.Generator()
    fresh.bit_generator.state = state["generator"]
    fresh_legacy.set_state(state["legacy"])
    fresh_python.setstate(state["python"])
    fresh_torch.set_state(state["torch"])
    assert expected == (
        fresh.normal(),
        fresh_legacy.normal(),
        fresh_python.random(),
        torch.rand(3, generator=fresh_torch).tolist(),
    )


def test_optimiser_goes_on_exactly_where_it_was():
    def make():
        torch.manual_seed(0)
        model = torch.nn.Linear(4, 2)
        return model, torch.optim.Adam(model.parameters(), lr=0.1)

    def step(model, optimiser):
        optimiser.zero_grad()
        model(torch.ones(3, 4)).square().sum().backward()
        optimiser.step()

    model, optimiser = make()
    step(model, optimiser)
    state = round_trip({"model": model.state_dict(), "optimiser": optimiser.state_dict()})
    step(model, optimiser)
    other, other_optimiser = make()
    other.load_state_dict(state["model"])
    other_optimiser.load_state_dict(state["optimiser"])
    step(other, other_optimiser)
    assert torch.equal(model.weight, other.weight)
    assert torch.equal(model.bias, other.bias)


class Colour(enum.IntEnum):
    RED = 1


class Point(NamedTuple):
    x: int
    y: int


@pytest.mark.parametrize(
    ("state", "path"),
    [
        ({"a": [0, 1, 2, {"b": object()}]}, "state['a'][3]['b']"),
        ({"a": {1, 2}}, "state['a']"),
        ([lambda: 0], "state[0]"),
        ({"p": Point(1, 2)}, "state['p']"),
        ({"c": Colour.RED}, "state['c']"),
        ({"d": collections.defaultdict(list)}, "state['d']"),
        ({"m": torch.nn.Linear(1, 1)}, "state['m']"),
        ({"s": torch.eye(2).to_sparse()}, "state['s']"),
        ({"m": torch.empty(2, device="meta")}, "state['m']"),
        ({"o": np.array([object()])}, "state['o']"),
        ({"r": np.zeros(2, [("x", "f4")])}, "state['r']"),
        ({"k": {torch.ones(1): 1}}, "state['k']"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_unknown_type_is_refused_with_its_path(state, path):
    with pytest.raises(InvalidInput) as refused:
        container.flatten(state)
    assert refused.value.field == path
    assert path in refused.value.message


def test_cycle_is_refused():
    state = {"a": []}
    state["a"].append(state)
    with pytest.raises(InvalidInput, match=r"state\['a'\]\[0\] contains itself"):
        container.flatten(state)


def test_list_met_twice_is_no_cycle():
    shared = [1]
    assert round_trip([shared, shared]) == [[1], [1]]


def test_nesting_is_bounded():
    state = 1
    for _ in range(64):
        state = [state]
    assert round_trip(state) == state
    with pytest.raises(LimitExceeded, match="nested deeper than 64"):
        container.flatten([state])


def test_tensor_count_is_bounded():
    with pytest.raises(LimitExceeded, match="more than 2 tensors"):
        container.flatten([torch.ones(1) for _ in range(3)], limits=Limits(tensor_count=2))


def test_snapshot_does_not_show_later_writes():
    tensor, array = torch.zeros(4), np.zeros(4)
    transposed = torch.zeros(2, 3).t()
    flat = container.flatten([tensor, array, transposed, tensor[1:]], copy=True)
    for original in (tensor, array, transposed):
        original[...] = 1
    assert [np.asarray(value).sum() for value in round_trip(flat)] == [0, 0, 0, 0]


def test_part_of_a_state_is_read_alone():
    file = io.BytesIO()
    container.write({"policy": {"w": torch.ones(5)}, "rest": [torch.zeros(10**6), 7]}, file)
    policy = container.read(file, only=("policy",))
    assert list(policy) == ["w"]
    assert policy["w"].tolist() == [1] * 5
    assert container.read(file, only=("rest", 1)) == 7


def test_part_that_is_not_there_says_what_is():
    file = io.BytesIO()
    container.write({"policy": 1, "critic": 2}, file)
    with pytest.raises(InvalidInput, match="no 'polcy'; it has 'policy', 'critic'"):
        container.read(file, only=("polcy",))
