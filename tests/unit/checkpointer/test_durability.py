"""The order of what reaches the disk, and what a disk that refuses leaves behind."""

import errno
import os
import sqlite3
import subprocess
import sys

import numpy as np
import pytest
from penstock_checkpointer.store import Store

from penstock.errors import Internal, LimitExceeded, NotFound

STATE = {"w": np.arange(40_000)}


@pytest.fixture
def calls(monkeypatch):
    """Records calls that matter for durability, with the file each one is about."""
    recorded = []

    def name_of(handle):
        return os.path.basename(os.readlink(f"/proc/self/fd/{handle}"))  # noqa: PTH119, PTH115

    def record(name, describe):
        original = getattr(os, name)

        def wrapped(*arguments, **options):
            recorded.append((name, *describe(*arguments)))
            return original(*arguments, **options)

        monkeypatch.setattr(os, name, wrapped)

    record("fsync", lambda handle: (name_of(handle),))
    record("rename", lambda source, target, **_: (os.fspath(target).rsplit("/", 1)[-1],))
    record("pwrite", lambda handle, *_: (name_of(handle),))
    return recorded


def test_commit_syncs_content_then_renames_then_syncs_the_directory_then_lists(
    store, content, calls
):
    offered = content(STATE)
    upload = store.begin_upload(offered.request)
    store.append(upload.upload_id, 0, offered.data)
    statements = []
    store._catalog._database._connection.set_trace_callback(
        lambda sql: (statements.append(sql), calls.append(("sql", sql.split()[0])))
    )
    store.commit(upload.upload_id)
    part, final = f"{upload.upload_id}.part", f"{1:019d}.pstk"
    calls = [call for call in calls if call[0] != "sql" or call[1] in ("BEGIN", "INSERT", "COMMIT")]
    order = [
        ("pwrite", part),
        ("fsync", part),
        ("sql", "BEGIN"),
        ("rename", final),
        ("fsync", "run"),
        ("sql", "INSERT"),
        ("sql", "COMMIT"),
    ]
    places = [calls.index(step) for step in order]
    assert places == sorted(places)
    assert calls[-1] == ("sql", "COMMIT")
    # The directory of a new run is itself made durable before anything is renamed into it.
    assert calls.index(("fsync", "runs")) < calls.index(("rename", final))
    note = ("rename", f"{1:019d}.json")
    assert calls.index(note) < calls.index(("rename", final))
    assert not any(call[0] == "pwrite" for call in calls[calls.index(("fsync", part)) :])


def test_catalogue_syncs_every_commit(store):
    database = store._catalog._database._connection
    assert database.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    assert database.execute("PRAGMA synchronous").fetchone() == (2,)


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT])
def test_full_disk_while_receiving_keeps_what_was_received(store, content, monkeypatch, code, load):
    offered = content(STATE)
    upload = store.begin_upload(offered.request)
    store.append(upload.upload_id, 0, offered.data[:1000])
    original = os.pwrite

    def half(handle, data, offset):
        if offset > 1000:
            raise OSError(code, os.strerror(code))
        return original(handle, data[: len(data) // 2], offset)

    with monkeypatch.context() as patch:
        patch.setattr(os, "pwrite", half)
        with pytest.raises(LimitExceeded, match="disk of the checkpoint store is full") as refused:
            store.append(upload.upload_id, 1000, offered.data[1000:])
    assert refused.value.reason == "DISK_FULL"
    assert store.begin_upload(offered.request).received_bytes == 1000
    upload = store.begin_upload(offered.request)
    store.append(upload.upload_id, 1000, offered.data[1000:])
    store.commit(upload.upload_id)
    np.testing.assert_array_equal(load(store)["w"], STATE["w"])


@pytest.mark.parametrize("failing", ["fsync", "rename"])
def test_full_disk_at_commit_is_told_and_leaves_the_store_healthy(
    store, save, content, monkeypatch, failing, load, root
):
    save({"x": 0}, step=1)
    offered = content(STATE, step=2)
    upload = store.begin_upload(offered.request)
    store.append(upload.upload_id, 0, offered.data)

    def full(*_, **__):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(os, failing, full)
        with pytest.raises(LimitExceeded, match="nothing that was acknowledged is lost"):
            store.commit(upload.upload_id)
    assert [info.step for info in store.list("run")] == [1]
    save(STATE, step=2)
    assert [info.step for info in store.list("run")] == [1, 2]
    reopened = Store(root)
    assert load(reopened, which=1) == {"x": 0}
    reopened.close()


def test_bytes_whose_sync_failed_are_not_trusted_at_the_next_try(store, content, monkeypatch):
    offered = content(STATE)
    upload = store.begin_upload(offered.request)
    store.append(upload.upload_id, 0, offered.data)

    def broken(_):
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", broken)
        with pytest.raises(Internal, match="committing run/1"):
            store.commit(upload.upload_id)
    with pytest.raises(NotFound, match="begin again"):
        store.commit(upload.upload_id)
    assert store.begin_upload(offered.request).received_bytes == 0


def test_catalogue_that_fails_after_the_rename_loses_nothing(store, save, content, root, load):
    offered = content(STATE)
    upload = store.begin_upload(offered.request)
    store.append(upload.upload_id, 0, offered.data)
    store._catalog._database._connection.set_authorizer(
        lambda action, table, *_: (
            sqlite3.SQLITE_DENY
            if action == sqlite3.SQLITE_INSERT and table == "checkpoints"
            else sqlite3.SQLITE_OK
        )
    )
    with pytest.raises(Internal, match="catalogue"):
        store.commit(upload.upload_id)
    store._catalog._database._connection.set_authorizer(None)
    with pytest.raises(NotFound):
        store.list("run")
    # Asked again, the client is sent back to the beginning, and what lies there is replaced.
    with pytest.raises(NotFound, match="begin again"):
        store.commit(upload.upload_id)
    save(STATE)
    np.testing.assert_array_equal(load(store)["w"], STATE["w"])


def test_commit_killed_before_its_row_is_listed_at_the_next_start(store, content, root, load):
    offered = content(STATE, tags=("best",), metrics={"loss": 1.0})
    upload = store.begin_upload(offered.request)
    store.append(upload.upload_id, 0, offered.data)
    store._catalog._database._connection.set_authorizer(
        lambda action, table, *_: (
            sqlite3.SQLITE_DENY
            if action == sqlite3.SQLITE_INSERT and table == "checkpoints"
            else sqlite3.SQLITE_OK
        )
    )
    with pytest.raises(Internal):
        store.commit(upload.upload_id)
    store.close()
    reopened = Store(root)
    assert reopened.counts["checkpoints_adopted"] == 1
    # The writer, who never got an answer, asks again and gets one.
    again = reopened.begin_upload(offered.request)
    assert again.committed
    info = reopened.commit(again.upload_id)
    assert (info.tags, info.metrics) == (("best",), {"loss": 1.0})
    np.testing.assert_array_equal(load(reopened, which="best")["w"], STATE["w"])
    reopened.close()


FULL_DISK = """
import resource, signal, sys
import numpy as np
import penstock
from penstock.errors import LimitExceeded

signal.signal(signal.SIGXFSZ, signal.SIG_IGN)

def limit(size_bytes):
    resource.setrlimit(resource.RLIMIT_FSIZE, (size_bytes, resource.RLIM_INFINITY))

with penstock.open_checkpoints(sys.argv[1]) as client:
    client.save({"x": 1}, "run", 1)
    backend = client._store._backend
    append = backend.append

    def append_to_full_disk(*arguments):
        limit(600_000)
        try:
            return append(*arguments)
        finally:
            limit(resource.RLIM_INFINITY)

    backend.append = append_to_full_disk
    state = {"w": np.zeros(1_000_000, np.uint8)}
    try:
        client.save(state, "run", 2, compress="none")
    except LimitExceeded as error:
        print(error.reason)
    print(client.latest("run").step, client.load("run"))
    backend.append = append
    client.save(state, "run", 2, compress="none")
    print(client.latest("run").step)
"""


def test_file_that_the_kernel_refuses_to_grow_is_a_full_disk(tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", FULL_DISK, f"file://{tmp_path}/store"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    printed = [line for line in done.stdout.splitlines() if not line.startswith("20")]
    assert printed == ["DISK_FULL", "1 {'x': 1}", "2"]
