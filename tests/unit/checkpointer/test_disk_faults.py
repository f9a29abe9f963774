"""Disks that are full, read-only or slow: what is said, what is kept, and that it goes on after."""

import contextlib
import os
import subprocess
import threading

import numpy as np
import pytest
from mounts import as_root, mounted, small_disk
from penstock_checkpointer.staging import StoreLimits
from penstock_checkpointer.store import Store

from penstock.errors import Internal, LimitExceeded, PenstockError

DISK_BYTES = 4 << 20
STATE = {"w": np.random.default_rng(0).integers(0, 256, 600_000, np.uint8)}


@pytest.fixture
def disk(tmp_path):
    """A disk of four mebibytes."""
    with small_disk(tmp_path / "disk", DISK_BYTES) as folder:
        yield folder


@pytest.fixture
def fill(disk):
    """Fill the disk to the last byte; gives a file whose removal frees it again."""

    def fill():
        filler = disk / "filler"
        with filler.open("wb", buffering=0) as file, contextlib.suppress(OSError):
            while True:
                file.write(bytes(4096))
        return filler

    return fill


@pytest.fixture
def small_store(disk):
    store = Store(disk / "store", StoreLimits(free_bytes=0))
    yield store
    store.close()


@pytest.fixture
def read_only(request):
    """Make a folder refuse all changes, until the test ends or the result is closed."""
    stack = contextlib.ExitStack()

    def read_only(folder):
        if os.geteuid() == 0:
            stack.enter_context(mounted("--bind", str(folder), at=folder))
            subprocess.run(["mount", "-o", "remount,bind,ro", str(folder)], check=True)
        else:
            folder.chmod(0o500)
            stack.callback(folder.chmod, 0o700)
        return stack

    with stack:
        yield read_only


@as_root
def test_disk_that_fills_up_in_the_middle_of_an_upload_keeps_what_there_was(
    small_store, save, content, fill, load
):
    save(STATE, step=1, into=small_store)
    offered = content(STATE, step=2)
    upload = small_store.begin_upload(offered.request)
    small_store.append(upload.upload_id, 0, offered.data[:100_000])
    filler = fill()
    with pytest.raises(LimitExceeded, match="free space or delete checkpoints") as refused:
        small_store.append(upload.upload_id, 100_000, offered.data[100_000:])
    assert refused.value.reason == "DISK_FULL"
    np.testing.assert_array_equal(load(small_store)["w"], STATE["w"])
    filler.unlink()
    received = small_store.begin_upload(offered.request).received_bytes
    assert received == 100_000
    save(STATE, step=2, into=small_store)
    assert [info.step for info in small_store.list("run")] == [1, 2]


@as_root
def test_commit_on_a_full_disk_is_refused_or_whole_and_can_be_asked_for_again(
    small_store, save, content, fill, load, disk
):
    save(STATE, step=1, into=small_store)
    offered = content(STATE, step=2)
    upload = small_store.begin_upload(offered.request)
    small_store.append(upload.upload_id, 0, offered.data)
    filler = fill()
    with pytest.raises(LimitExceeded) as refused:
        small_store.commit(upload.upload_id)
    assert refused.value.reason == "DISK_FULL"
    assert [info.step for info in small_store.list("run")] == [1]
    filler.unlink()
    save(STATE, step=2, into=small_store)
    small_store.close()
    reopened = Store(disk / "store", StoreLimits(free_bytes=0))
    assert [info.step for info in reopened.list("run")] == [1, 2]
    np.testing.assert_array_equal(load(reopened, which=2)["w"], STATE["w"])
    reopened.close()


@as_root
def test_full_disk_is_freed_by_deleting_checkpoints(small_store, save, fill):
    saved = []

    def save_without_end():
        saved.extend(save(STATE, step=step, into=small_store) for step in range(10))

    with pytest.raises(LimitExceeded, match="delete checkpoints or add space"):
        save_without_end()
    assert small_store.list("run") == saved
    small_store.delete("run", 0)
    save(STATE, step=100, into=small_store)
    assert small_store.get("run").step == 100


def test_run_folder_that_is_read_only_is_told_and_saving_goes_on_when_it_is_not(
    store, save, content, root, read_only, load
):
    save({"x": 1}, step=1)
    offered = content({"x": 2}, step=2)
    upload = store.begin_upload(offered.request)
    store.append(upload.upload_id, 0, offered.data)
    with read_only(root / "runs" / "run"):
        with pytest.raises(Internal, match=r"committing run/2: (Read-only|Permission denied)"):
            store.commit(upload.upload_id)
        assert store.get("run").step == 1
        assert load(store) == {"x": 1}
    store.commit(upload.upload_id)
    assert load(store) == {"x": 2}


def test_staging_folder_that_is_read_only_is_told_before_anything_is_sent(
    store, save, content, root, read_only
):
    with (
        read_only(root / "staging"),
        pytest.raises(Internal, match=r"beginning an upload in .*/staging: (Read-only|Permission)"),
    ):
        store.begin_upload(content({"x": 1}).request)
    save({"x": 1})


def test_store_that_is_read_only_is_told_when_it_is_opened(store, save, root, read_only):
    save({"x": 1})
    store.close()
    with read_only(root), pytest.raises(PenstockError, match=str(root)):
        Store(root)
    Store(root).close()


@pytest.mark.parametrize("slow", ["pwrite", "fdatasync", "fsync"])
def test_disk_that_does_not_answer_holds_up_no_reader(
    store, save, content, load, monkeypatch, slow
):
    save({"x": 1}, step=1)
    offered = content({"x": 2}, step=2)
    upload = store.begin_upload(offered.request)
    reached, go_on = threading.Event(), threading.Event()
    original = getattr(os, slow)

    def wait_and_do(*arguments):
        reached.set()
        assert go_on.wait(60)
        return original(*arguments)

    def write():
        store.append(upload.upload_id, 0, offered.data)
        store.sync(upload.upload_id)
        # The directory and the catalogue are synced later, alone.
        store.commit(upload.upload_id)

    monkeypatch.setattr(os, slow, wait_and_do)
    writer = threading.Thread(target=write)
    writer.start()
    assert reached.wait(60)
    try:
        assert [info.step for info in store.list("run")] == [1]
        assert load(store) == {"x": 1}
    finally:
        go_on.set()
        writer.join(60)
    assert load(store) == {"x": 2}
