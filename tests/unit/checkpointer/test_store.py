"""What a store on a local disk promises of checkpoints: damage, names, limits."""

import threading

import numpy as np
import pytest
from penstock_checkpointer.durable import locked_directory
from penstock_checkpointer.staging import StoreLimits
from penstock_checkpointer.store import Store

from penstock.errors import (
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
    with pytest.raises(Corrupt, match="50 bytes where it is stored"):
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
    checked = store.verify("run")[0]
    assert (checked.digest, checked.damaged) == (info.digest, False)
    flip(content_file(root), 100)
    assert store.get("run") == checked
    with pytest.raises(Corrupt, match="does not match its hash"):
        store.verify("run")


def test_verification_finds_a_file_that_was_exchanged(store, save, root):
    save({"x": 1}, step=1)
    save({"x": 2}, step=2)
    content_file(root, step=1).write_bytes(content_file(root, step=2).read_bytes())
    with pytest.raises(Corrupt, match="expected"):
        store.verify("run", 1)


def test_open_download_outlives_a_deletion(store, save):
    info = save({"x": 1})
    with store.open_content("run", 1) as file:
        store.delete("run", 1)
        assert len(file.read()) == info.size_bytes


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
