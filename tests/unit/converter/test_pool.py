"""Several recordings at a time: the same dataset, and a process that dies costs only its own."""

import contextlib
import shutil
import signal
import threading

import psutil
import pytest
import tenacity
from bag_recording import robot_messages, write_bag, write_robots
from penstock_converter.jobs.job import run_job
from penstock_converter.jobs.request import Job
from penstock_converter.jobs.tasks import worker_count

from penstock.errors import Cancelled


@pytest.fixture(scope="module")
def bags(tmp_path_factory):
    return write_robots(tmp_path_factory.mktemp("bags"), range(10, 14))


def contents(folder):
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != "conversion.json"
    }


def test_any_number_of_processes_makes_the_same_bytes(bags, make_mapping, tmp_path):
    mapping = make_mapping("outputs.hdf5=null")
    outcomes = [
        run_job(Job(bags, mapping, tmp_path / str(workers), workers=workers)) for workers in (1, 2)
    ]
    assert contents(tmp_path / "1") == contents(tmp_path / "2")
    assert [bag.frames for bag in outcomes[1].bags] == [10, 11, 12, 13]
    assert outcomes[0].bags == outcomes[1].bags
    assert outcomes[1].images == 2 * 46


def test_a_bag_that_is_refused_in_a_process_is_told_as_elsewhere(bags, make_mapping, tmp_path):
    broken = tmp_path / "broken"
    shutil.copytree(bags[0], broken)
    (storage,) = broken.glob("*.mcap")
    storage.write_bytes(storage.read_bytes()[:-2000])
    outcomes = [
        run_job(Job((bags[0], broken, bags[1]), make_mapping(), tmp_path / str(n), workers=n))
        for n in (1, 2)
    ]
    assert outcomes[0].bags == outcomes[1].bags
    assert [bag.state for bag in outcomes[1].bags] == ["converted", "refused", "converted"]
    assert outcomes[1].bags[1].reason == "BAG_UNREADABLE"


def children():
    found = []
    for child in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):  # it may be ending just now
            if "spawn_main" in " ".join(child.cmdline()):
                found.append(child)
    return found


def test_a_process_that_dies_costs_its_recording_alone(bags, make_mapping, tmp_path):
    killed = threading.Event()

    def kill_one(progress):
        if killed.is_set() or not 0 < progress.bags[0].frames < 600:
            return
        killed.set()
        for child in children():
            if any("/long/" in file.path for file in child.open_files()):
                child.send_signal(signal.SIGKILL)

    long = write_bag(tmp_path / "long", robot_messages(600))
    outcome = run_job(
        Job((long, *bags), make_mapping(), tmp_path / "out", workers=2), on_progress=kill_one
    )
    assert killed.is_set()
    died = [bag for bag in outcome.bags if bag.state == "refused"]
    assert [bag.reason for bag in died] == ["WORKER_DIED"]
    assert "-9" in died[0].error
    assert len(outcome.converted) == 4


def test_cancelling_ends_all_processes(bags, make_mapping, tmp_path):
    long = tuple(write_bag(tmp_path / f"long_{n}", robot_messages(400)) for n in range(2))
    begun = threading.Event()

    def cancelled():
        return begun.is_set()

    def look(progress):
        if any(bag.frames for bag in progress.bags):
            begun.set()

    with pytest.raises(Cancelled):
        run_job(Job(long, make_mapping(), tmp_path / "out", workers=2), look, cancelled)

    @tenacity.retry(wait=tenacity.wait_fixed(0.05), stop=tenacity.stop_after_delay(30))
    def wait_until_none_is_left():
        assert children() == []

    wait_until_none_is_left()
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("recordings", "asked", "wanted"), [(1, None, 1), (1, 8, 1), (5, 3, 3), (0, None, 1)]
)
def test_there_are_never_more_processes_than_recordings(recordings, asked, wanted):
    assert worker_count(recordings, asked) == wanted


def test_the_number_of_processes_follows_cores_and_memory(monkeypatch):
    monkeypatch.setattr("penstock_converter.jobs.tasks.usable_cores", lambda: 32)
    monkeypatch.setattr("penstock_converter.jobs.tasks.memory_limit_bytes", lambda: 64 << 30)
    assert worker_count(100, None) == 16
    monkeypatch.setattr("penstock_converter.jobs.tasks.memory_limit_bytes", lambda: 2 << 30)
    assert worker_count(100, None) == 4
