"""Catalogue and files brought together: lost, damaged, adopted, forgotten."""

import json
import shutil

import pytest
from penstock_checkpointer.rollouts.removal import Removal
from penstock_checkpointer.rollouts.store import RolloutStore
from rollout_samples import file_of, push_into, request_of

from penstock.errors import NotFound
from penstock.streams import StreamSettings, Take, Which


def lose_catalogue(root):
    for path in (root / "rollouts").glob("catalog.sqlite*"):
        path.unlink()


def test_lost_catalogue_is_made_anew_from_the_files(root):
    store = RolloutStore(root)
    settings = StreamSettings(capacity=9, when_full="drop-oldest", keep_last=5, keep_every=2)
    store.configure("s", settings)
    infos = [
        push_into(store, number, producer=f"p.{number % 2}-x_y", policy_version=10 * number)[0]
        for number in range(4)
    ]
    store.close()
    lose_catalogue(root)
    rebuilt = RolloutStore(root)
    assert rebuilt.list("s") == infos
    state = rebuilt.stream("s")
    assert (state.settings, state.newest_policy_version) == (settings, 30)
    assert state.last_iteration("p.1-x_y") == 3
    assert rebuilt.counts["adopted"] == 4
    assert push_into(rebuilt, 3, producer="p.1-x_y") == (infos[3], True)
    rebuilt.close()


def test_sequences_are_not_given_again_even_when_the_catalogue_is_lost(root):
    store = RolloutStore(root)
    for number in range(3):
        push_into(store, number)
    store.delete("s", 3)
    store.close()
    again = RolloutStore(root)
    assert push_into(again, 3)[0].sequence == 4
    again.delete("s", 4)
    again.close()
    lose_catalogue(root)
    rebuilt = RolloutStore(root)
    assert push_into(rebuilt, 5)[0].sequence > 4
    rebuilt.close()


def test_damaged_catalogue_is_kept_aside_and_made_anew(root):
    store = RolloutStore(root)
    infos = [push_into(store, number)[0] for number in range(3)]
    store.close()
    catalog = root / "rollouts" / "catalog.sqlite"
    catalog.write_bytes(b"no database at all" * 1000)
    rebuilt = RolloutStore(root)
    assert rebuilt.list("s") == infos
    assert rebuilt.counts["catalogs_rebuilt"] == 1
    assert len(list((root / "rollouts").glob("catalog.damaged-*"))) == 1
    rebuilt.close()


def test_row_without_a_file_is_forgotten(root, take):
    store = RolloutStore(root)
    for number in range(4):
        push_into(store, number)
    files = dict(enumerate(sorted(root.rglob("*.rollout")), 1))
    files[1].unlink()
    # Met while the store is open, and found at the next start.
    with pytest.raises(NotFound):
        store.open_content("s", 1)
    assert [info.sequence for info in store.list("s")] == [2, 3, 4]
    files[2].unlink()
    store.close()
    reopened = RolloutStore(root)
    assert [info.sequence for info in reopened.list("s")] == [3, 4]
    assert take(of=reopened).info.sequence == 3
    assert reopened.counts["forgotten"] == 1
    reopened.close()


def test_damaged_and_foreign_files_are_left_alone_and_said(root):
    store = RolloutStore(root)
    push_into(store, 0)
    store.close()
    folder = root / "rollouts" / "streams" / "s"
    (good,) = folder.glob("*.rollout")
    damaged = folder / f"{7:019d}+main+7+0.rollout"
    damaged.write_bytes(good.read_bytes()[:-1])
    for name in ("notes.txt", "1+main+7+0.rollout", f"{9:019d}+..+7+0.rollout"):
        (folder / name).write_bytes(b"x")
    (folder.parent / "stray").write_bytes(b"x")
    reopened = RolloutStore(root)
    assert [info.sequence for info in reopened.list("s")] == [1]
    assert (reopened.counts["damaged_skipped"], reopened.counts["foreign_files"]) == (1, 4)
    assert damaged.exists()
    reopened.close()


def test_second_file_of_an_iteration_is_not_listed(root):
    store = RolloutStore(root)
    info, _ = push_into(store, 0)
    store.close()
    (path,) = root.rglob("*.rollout")
    shutil.copy(path, path.with_name(f"{5:019d}+main+0+0.rollout"))
    reopened = RolloutStore(root)
    assert reopened.list("s") == [info]
    reopened.close()


def test_removed_rollout_that_comes_back_is_removed_again(root, take):
    store = RolloutStore(root)
    store.configure("s", StreamSettings(keep_last=1))
    push_into(store, 0)
    (path,) = root.rglob("*.rollout")
    kept = path.read_bytes()
    info, _ = push_into(store, 1)
    for _ in range(2):
        store.settle("s", "trainer", take(of=store).info.sequence, done=True)
    assert not path.exists()
    store.close()
    path.write_bytes(kept)
    reopened = RolloutStore(root)
    assert reopened.list("s") == [info]
    assert not path.exists()
    reopened.close()


def test_process_that_died_in_a_commit_leaves_a_rollout_that_the_next_writer_lists(root, store):
    """As a kill behind the rename leaves it, while another process goes on with the store."""
    request, file = request_of(0), file_of(0)
    push_into(store, 5, producer="other")
    store.begin(request, 0)
    store.append(request.push_id, 0, file.data)
    name = f"{2:019d}+main+0+0.rollout"
    staging = root / "rollouts" / "staging"
    (staging / "publishing").write_text(json.dumps({"stream": "s", "file": name}))
    (staging / f"{request.push_id}.part").rename(root / "rollouts" / "streams" / "s" / name)
    info, _ = push_into(store, 6, producer="other")
    assert info.sequence == 3
    assert [(found.sequence, found.iteration) for found in store.list("s")] == [
        (1, 5),
        (2, 0),
        (3, 6),
    ]
    # The one who was pushing learns of it.
    received, found = store.received(request.push_id)
    assert (received, found.sequence, found.digest) == (len(file.data), 2, file.digest)


def test_note_that_was_cut_off_costs_a_look_at_all_streams(root, store):
    push_into(store, 0)
    (root / "rollouts" / "staging" / "publishing").write_text('{"stream": "s", "fi')
    assert push_into(store, 1)[0].sequence == 2


def test_store_opens_in_a_file_only_with_a_clear_error(tmp_path):
    from penstock.errors import InvalidInput

    path = tmp_path / "file"
    path.write_text("x")
    with pytest.raises(InvalidInput, match="name a directory"):
        RolloutStore(path)


def test_consumer_begins_again_after_the_catalogue_was_lost(root, take):
    store = RolloutStore(root)
    push_into(store, 0)
    store.settle("s", "trainer", take(of=store).info.sequence, done=True)
    store.close()
    lose_catalogue(root)
    rebuilt = RolloutStore(root)
    assert rebuilt.find("s", Which(take=Take(consumer="trainer"))).info.sequence == 1
    rebuilt.close()


class KilledError(Exception):
    """Stands for the end of a process."""


@pytest.fixture
def deleting_dies(monkeypatch):
    """A process that deletes dies before it has removed the file."""

    def die(*_):
        raise KilledError

    monkeypatch.setattr(Removal, "delete_file", die)


@pytest.mark.usefixtures("deleting_dies")
def test_rollout_whose_deletion_was_cut_off_does_not_come_back(root):
    first, second = RolloutStore(root), RolloutStore(root)
    push_into(first, 0)
    with pytest.raises(KilledError):
        first.delete("s", 1)
    assert len(list(root.glob("rollouts/streams/s/*.rollout"))) == 1
    # Neither in the eyes of another process that is open,
    assert second.list("s") == []
    info, already_stored = push_into(second, 0)
    assert (info.sequence, already_stored) == (2, False)
    for store in (first, second):
        store.close()
    # nor for the next one, which removes the file, also when it is damaged.
    (path,) = root.glob(f"rollouts/streams/s/{1:019}+*.rollout")
    path.write_bytes(b"damaged")
    for _ in range(2):
        store = RolloutStore(root)
        assert store.list("s") == [info]
        assert [path.name[:19] for path in root.glob("rollouts/streams/s/*.rollout")] == [
            f"{2:019}"
        ]
        assert (store.counts["adopted"], store.counts["damaged_skipped"]) == (0, 0)
        store.close()


def test_push_of_what_was_deleted_before_its_answer_arrived_begins_anew(store):
    request, file = request_of(0), file_of(0)
    store.begin(request, 0)
    store.append(request.push_id, 0, file.data)
    store.commit(request.push_id, file.digest)
    store.delete("s", 1)
    assert store.received(request.push_id) == (0, None)
    with pytest.raises(NotFound) as unknown:
        store.commit(request.push_id, file.digest)
    assert unknown.value.reason == "PUSH_UNKNOWN"
    store.begin(request, 0)
    store.append(request.push_id, 0, file.data)
    info, already_stored = store.commit(request.push_id, file.digest)
    assert (info.sequence, already_stored) == (2, False)


def test_what_retention_removed_stays_known_where_a_deletion_is_forgotten(store, take):
    store.configure("s", StreamSettings(keep_last=1))
    infos = [push_into(store, number)[0] for number in range(2)]
    for _ in infos:
        store.settle("s", "trainer", take().info.sequence, done=True)
    assert store.list("s") == infos[1:]
    store.delete("s", 2)
    assert push_into(store, 0) == (infos[0], True)
    assert push_into(store, 1)[0].sequence == 3
