"""The catalogue is only an index: the files bring it back."""

import numpy as np
import pytest
from penstock_checkpointer.store import Store

from penstock.errors import NotFound


@pytest.fixture
def full(store, save, root):
    """A closed store with two runs; gives what was listed."""
    save({"x": 1}, run="a", step=1, tags=("best", "first"), metrics={"loss": 1.5})
    save({"x": 2}, run="a", step=2, tags=("best",))
    save({"w": np.arange(3)}, run="b", step=7)
    listed = {run: store.list(run) for run in ("a", "b")}
    store.close()
    return listed


def listed_anew(root):
    store = Store(root)
    try:
        return {run.name: store.list(run.name) for run in store.runs()}
    finally:
        store.close()


def remove_catalogue(root):
    for path in root.glob("catalog.sqlite*"):
        path.unlink()


def test_lost_catalogue_is_rebuilt_in_full(full, root):
    remove_catalogue(root)
    assert listed_anew(root) == full


@pytest.mark.parametrize("damage", [b"junk" * 5000, b"", "flip"], ids=["junk", "empty", "pages"])
def test_damaged_catalogue_is_rebuilt_in_full(full, root, damage):
    path = root / "catalog.sqlite"
    if damage == "flip":
        data = bytearray(path.read_bytes())
        data[4096:] = b"\xa5" * (len(data) - 4096)
        damage = bytes(data)
    path.write_bytes(damage)
    for suffix in ("-wal", "-shm"):
        path.with_name(path.name + suffix).unlink(missing_ok=True)
    assert listed_anew(root) == full


def test_damaged_catalogue_is_kept_aside(full, root):
    (root / "catalog.sqlite").write_bytes(b"junk" * 5000)
    listed_anew(root)
    (aside,) = root.glob("catalog.damaged-*")
    assert aside.read_bytes() == b"junk" * 5000


def test_rebuild_on_demand_gives_the_same(full, root):
    store = Store(root)
    assert store.rebuild() == 3
    assert {run.name: store.list(run.name) for run in store.runs()} == full
    store.close()


def test_file_without_a_note_is_verified_and_adopted(full, root):
    remove_catalogue(root)
    for note in root.glob("runs/*/*.json"):
        note.unlink()
    anew = listed_anew(root)
    for run, infos in full.items():
        assert [(i.step, i.digest, i.raw_size_bytes) for i in infos] == [
            (i.step, i.digest, i.raw_size_bytes) for i in anew[run]
        ]


def test_damaged_file_without_a_note_is_left_out_and_the_rest_adopted(full, root):
    remove_catalogue(root)
    path = root / "runs" / "a" / f"{1:019d}.pstk"
    path.with_suffix(".json").unlink()
    path.write_bytes(path.read_bytes()[:-5])
    anew = listed_anew(root)
    assert [info.step for info in anew["a"]] == [2]
    assert anew["b"] == full["b"]
    assert path.exists()


def test_note_that_is_no_note_does_not_stop_the_start(full, root):
    remove_catalogue(root)
    (root / "runs" / "a" / f"{1:019d}.json").write_text('{"run": ["a"]')
    assert [info.step for info in listed_anew(root)["a"]] == [1, 2]


def test_foreign_files_are_left_alone_and_counted(full, root):
    (root / "runs" / "a" / "notes.txt").write_text("mine")
    (root / "runs" / "a" / "model.pstk").write_text("mine")
    (root / "runs" / "-odd").mkdir()
    store = Store(root)
    assert store.counts["foreign_files"] == 3
    assert store.list("a") == full["a"]
    store.close()
    assert (root / "runs" / "a" / "notes.txt").read_text() == "mine"


def test_row_whose_file_was_removed_is_forgotten(full, root):
    (root / "runs" / "b" / f"{7:019d}.pstk").unlink()
    store = Store(root)
    with pytest.raises(NotFound):
        store.list("b")
    assert store.counts["checkpoints_forgotten"] == 1
    store.close()


def test_note_left_by_a_commit_that_was_killed_is_removed(full, root):
    note = root / "runs" / "a" / f"{9:019d}.json"
    note.write_text("{}")
    assert listed_anew(root) == full
    assert not note.exists()


def test_deleted_tag_does_not_come_back_with_a_rebuild(full, root):
    store = Store(root)
    store.delete("a", 2)
    store.close()
    remove_catalogue(root)
    assert [info.tags for info in listed_anew(root)["a"]] == [("first",)]


def test_of_two_notes_with_one_tag_the_newer_commit_keeps_it(full, root):
    # As a crash between writing the new note and changing the old one leaves it.
    old = root / "runs" / "a" / f"{1:019d}.json"
    old.write_text(old.read_text().replace('"first"', '"first",\n  "best"'))
    remove_catalogue(root)
    anew = {info.step: info.tags for info in listed_anew(root)["a"]}
    assert anew[2] == ("best",)
