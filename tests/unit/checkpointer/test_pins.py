"""Pins: what is pinned stays, whatever deletes, until it is let go."""

import json
import sqlite3

import pytest
from penstock_checkpointer.layout import Note
from penstock_checkpointer.store import Store

from penstock.errors import DataFault, NotFound
from penstock.retention import RetentionPolicy

LAST_1 = RetentionPolicy(keep_last=1)


def remove_catalogue(root):
    for path in root.glob("catalog.sqlite*"):
        path.unlink()


def test_pinned_checkpoint_is_neither_deleted_nor_collected(store, save):
    for step in (1, 2, 3):
        save({"x": step}, step=step)
    assert store.pin("run", 1, pinned=True).pinned
    with pytest.raises(DataFault, match="run/1 is pinned: unpin it first") as refused:
        store.delete("run", 1)
    assert refused.value.reason == "PINNED"
    assert ("run", 1, ("pinned",)) in store.collect("run", LAST_1, dry_run=False).kept
    assert [info.step for info in store.list("run")] == [1, 3]


def test_unpinned_checkpoint_can_be_deleted_again(store, save):
    save({"x": 1})
    store.pin("run", 1, pinned=True)
    assert not store.pin("run", 1, pinned=False).pinned
    store.delete("run", 1)
    with pytest.raises(NotFound):
        store.list("run")


def test_pinning_twice_is_no_error_and_counted_once(store, save):
    save({"x": 1})
    assert store.pin("run", 1, pinned=True) == store.pin("run", 1, pinned=True)
    store.pin("run", 1, pinned=False)
    store.pin("run", 1, pinned=False)
    assert store.counts["checkpoints_pinned"] == 1
    assert store.counts["checkpoints_unpinned"] == 1


def test_pin_by_tag_and_latest_is_on_the_step(store, save):
    save({"x": 1}, step=1, tags=("best",))
    save({"x": 2}, step=2)
    assert store.pin("run", "best", pinned=True).step == 1
    assert store.pin("run", "latest", pinned=True).step == 2
    assert [info.pinned for info in store.list("run")] == [True, True]
    with pytest.raises(NotFound, match="no step 9"):
        store.pin("run", 9, pinned=True)


def test_pin_survives_a_lost_catalogue(store, save, root):
    save({"x": 1}, tags=("best",), metrics={"loss": 1.0})
    pinned = store.pin("run", 1, pinned=True)
    store.close()
    remove_catalogue(root)
    reopened = Store(root)
    assert reopened.list("run") == [pinned]
    reopened.close()


def test_pin_survives_a_tag_that_moves_away_and_the_same_content_saved_again(store, save, root):
    save({"x": 1}, step=1, tags=("best",))
    store.pin("run", 1, pinned=True)
    save({"x": 2}, step=2, tags=("best",))
    save({"x": 1}, step=1, tags=("first",))
    store.close()
    remove_catalogue(root)
    reopened = Store(root)
    assert [(i.pinned, i.tags) for i in reopened.list("run")] == [
        (True, ("first",)),
        (False, ("best",)),
    ]
    reopened.close()


def test_note_of_the_first_version_is_still_read(store, save, root):
    info = save({"x": 1}, tags=("best",), metrics={"loss": 1.0})
    path = root / "runs" / "run" / f"{1:019d}.json"
    document = json.loads(path.read_text())
    del document["base_step"], document["pinned"]
    note = Note.decode(json.dumps(document).encode())
    assert note is not None
    assert note.info == info


def test_store_of_the_first_version_is_opened_with_all_it_holds(store, save, root):
    infos = [save({"x": step}, step=step, metrics={"a": 1.0}) for step in (1, 2)]
    store.close()
    database = sqlite3.connect(root / "catalog.sqlite")
    for column in ("base_step", "pinned", "verified_unix_ms", "damaged"):
        database.execute(f"ALTER TABLE checkpoints DROP COLUMN {column}")
    database.commit()
    database.close()
    for _ in range(2):
        reopened = Store(root)
        assert reopened.list("run") == infos
        assert reopened.counts["checkpoints_adopted"] == 0
        reopened.close()
    reopened = Store(root)
    assert reopened.pin("run", 1, pinned=True).pinned
    reopened.close()
