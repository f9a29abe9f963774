"""A plan gives the file that a plain write gives, or it does not match."""

import collections
import io
import json
import math
import random
import subprocess
import sys

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from penstock import container, native
from penstock.container import Plan, restored
from penstock.errors import Conflict, InvalidInput, LimitExceeded
from penstock.native import library

# The strategy of states is what is long, not the states.
pytestmark = pytest.mark.filterwarnings("ignore:Generating overly large repr")

SMALL, LARGE = 60, 6000
"""Elements: of float32, a window that is copied at once and one that is copied later."""


@pytest.fixture(params=["native", "without"], autouse=True)
def kernels(request, monkeypatch):
    """With the native kernels, and without."""
    if request.param == "without":
        monkeypatch.setattr(library, "_find", lambda: "absent for this test")
    elif not native.available():
        pytest.skip(native.describe())


def through_plan(plan, state, leaves=None):
    """The file of a state by way of a plan; None if the plan is not for it."""
    leaves = plan.match(state) if leaves is None else leaves
    if leaves is None:
        return None
    buffer = np.full(plan.size_bytes, 0xA5, np.uint8)
    plan.take(leaves, buffer)
    plan.stage(leaves, buffer)
    file = io.BytesIO()
    tree = json.loads(plan.tree_of(leaves))
    container.write(restored(tree, plan.entries, plan.storages, buffer), file, compress="none")
    return file


def plainly(state):
    file = io.BytesIO()
    container.write(state, file, compress="none")
    return file


def assert_planned(plan, state):
    found = through_plan(plan, state)
    assert found is not None, "the plan does not match"
    assert found.getvalue() == plainly(state).getvalue()


def leaves_of(value):
    if isinstance(value, dict):
        for key, child in value.items():
            yield from leaves_of(key)
            yield from leaves_of(child)
        yield getattr(value, "_metadata", None)
    elif type(value) in (list, tuple):
        for child in value:
            yield from leaves_of(child)
    yield value


def bits(value):
    if isinstance(value, torch.Tensor):
        plain = value.detach().resolve_conj().resolve_neg().contiguous().flatten()
        form = (value.dtype, tuple(value.shape), value.stride(), value.requires_grad)
        return form, plain.view(torch.uint8).numpy().tobytes()
    if isinstance(value, (np.ndarray, np.generic)):
        return value.dtype.str, value.shape, value.tobytes()
    return len(value) if isinstance(value, (dict, list, tuple)) else repr(value)


def described(state):
    """Types and bits of all values in order, and which tensors are one or share memory, and how."""
    leaves = list(leaves_of(state))
    tensors = [leaf for leaf in leaves if isinstance(leaf, torch.Tensor) and leaf.numel()]
    arrays = [leaf for leaf in leaves if isinstance(leaf, np.ndarray)]
    first, objects, groups = {}, {}, {}
    for tensor in tensors:
        memory = tensor.untyped_storage().data_ptr()
        first[memory] = min(first.get(memory, math.inf), tensor.data_ptr())
    sharing = [
        (
            objects.setdefault(id(tensor), len(objects)),
            groups.setdefault(tensor.untyped_storage().data_ptr(), len(groups)),
            tensor.data_ptr() - first[tensor.untyped_storage().data_ptr()],
        )
        for tensor in tensors
    ]
    same = [objects.setdefault(id(array), len(objects)) for array in arrays]
    return [(type(leaf), bits(leaf)) for leaf in leaves], sharing, same


def assert_right_or_refused(plan, state):
    """Never a wrong file: what a plain write gives, or no match, or a refusal that says so."""
    try:
        found = through_plan(plan, state)
    except (Conflict, InvalidInput):
        return
    if found is not None:
        wanted = container.read(plainly(state))
        assert described(container.read(found)) == described(wanted)


class Memory:
    """Tensors and arrays of one state; another one lays the same things out elsewhere."""

    def __init__(self, seed):
        self.seed, self.made, self.pool = seed, [], {}

    def new(self, dtype, count):
        """A tensor whose values can be changed in place later."""
        tensor = torch.zeros(count, dtype=dtype)
        self.made.append(tensor)
        self.fill(tensor, len(self.made))
        return tensor

    def array(self, dtype, count):
        array = np.zeros(count, dtype)
        self.made.append(array)
        self.fill(array, len(self.made))
        return array

    def pooled(self, dtype, count, which):
        key = dtype, count, which
        if key not in self.pool:
            self.pool[key] = self.new(dtype, count)
        return self.pool[key]

    def fill(self, value, number):
        rng = np.random.default_rng([self.seed, number])
        raw = value.numpy() if value_is_plain(value) else value
        raw = raw.view(torch.uint8).numpy() if isinstance(raw, torch.Tensor) else raw.view(np.uint8)
        raw[...] = rng.integers(0, 2, raw.shape, np.uint8)

    def change(self):
        """Other values everywhere, in place."""
        self.seed += 1
        for number, value in enumerate(self.made):
            self.fill(value, number)


def value_is_plain(value):
    return isinstance(value, torch.Tensor) and value.dtype in (torch.float32, torch.int64)


DTYPES = st.sampled_from(
    [
        *(torch.float32, torch.float64, torch.bfloat16, torch.float16),
        *(torch.int64, torch.uint8, torch.bool, torch.complex64),
    ]
)
COUNTS = st.sampled_from([SMALL, LARGE])
VIEWS = {
    "the same": lambda t: t,
    "alias": lambda t: t.detach(),
    "part": lambda t: t[5:41],
    "end": lambda t: t[-7:],
    "rows": lambda t: t.view(4, -1),
    "turned": lambda t: t.view(4, -1).t(),
    "holes": lambda t: t[::3],
    "column": lambda t: t.view(-1, 4)[:, 1],
    "nothing": lambda t: t[3:3],
    "one": lambda t: t[2],
    "parameter": lambda t: (
        torch.nn.Parameter(t.detach()) if t.is_floating_point() else t.view(torch.uint8)
    ),
    "bytes": lambda t: t.view(torch.uint8),
}
OWN = {
    "whole": lambda t: t,
    "expanded": lambda t: t[:1].expand(50),
    "empty": lambda t: t[:0].view(0, 3),
    "scalar": lambda t: t[:1].clone().reshape(()),
    "last axes first": lambda t: t.view(1, 2, 5, -1).to(memory_format=torch.channels_last),
    "far inside": lambda t: t[33:39],
    "transposed": lambda t: t.view(-1, 4).t(),
    "each second": lambda t: t[::2],
    "frozen": lambda t: torch.nn.Parameter(t, requires_grad=False),
    "conjugate": lambda t: t.conj(),
    "negative": lambda t: t.conj().imag if t.is_complex() else t,
    "clone": lambda t: t.clone(),
}
ARRAYS = {
    "whole": lambda a: a,
    "backwards": lambda a: a[::-2],
    "columns first": lambda a: np.asfortranarray(a.reshape(4, -1)),
    "turned": lambda a: a.reshape(4, -1).T,
    "scalar": lambda a: a[3:4].reshape(()),
    "empty": lambda a: a[:0].reshape(0, 4),
}
ARRAY_DTYPES = st.sampled_from(["f4", "f8", ">i4", "i8", "?", "c8", "S3", "f2"])
PLAIN = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-3, 3),
    st.sampled_from([2**63, -(2**200), 2**63 - 1, 1 + 2j, complex(-0.0, math.nan), "", "a", "ü\0"]),
    st.floats(),
    st.binary(max_size=4),
    st.sampled_from([4096, 4097, 20_000]).map(bytes),
    st.sampled_from([np.float32(0.1), np.int64(-1), np.bool_(1), np.float64(-0.0), np.str_("é")]),
    st.sampled_from([torch.Size([2, 0]), torch.Size([]), torch.bfloat16, torch.device("cuda", 1)]),
)
LEAVES = st.one_of(
    st.builds(
        lambda dtype, count, which, how: lambda m: VIEWS[how](m.pooled(dtype, count, which)),
        *(DTYPES, COUNTS, st.integers(0, 1), st.sampled_from(list(VIEWS))),
    ),
    st.builds(
        lambda dtype, count, how: lambda m: OWN[how](m.new(dtype, count)),
        *(DTYPES, COUNTS, st.sampled_from(list(OWN))),
    ),
    st.builds(
        lambda dtype, count, how: lambda m: ARRAYS[how](m.array(dtype, count)),
        *(ARRAY_DTYPES, COUNTS, st.sampled_from(list(ARRAYS))),
    ),
    PLAIN.map(lambda value: lambda m: value),
)
KEYS = st.one_of(
    st.sampled_from(["a", "b", "a.b", "0", ""]),
    st.integers(0, 2),
    st.sampled_from([0.5, None, False, b"k", ("t", 1), 2**70]),
)


def ordered(pairs, version):
    result = collections.OrderedDict(pairs)
    if version:
        result._metadata = collections.OrderedDict({"": {"version": version}})
    return result


def containers(children):
    items = st.lists(children, max_size=4)
    pairs = st.lists(st.tuples(KEYS, children), max_size=4, unique_by=lambda pair: pair[0])
    return st.one_of(
        items.map(lambda parts: lambda m: [part(m) for part in parts]),
        items.map(lambda parts: lambda m: tuple(part(m) for part in parts)),
        pairs.map(lambda parts: lambda m: {key: part(m) for key, part in parts}),
        st.builds(
            lambda parts, version: lambda m: ordered([(k, p(m)) for k, p in parts], version),
            *(pairs, st.integers(0, 2)),
        ),
    )


RECURSIVE = st.recursive(LEAVES, containers, max_leaves=14)


@st.composite
def states(draw):
    """Each is laid out in a ``Memory``, and again in another one."""
    return draw(RECURSIVE)


seriously = settings(
    max_examples=150,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


@seriously
@given(make=states())
def test_file_is_that_of_a_plain_write(make):
    state = make(Memory(1))
    assert_planned(Plan(state), state)


@seriously
@given(make=states())
def test_values_changed_in_place_are_taken_without_a_new_plan(make):
    memory = Memory(1)
    state = make(memory)
    plan = Plan(state)
    for _ in range(2):
        memory.change()
        assert_planned(plan, state)


@seriously
@given(make=states())
def test_same_form_in_other_memory_is_right_or_refused(make):
    plan = Plan(make(Memory(1)))
    for seed in (2, 3):
        assert_right_or_refused(plan, make(Memory(seed)))


@seriously
@given(make=states(), other=states())
def test_another_state_is_right_or_refused(make, other):
    assert_right_or_refused(Plan(make(Memory(1))), other(Memory(1)))


SLOTS = {
    "small tensors": lambda: [torch.randn(SMALL) for _ in range(3)],
    "large tensors": lambda: [torch.randn(LARGE) for _ in range(3)],
    "tensors with holes": lambda: [torch.randn(SMALL, 2)[:, 0] for _ in range(3)],
    "arrays": lambda: [np.random.default_rng(i).normal(size=SMALL) for i in range(3)],
    "columns and wholes": lambda: [w for t in torch.randn(2, 30, 2) for w in (t[:, 0], t[:, 1])],
    "views of one": lambda: [torch.randn(4 * SMALL)[i * 8 : i * 8 + SMALL] for i in range(3)],
    "overlapping": lambda: list(torch.randn(3 * SMALL).unfold(0, SMALL, SMALL // 2)[:3]),
    "neighbours": lambda: list(torch.randn(3, SMALL)),
    "parameters": lambda: [torch.nn.Parameter(torch.randn(SMALL)) for _ in range(3)],
    "conjugates": lambda: [torch.randn(SMALL, dtype=torch.complex64).conj() for _ in range(3)],
    "conjugate and itself": lambda: [
        w for t in torch.randn(2, SMALL, dtype=torch.complex64) for w in (t, t.conj())
    ][:3],
    "empty": lambda: [torch.zeros(0, 2), torch.zeros(0, 2), torch.zeros(2, 0)],
}


@pytest.mark.parametrize("slots", SLOTS)
@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(st.lists(st.lists(st.integers(0, 2), min_size=3, max_size=3), min_size=2, max_size=4))
def test_tensors_tied_and_untied_are_right_or_refused(slots, picks):
    """Three places of a state, each filled with one of three things of the same form."""
    things = SLOTS[slots]()
    states = [{str(place): things[which] for place, which in enumerate(pick)} for pick in picks]
    plan = Plan(states[0])
    for state in [*states, states[0]]:
        assert_right_or_refused(plan, state)


def test_view_and_its_whole_become_tied_and_untied():
    whole, other = torch.randn(SMALL, 2), torch.randn(SMALL, 2)
    untied, tied = {"a": whole[:, 0], "b": other}, {"a": whole[:, 0], "b": whole}
    for first, second in ((untied, tied), (tied, untied)):
        assert_right_or_refused(Plan(first), second)


NAN = float("nan")
VALUES = [1, True, 1.0, 0, 0.0, -0.0, False, NAN, None, 3, "3", b"3", 3j, np.float64(0), (3,), [3]]


@pytest.mark.parametrize("first", VALUES, ids=repr)
def test_changed_plain_value_is_taken_with_its_type_or_refused(first):
    tensor = torch.ones(3)
    plan = Plan({"x": first, "t": tensor})
    for second in [*VALUES, *VALUES[::-1], first]:
        state = {"x": second, "t": tensor}
        found = through_plan(plan, state)
        if type(second) is type(first) and not isinstance(first, (tuple, list)):
            assert found is not None, f"{second!r} is {first!r} of another value"
        if found is not None:
            value = container.read(found)["x"]
            assert (type(value), repr(value)) == (type(second), repr(second))
            assert found.getvalue() == plainly(state).getvalue()


def test_plain_values_that_count_need_no_new_plan():
    tensor = torch.zeros(5)
    plan = Plan({"step": 0, "lr": 0.0, "loss": NAN, "name": "", "t": tensor, "end": None})
    for step in range(1, 300, 7):
        tensor.fill_(step)
        state = {"step": step, "lr": 1 / step, "loss": -0.0, "name": f"{step}", "t": tensor}
        assert_planned(plan, {**state, "end": None})


def test_state_that_is_one_leaf_is_planned_too():
    for leaf in (torch.ones(3), np.ones(3), 7, b"x" * 9000, None, {}, [], ()):
        assert_planned(Plan(leaf), leaf)
        assert Plan(leaf).match([leaf]) is None


OTHERS = {
    "another key": {"b": 1, "t": 0},
    "another order": {"t": 0, "a": 1},
    "one more": {"a": 1, "t": 0, "c": 2},
    "one less": {"t": 0},
    "another type": collections.OrderedDict(a=1, t=0),
    "a container for a value": {"a": [1], "t": 0},
    "none at all": None,
}


@pytest.mark.parametrize("other", OTHERS.values(), ids=OTHERS)
def test_other_containers_and_keys_do_not_match(other):
    tensor = torch.ones(3)

    def with_tensor(state):
        if not isinstance(state, dict):
            return state
        return type(state)((k, tensor if k == "t" else v) for k, v in state.items())

    first = {"a": 1, "t": tensor}
    assert Plan(first).match(with_tensor(other)) is None
    assert Plan(with_tensor(other)).match(first) is None


KEYS_THAT_ARE_EQUAL = [
    (1, True),
    (1, 1.0),
    (0, False),
    (0.0, -0.0),
    ((1, "x"), (True, "x")),
    ((1,), (1.0,)),
    ((0.0,), (-0.0,)),
]


@pytest.mark.parametrize("keys", KEYS_THAT_ARE_EQUAL, ids=repr)
def test_equal_key_of_another_kind_is_right_or_refused(keys):
    assert keys[0] == keys[1]
    for first, second in (keys, keys[::-1]):
        assert_right_or_refused(Plan({first: torch.ones(2)}), {second: torch.ones(2)})


def test_changed_versions_of_modules_are_right_or_refused():
    state = torch.nn.BatchNorm1d(3).state_dict()
    plan = Plan(state)
    assert_planned(plan, state)
    state._metadata[""]["version"] = 7
    assert_right_or_refused(plan, state)
    other = torch.nn.BatchNorm1d(3).state_dict()
    assert_right_or_refused(plan, other)


TENSORS = {
    "shape of as many elements": lambda: torch.randn(SMALL // 2, 2),
    "fewer elements": lambda: torch.randn(SMALL - 1),
    "more elements": lambda: torch.randn(SMALL + 1),
    "dtype": lambda: torch.ones(SMALL, dtype=torch.int32),
    "wider dtype": lambda: torch.randn(SMALL).double(),
    "holes": lambda: torch.randn(2 * SMALL)[::2],
    "turned": lambda: torch.randn(4, SMALL // 4).t(),
    "expanded": lambda: torch.randn(1).expand(SMALL),
    "gradient": lambda: torch.randn(SMALL, requires_grad=True),
    "parameter": lambda: torch.nn.Parameter(torch.randn(SMALL)),
    "conjugate": lambda: torch.randn(SMALL, dtype=torch.complex64).conj(),
    "sparse": lambda: torch.eye(SMALL).to_sparse(),
    "inside another": lambda: torch.randn(SMALL + 1)[1:],
    "end of another": lambda: torch.randn(999)[-SMALL:],
    "array": lambda: np.ones(SMALL, np.float32),
    "longer array": lambda: np.ones(SMALL + 1, np.float32),
    "array of integers": lambda: np.ones(SMALL, np.int32),
    "none": lambda: None,
    "the like": lambda: torch.randn(SMALL),
    "empty": lambda: torch.zeros(0),
    "bytes": lambda: bytes(5000),
    "longer bytes": lambda: bytes(5001),
    "short bytes": lambda: bytes(4000),
}


@pytest.mark.parametrize("first", TENSORS)
def test_tensor_of_another_form_is_right_or_refused(first):
    state = {"x": TENSORS[first](), "y": torch.randn(LARGE)}
    try:
        plan = Plan(state)
    except InvalidInput:
        assert first == "sparse"
        return
    assert_planned(plan, state)
    for make in TENSORS.values():
        assert_right_or_refused(plan, {**state, "x": make()})
    assert_planned(plan, state)


IN_PLACE = {
    "shrunk": lambda t: t.resize_(SMALL // 2),
    "turned": lambda t: t.resize_(4, t.numel() // 4).t_(),
    "needs a gradient": lambda t: t.requires_grad_(),
    "other memory": lambda t: t.set_(torch.randn(SMALL)),
    "other memory, inside": lambda t: t.set_(torch.randn(SMALL + 3)[3:]),
    "deeper": lambda t: t.unsqueeze_(0),
}


@pytest.mark.parametrize("count", [SMALL, 100 * SMALL], ids=["small", "large"])
@pytest.mark.parametrize("change", IN_PLACE.values(), ids=IN_PLACE)
def test_same_tensor_in_another_form_is_right_or_refused(change, count):
    tensor = torch.randn(count)
    state = {"x": tensor, "y": torch.randn(LARGE)}
    plan = Plan(state)
    change(tensor)
    assert_right_or_refused(plan, state)


def test_moved_tensors_need_no_new_plan():
    """The states of generators are new tensors each time; so are those of an optimizer's step."""
    weight = torch.randn(LARGE)

    def state():
        return {"w": weight, "rng": torch.get_rng_state(), "large": torch.randn(LARGE)}

    plan = Plan(state())
    for _ in range(5):
        torch.rand(3)
        assert_planned(plan, state())


def test_all_state_dicts_of_a_training_run_match_without_a_new_plan():
    torch.manual_seed(0)
    model = torch.nn.Sequential(
        torch.nn.Linear(70, 90), torch.nn.BatchNorm1d(90), torch.nn.Linear(90, 2)
    )
    optimizer = torch.optim.Adam(model.parameters(), fused=True)
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 2, 0.5)

    def state(step):
        return {
            "step": step,
            "model": model.state_dict(),
            "parameters": list(model.parameters()),
            "optimizer": optimizer.state_dict(),
            "scheduler": scheduler.state_dict(),
            "rng": {
                "torch": torch.get_rng_state(),
                "numpy": np.random.get_state(),  # noqa: NPY002 - that of programs that are older
                "python": random.getstate(),
            },
        }

    plan = None
    for step in range(6):
        optimizer.zero_grad()
        model(torch.randn(16, 70)).square().sum().backward()
        optimizer.step()
        scheduler.step()
        plan = plan or Plan(state(step))
        assert_planned(plan, state(step))


def test_a_plan_that_did_not_match_still_does_for_its_own_state():
    state = {"x": torch.randn(SMALL), "y": torch.randn(LARGE)}
    plan = Plan(state)
    x = state["x"]
    for other in ({"x": x, "y": x}, {"x": x}, {"x": x, "y": torch.randn(LARGE // 2, 2)}, {}):
        assert_right_or_refused(plan, other)
        assert_planned(plan, state)


def test_state_that_cannot_be_kept_gets_no_plan():
    with pytest.raises(InvalidInput, match=r"state\['f'\]"):
        Plan({"f": print})
    with pytest.raises(LimitExceeded):
        Plan([torch.ones(1), torch.ones(2)], container.Limits(tensor_count=1))


def test_small_tensor_of_an_optimizer_is_copied_later_unless_others_see_its_memory():
    weight, shared, other = torch.randn(SMALL), torch.randn(2 * SMALL), torch.randn(SMALL)
    holes, array = torch.randn(SMALL, 2)[:, 0], np.ones(SMALL, np.float32)
    state = {"w": weight, "part": shared[:SMALL], "all": shared, "o": other, "h": holes, "a": array}
    of_optimizers = (weight, shared[:SMALL], holes, torch.from_numpy(array))
    plan = Plan(state, stepped={tensor.data_ptr(): tensor.nbytes for tensor in of_optimizers})
    assert [path for path, _, _ in plan.staged()] == ["w"]
    assert_planned(plan, state)


def test_what_is_copied_later_is_large_tensors_alone_and_named_by_their_paths():
    small, large = torch.randn(SMALL), torch.randn(LARGE)
    state = {"s": small, "net": {"w": large, "tied": large[5:]}, "a": np.ones(LARGE), "b": b"x"}
    plan = Plan(state)
    leaves = plan.match(state)
    ((path, memory, planned),) = plan.staged()
    assert path in ("net.w", "net.tied")
    assert memory.tobytes() == large.numpy().tobytes()
    assert planned.section == "net"
    buffer = np.zeros(plan.size_bytes, np.uint8)
    plan.take(leaves, buffer)
    small.zero_()
    state["a"][...] = 0
    large.fill_(2.0)
    plan.stage(leaves, buffer)
    tree = json.loads(plan.tree_of(leaves))
    file = io.BytesIO()
    container.write(restored(tree, plan.entries, plan.storages, buffer), file)
    found = container.read(file)
    assert found["s"].abs().sum() > 0
    assert found["a"].sum() == LARGE
    assert found["net"]["w"].unique().tolist() == [2.0]


HOSTILE = """
import io, json, mmap, sys
import numpy as np, torch
from penstock.container import Plan
from penstock.errors import PenstockError

tensor = torch.ones(60)
edge = mmap.mmap(-1, 1 << 16)  # the page before it is nobody's, or not readable
before = {
    "meta": lambda: {"x": torch.ones(60)},
    "data": lambda: {"x": parameter},
    "smaller": lambda: {"x": parameter},
    "edge": lambda: {"x": torch.arange(64.0)[1:61]},
}
parameter = torch.nn.Parameter(torch.ones(4000))
state = before[sys.argv[1]]()
plan = Plan(state)
if sys.argv[1] == "meta":
    state = {"x": torch.ones(60, device="meta")}
elif sys.argv[1] == "data":
    parameter.data = torch.empty(0)
elif sys.argv[1] == "smaller":
    memory = mmap.mmap(-1, 4096)
    parameter.data = torch.frombuffer(memory, dtype=torch.float32, offset=4080, count=4)
else:
    state = {"x": torch.frombuffer(edge, dtype=torch.float32, count=60)}
try:
    leaves = plan.match(state)
    if leaves is not None:
        out = np.zeros(plan.size_bytes, np.uint8)
        plan.take(leaves, out)
        plan.stage(leaves, out)
except PenstockError as error:
    print(error.reason)
"""


@pytest.mark.parametrize("case", ["meta", "data", "smaller", "edge"])
def test_tensor_without_the_memory_it_had_does_not_crash_the_process(case, kernels):
    """Moved to another device, its data taken away or cut, or at the very start of a page."""
    done = subprocess.run(
        [sys.executable, "-c", HOSTILE, case], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-1500:]


def test_smaller_elements_at_the_same_address_get_another_plan():
    doubles = torch.zeros(SMALL, dtype=torch.float64)
    plan = Plan({"x": doubles})
    assert plan.match({"x": doubles.view(torch.int8)[:SMALL]}) is None
    assert plan.match({"x": doubles}) is not None


def test_layer_that_is_frozen_gets_another_plan():
    parameter = torch.nn.Parameter(torch.ones(LARGE))
    state = {"w": parameter}
    plan = Plan(state)
    assert plan.match(state) is not None
    parameter.requires_grad_(requires_grad=False)
    assert plan.match(state) is None
    assert Plan(state).match(state) is not None


def test_array_of_elements_without_bytes_is_taken():
    state = {"x": np.zeros(2, np.dtype([("x", "S0")]))["x"], "t": torch.ones(3)}
    assert_right_or_refused(Plan(state), state)
