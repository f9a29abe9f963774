"""Snapshots while training goes on: none mixes two steps, and a write in between is told."""

import contextlib
import subprocess
import sys
import threading

import numpy as np
import pytest
import torch

import penstock
from penstock.client.saving.barrier import Barrier
from penstock.container import Plan
from penstock.errors import Conflict, PenstockError

WIDE = 1 << 19
"""Elements of a large tensor, 2 MB; there are several, so that the copy takes a while."""

STEPS = 6


@pytest.fixture
def target(tmp_path):
    return f"file://{tmp_path}/store"


@pytest.fixture
def slow_copy(monkeypatch):
    """The copy of large tensors begins when it is let go.

    So a write that does not wait is before it, always.
    """

    class Slow:
        go = threading.Event()
        begun = threading.Semaphore(0)
        copied = 0

    stage = Plan.stage

    def held(self, leaves, out):
        Slow.begun.release()
        assert Slow.go.wait(20)
        Slow.go.clear()
        result = stage(self, leaves, out)
        Slow.copied += 1
        return result

    monkeypatch.setattr(Plan, "stage", held)
    yield Slow
    Slow.go.set()


@pytest.fixture
def slow_at_the_barrier(slow_copy, monkeypatch):
    """As long as nobody waits for the copy it does not begin."""
    for name in ("wait", "wait_for_copy"):
        wait = getattr(Barrier, name)

        def let_go(self, wait=wait):
            if not self._complete.is_set():
                slow_copy.go.set()
            wait(self)

        monkeypatch.setattr(Barrier, name, let_go)
    return slow_copy


def let_end(saver):
    """Let the last copy begin."""
    with saver.guard():
        pass


def filled(step):
    return [torch.full((WIDE,), float(step)) for _ in range(4)]


def values(target, step, *keys):
    """All values of a part of a saved state, as a set."""
    found = penstock.load_checkpoint(target, "run", step)
    for key in keys:
        found = found[key]
    return values_in(found)


def values_in(value):
    if isinstance(value, dict):
        return set().union(*map(values_in, value.values()), set())
    if isinstance(value, (list, tuple)):
        return set().union(*map(values_in, value), set())
    if isinstance(value, torch.Tensor):
        return set(value.double().unique().tolist())
    return set(np.unique(value).tolist()) if isinstance(value, np.ndarray) else set()


def counting(parameters, optimizer, **options):
    """An optimizer that adds one to each weight: its gradient is always the same."""
    for parameter in parameters:
        parameter.grad = torch.full_like(parameter, -1.0)
    if optimizer == "sgd":
        return torch.optim.SGD(parameters, lr=1.0, **options)
    # Without decay of the moments Adam's first moment is the gradient, its second the square.
    return torch.optim.Adam(parameters, lr=1.0, betas=(0.0, 0.0), eps=0.0, **options)


def weights_at_zero(count=4):
    return [torch.nn.Parameter(torch.zeros(WIDE)) for _ in range(count)]


OPTIMIZERS = {
    "fused Adam": lambda weights: counting(weights, "adam", fused=True),
    "foreach Adam": lambda weights: counting(weights, "adam", foreach=True),
    "Adam one by one": lambda weights: counting(weights, "adam", foreach=False),
    "fused SGD": lambda weights: counting(weights, "sgd", fused=True),
    "foreach SGD": lambda weights: counting(weights, "sgd", foreach=True),
}


@pytest.mark.parametrize("make", OPTIMIZERS.values(), ids=OPTIMIZERS)
def test_each_checkpoint_holds_the_weights_of_its_own_step(target, make):
    weights = weights_at_zero()
    optimizer = make(weights)
    with penstock.AsyncCheckpointSaver(target, run="run", compress="none") as saver:
        for step in range(STEPS):
            optimizer.step()
            saver.save_async({"w": weights, "optimizer": optimizer.state_dict()}, step + 1)
        assert saver.counts["copied_at_once"] == 0
        assert saver.counts["plans"] == 1
    for step in range(1, STEPS + 1):
        assert values(target, step, "w") == {float(step)}
        state = penstock.load_checkpoint(target, "run", step)["optimizer"]["state"]
        assert values_in([s["step"] for s in state.values() if "step" in s]) <= {float(step)}


@pytest.mark.parametrize("make", OPTIMIZERS.values(), ids=OPTIMIZERS)
def test_step_waits_for_a_copy_that_has_not_begun(target, slow_at_the_barrier, make):
    weights = weights_at_zero()
    optimizer = make(weights)
    with penstock.AsyncCheckpointSaver(target, run="run", compress="none") as saver:
        optimizer.step()
        saver.save_async({"w": weights}, 1)
        assert slow_at_the_barrier.begun.acquire(timeout=60)
        copied_before = slow_at_the_barrier.copied
        optimizer.step()
        assert (copied_before, slow_at_the_barrier.copied) == (0, 1)
    assert values(target, 1) == {1.0}
    assert values_in(weights) == {2.0}


def test_step_waits_for_small_weights_too_and_counters_are_those_at_the_call(
    target, slow_at_the_barrier
):
    weights = [torch.nn.Parameter(torch.zeros(10)) for _ in range(4)]
    optimizer = counting(weights, "adam", fused=True)
    counter = torch.zeros(1)
    with penstock.AsyncCheckpointSaver(target, run="run", compress="none") as saver:
        for step in range(1, STEPS):
            optimizer.step()
            state = {"w": weights, "optimizer": optimizer.state_dict(), "counter": counter}
            saver.save_async(state, step)
            counter += 1
        let_end(saver)
    for step in range(1, STEPS):
        assert values(target, step, "w") == {float(step)}
        assert values(target, step, "counter") == {step - 1.0}
        state = penstock.load_checkpoint(target, "run", step)["optimizer"]["state"]
        assert {float(moments["step"]) for moments in state.values()} == {float(step)}


def test_training_in_a_thread_of_its_own_goes_on_at_once(target):
    """The thread steps as fast as it can, saves are taken between two of its steps."""
    weights = weights_at_zero()
    optimizer = counting(weights, "adam", fused=True)
    between = threading.Lock()
    ended = threading.Event()

    def train():
        while not ended.is_set():
            with between:
                optimizer.step()

    expected = []
    with penstock.AsyncCheckpointSaver(target, run="run", compress="none") as saver:
        thread = threading.Thread(target=train)
        optimizer.step()
        thread.start()
        try:
            for number in range(STEPS):
                with between:
                    saver.save_async({"w": weights, "optimizer": optimizer.state_dict()}, number)
                    expected.append(float(weights[0][0].detach()))
        finally:
            ended.set()
            thread.join()
    for number, wanted in enumerate(expected):
        assert values(target, number, "w") == {wanted}
        state = penstock.load_checkpoint(target, "run", number)["optimizer"]["state"]
        assert {float(moments["step"]) for moments in state.values()} == {wanted}


def test_averaged_weights_are_those_of_the_step(target):
    """Averaged in place after each step, as an EMA is."""
    weights = weights_at_zero()
    averages = [torch.zeros(WIDE) for _ in weights]
    optimizer = counting(weights, "adam", fused=True)
    wanted, average = [], 0.0
    with penstock.AsyncCheckpointSaver(target, run="run", compress="none") as saver:
        for step in range(STEPS):
            optimizer.step()
            with torch.no_grad():
                torch._foreach_lerp_(averages, [w.detach() for w in weights], 0.5)
            average += 0.5 * (step + 1 - average)
            wanted.append(average)
            saver.save_async({"w": weights, "ema": averages}, step)
    for step, average in enumerate(wanted):
        assert values(target, step, "w") == {step + 1.0}
        assert values(target, step, "ema") == {average}


def test_running_statistics_are_those_at_the_call(target, slow_at_the_barrier):
    """Forward passes that follow the call move them, and no step is there to wait."""
    model = torch.nn.Sequential(torch.nn.BatchNorm1d(64), torch.nn.Linear(64, 1 << 14))
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    with penstock.AsyncCheckpointSaver(target, run="run", compress="none") as saver:
        wanted = []
        for step in range(3):
            optimizer.step()
            saver.save_async({"model": model.state_dict()}, step)
            wanted.append({name: tensor.clone() for name, tensor in model[0].state_dict().items()})
            model[0](torch.full((4, 64), step + 1.0) + torch.randn(4, 64))
        let_end(saver)
    for step, statistics in enumerate(wanted):
        found = penstock.load_checkpoint(target, "run", step)["model"]
        for name, tensor in statistics.items():
            assert torch.equal(found[f"0.{name}"], tensor)
    assert len({float(statistics["running_mean"][0]) for statistics in wanted}) == 3


def test_guarded_write_waits_for_the_copy(target, slow_at_the_barrier):
    weights = weights_at_zero()
    optimizer = counting(weights, "adam", fused=True)
    with penstock.AsyncCheckpointSaver(target, run="run", compress="none") as saver:
        for step in range(1, 4):
            optimizer.step()
            saver.save_async({"w": weights}, step)
            with saver.guard():
                for weight in weights:
                    weight.data.fill_(float(step))
    for step in range(1, 4):
        assert values(target, step) == {float(step)}


def test_two_optimizers_in_turn_never_mix_their_steps(target):
    """Each steps when it is its turn; a checkpoint is taken after each of them."""
    actor, critic = weights_at_zero(2), weights_at_zero(2)
    optimizers = [counting(actor, "adam", fused=True), counting(critic, "sgd")]
    with penstock.AsyncCheckpointSaver(target, run="run", compress="none") as saver:
        for turn in range(2 * STEPS):
            optimizers[turn % 2].step()
            saver.save_async({"actor": actor, "critic": critic}, turn)
        assert saver.counts["copied_at_once"] == 0
    for turn in range(2 * STEPS):
        assert values(target, turn, "actor") == {float(turn // 2 + 1)}
        assert values(target, turn, "critic") == {float((turn + 1) // 2)}


def test_arrays_may_be_written_right_after_the_call(target, slow_at_the_barrier):
    """Large ones, strided ones, and tensors of less than a few thousand elements."""
    weights = weights_at_zero(1)
    optimizer = counting(weights, "adam", fused=True)
    large, strided, small = np.zeros(WIDE), np.zeros((WIDE, 2))[:, 1], torch.zeros(1000)
    holes = torch.zeros(WIDE, 2)[:, 0]
    written = [large, strided, small, holes]
    with penstock.AsyncCheckpointSaver(target, run="run", compress="none") as saver:
        for step in range(1, 4):
            optimizer.step()
            for value in written:
                value[...] = step
            saver.save_async({"w": weights, "written": written, "step": step}, step)
            for value in written:
                value[...] = -1
        let_end(saver)
    for step in range(1, 4):
        assert values(target, step, "written") == {float(step)}
        assert values(target, step, "w") == {float(step)}


@pytest.mark.parametrize("optimizer", [False, True], ids=["none at all", "one that stands still"])
def test_without_a_step_everything_is_copied_in_the_call(target, optimizer):
    tensors = filled(0)
    if optimizer:
        counting([torch.nn.Parameter(tensors[0])], "adam")
    with penstock.AsyncCheckpointSaver(target, run="run", compress="none") as saver:
        for step in range(STEPS):
            for tensor in tensors:
                tensor.fill_(step)
            saver.save_async({"w": tensors}, step)
        assert saver.counts["copied_at_once"] == STEPS
    for step in range(STEPS):
        assert values(target, step) == {float(step)}


def test_second_save_of_a_step_is_copied_in_the_call(target):
    weights = weights_at_zero()
    optimizer = counting(weights, "adam", fused=True)
    with penstock.AsyncCheckpointSaver(target, run="run", compress="none") as saver:
        optimizer.step()
        saver.save_async({"w": weights}, 1)
        saver.save_async({"w": weights}, 2)
        for weight in weights:
            weight.data.fill_(-1.0)
        assert saver.counts["copied_at_once"] == 1
    assert values(target, 1) == values(target, 2) == {1.0}


def test_state_of_another_form_in_between_mixes_nothing(target):
    """Full states and parts of them in turn: each has a plan, and a buffer that fits."""
    weights = weights_at_zero()
    optimizer = counting(weights, "adam", fused=True)
    with penstock.AsyncCheckpointSaver(target, run="run", compress="none") as saver:
        for step in range(1, STEPS + 1):
            optimizer.step()
            kept = weights if step % 2 else weights[:1]
            saver.save_async({"w": kept, "extra": torch.full((step,), float(step))}, step)
    for step in range(1, STEPS + 1):
        assert values(target, step) == {float(step)}


STEPPING = """
import sys, torch, penstock
from penstock.client.saving.barrier import Barrier

weight = torch.nn.Parameter(torch.zeros(3))
optimizer = torch.optim.SGD([weight])
watch = Barrier.watch_optimizers

def watch_and_step(self):
    watch(self)
    optimizer.step()

Barrier.watch_optimizers = watch_and_step
penstock.AsyncCheckpointSaver(sys.argv[1], run="run").shutdown()
"""


def grown(step):
    return torch.full((WIDE + 1000 * step,), float(step))


def shifted(step):
    return torch.full((WIDE + 1,), float(step))[1:]


def rounded(step):
    return torch.full((WIDE,), float(step), dtype=torch.bfloat16 if step % 2 else torch.float32)


def tied(step):
    x = torch.full((WIDE,), float(step))
    return x, x if step % 2 else x.clone()


CHANGES = {
    "grows": grown,
    "moves off its alignment": shifted,
    "changes its type": rounded,
    "is tied and untied": tied,
}


@pytest.mark.parametrize("debug", [False, True], ids=["", "debug"])
@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_large_tensor_of_another_form_each_time_costs_a_plan_but_no_checkpoint(
    target, change, debug
):
    weights = weights_at_zero(1)
    optimizer = counting(weights, "adam", fused=True)
    with penstock.AsyncCheckpointSaver(target, run="run", compress="none", debug=debug) as saver:
        for step in range(1, STEPS):
            optimizer.step()
            saver.save_async({"w": weights, "x": change(step)}, step)
        optimizer.step()
    for step in range(1, STEPS):
        assert values(target, step) == {float(step)}


def test_stepped_tensor_of_another_type_costs_one_checkpoint_which_is_told(target):
    (weight,) = weights_at_zero(1)
    optimizer = counting([weight], "sgd")
    with penstock.AsyncCheckpointSaver(target, run="run", compress="none") as saver:
        for step in (1, 2):
            optimizer.step()
            saver.save_async({"w": weight}, step)
        with saver.guard():
            weight.data = weight.data.bfloat16()
        weight.grad = torch.full_like(weight, -1.0)
        optimizer.step()
        saver.save_async({"w": weight}, 3)
        with pytest.raises(Conflict, match="save again, which notices") as told:
            saver.wait()
        assert told.value.reason == "STATE_CHANGED"
        optimizer.step()
        saver.save_async({"w": weight}, 4)
    assert [values(target, step) for step in (1, 2, 4)] == [{1.0}, {2.0}, {4.0}]
    assert penstock.load_checkpoint(target, "run", 4)["w"].dtype == torch.bfloat16


def test_optimizers_that_are_gone_are_forgotten_and_lazy_parameters_left_out():
    barrier = Barrier(lambda _: None, lambda: None)
    barrier.watch_optimizers()
    try:
        for _ in range(50):
            counting(weights_at_zero(1), "sgd").step()
        layers = torch.nn.Linear(3, 3), torch.nn.LazyLinear(3)
        parameters = [p for layer in layers for p in layer.parameters()]
        optimizer = torch.optim.SGD(parameters, lr=1.0)
        optimizer.step()
        assert len(barrier._optimizers) <= 2
        found = barrier.stepped()
    finally:
        barrier.close()
    assert found[layers[0].weight.data_ptr()] == 36
    assert found[layers[0].bias.data_ptr()] == 12


def test_optimizers_may_step_while_a_saver_is_made(target):
    """In another thread, at any moment: here in the middle of it."""
    done = subprocess.run(
        [sys.executable, "-c", STEPPING, target], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-1500:]


class Training:
    """Weights, their average and an array that looks at memory of a tensor."""

    def __init__(self):
        self.weights = weights_at_zero(2)
        self.average = torch.zeros(WIDE)
        self.seen = torch.zeros(WIDE)
        self.view = self.seen.numpy()
        self.optimizer = counting(self.weights, "adam", fused=True)

    @property
    def state(self):
        return {"net": {"w": self.weights}, "ema": self.average, "seen": self.seen}

    def write_data(self):
        self.weights[1].data[WIDE // 2] = 77.0

    def write_average(self):
        self.average.lerp_(self.weights[0].detach(), 0.5)

    def write_view(self):
        self.view[-1] = 77.0


WRITES = {
    "data": (Training.write_data, "net.w.1"),
    "average": (Training.write_average, "ema"),
    "array": (Training.write_view, "seen"),
}
NEXT = {
    "step": lambda training, saver: training.optimizer.step(),
    "save": lambda training, saver: saver.save_async(training.state, 2),
    "guard": lambda training, saver: saver.guard().__enter__(),
    "wait": lambda training, saver: saver.wait(60),
}


@contextlib.contextmanager
def debugging(target):
    """A saver that may have met the torn snapshot in the background too."""
    saver = penstock.AsyncCheckpointSaver(target, run="run", compress="none", debug=True)
    try:
        yield saver
    finally:
        with contextlib.suppress(penstock.TornSnapshot):
            saver.shutdown()


@pytest.mark.parametrize("when", ["before the copy", "after it"])
@pytest.mark.parametrize("following", NEXT.values(), ids=NEXT)
@pytest.mark.parametrize(("write", "name"), WRITES.values(), ids=WRITES)
def test_unguarded_write_is_found_and_named(target, slow_copy, write, name, following, when):
    training = Training()
    with debugging(target) as saver:
        training.optimizer.step()
        saver.save_async(training.state, 1)
        assert slow_copy.begun.acquire(timeout=60)
        if when == "before the copy":
            write(training)
        slow_copy.go.set()
        saver._barrier.wait_for_copy()
        if when == "after it":
            write(training)
        slow_copy.go.set()  # for those that save again
        with pytest.raises(penstock.TornSnapshot) as torn:
            following(training, saver)
    assert name in torn.value.message
    assert torn.value.metadata["tensors"] == name
    assert "with saver.guard()" in torn.value.message
    assert torn.value.reason == "TORN_SNAPSHOT"
    assert isinstance(torn.value, PenstockError)


def test_torn_snapshot_is_not_stored(target, slow_copy):
    training = Training()
    with debugging(target) as saver:
        training.optimizer.step()
        saver.save_async(training.state, 1)
        training.write_data()
        slow_copy.go.set()
        with pytest.raises(penstock.TornSnapshot):
            training.optimizer.step()
        with contextlib.suppress(penstock.TornSnapshot):
            saver.wait(60)
        assert saver.counts["failed"] == 1
        slow_copy.go.set()
        training.optimizer.step()
        saver.save_async(training.state, 2)
        saver.wait(60)
    with penstock.open_checkpoints(target) as client:
        assert [info.step for info in client.list("run")] == [2]


@pytest.mark.parametrize("write", [write for write, _ in WRITES.values()], ids=WRITES)
def test_guarded_write_is_no_fault(target, write):
    training = Training()
    with penstock.AsyncCheckpointSaver(
        target, run="run", compress="none", debug=True, max_queue_size=2
    ) as saver:
        for step in range(1, 5):
            training.optimizer.step()
            saver.save_async(training.state, step)
            with saver.guard():
                write(training)
        training.optimizer.step()
    assert saver.counts["saved"] == 4


def test_loop_that_keeps_to_the_rules_is_no_fault(target):
    """Steps, averages after them, forward passes with running statistics, arrays: no guard."""
    training = Training()
    norm = torch.nn.BatchNorm1d(64)
    array = np.zeros(WIDE)
    with penstock.AsyncCheckpointSaver(target, run="run", compress="none", debug=True) as saver:
        for step in range(1, STEPS):
            training.optimizer.step()
            training.write_average()
            saver.save_async({**training.state, "norm": norm.state_dict(), "a": array}, step)
            norm(torch.randn(8, 64))
            array += 1
    for step in range(1, STEPS):
        assert values(target, step, "net") == {float(step)}
        assert values(target, step, "a") == {float(step - 1)}
