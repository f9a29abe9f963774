"""Disks that are full, or that refuse to sync: what is said, what is kept, and that it goes on."""

import contextlib
import os
from pathlib import Path

import pytest
from mounts import as_root, small_disk
from penstock_checkpointer.rollouts.limits import RolloutLimits
from penstock_checkpointer.rollouts.store import RolloutStore
from rollout_samples import file_of, push_into, request_of

from penstock.errors import Internal, LimitExceeded, PenstockError
from penstock.streams import StreamSettings, Take, Which

WIDE = {"envs": 256, "steps": 16, "width": 60}


@pytest.fixture
def small_store(tmp_path):
    """A store on a disk of six mebibytes."""
    with small_disk(tmp_path / "disk", 6 << 20) as disk:
        opened = RolloutStore(disk, RolloutLimits(free_bytes=0))
        yield opened
        opened.close()


@contextlib.contextmanager
def filled(store):
    """No byte is free inside the block."""
    filler = store._layout.root / "filler"
    with filler.open("wb", buffering=0) as file, contextlib.suppress(OSError):
        while True:
            file.write(bytes(4096))
    yield
    filler.unlink()


@as_root
def test_disk_that_fills_up_in_the_middle_of_a_push_keeps_what_arrived(small_store):
    push_into(small_store, 0)
    request, file = request_of(1), file_of(1, **WIDE)
    small_store.begin(request, 0)
    small_store.append(request.push_id, 0, file.data[:200_000])
    with filled(small_store), pytest.raises(LimitExceeded) as refused:
        small_store.append(request.push_id, 200_000, file.data[200_000:900_000])
    assert refused.value.reason == "DISK_FULL"
    assert small_store.received(request.push_id) == (200_000, None)
    small_store.append(request.push_id, 200_000, file.data[200_000:])
    assert small_store.commit(request.push_id, file.digest)[0].sequence == 2


@as_root
def test_commit_on_a_full_disk_is_refused_or_whole_and_can_be_asked_for_again(small_store):
    push_into(small_store, 0)
    request, file = request_of(1), file_of(1)
    small_store.begin(request, 0)
    small_store.append(request.push_id, 0, file.data)
    refusals = []
    with filled(small_store):
        try:
            small_store.commit(request.push_id, file.digest)
        except PenstockError as error:
            refusals.append(error.reason)
    assert refusals in ([], ["DISK_FULL"])
    again = push_into(small_store, 1)[0]
    assert again.sequence == 2
    assert [info.iteration for info in small_store.list("s")] == [0, 1]


@as_root
def test_consumers_of_a_full_disk_can_make_room(small_store):
    """Settling removes rollouts, so that a disk which is full does not stay so."""
    small_store.configure("s", StreamSettings(keep_last=1))
    which = Which(take=Take(consumer="trainer"))

    def push_until_full():
        for number in range(1000):
            request, file = request_of(number), file_of(number, **WIDE)
            small_store.begin(request, 0)
            small_store.append(request.push_id, 0, file.data)
            small_store.commit(request.push_id, file.digest)

    with pytest.raises(LimitExceeded, match="free"):
        push_until_full()
    stored = small_store.stream("s").rollouts
    assert stored >= 2
    for _ in range(stored):
        info = small_store.find("s", which).info
        small_store.settle("s", "trainer", info.sequence, done=True)
    assert small_store.stream("s").rollouts == 1
    push_into(small_store, 2000)


def test_bytes_that_could_not_be_synced_are_not_trusted_again(store, monkeypatch):
    request, file = request_of(0), file_of(0)
    store.begin(request, 0)
    store.append(request.push_id, 0, file.data)

    def fail(_):
        raise OSError(5, "Input/output error")

    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", fail)
        with pytest.raises(Internal, match="committing s/main/0: Input/output error"):
            store.commit(request.push_id, file.digest)
    assert store.received(request.push_id) == (0, None)
    assert push_into(store, 0)[0].sequence == 1


def test_content_is_on_disk_before_its_name_and_its_row(store, monkeypatch):
    """What a loss of power may show: each step is synced before the next one builds on it."""
    steps = []
    fsync, change = os.fsync, store._database.change
    push_into(store, 0)

    def note_fsync(handle):
        name = Path(f"/proc/self/fd/{handle}").readlink().name
        steps.append("directory" if name == "s" else "part")
        fsync(handle)

    def note_change(statement, *values):
        if "INTO rollouts" in statement:
            steps.append("row")
        return change(statement, *values)

    monkeypatch.setattr(os, "fsync", note_fsync)
    monkeypatch.setattr(store._database, "change", note_change)
    push_into(store, 1)
    assert steps == ["part", "directory", "row"]
    # The row itself is synced by SQLite.
    assert store._database.rows("PRAGMA synchronous") == [(2,)]
