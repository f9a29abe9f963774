"""The background saver: nothing tears, nothing is lost in silence."""

import logging
import subprocess
import sys
import threading

import pytest
import torch

import penstock
from penstock.client.checkpoint import CheckpointClient, WriterTokens
from penstock.errors import AlreadyExists, Conflict, InvalidInput, LimitExceeded, TimedOut


@pytest.fixture
def target(tmp_path):
    return f"file://{tmp_path}/store"


@pytest.fixture
def gate(monkeypatch):
    """Holds every background save until it is opened; ``entered`` tells that one waits there."""

    class Gate:
        opened = threading.Event()
        entered = threading.Semaphore(0)

    save = CheckpointClient.save

    def held(self, state, run, step, **options):
        Gate.entered.release()
        assert Gate.opened.wait(60)
        return save(self, state, run, step, **options)

    Gate.opened.clear()
    monkeypatch.setattr(CheckpointClient, "save", held)
    yield Gate
    Gate.opened.set()


def steps(target, run="run"):
    with penstock.open_checkpoints(target) as client:
        return [info.step for info in client.list(run)] if client.latest(run) else []


def load(target, step):
    return penstock.load_checkpoint(target, "run", step)


def test_state_is_saved_as_it_was_at_the_call(target, gate):
    model = torch.nn.Linear(100, 100)
    optimiser = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    with penstock.AsyncCheckpointSaver(target, run="run", max_queue_size=4) as saver:
        expected = []
        for step in range(4):
            expected.append({k: v.clone() for k, v in model.state_dict().items()})
            saver.save_async({"model": model.state_dict()}, step)
            model(torch.ones(1, 100)).sum().backward()
            optimiser.step()
        gate.opened.set()
    for step, wanted in enumerate(expected):
        found = load(target, step)["model"]
        assert all(torch.equal(found[name], wanted[name]) for name in wanted)
    assert not torch.equal(expected[0]["weight"], expected[3]["weight"])


def test_writes_during_the_save_never_show(target):
    """A thread keeps changing the tensors: each checkpoint holds one value throughout."""
    tensors = [torch.zeros(20_000) for _ in range(20)]
    with penstock.AsyncCheckpointSaver(target, run="run", compress="lz4") as saver:
        for step in range(15):
            for tensor in tensors:
                tensor.fill_(step)
            saver.save_async({"tensors": tensors}, step)
    for step in steps(target):
        assert {float(value) for t in load(target, step)["tensors"] for value in t.unique()} == {
            float(step)
        }
    assert steps(target) == list(range(15))


def test_call_returns_before_the_save_is_done(target, gate):
    with penstock.AsyncCheckpointSaver(target, run="run") as saver:
        saver.save_async({"x": 1}, 1)
        assert saver.counts["saved"] == 0
        with pytest.raises(TimedOut, match=r"checkpoints \(1,\) of run 'run' are not stored"):
            saver.wait(timeout_s=0.05)
        gate.opened.set()
        saver.wait(timeout_s=60)
        assert saver.counts["saved"] == 1
        assert saver.newest.step == 1


def test_full_queue_blocks_the_caller_until_there_is_room(target, gate):
    with penstock.AsyncCheckpointSaver(target, run="run", max_queue_size=1) as saver:
        saver.save_async({"x": 0}, 0)
        assert gate.entered.acquire(timeout=60)
        saver.save_async({"x": 1}, 1)
        blocked = threading.Thread(target=saver.save_async, args=({"x": 2}, 2))
        blocked.start()
        blocked.join(0.1)
        assert blocked.is_alive()
        gate.opened.set()
        blocked.join(60)
        assert not blocked.is_alive()
    assert steps(target) == [0, 1, 2]


def test_full_queue_drops_the_oldest_and_says_so(target, gate, caplog):
    saver = penstock.AsyncCheckpointSaver(
        target, run="run", max_queue_size=2, when_full="drop-oldest"
    )
    saver.save_async({"x": 0}, 0)
    assert gate.entered.acquire(timeout=60)
    with caplog.at_level(logging.WARNING):
        for step in range(1, 6):
            saver.save_async({"x": step}, step)
    gate.opened.set()
    report = saver.shutdown()
    assert (report.saved, report.dropped, report.unfinished) == ((0, 4, 5), (1, 2, 3), ())
    assert saver.counts["dropped"] == 3
    assert [record.message for record in caplog.records].count(
        "run 'run': checkpoint 2 dropped, queue full"
    ) == 1
    assert steps(target) == [0, 4, 5]


def test_full_queue_raises_if_asked_to(target, gate):
    with penstock.AsyncCheckpointSaver(
        target, run="run", max_queue_size=1, when_full="raise"
    ) as saver:
        saver.save_async({"x": 0}, 0)
        assert gate.entered.acquire(timeout=60)
        saver.save_async({"x": 1}, 1)
        with pytest.raises(LimitExceeded, match="save less often") as refused:
            saver.save_async({"x": 2}, 2)
        assert refused.value.reason == "QUEUE_FULL"
        gate.opened.set()
    assert steps(target) == [0, 1]


def test_state_that_cannot_be_kept_is_refused_in_the_call(target):
    with penstock.AsyncCheckpointSaver(target, run="run", max_queue_size=1) as saver:
        for _ in range(3):
            with pytest.raises(InvalidInput, match=r"state\['f'\]"):
                saver.save_async({"f": print}, 1)
        saver.save_async({"x": 1}, 1)
    assert steps(target) == [1]


@pytest.mark.parametrize("how", ["save_async", "wait", "shutdown"])
def test_background_error_is_raised_by_the_next_call(target, how):
    with penstock.open_checkpoints(target) as client:
        client.save({"x": "other"}, "run", 1)
    saver = penstock.AsyncCheckpointSaver(target, run="run")
    saver.save_async({"x": 1}, 1)
    calls = {
        "save_async": lambda: (saver._thread.join(0), wait_failed(saver), saver.save_async({}, 2)),
        "wait": saver.wait,
        "shutdown": saver.shutdown,
    }
    with pytest.raises(AlreadyExists, match="other content") as raised:
        calls[how]()
    assert raised.value.__notes__ == ["while saving run/1 in the background"]
    saver.save_async({"x": 3}, 3) if how != "shutdown" else None
    report = saver.shutdown()
    assert report.failed == (1,)
    assert report.saved == (() if how == "shutdown" else (3,))


def wait_failed(saver):
    with saver._changed:
        assert saver._changed.wait_for(lambda: saver.counts["failed"], 60)


def test_several_background_errors_are_all_told(target, gate):
    with penstock.open_checkpoints(target) as client:
        gate.opened.set()
        for step in (1, 2):
            client.save({"x": "other"}, "run", step)
        gate.opened.clear()
    saver = penstock.AsyncCheckpointSaver(target, run="run")
    for step in (1, 2):
        saver.save_async({"x": step}, step)
    gate.opened.set()
    with pytest.raises(AlreadyExists, match="run/1") as raised:
        saver.wait()
    assert any("run/2" in note for note in raised.value.__notes__)
    assert saver.shutdown().failed == (1, 2)


def test_exception_of_the_block_is_not_hidden_by_a_background_error(target, caplog):
    with penstock.open_checkpoints(target) as client:
        client.save({"x": "other"}, "run", 1)
    saver = penstock.AsyncCheckpointSaver(target, run="run")
    saver.save_async({"x": 1}, 1)
    with pytest.raises(KeyError), saver:
        raise KeyError
    assert "a background save failed" in caplog.text


def test_fenced_saver_says_so(target):
    with penstock.AsyncCheckpointSaver(target, run="run", tokens=WriterTokens()) as saver:
        saver.save_async({"x": 1}, 1)
        saver.wait()
        with penstock.open_checkpoints(target, tokens=WriterTokens()) as other:
            other.save({"x": 2}, "run", 2)
        saver.save_async({"x": 3}, 3)
        with pytest.raises(Conflict, match="newer writer"):
            saver.wait()
    assert steps(target) == [1, 2]


def test_shutdown_with_too_little_time_reports_what_is_unfinished(target, gate):
    saver = penstock.AsyncCheckpointSaver(target, run="run")
    for step in range(3):
        saver.save_async({"x": step}, step)
        if step == 0:
            assert gate.entered.acquire(timeout=60)
    report = saver.shutdown(timeout_s=0.05)
    assert report.saved == ()
    assert report.unfinished == (0, 1, 2)
    gate.opened.set()
    saver._thread.join(60)
    # The one under way was finished, those that waited were given up, as reported.
    assert steps(target) == [0]


def test_shut_down_saver_takes_nothing_more(target):
    saver = penstock.AsyncCheckpointSaver(target, run="run")
    saver.shutdown()
    with pytest.raises(InvalidInput, match="was shut down"):
        saver.save_async({}, 1)
    assert saver.shutdown().saved == ()


@pytest.mark.parametrize(
    ("options", "field"),
    [
        ({"max_queue_size": 0}, "max_queue_size"),
        ({"when_full": "panic"}, "when_full"),
        ({"compress": "zip"}, "compress"),
        ({"run": "a/b"}, "run"),
    ],
)
def test_option_that_is_wrong_is_named(target, options, field):
    with pytest.raises(InvalidInput) as refused:
        penstock.AsyncCheckpointSaver(target, **{"run": "run", **options})
    assert refused.value.field == field


FORGETFUL = """
import sys, torch, penstock
saver = penstock.AsyncCheckpointSaver(sys.argv[1], run="run")
for step in range(3):
    saver.save_async({"w": torch.full((300_000,), float(step))}, step)
"""


def test_program_that_forgets_to_shut_down_still_saves_all(target):
    done = subprocess.run(
        [sys.executable, "-c", FORGETFUL, target], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert steps(target) == [0, 1, 2]
