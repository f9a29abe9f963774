"""Uploads: resumed, refused, fenced, expired."""

import pickle

import pytest
from penstock_checkpointer.staging import StoreLimits
from penstock_checkpointer.store import Store

from penstock.errors import Conflict, Corrupt, DataFault, InvalidInput, LimitExceeded, NotFound


def parts(root):
    return list((root / "staging").iterdir())


def test_upload_goes_on_after_a_restart_where_it_was(store, content, root, load):
    offered = content({"x": "y" * 5000})
    first = store.begin_upload(offered.request)
    store.append(first.upload_id, 0, offered.data[:30])
    store.close()
    reopened = Store(root)
    second = reopened.begin_upload(offered.request)
    assert second.received_bytes == 30
    assert second.upload_id == first.upload_id
    reopened.append(second.upload_id, 30, offered.data[30:])
    reopened.commit(second.upload_id)
    assert load(reopened) == {"x": "y" * 5000}
    assert reopened.counts["uploads_resumed"] == 1
    assert parts(root) == []
    reopened.close()


def test_bytes_sent_twice_are_taken_once(store, content, load):
    offered = content({"x": 1})
    upload = store.begin_upload(offered.request)
    assert store.append(upload.upload_id, 0, offered.data[:20]) == 20
    assert store.append(upload.upload_id, 0, offered.data[:20]) == 20
    assert store.append(upload.upload_id, 10, offered.data[10:40]) == 40
    assert store.append(upload.upload_id, 40, offered.data[40:]) == len(offered.data)
    store.commit(upload.upload_id)
    assert load(store) == {"x": 1}


def test_gap_is_refused_with_the_place_to_go_on(store, content):
    offered = content({"x": 1})
    upload = store.begin_upload(offered.request)
    store.append(upload.upload_id, 0, offered.data[:20])
    with pytest.raises(InvalidInput, match="leaves a gap: go on at 20") as refused:
        store.append(upload.upload_id, 30, offered.data[30:])
    assert refused.value.metadata["received_bytes"] == "20"


def test_more_bytes_than_announced_are_refused(store, content):
    offered = content({"x": 1})
    upload = store.begin_upload(offered.request)
    with pytest.raises(InvalidInput, match="beyond the announced"):
        store.append(upload.upload_id, 0, offered.data + b"x")


def test_commit_with_bytes_missing_is_refused_and_can_go_on(store, content, load):
    offered = content({"x": 1})
    upload = store.begin_upload(offered.request)
    store.append(upload.upload_id, 0, offered.data[:-1])
    with pytest.raises(DataFault, match="send the rest first"):
        store.commit(upload.upload_id)
    store.append(upload.upload_id, len(offered.data) - 1, offered.data[-1:])
    store.commit(upload.upload_id)
    assert load(store) == {"x": 1}


def test_content_that_was_damaged_on_the_way_is_never_listed(store, content, root):
    offered = content({"x": "y" * 3000})
    damaged = bytearray(offered.data)
    damaged[len(damaged) // 2] ^= 1
    upload = store.begin_upload(offered.request)
    store.append(upload.upload_id, 0, bytes(damaged))
    with pytest.raises(Corrupt):
        store.commit(upload.upload_id)
    with pytest.raises(NotFound):
        store.list("run")
    assert parts(root) == []
    assert store.counts["uploads_refused"] == 1
    with pytest.raises(NotFound, match="begin again"):
        store.commit(upload.upload_id)


def test_other_intact_content_than_announced_is_refused(store, content):
    announced, sent = content({"x": 1}), content({"x": 2})
    assert len(announced.data) == len(sent.data)
    upload = store.begin_upload(announced.request)
    store.append(upload.upload_id, 0, sent.data)
    with pytest.raises(Corrupt, match="expected"):
        store.commit(upload.upload_id)


def test_pickle_is_refused_with_its_first_bytes(store, content):
    upload = store.begin_upload(content({"x": "y" * 200}).request)
    with pytest.raises(InvalidInput, match="penstock checkpoints convert") as refused:
        store.append(upload.upload_id, 0, pickle.dumps({"x": 1}))
    assert refused.value.reason == "PICKLE_REFUSED"


@pytest.mark.parametrize("upload_id", ["", "x", "../../etc/passwd", "a" * 32])
def test_unknown_upload_is_refused(store, upload_id):
    for call in (store.commit, lambda name: store.append(name, 0, b"x")):
        with pytest.raises(NotFound, match="begin again"):
            call(upload_id)
    store.abort(upload_id)


def test_aborted_upload_frees_its_space(store, content, root):
    upload = store.begin_upload(content({"x": 1}).request)
    assert len(parts(root)) == 1
    store.abort(upload.upload_id)
    assert parts(root) == []


def test_new_writer_fences_the_old_one(store, content, load):
    old = content({"x": "old"}, step=1)
    upload = store.begin_upload(old.request)
    store.append(upload.upload_id, 0, old.data[:20])
    taken = store.begin_upload(content({"x": "new"}, step=2).request)
    assert taken.fencing_token > upload.fencing_token
    with pytest.raises(Conflict, match="taken over by a newer writer") as refused:
        store.append(upload.upload_id, 20, old.data[20:])
    assert refused.value.reason == "WRITER_FENCED"
    with pytest.raises(Conflict):
        store.begin_upload(content({"x": "old"}, step=3, token=upload.fencing_token).request)
    assert store.counts["writers_fenced"] == 2


def test_fenced_writer_cannot_commit_what_it_had_sent_in_full(store, content):
    old = content({"x": "old"})
    upload = store.begin_upload(old.request)
    store.append(upload.upload_id, 0, old.data)
    store.begin_upload(content({"x": "new"}, step=2).request)
    with pytest.raises(Conflict):
        store.commit(upload.upload_id)
    with pytest.raises(NotFound):
        store.list("run")


def test_writer_keeps_its_token_and_other_runs_are_not_touched(store, save, content):
    first = store.begin_upload(content({"x": 1}, step=1).request)
    save({"y": 1}, run="other")
    second = store.begin_upload(content({"x": 2}, step=2, token=first.fencing_token).request)
    assert second.fencing_token == first.fencing_token


def test_tokens_rise_across_restarts_and_a_lost_catalogue(store, save, root, content):
    save({"x": 1})
    before = store.begin_upload(content({"x": 2}, step=2).request).fencing_token
    store.close()
    for path in root.glob("catalog.sqlite*"):
        path.unlink()
    reopened = Store(root)
    assert reopened.begin_upload(content({"x": 3}, step=3).request).fencing_token > before
    reopened.close()


def test_upload_that_stands_still_expires_and_a_fresh_one_stays(store, content, root):
    store.begin_upload(content({"x": 1}).request)
    store.close()
    later = Store(root, StoreLimits(upload_expiry_s=3600))
    assert len(parts(root)) == 1
    later.close()
    much_later = Store(root, StoreLimits(upload_expiry_s=-1))
    assert parts(root) == []
    assert much_later.counts["uploads_expired"] == 1
    much_later.close()


def test_part_file_of_no_upload_is_removed_at_start(store, root):
    (root / "staging" / "0123.part").write_bytes(b"x")
    store.close()
    reopened = Store(root)
    assert parts(root) == []
    reopened.close()


def test_space_promised_to_other_uploads_is_not_promised_twice(store, content, root, monkeypatch):
    first, second = content({"x": "y" * 4000}), content({"x": "z" * 4000}, step=2)
    size = len(first.data)

    class Usage:
        free = (256 << 20) + size + size // 2

    monkeypatch.setattr("shutil.disk_usage", lambda _: Usage)
    upload = store.begin_upload(first.request)
    with pytest.raises(LimitExceeded, match=f"{size} are promised to other uploads"):
        store.begin_upload(second.request)
    store.abort(upload.upload_id)
    store.begin_upload(second.request)
