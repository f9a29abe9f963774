"""The background saver: nothing tears, nothing is lost in silence."""

import io
import logging
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import lz4.frame
import pytest
import torch

import penstock
from penstock.client.checkpoint import WriterTokens
from penstock.client.saving.uploader import Uploader
from penstock.errors import AlreadyExists, Conflict, Internal, InvalidInput, LimitExceeded, TimedOut


@pytest.fixture
def target(tmp_path):
    return f"file://{tmp_path}/store"


@pytest.fixture
def gate(monkeypatch):
    """Holds every background save until it is opened; ``entered`` tells that one waits there."""

    class Gate:
        opened = threading.Event()
        entered = threading.Semaphore(0)

    save = Uploader.save

    def held(self, job):
        Gate.entered.release()
        assert Gate.opened.wait(60)
        return save(self, job)

    Gate.opened.clear()
    monkeypatch.setattr(Uploader, "save", held)
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
    with penstock.AsyncCheckpointSaver(target, run="run", compress="fast") as saver:
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
    assert steps(target) == []


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
        ({"run": None}, "run"),
        ({"rebase_every": 0}, "rebase_every"),
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


ENDED = """
import os, signal, sys, time, torch, penstock
saver = penstock.AsyncCheckpointSaver(sys.argv[1], run="run", drain_s=float(sys.argv[3]))
for step in range(3):
    saver.save_async({"w": torch.full((300_000,), float(step))}, step)
print("handed over", flush=True)
os.kill(os.getpid(), getattr(signal, sys.argv[2]))
time.sleep(60)
"""


@pytest.mark.parametrize(("name", "status"), [("SIGTERM", 143), ("SIGINT", -signal.SIGINT)])
def test_signal_lets_what_waits_be_saved(target, name, status):
    done = subprocess.run(
        [sys.executable, "-c", ENDED, target, name, "60"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == status, done.stderr
    assert steps(target) == [0, 1, 2]


def test_signal_with_too_little_time_says_what_did_not_make_it(target):
    done = subprocess.run(
        [sys.executable, "-c", ENDED, target, "SIGTERM", "0.01"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 143, done.stderr
    assert "run 'run': checkpoints (" in done.stderr
    assert "were not stored" in done.stderr
    missing = {0, 1, 2} - set(steps(target))
    assert all(str(step) in done.stderr for step in missing)


def test_handler_of_the_program_is_left_alone(target):
    def handler(number, frame):
        raise AssertionError

    before = signal.signal(signal.SIGTERM, handler)
    try:
        with penstock.AsyncCheckpointSaver(target, run="run"):
            assert signal.getsignal(signal.SIGTERM) is handler
        assert signal.getsignal(signal.SIGTERM) is handler
    finally:
        signal.signal(signal.SIGTERM, before)


def test_last_saver_gives_the_signal_back():
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    with penstock.AsyncCheckpointSaver(), penstock.AsyncCheckpointSaver():
        assert signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


def test_killed_uploader_is_started_again_and_nothing_is_lost(target, caplog):
    with penstock.AsyncCheckpointSaver(target, run="run", compress="delta") as saver:
        for step in range(4):
            saver.save_async({"w": torch.full((300_000,), float(step))}, step)
            saver.wait()
            if step in (0, 2):
                saver._uploader._process.kill()
                saver._uploader._process.wait()
        assert saver.counts["uploader_restarts"] == 2
    assert "ended with -9, starting another" in caplog.text
    for step in range(4):
        assert torch.equal(load(target, step)["w"], torch.full((300_000,), float(step)))


def test_uploader_that_cannot_live_is_an_error_and_training_goes_on(target, monkeypatch):
    monkeypatch.setenv("PENSTOCK_FAILPOINT", "uploader.received")
    saver = penstock.AsyncCheckpointSaver(target, run="run")
    saver.save_async({"x": 1}, 1)
    with pytest.raises(Internal, match="run/1 ended 3 times"):
        saver.wait()
    monkeypatch.delenv("PENSTOCK_FAILPOINT")
    saver.save_async({"x": 2}, 2)
    # The one that was started before the variable went away dies once more.
    saver.wait()
    assert saver.shutdown().saved == (2,)


def test_uploader_ends_with_the_program(target):
    code = "import sys, os, penstock\n"
    code += "s = penstock.AsyncCheckpointSaver(sys.argv[1], run='run')\n"
    code += "print(s._uploader._process.pid, flush=True)\nos.kill(os.getpid(), 9)"
    done = subprocess.run(
        [sys.executable, "-c", code, target], capture_output=True, text=True, check=False
    )
    process = int(done.stdout)
    deadline_s = time.monotonic() + 60
    while time.monotonic() < deadline_s:
        try:
            state = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0]
        except FileNotFoundError:
            return
        if state == "Z":
            return
        time.sleep(0.05)
    pytest.fail("the uploading process outlived the program")


@pytest.mark.parametrize("kind", ["pstk", "pt", "pt.lz4"])
def test_saver_without_a_target_writes_files(tmp_path, kind):
    tied = torch.arange(6.0)
    state = {"w": tied, "same": tied, "n": 3}
    with penstock.AsyncCheckpointSaver(compress=True) as saver:
        saver.save_async(state, tmp_path / f"a.{kind}")
        report = saver.shutdown()
    assert report.saved == (tmp_path / f"a.{kind}",)
    found = penstock.load_checkpoint(tmp_path / f"a.{kind}")
    assert torch.equal(found["w"], tied)
    assert found["n"] == 3
    assert found["w"].data_ptr() == found["same"].data_ptr()
    assert [path.name for path in tmp_path.iterdir()] == [f"a.{kind}"]


def test_lz4_frame_is_read_by_other_tools(tmp_path):
    with penstock.AsyncCheckpointSaver() as saver:
        saver.save_async({"w": torch.arange(6.0)}, str(tmp_path / "a.pt.lz4"))
    with lz4.frame.open(tmp_path / "a.pt.lz4") as file:
        found = torch.load(io.BytesIO(file.read()), weights_only=True)
    assert torch.equal(found["w"], torch.arange(6.0))


@pytest.mark.parametrize(
    ("where", "what"),
    [
        (7, "has no target"),
        ("model.zip", r"must end in one of \.pstk, \.pt, \.pth, \.pt\.lz4"),
        ("/no/such/place/model.pt", "no directory"),
    ],
)
def test_place_that_is_wrong_is_named(where, what):
    with penstock.AsyncCheckpointSaver() as saver, pytest.raises(InvalidInput, match=what):
        saver.save_async({}, where)


def test_buffers_are_used_again_and_never_more_than_stated(target):
    with penstock.AsyncCheckpointSaver(target, run="run", max_queue_size=2) as saver:
        seen = set()
        give_back = saver._snapshots.give_back
        saver._snapshots.give_back = lambda buffer: (seen.add(buffer.number), give_back(buffer))
        for step in range(12):
            saver.save_async({"w": torch.full((300_000,), float(step))}, step)
    assert 1 <= len(seen) <= 3
    assert saver.counts["plans"] == 1


def test_state_of_another_form_gets_another_plan(target):
    with penstock.AsyncCheckpointSaver(target, run="run") as saver:
        for step, size in enumerate((10, 100_000, 5, 400_000)):
            saver.save_async({"w": torch.full((size,), float(step))}, step)
        saver.wait()
        assert saver.counts["plans"] == 4
    for step, size in enumerate((10, 100_000, 5, 400_000)):
        assert torch.equal(load(target, step)["w"], torch.full((size,), float(step)))


def test_client_and_saver_of_one_process_do_not_fence_each_other(target):
    with (
        penstock.open_checkpoints(target) as client,
        penstock.AsyncCheckpointSaver(target, run="run") as saver,
    ):
        for step in range(0, 6, 2):
            saver.save_async({"x": step}, step)
            client.save({"x": step + 1}, "run", step + 1)
        saver.wait()
    assert steps(target) == list(range(6))


def test_deltas_share_a_base_that_changes_in_time(target):
    torch.manual_seed(0)
    frozen, moving = torch.randn(500_000), torch.randn(500_000)
    with penstock.AsyncCheckpointSaver(
        target, run="run", compress="delta", rebase_every=3
    ) as saver:
        for step in range(7):
            moving += 1e-6
            saver.save_async({"frozen": frozen, "moving": moving}, step)
            saver.wait()
    with penstock.open_checkpoints(target) as client:
        assert [info.base_step for info in client.list("run")] == [
            *(None, 0, 0),
            *(None, 3, 3),
            None,
        ]
        whole, delta = (client.get("run", step).size_bytes for step in (0, 1))
        assert delta < whole / 2
    for step in range(7):
        assert torch.equal(load(target, step)["frozen"], frozen)


def test_base_that_was_deleted_is_replaced(target):
    state = {"w": torch.randn(300_000)}
    with (
        penstock.open_checkpoints(target) as client,
        penstock.AsyncCheckpointSaver(target, run="run", compress="delta") as saver,
    ):
        saver.save_async(state, 0)
        saver.wait()
        client.delete("run", 0)
        saver.save_async(state, 1)
        saver.save_async(state, 2)
        saver.wait()
        assert [info.base_step for info in client.list("run")] == [None, 1]
    assert torch.equal(load(target, 2)["w"], state["w"])
