"""What a store promises wherever its checkpoints stand: listing, tags, idempotence, deletion."""

import time

import numpy as np
import pytest
from penstock_checkpointer.object_shelf import ObjectShelf
from penstock_checkpointer.scrub import Scrubber
from penstock_checkpointer.staging import StoreLimits
from penstock_checkpointer.store import Store

from penstock.checkpoints import RunInfo
from penstock.errors import AlreadyExists, Conflict, Corrupt, NotFound
from penstock.retention import RetentionPolicy


class StoreContract:
    """Claims that hold for every shelf."""

    @pytest.fixture
    def reopen(self, root, shelf):
        """Open the same store once more, as a restart does."""
        opened = []

        def reopen(limits=None):
            opened.append(Store(root, limits, shelf))
            return opened[-1]

        yield reopen
        for store in opened:
            store.close()

    def test_committed_checkpoint_is_listed_with_all_that_was_given(self, store, save, load):
        info = save({"x": 1}, step=5, tags=("best", "final"), metrics={"loss": 0.25})
        assert store.list("run") == [info]
        assert (info.run, info.step, info.tags) == ("run", 5, ("best", "final"))
        assert info.metrics == {"loss": 0.25}
        assert load(store) == {"x": 1}
        assert store.runs() == [
            RunInfo(name="run", checkpoints=1, latest_step=5, stored_bytes=info.size_bytes)
        ]

    def test_committed_checkpoint_survives_reopening(self, store, save, reopen, load):
        info = save({"x": 1}, tags=("best",), metrics={"a": float("inf")})
        other = reopen()
        assert other.list("run") == [info]
        assert load(other, which="best") == {"x": 1}
        other.close()

    def test_same_content_gets_the_same_acknowledgement(self, store, save):
        first = save({"x": 1}, tags=("best",), metrics={"loss": 1.0})
        assert save({"x": 1}, tags=("best",), metrics={"loss": 1.0}) == first
        assert store.list("run") == [first]

    def test_commit_asked_for_twice_answers_the_same(self, store, content):
        upload = store.begin_upload(content({"x": 1}).request)
        store.append(upload.upload_id, 0, content({"x": 1}).data)
        assert store.commit(upload.upload_id) == store.commit(upload.upload_id)

    def test_commit_is_answered_again_after_a_restart(self, store, content, reopen):
        upload = store.begin_upload(content({"x": 1}).request)
        store.append(upload.upload_id, 0, content({"x": 1}).data)
        info = store.commit(upload.upload_id)
        store.close()
        reopened = reopen()
        assert reopened.commit(upload.upload_id) == info
        reopened.close()

    def test_other_content_for_the_same_step_is_refused_at_once(self, store, save, load):
        save({"x": 1})
        with pytest.raises(AlreadyExists, match="run/1 exists with other content"):
            save({"x": 2})
        assert load(store) == {"x": 1}

    def test_of_two_uploads_of_one_step_the_first_commit_wins(self, store, content, load):
        uploads = []
        for value in (1, 2):
            offered = content({"x": value}, token=uploads[0].fencing_token if uploads else 0)
            uploads.append(store.begin_upload(offered.request))
            store.append(uploads[-1].upload_id, 0, offered.data)
        store.commit(uploads[1].upload_id)
        with pytest.raises(AlreadyExists):
            store.commit(uploads[0].upload_id)
        assert load(store) == {"x": 2}

    def test_tag_moves_with_the_commit(self, store, save, load):
        save({"x": 1}, step=1, tags=("best", "first"))
        save({"x": 2}, step=2, tags=("best",))
        assert [info.tags for info in store.list("run")] == [("first",), ("best",)]
        assert load(store, which="best") == {"x": 2}
        save({"x": 1}, step=1, tags=("best",))
        assert [info.tags for info in store.list("run")] == [("best", "first"), ()]

    def test_tags_of_runs_are_apart(self, store, save, load):
        save({"x": 1}, run="a", tags=("best",))
        save({"x": 2}, run="b", tags=("best",))
        assert load(store, "a", "best") == {"x": 1}

    def test_latest_is_the_highest_step_whatever_came_last(self, store, save):
        save({"x": 10}, step=10)
        save({"x": 9}, step=9)
        assert store.get("run").step == 10

    def test_deleted_checkpoint_is_gone_with_its_tags_also_after_a_restart(
        self, store, save, reopen
    ):
        save({"x": 1}, step=1)
        save({"x": 2}, step=2, tags=("best",))
        store.delete("run", 2)
        with pytest.raises(NotFound, match="no tag 'best'"):
            store.get("run", "best")
        reopened = reopen()
        assert [info.step for info in reopened.list("run")] == [1]
        reopened.close()
        with pytest.raises(NotFound, match="run 'run' has no step 2: it has 1 checkpoints"):
            store.delete("run", 2)

    def test_deleted_step_can_be_saved_anew_with_other_content(self, store, save, load):
        save({"x": 1})
        store.delete("run", 1)
        save({"x": 2})
        assert load(store) == {"x": 2}

    @pytest.mark.parametrize(
        ("run", "which", "message"),
        [
            ("nope", "latest", "the store has the runs run"),
            ("run", 7, "no step 7: it has 1 checkpoints, the last are 1"),
            ("run", "worst", "no tag 'worst'"),
        ],
    )
    def test_what_is_not_there_is_answered_with_what_is(self, store, save, run, which, message):
        save({"x": 1})
        with pytest.raises(NotFound, match=message):
            store.get(run, which)

    def test_run_of_many_steps_and_many_runs_are_listed_in_full_by_a_rebuild(
        self, store, save, reopen, root
    ):
        for step in range(12):
            save(
                {"x": step},
                run="long",
                step=step,
                tags=("best",),
                metrics={"loss": 1.0 / (step + 1)},
            )
        for number in range(12):
            save({"x": number}, run=f"run-{number}", step=number)
        listed = {run.name: store.list(run.name) for run in store.runs()}
        store.close()
        for path in root.glob("catalog.sqlite*"):
            path.unlink()
        anew = reopen()
        assert {run.name: anew.list(run.name) for run in anew.runs()} == listed
        assert anew.counts["checkpoints_adopted"] == 24

    def test_content_is_read_from_any_place_and_in_pieces(self, store, save, content):
        state = {"w": np.random.default_rng(0).integers(0, 256, 9_000_000, np.uint8)}
        info = save(state, piece=1 << 20)
        data = content(state).data
        with store.open_content("run", 1) as file:
            assert file.seek(0, 2) == len(data) == info.size_bytes
            assert file.read(1) == b""
            for start in (0, len(data) - 40, 5_000_000, 1):
                file.seek(start)
                assert file.read(1000) == data[start : start + 1000]
                assert file.tell() == min(start + 1000, len(data))
            file.seek(7)
            assert file.read() == data[7:]

    def test_whole_store_verifies_and_what_was_saved_is_loaded(self, store, save, load):
        state = {"w": np.random.default_rng(0).normal(size=1_500_000), "text": "x" * 1000}
        info = save(state, piece=1 << 20)
        assert store.verify("run")[1].digest == info.digest
        np.testing.assert_array_equal(load(store)["w"], state["w"])

    def test_upload_goes_on_after_a_restart(self, store, content, reopen, load):
        offered = content({"x": "y" * 5000})
        first = store.begin_upload(offered.request)
        store.append(first.upload_id, 0, offered.data[:30])
        assert store.sync(first.upload_id) == 30
        store.close()
        reopened = reopen()
        second = reopened.begin_upload(offered.request)
        assert (second.upload_id, second.received_bytes) == (first.upload_id, 30)
        reopened.append(second.upload_id, 30, offered.data[30:])
        reopened.commit(second.upload_id)
        assert load(reopened) == {"x": "y" * 5000}

    def test_fenced_writer_cannot_commit(self, store, content):
        old = content({"x": "old"})
        upload = store.begin_upload(old.request)
        store.append(upload.upload_id, 0, old.data)
        store.begin_upload(content({"x": "new"}, step=2).request)
        with pytest.raises(Conflict):
            store.commit(upload.upload_id)
        with pytest.raises(NotFound):
            store.list("run")

    def test_damaged_upload_leaves_nothing(self, store, content, root, reopen):
        offered = content({"x": "y" * 3000})
        damaged = bytearray(offered.data)
        damaged[len(damaged) // 2] ^= 1
        upload = store.begin_upload(offered.request)
        store.append(upload.upload_id, 0, bytes(damaged))
        with pytest.raises(Corrupt):
            store.commit(upload.upload_id)
        assert list((root / "staging").iterdir()) == []
        assert reopen().runs() == []

    def test_commit_leaves_no_part_and_expiry_none_of_what_stood_still(
        self, store, save, content, root, reopen
    ):
        save({"x": 1})
        assert list((root / "staging").iterdir()) == []
        store.begin_upload(content({"x": 2}, step=2).request)
        assert len(list((root / "staging").iterdir())) == 1
        reopen(StoreLimits(upload_expiry_s=-1))
        assert list((root / "staging").iterdir()) == []

    def test_pin_is_kept_by_a_rebuild(self, store, save, reopen):
        save({"x": 1})
        store.pin("run", 1, pinned=True)
        anew = reopen()
        anew.rebuild()
        assert anew.get("run", 1).pinned

    def test_collected_checkpoints_do_not_come_back_with_a_rebuild(self, store, save, reopen):
        for step in range(4):
            save({"x": step}, step=step)
        store.pin("run", 0, pinned=True)
        found = store.collect("run", RetentionPolicy(keep_last=1), dry_run=False)
        assert [info.step for info in found.removed] == [1, 2]
        anew = reopen()
        anew.rebuild()
        assert [info.step for info in anew.list("run")] == [0, 3]

    def test_scrub_reads_and_marks_what_it_checked(self, store, save):
        state = {"w": np.random.default_rng(0).normal(size=500_000)}
        before = save(state, piece=1 << 20)
        with Scrubber(store, 0.001, 1e12):
            deadline_s = time.monotonic() + 60
            while not store.counts["checkpoints_scrubbed"]:
                assert time.monotonic() < deadline_s
                time.sleep(0.005)
        after = store.get("run")
        assert not after.damaged
        assert after.verified_unix_ms > before.verified_unix_ms
        assert after.created_unix_ms == before.created_unix_ms


class TestLocalDisk(StoreContract):
    """Files beside the catalogue."""


class TestObjectStore(StoreContract):
    """Objects of an S3-compatible store, over HTTP."""

    @pytest.fixture
    def shelf(self, object_url):
        return ObjectShelf(object_url)
