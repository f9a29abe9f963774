"""The queue of trainings, with runners that a test holds in its hand."""

from __future__ import annotations

import json
import threading
from pathlib import Path

import pytest
from penstock_trainer.jobs import JobQueue
from penstock_trainer.loop import RunResult
from penstock_trainer.reports import Progress

from penstock.errors import AlreadyExists, InvalidInput, LimitExceeded, NotFound, Unavailable

WAIT_S = 20.0


class Trainings:
    """Stands for the training loop: reports, then waits until it is let go or stopped."""

    def __init__(self) -> None:
        self.started: list[str] = []
        self.go_on = threading.Semaphore(0)
        self.error: Exception | None = None

    def __call__(self, job, progress, should_stop) -> RunResult:
        self.started.append(job.exp_id)
        progress(Progress(job.step + 5, job.max_steps, {"critic_loss": 0.5}, best_step=5))
        while not self.go_on.acquire(timeout=0.02):
            if should_stop.is_set():
                return RunResult(job.step + 5, False, 5, 0.1, Path())  # noqa: FBT003
        if self.error:
            raise self.error
        return RunResult(job.max_steps, True, 5, 0.1, Path())  # noqa: FBT003


@pytest.fixture
def trainings():
    return Trainings()


@pytest.fixture
def queue(tmp_path, trainings):
    queue = JobQueue(tmp_path, trainings)
    yield queue
    queue.close(WAIT_S)


def reach(queue, exp_id, *states, step=0):
    """Follow a job until it is in one of ``states``."""
    for job in queue.watch(exp_id, lambda: True):
        if job.state in states and job.step >= step:
            return job
    raise AssertionError(f"{exp_id} never got to {states}: {queue.get(exp_id)}")


def test_trainings_run_one_after_the_other_in_order(queue, trainings):
    for exp_id in ("a", "b"):
        queue.submit(exp_id, {}, 10)
    assert reach(queue, "a", "running", step=5).metrics == {"critic_loss": 0.5}
    assert queue.get("b").state == "queued"
    trainings.go_on.release(2)
    assert reach(queue, "b", "succeeded").step == 10
    assert trainings.started == ["a", "b"]
    assert [job.exp_id for job in queue.list()] in (["b", "a"], ["a", "b"])


def test_asking_again_answers_with_the_same_run_and_other_options_are_refused(queue, trainings):
    queue.submit("a", {"lr": "1"}, 10)
    reach(queue, "a", "running")
    assert queue.submit("a", {"lr": "1"}, 10).state == "running"
    with pytest.raises(AlreadyExists, match="seed"):
        queue.submit("a", {"lr": "1", "seed": "2"}, 10)
    trainings.go_on.release()
    reach(queue, "a", "succeeded")
    assert queue.submit("a", {"lr": "1"}, 10).state == "succeeded"
    assert trainings.started == ["a"]


def test_running_training_is_cancelled_with_its_state_and_goes_on_when_asked_again(
    queue, trainings
):
    queue.submit("a", {}, 10)
    reach(queue, "a", "running", step=5)
    queue.cancel("a")
    assert reach(queue, "a", "cancelled").step == 5
    queue.submit("a", {}, 10)
    trainings.go_on.release()
    assert reach(queue, "a", "succeeded").step == 10
    assert trainings.started == ["a", "a"]


def test_queued_training_is_cancelled_without_ever_starting(queue, trainings):
    queue.submit("a", {}, 10)
    queue.submit("b", {}, 10)
    reach(queue, "a", "running")
    assert queue.cancel("b").state == "cancelled"
    trainings.go_on.release()
    reach(queue, "a", "succeeded")
    assert trainings.started == ["a"]


@pytest.mark.parametrize(
    ("error", "told"),
    [(Unavailable("sampler is away"), "sampler is away"), (RuntimeError("no memory"), "no memory")],
)
def test_failed_training_says_why_and_the_next_one_runs(queue, trainings, error, told):
    queue.submit("a", {}, 10)
    queue.submit("b", {}, 10)
    reach(queue, "a", "running")
    trainings.error = error
    trainings.go_on.release()
    assert told in reach(queue, "a", "failed").error
    reach(queue, "b", "running")
    trainings.error = None
    trainings.go_on.release()
    reach(queue, "b", "succeeded")


def test_unfinished_trainings_go_on_after_a_restart(tmp_path, trainings):
    first = JobQueue(tmp_path, trainings)
    for exp_id in ("a", "b", "c"):
        first.submit(exp_id, {"seed": "1"}, 20)
    reach(first, "a", "running")
    trainings.go_on.release()
    reach(first, "b", "running", step=5)
    first.close(WAIT_S)
    second = JobQueue(tmp_path, trainings)
    trainings.go_on.release(2)
    reach(second, "c", "succeeded")
    assert {job.exp_id: job.state for job in second.list()} == dict.fromkeys("abc", "succeeded")
    assert trainings.started == ["a", "b", "b", "c"]
    assert second.get("b").options == {"seed": "1"}
    second.close(WAIT_S)


def test_running_training_of_a_killed_service_goes_on(tmp_path, trainings):
    first = JobQueue(tmp_path, trainings)
    first.submit("a", {}, 20)
    reach(first, "a", "running")
    # as a kill leaves it: the file says running, and nobody wrote anything after it
    assert json.loads((tmp_path / "a.json").read_text())["state"] == "running"
    copy = tmp_path / "copy"
    copy.mkdir()
    (copy / "a.json").write_bytes((tmp_path / "a.json").read_bytes())
    first.close(WAIT_S)
    second = JobQueue(copy, trainings)
    trainings.go_on.release()
    assert reach(second, "a", "succeeded").step == 20
    second.close(WAIT_S)


def test_damaged_job_file_does_not_take_the_others_along(tmp_path, trainings):
    first = JobQueue(tmp_path, trainings)
    first.submit("good", {}, 10)
    trainings.go_on.release()
    reach(first, "good", "succeeded")
    first.close(WAIT_S)
    (tmp_path / "torn.json").write_text('{"exp_id": "to')
    (tmp_path / "alien.json").write_text('{"exp_id": "other", "options": {}}')
    second = JobQueue(tmp_path, trainings)
    assert [job.exp_id for job in second.list()] == ["good"]
    second.close(WAIT_S)


def test_watching_ends_when_nobody_wants_it(queue):
    queue.submit("a", {}, 10)
    assert list(queue.watch("a", lambda: False))[0].exp_id == "a"  # noqa: RUF015 - it must end


def test_names_are_checked(queue):
    with pytest.raises(InvalidInput, match="exp_id"):
        queue.submit("../evil", {}, 10)
    for ask in (queue.get, queue.cancel):
        with pytest.raises(NotFound, match="unheard"):
            ask("unheard")


def fill_disk_for(folder, exp_id):
    """The next file of the job goes to a device that is always full."""
    part = folder / f".{exp_id}.json.part"
    part.symlink_to("/dev/full")
    return part


def test_full_disk_refuses_a_new_training_and_takes_it_when_there_is_room(
    queue, trainings, tmp_path
):
    part = fill_disk_for(tmp_path, "a")
    with pytest.raises(LimitExceeded, match=f"training a in {tmp_path}: the disk is full"):
        queue.submit("a", {}, 10)
    assert queue.list() == []
    part.unlink()
    trainings.go_on.release()
    queue.submit("a", {}, 10)
    reach(queue, "a", "succeeded")


def test_full_disk_ends_neither_the_running_training_nor_the_next(queue, trainings, tmp_path):
    queue.submit("a", {}, 10)
    queue.submit("b", {}, 10)
    reach(queue, "a", "running")
    fill_disk_for(tmp_path, "a")
    trainings.go_on.release(2)
    reach(queue, "a", "succeeded")
    reach(queue, "b", "succeeded")
    # what a restart would find: a goes on from its last checkpoint, b is done
    states = [json.loads((tmp_path / f"{name}.json").read_text())["state"] for name in "ab"]
    assert states == ["running", "succeeded"]
