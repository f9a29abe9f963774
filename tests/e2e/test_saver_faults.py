"""Faults of a store beside a training loop: it goes on, is told, and nothing stored is lost."""

import contextlib
import logging
import signal
import subprocess

import pytest
import torch
from mounts import as_root, mounted, small_disk
from service_process import ServiceProcess

import penstock
from penstock.errors import LimitExceeded, PenstockError, Unavailable

pytestmark = pytest.mark.e2e

WIDE, LAYERS = 1 << 16, 4
"""A state of 3 MB: weights and two moments of Adam."""
DISK_BYTES = 16 << 20


class Training:
    """Adam that adds one to every weight in each step, and a save every few steps."""

    def __init__(self, target, **options):
        self.weights = [torch.nn.Parameter(torch.zeros(WIDE)) for _ in range(LAYERS)]
        for weight in self.weights:
            weight.grad = torch.full_like(weight, -1.0)
        self.optimizer = torch.optim.Adam(self.weights, lr=1.0, betas=(0.0, 0.0), eps=0.0)
        self.saver = penstock.AsyncCheckpointSaver(target, run="run", compress="none", **options)
        self.steps, self.asked, self.told = 0, [], []

    def run(self, saves, every=3):
        for _ in range(saves):
            for _ in range(every):
                self.optimizer.step()
                self.steps += 1
            state = {"weights": self.weights, "optimizer": self.optimizer.state_dict()}
            try:
                self.saver.save_async(state, self.steps)
                self.asked.append(self.steps)
            except PenstockError as error:
                self.told.append(error)

    def wait(self):
        """Until nothing is under way; an error that no call has raised yet is told too."""
        try:
            self.saver.wait()
        except PenstockError as error:
            self.told.append(error)

    def end(self):
        """What became of all that was asked for; errors are ``told`` first."""
        for _ in range(len(self.asked)):
            try:
                return self.saver.shutdown()
            except PenstockError as error:
                self.told.append(error)
        raise AssertionError("more errors than saves")


def assert_stored(target, saved):
    """Exactly these are there, and hold what the weights were."""
    with penstock.open_checkpoints(target) as client:
        assert [info.step for info in client.list("run")] == sorted(saved)
        for step in saved:
            client.verify("run", step)
            state = client.load("run", step)
            assert all(bool((weight == step).all()) for weight in state["weights"])
            assert {float(each["step"]) for each in state["optimizer"]["state"].values()} == {step}


@pytest.fixture
def server(tmp_path):
    arguments = ("--root", str(tmp_path / "disk" / "store"), "--min-free-bytes", "0")
    (tmp_path / "disk").mkdir()
    with ServiceProcess("checkpointer", *arguments, log=tmp_path / "log") as process:
        yield process


@pytest.fixture
def small_server(tmp_path):
    """Its disk has sixteen mebibytes."""
    with small_disk(tmp_path / "disk", DISK_BYTES) as folder:
        arguments = ("--root", str(folder / "store"), "--min-free-bytes", "0")
        with ServiceProcess("checkpointer", *arguments, log=tmp_path / "log") as process:
            yield process


def test_server_that_is_away_drops_the_oldest_and_training_goes_on(server, caplog, capfd):
    caplog.set_level(logging.WARNING, logger="penstock")
    training = Training(server.target, max_queue_size=2, when_full="drop-oldest")
    training.run(2)
    training.saver.wait()
    server.kill()
    training.run(40)
    away = dict(training.saver.counts)
    assert training.saver.newest.step == 6
    assert training.told == []
    server.start()
    report = training.end()
    assert training.told == []
    assert away["dropped"] > 0
    assert len(report.dropped) == training.saver.counts["dropped"]
    # The newest is what a crash would have cost most.
    assert training.asked[-1] in report.saved
    assert sorted(report.saved + report.dropped) == training.asked
    assert f"checkpoint {report.dropped[0]} dropped, queue full" in caplog.text
    assert f"{server.target}: attempt 1 failed, trying for another" in capfd.readouterr().err
    assert_stored(server.target, report.saved)


def test_server_that_is_slow_holds_up_whoever_asked_for_that_and_loses_nothing(server):
    training = Training(server.target, max_queue_size=1, when_full="block")
    training.run(2)
    training.saver.wait()
    server.process.send_signal(signal.SIGSTOP)
    resume = f"sleep 1.5 && kill -CONT {server.process.pid}"
    with subprocess.Popen(["sh", "-c", resume]):
        training.run(6)
    report = training.end()
    assert training.told == []
    assert report.dropped == ()
    assert list(report.saved) == training.asked
    assert_stored(server.target, report.saved)


def test_server_that_stays_away_is_told_and_training_goes_on(server):
    training = Training(server.target, max_queue_size=2, when_full="raise", retry_s=0.5)
    training.run(2)
    training.saver.wait()
    server.kill()
    training.run(60)
    training.wait()
    assert {type(error) for error in training.told} == {LimitExceeded, Unavailable}
    server.start()
    training.run(1)
    report = training.end()
    assert sorted(report.saved + report.failed) == training.asked
    assert 6 in report.saved
    assert_stored(server.target, report.saved)


@as_root
def test_disk_that_is_full_is_told_and_saving_goes_on_when_there_is_room(small_server, tmp_path):
    target = small_server.target
    training = Training(target, max_queue_size=1)
    training.run(2)
    training.saver.wait()
    filler = tmp_path / "disk" / "filler"
    with filler.open("wb", buffering=0) as file, contextlib.suppress(OSError):
        while True:
            file.write(bytes(1 << 16))
    training.run(5)
    training.wait()
    filler.unlink()
    training.run(1)
    report = training.end()
    assert training.told
    assert all("free" in str(error) for error in training.told)
    assert report.failed
    assert {3, 6, training.asked[-1]} <= set(report.saved)
    assert sorted(report.saved + report.failed) == training.asked
    assert_stored(target, report.saved)


@as_root
def test_disk_that_is_read_only_is_told_and_saving_goes_on_when_it_is_not(server, tmp_path):
    training = Training(server.target, max_queue_size=1)
    training.run(2)
    training.saver.wait()
    folder = str(tmp_path / "disk" / "store")
    with mounted("--bind", folder, at=tmp_path / "disk" / "store"):
        subprocess.run(["mount", "-o", "remount,bind,ro", folder], check=True)
        training.run(4)
        training.wait()
    training.run(1)
    report = training.end()
    assert training.told
    assert report.failed
    assert {3, 6, training.asked[-1]} <= set(report.saved)
    assert sorted(report.saved + report.failed) == training.asked
    assert_stored(server.target, report.saved)
