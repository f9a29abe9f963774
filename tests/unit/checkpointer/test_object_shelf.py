"""Checkpoints in an object store: what is put when, what a kill leaves, and what is said."""

import os
import signal
import subprocess
import sys

import numpy as np
import pytest
from object_server import BUCKET
from penstock_checkpointer.object_shelf import ObjectShelf
from penstock_checkpointer.staging import StoreLimits
from penstock_checkpointer.store import Store
from service_process import ServiceProcess

import penstock
from penstock import container
from penstock.errors import Corrupt, InvalidInput, NotFound, Unavailable, Unsupported

NOTE = f"runs/run/{1:019d}.json"


@pytest.fixture
def shelf(object_url):
    return ObjectShelf(object_url, retry_s=1.0)


@pytest.fixture
def objects(object_url, object_server, shelf):
    """What is in the prefix, and which requests were answered since the test began."""
    start = len(object_server.requests())
    prefix = object_url.removeprefix("s3:/")

    class Objects:
        def listed(self):
            return sorted(meta["path"] for batch in shelf._store.list() for meta in batch)

        def writes(self):
            """Method and what the key ends with, of every request that changed something."""
            return [
                (method, path.removeprefix(prefix + "/"))
                for method, path, status in object_server.requests(start)
                if method not in ("GET", "HEAD") and status < 300
            ]

        def count(self, status):
            return sum(found == status for *_, found in object_server.requests(start))

        def put(self, key, data):
            shelf._store.put(key, data)

        def delete(self, key):
            shelf._store.delete(key)

    return Objects()


@pytest.fixture
def open_store(root, shelf):
    opened = []

    def open_store(limits=None):
        opened.append(Store(root, limits, shelf))
        return opened[-1]

    yield open_store
    for store in opened:
        store.close()


def content_key(info):
    return f"runs/{info.run}/{info.step:019d}-{info.digest.xxh3_128.hex()}.pstk"


def test_note_is_put_last(store, save, objects):
    info = save({"x": 1})
    assert objects.writes() == [("PUT", content_key(info)), ("PUT", NOTE)]
    assert objects.listed() == sorted([content_key(info), NOTE])


def test_large_content_is_put_in_parts_and_is_whole_before_its_note(store, save, objects):
    state = {"w": np.random.default_rng(0).integers(0, 256, 20 << 20, np.uint8)}
    key = content_key(save(state, piece=1 << 20))
    writes = objects.writes()
    assert [method for method, _ in writes] == ["POST", "PUT", "PUT", "PUT", "POST", "PUT"]
    assert writes[0][1].startswith(f"{key}?uploads")
    assert {path.partition("partNumber=")[2][:1] for _, path in writes[1:4]} == {"1", "2", "3"}
    assert writes[4][1].startswith(f"{key}?uploadId=")
    assert writes[5] == ("PUT", NOTE)


def test_note_is_deleted_first(store, save, objects, shelf, monkeypatch):
    info = save({"x": 1})
    deleted = []
    original = shelf._store.delete

    class Recorded:
        def __getattr__(self, name):
            return getattr(shelf_store, name)

        def delete(self, key):
            deleted.append((key, objects.listed()))
            original(key)

    shelf_store = shelf._store
    monkeypatch.setattr(shelf, "_store", Recorded())
    store.delete("run", 1)
    assert [key for key, _ in deleted] == [NOTE, content_key(info)]
    assert deleted[1][1] == [content_key(info)]
    assert objects.listed() == []


KILLED = """
import sys
from pathlib import Path
from penstock_checkpointer.object_shelf import ObjectShelf
from penstock_checkpointer.store import Store
from penstock.client.checkpoint.stores import EmbeddedStore
from penstock.client.checkpoint import CheckpointClient
from penstock.targets import Target
from collections import Counter

store = Store(Path(sys.argv[1]), shelf=ObjectShelf(sys.argv[2]))
client = CheckpointClient(Target.parse(sys.argv[1]), EmbeddedStore(store), Counter())
client.save({"x": 1}, "run", 1)
if sys.argv[3:] == ["delete"]:
    client.delete("run", 1)
"""


def killed_at(failpoint, root, object_url, *arguments):
    done = subprocess.run(
        [sys.executable, "-c", KILLED, str(root), object_url, *arguments],
        env={**os.environ, "PENSTOCK_FAILPOINT": failpoint},
        check=False,
    )
    assert done.returncode == -signal.SIGKILL


def test_content_whose_commit_was_killed_before_its_note_is_no_checkpoint_and_is_collected(
    root, object_url, open_store, objects
):
    killed_at("server.object.content_put", root, object_url)
    (orphan,) = objects.listed()
    assert orphan.endswith(".pstk")
    # Its upload can still go on.
    store = open_store()
    assert store.runs() == []
    assert objects.listed() == [orphan]
    # It never does.
    store = open_store(StoreLimits(upload_expiry_s=-1))
    assert store.counts["orphans_removed"] == 1
    assert objects.listed() == []
    assert list((root / "staging").iterdir()) == []


def test_commit_killed_before_its_note_is_completed_by_the_writer(
    root, object_url, open_store, save, load, objects
):
    killed_at("server.object.content_put", root, object_url)
    store = open_store()
    save({"x": 1}, into=store)
    assert load(store) == {"x": 1}


@pytest.mark.parametrize("place", ["note_put", "part_removed"])
def test_commit_killed_after_its_note_is_listed_at_the_next_start(
    place, root, object_url, open_store, load
):
    killed_at(f"server.object.{place}", root, object_url)
    store = open_store()
    assert store.counts["checkpoints_adopted"] == 1
    assert load(store, which=1) == {"x": 1}
    open_store(StoreLimits(upload_expiry_s=-1))
    assert list((root / "staging").iterdir()) == []


@pytest.mark.parametrize(("place", "left"), [("note_removed", 1), ("content_removed", 0)])
def test_deletion_that_was_killed_is_completed_at_the_next_start(
    place, left, root, object_url, open_store, objects
):
    killed_at(f"server.object.{place}", root, object_url, "delete")
    assert len(objects.listed()) == left
    store = open_store()
    assert store.runs() == []
    assert objects.listed() == []


def test_lost_disk_costs_no_checkpoint(store, save, shelf, tmp_path, load):
    infos = [save({"x": step}, step=step, tags=("best",)) for step in (1, 2)]
    elsewhere = Store(tmp_path / "another-disk", shelf=shelf)
    assert [info.digest for info in elsewhere.list("run")] == [info.digest for info in infos]
    assert load(elsewhere, which="best") == {"x": 2}
    elsewhere.close()


def test_directory_of_a_bucket_is_not_opened_without_it_or_with_another(store, save, root):
    """Its catalogue would forget what it cannot find there."""
    save({"x": 1})
    with pytest.raises(InvalidInput, match=r"stand in s3://.*: serve it with --object-store s3:"):
        Store(root)
    with pytest.raises(InvalidInput, match=r"stand in s3://.*, not in s3://bucket/other: give"):
        Store(root, shelf=ObjectShelf("s3://bucket/other"))
    assert store.get("run").step == 1


def test_directory_that_holds_checkpoints_is_not_hidden_by_a_bucket(tmp_path, save, shelf):
    local = Store(tmp_path / "local")
    save({"x": 1}, into=local)
    with pytest.raises(InvalidInput, match="holds checkpoints of run 'run' on the disk"):
        Store(tmp_path / "local", shelf=shelf)
    assert local.get("run").step == 1
    local.close()


def test_content_that_lost_a_race_is_collected_and_the_winner_stays(
    store, save, content, objects, open_store, load
):
    winner = save({"x": 1})
    loser = content({"x": 2})
    objects.put(f"runs/run/{1:019d}-{loser.written.digest.xxh3_128.hex()}.pstk", loser.data)
    anew = open_store()
    assert objects.listed() == sorted([content_key(winner), NOTE])
    assert load(anew) == {"x": 1}


def test_what_others_put_there_is_left_alone_and_counted(store, save, objects, open_store):
    save({"x": 1})
    objects.put("runs/run/readme.txt", b"mine")
    objects.put("elsewhere/model.pt", b"mine")
    assert open_store().counts["foreign_files"] == 1
    assert {"runs/run/readme.txt", "elsewhere/model.pt"} <= set(objects.listed())


def test_content_that_was_removed_by_hand_is_told_and_not_listed_after_a_restart(
    store, save, objects, open_store
):
    objects.delete(content_key(save({"x": 1})))
    with pytest.raises(Corrupt, match="gone from the store"):
        store.get("run", 1)
    assert open_store().runs() == []


def test_damaged_object_is_found_and_saved_anew(store, save, objects, load):
    info = save({"x": 1})
    data = bytearray(b"".join(bytes(part) for part in store._shelf._store.get(content_key(info))))
    data[-50] ^= 1
    objects.put(content_key(info), bytes(data))
    with pytest.raises(Corrupt):
        store.verify("run", 1)
    save({"x": 1})
    assert load(store) == {"x": 1}


def test_reading_never_asks_for_more_than_a_few_mebibytes(store, save, shelf, monkeypatch):
    state = {"w": np.random.default_rng(0).integers(0, 256, 20 << 20, np.uint8)}
    info = save(state, piece=1 << 20)
    asked = []
    inner = shelf._store

    class Recorded:
        def __getattr__(self, name):
            return getattr(inner, name)

        def get_range(self, key, *, start, end):
            asked.append(end - start)
            return inner.get_range(key, start=start, end=end)

    monkeypatch.setattr(shelf, "_store", Recorded())
    with store.open_content("run", 1) as file:
        assert container.verify(file).digest == info.digest
    assert max(asked) == 4 << 20
    assert len(asked) < 12


def test_checkpoint_deleted_while_it_is_read_is_said(store, save):
    save({"w": np.random.default_rng(0).integers(0, 256, 9 << 20, np.uint8)}, piece=1 << 20)
    with store.open_content("run", 1) as file:
        file.read(100)
        store.delete("run", 1)
        file.seek(5 << 20)
        with pytest.raises(NotFound, match="run/1 was deleted while it was read"):
            file.read(100)


def test_bucket_that_is_missing_is_named_and_another_can_be_given(root, object_url):
    with pytest.raises(Unavailable, match="no such bucket at http://127") as refused:
        Store(root, shelf=ObjectShelf("s3://nowhere/x", retry_s=1))
    assert refused.value.reason == "OBJECT_STORE_BUCKET"
    assert refused.value.message.startswith("s3://nowhere/x: listing checkpoints: ")
    Store(root, shelf=ObjectShelf(object_url)).close()


def test_credentials_that_are_wrong_are_named_with_what_to_do(root, object_url, monkeypatch):
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "wrong")
    with pytest.raises(Unavailable, match="does not accept the credentials: set AWS_A") as refused:
        Store(root, shelf=ObjectShelf(object_url, retry_s=1))
    assert refused.value.reason == "OBJECT_STORE_CREDENTIALS"
    assert object_url in refused.value.message


def test_endpoint_that_is_away_is_named_with_what_to_do(root, object_url, monkeypatch, unused_port):
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{unused_port}")
    with pytest.raises(Unavailable, match=f"127.0.0.1:{unused_port} does not answer") as refused:
        Store(root, shelf=ObjectShelf(object_url, retry_s=0.2))
    assert refused.value.reason == "OBJECT_STORE_AWAY"


@pytest.mark.parametrize("url", ["bucket", "s3://", "gs://bucket", "s3://bucket?x=1", "/disk"])
def test_what_is_no_bucket_is_refused(url):
    with pytest.raises(InvalidInput, match="is not s3://bucket or s3://bucket/prefix"):
        ObjectShelf(url)


def test_missing_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "obstore.store", None)
    with pytest.raises(Unsupported, match=r"pip install 'penstock\[s3\]'"):
        ObjectShelf(f"s3://{BUCKET}")


def test_store_that_is_overloaded_for_a_moment_is_asked_again(store, save, object_server, objects):
    object_server.fail(2)
    save({"x": 1})
    assert objects.count(503) == 2
    assert store.get("run").step == 1


def test_endpoint_that_goes_away_loses_nothing_and_what_waits_goes_on(
    store, save, content, object_server, load
):
    save({"x": 1}, step=1)
    offered = content({"x": 2}, step=2)
    upload = store.begin_upload(offered.request)
    store.append(upload.upload_id, 0, offered.data)
    object_server.down()
    try:
        with pytest.raises(Unavailable, match="does not answer"):
            store.commit(upload.upload_id)
        assert [info.step for info in store.list("run")] == [1]
        # What cannot be asked for is not taken for damaged or missing.
        with pytest.raises(Unavailable):
            store.get("run")
        assert store.counts["damaged_skipped"] == 0
    finally:
        object_server.up()
    assert store.commit(upload.upload_id).step == 2
    assert (load(store, which=1), load(store, which=2)) == ({"x": 1}, {"x": 2})


@pytest.mark.e2e
def test_service_keeps_checkpoints_in_the_bucket(tmp_path, object_url, object_server, objects):
    state = {"w": np.random.default_rng(0).integers(0, 256, 10 << 20, np.uint8), "step": 5}
    options = ("--root", str(tmp_path / "root"), "--object-store", object_url)
    with (
        ServiceProcess("checkpointer", *options, log=tmp_path / "log") as server,
        penstock.open_checkpoints(server.target, retry_s=60) as client,
    ):
        info = client.save(state, "run", 5, tags=("best",))
        assert list((tmp_path / "root" / "runs").iterdir()) == []
        assert content_key(info) in objects.listed()
        server.kill()
        server.start()
        loaded = client.load("run", "best")
        assert (loaded["step"], client.verify("run")[0].digest) == (5, info.digest)
        np.testing.assert_array_equal(loaded["w"], state["w"])
        # Away for a while: the client waits.
        object_server.down()
        try:
            with (
                penstock.open_checkpoints(server.target, retry_s=0.1) as hasty,
                pytest.raises(penstock.PenstockError, match="does not answer"),
            ):
                hasty.save({"x": 1}, "run", 6)
        finally:
            object_server.up()
        client.take_over("run")
        assert client.save({"x": 1}, "run", 6).step == 6
        client.delete("run", 5)
        assert [found.step for found in client.list("run")] == [6]
        assert len(objects.listed()) == 2
