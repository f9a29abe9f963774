"""What a store promises of checkpoints: listing, tags, latest, idempotence, deletion, damage."""

import threading

import numpy as np
import pytest
from penstock_checkpointer.durable import locked_directory
from penstock_checkpointer.staging import StoreLimits
from penstock_checkpointer.store import Store

from penstock.checkpoints import RunInfo
from penstock.errors import (
    AlreadyExists,
    Corrupt,
    InvalidInput,
    LimitExceeded,
    NotFound,
)


def content_file(root, run="run", step=1):
    return root / "runs" / run / f"{step:019d}.pstk"


def flip(path, place):
    data = bytearray(path.read_bytes())
    data[place] ^= 0x10
    path.write_bytes(data)


def test_committed_checkpoint_is_listed_with_all_that_was_given(store, save, load):
    info = save({"x": 1}, step=5, tags=("best", "final"), metrics={"loss": 0.25})
    assert store.list("run") == [info]
    assert (info.run, info.step, info.tags) == ("run", 5, ("best", "final"))
    assert info.metrics == {"loss": 0.25}
    assert load(store) == {"x": 1}
    assert store.runs() == [
        RunInfo(name="run", checkpoints=1, latest_step=5, stored_bytes=info.size_bytes)
    ]


def test_committed_checkpoint_survives_reopening(store, save, root, load):
    info = save({"x": 1}, tags=("best",), metrics={"a": float("inf")})
    other = Store(root)
    assert other.list("run") == [info]
    assert load(other, which="best") == {"x": 1}
    other.close()


def test_same_content_gets_the_same_acknowledgement(store, save):
    first = save({"x": 1}, tags=("best",), metrics={"loss": 1.0})
    assert save({"x": 1}, tags=("best",), metrics={"loss": 1.0}) == first
    assert store.list("run") == [first]


def test_commit_asked_for_twice_answers_the_same(store, content):
    upload = store.begin_upload(content({"x": 1}).request)
    store.append(upload.upload_id, 0, content({"x": 1}).data)
    assert store.commit(upload.upload_id) == store.commit(upload.upload_id)


def test_commit_is_answered_again_after_a_restart(store, content, root):
    upload = store.begin_upload(content({"x": 1}).request)
    store.append(upload.upload_id, 0, content({"x": 1}).data)
    info = store.commit(upload.upload_id)
    store.close()
    reopened = Store(root)
    assert reopened.commit(upload.upload_id) == info
    reopened.close()


def test_other_content_for_the_same_step_is_refused_at_once(store, save, load):
    save({"x": 1})
    with pytest.raises(AlreadyExists, match="run/1 exists with other content"):
        save({"x": 2})
    assert load(store) == {"x": 1}


def test_of_two_uploads_of_one_step_the_first_commit_wins(store, content, load):
    uploads = []
    for value in (1, 2):
        offered = content({"x": value}, token=uploads[0].fencing_token if uploads else 0)
        uploads.append(store.begin_upload(offered.request))
        store.append(uploads[-1].upload_id, 0, offered.data)
    store.commit(uploads[1].upload_id)
    with pytest.raises(AlreadyExists):
        store.commit(uploads[0].upload_id)
    assert load(store) == {"x": 2}


def test_tag_moves_with_the_commit(store, save, load):
    save({"x": 1}, step=1, tags=("best", "first"))
    save({"x": 2}, step=2, tags=("best",))
    assert [info.tags for info in store.list("run")] == [("first",), ("best",)]
    assert load(store, which="best") == {"x": 2}
    save({"x": 1}, step=1, tags=("best",))
    assert [info.tags for info in store.list("run")] == [("best", "first"), ()]


def test_tags_of_runs_are_apart(store, save, load):
    save({"x": 1}, run="a", tags=("best",))
    save({"x": 2}, run="b", tags=("best",))
    assert load(store, "a", "best") == {"x": 1}


def test_latest_is_the_highest_step_whatever_came_last(store, save):
    save({"x": 10}, step=10)
    save({"x": 9}, step=9)
    assert store.get("run").step == 10


@pytest.mark.parametrize("place", [0, -1, -60], ids=["magic", "footer", "index"])
def test_latest_passes_over_a_damaged_one_and_counts_it(store, save, root, place):
    save({"x": 1}, step=1)
    save({"x": 2}, step=2)
    flip(content_file(root, step=2), place)
    assert store.get("run").step == 1
    assert store.counts["damaged_skipped"] == 1
    with pytest.raises(Corrupt):
        store.get("run", 2)


def test_latest_passes_over_a_truncated_and_a_missing_one(store, save, root):
    for step in (1, 2, 3):
        save({"x": step}, step=step)
    with content_file(root, step=3).open("r+b") as file:
        file.truncate(50)
    content_file(root, step=2).unlink()
    assert store.get("run").step == 1
    with pytest.raises(Corrupt, match="50 bytes on disk"):
        store.get("run", 3)
    with pytest.raises(Corrupt, match="is gone"):
        store.get("run", 2)


def test_run_of_nothing_but_damage_says_so(store, save, root):
    save({"x": 1})
    content_file(root).write_bytes(b"")
    with pytest.raises(NotFound, match=r"no checkpoint intact \(1 are damaged\)"):
        store.get("run")


def test_full_verification_finds_a_flipped_bit_in_the_middle(store, save, root):
    info = save({"w": np.arange(5000)})
    assert store.verify("run")[0] == info
    flip(content_file(root), 100)
    assert store.get("run") == info
    with pytest.raises(Corrupt, match="does not match its hash"):
        store.verify("run")


def test_verification_finds_a_file_that_was_exchanged(store, save, root):
    save({"x": 1}, step=1)
    save({"x": 2}, step=2)
    content_file(root, step=1).write_bytes(content_file(root, step=2).read_bytes())
    with pytest.raises(Corrupt, match="expected"):
        store.verify("run", 1)


def test_deleted_checkpoint_is_gone_with_its_tags_also_after_a_restart(store, save, root):
    save({"x": 1}, step=1)
    save({"x": 2}, step=2, tags=("best",))
    store.delete("run", 2)
    with pytest.raises(NotFound, match="no tag 'best'"):
        store.get("run", "best")
    reopened = Store(root)
    assert [info.step for info in reopened.list("run")] == [1]
    reopened.close()
    with pytest.raises(NotFound, match="run 'run' has no step 2: it has 1 checkpoints"):
        store.delete("run", 2)


def test_deleted_step_can_be_saved_anew_with_other_content(store, save, load):
    save({"x": 1})
    store.delete("run", 1)
    save({"x": 2})
    assert load(store) == {"x": 2}


def test_open_download_outlives_a_deletion(store, save):
    info = save({"x": 1})
    with store.open_content("run", 1) as file:
        store.delete("run", 1)
        assert len(file.read()) == info.size_bytes


@pytest.mark.parametrize(
    ("run", "which", "message"),
    [
        ("nope", "latest", "the store has the runs run"),
        ("run", 7, "no step 7: it has 1 checkpoints, the last are 1"),
        ("run", "worst", "no tag 'worst'"),
    ],
)
def test_what_is_not_there_is_answered_with_what_is(store, save, run, which, message):
    save({"x": 1})
    with pytest.raises(NotFound, match=message):
        store.get(run, which)


@pytest.mark.parametrize("run", ["", ".", "..", "../x", "a/b", "-a", "a" * 129, "a\n", "é", "a\0"])
def test_run_that_is_no_name_is_refused(store, content, run):
    with pytest.raises(InvalidInput, match="no valid name") as refused:
        store.begin_upload(content({"x": 1}, run=run).request)
    assert refused.value.field == "run"
    with pytest.raises(InvalidInput):
        store.get(run)


@pytest.mark.parametrize("tag", ["latest", "", "a b", "../x", "100"])
def test_tag_that_is_no_name_is_refused(store, content, tag):
    with pytest.raises(InvalidInput) as refused:
        store.begin_upload(content({"x": 1}, tags=(tag,)).request)
    assert refused.value.field == "tags"


def test_checkpoint_beyond_the_limit_is_refused_before_it_is_sent(root, content):
    store = Store(root, StoreLimits(upload_size_bytes=100))
    with pytest.raises(LimitExceeded, match="the limit is 100: raise --max-upload-bytes"):
        store.begin_upload(content({"x": "y" * 200}).request)
    store.close()


def test_store_that_cannot_be_made_says_where(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(Exception, match=r"opening the checkpoint store .*/file/store"):
        Store(tmp_path / "file" / "store")


def test_store_is_set_up_by_one_opener_at_a_time(root):
    """SQLite does not wait while another connection sets up a database: it fails as locked."""
    Store(root).close()
    opened = []
    opener = threading.Thread(target=lambda: opened.append(Store(root)))
    with locked_directory(root):
        opener.start()
        opener.join(0.2)
        assert opener.is_alive()
    opener.join(60)
    opened[0].close()


def test_root_that_is_a_file_is_said(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InvalidInput, match=r"store .*/file: it is, or lies below, a file"):
        Store(tmp_path / "file")
