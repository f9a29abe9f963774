"""Checkpoints that refer to another one of their run: it must be there, intact, and it stays."""

import io

import numpy as np
import pytest
from penstock_checkpointer.metrics import StoreCollector
from penstock_checkpointer.store import Store

from penstock import container
from penstock.checkpoints import UploadRequest
from penstock.errors import Corrupt, DataFault, InvalidInput, NotFound
from penstock.retention import RetentionPolicy

SIZE = 400_000
"""Elements of a state: several chunks, of which all but the first stay equal."""


def state_of(step):
    weights = np.arange(SIZE, dtype=np.int64)
    weights[0] = -step
    return {"w": weights}


class Saved:
    """A checkpoint as its writer made it, whole or on another one."""

    def __init__(self, step, base=None):
        file = io.BytesIO()
        on = None
        if base is not None:
            ref = base.written.ref(base.step)
            on = container.Base(ref, io.BytesIO(base.data), base.written.hashes)
        self.written = container.write(state_of(step), file, compress="none", base=on)
        self.step, self.data = step, file.getvalue()

    def offer(self, store, run="run", token=0):
        """Send all of it, without the commit; gives the upload."""
        upload = store.begin_upload(
            UploadRequest(
                run=run,
                step=self.step,
                digest=self.written.digest,
                raw_size_bytes=self.written.raw_size_bytes,
                fencing_token=token,
                tags=(),
                metrics={},
            )
        )
        if not upload.committed:
            store.append(upload.upload_id, 0, self.data)
        return upload

    def commit(self, store, run="run"):
        return store.commit(self.offer(store, run).upload_id)


FULL = Saved(100)
ON_FULL = Saved(110, FULL)
LATER_ON_FULL = Saved(120, FULL)


def content_file(root, step):
    return root / "runs" / "run" / f"{step:019d}.pstk"


def flip(path, place):
    data = bytearray(path.read_bytes())
    data[place] ^= 0x10
    path.write_bytes(data)


@pytest.fixture
def star(store):
    """A store with a base and two checkpoints on it."""
    for saved in (FULL, ON_FULL, LATER_ON_FULL):
        saved.commit(store)
    return store


def test_checkpoint_on_another_is_much_smaller_and_names_it(star):
    assert len(ON_FULL.data) < len(FULL.data) / 2
    assert [info.base_step for info in star.list("run")] == [None, 100, 100]
    assert star.get("run").step == 120


@pytest.mark.parametrize("there", [False, True], ids=["nothing", "other content"])
def test_one_whose_base_is_not_stored_is_refused_and_nothing_is_kept(store, root, there):
    if there:
        other = Saved(7)
        other.step = 100
        other.commit(store)
    with pytest.raises(DataFault, match=r"110 refers to step 100, which .*: save it whole") as no:
        ON_FULL.commit(store)
    assert no.value.reason == "BASE_MISSING"
    assert no.value.metadata == {"base_step": "100"}
    assert list((root / "staging").iterdir()) == []
    assert store.counts["uploads_refused"] == 1
    with pytest.raises(NotFound):
        store.get("run", 110)


def test_base_of_another_run_is_no_base(store):
    FULL.commit(store, run="other")
    with pytest.raises(DataFault, match="which is not stored"):
        ON_FULL.commit(store)


@pytest.mark.parametrize("how", ["marked", "truncated"])
def test_damaged_checkpoint_serves_as_no_base(store, root, how):
    FULL.commit(store)
    if how == "marked":
        flip(content_file(root, 100), 1000)
        with pytest.raises(Corrupt):
            store.verify("run", 100)
    else:
        with content_file(root, 100).open("r+b") as file:
            file.truncate(500)
    with pytest.raises(DataFault, match="which is damaged") as refused:
        ON_FULL.commit(store)
    assert refused.value.reason == "BASE_MISSING"


def test_base_that_has_a_base_itself_is_refused(star, root):
    chain = Saved(130, ON_FULL)
    with pytest.raises(InvalidInput, match="itself refers to step 100: save it against step 100"):
        chain.commit(star)
    assert list((root / "staging").iterdir()) == []


def test_base_that_goes_while_the_commit_checks_is_noticed(store, root, monkeypatch):
    FULL.commit(store)
    upload = ON_FULL.offer(store)
    prepare = store._shelf.prepare

    def delete_meanwhile(part, info):
        other = Store(root)
        other.delete("run", 100)
        other.close()
        prepare(part, info)

    monkeypatch.setattr(store._shelf, "prepare", delete_meanwhile)
    with pytest.raises(DataFault) as refused:
        store.commit(upload.upload_id)
    assert refused.value.reason == "BASE_MISSING"
    assert list((root / "staging").iterdir()) == []
    with pytest.raises(NotFound):
        store.list("run")


def test_base_that_is_needed_cannot_be_deleted_until_its_dependents_are(star):
    with pytest.raises(DataFault, match="the base of the steps 110, 120") as refused:
        star.delete("run", 100)
    assert (refused.value.reason, refused.value.metadata) == ("BASE_IN_USE", {"steps": "110, 120"})
    star.delete("run", 120)
    star.delete("run", 110)
    star.delete("run", 100)
    assert star.runs() == []


def test_retention_keeps_the_base_and_removes_it_with_the_last_that_needs_it(star):
    last = RetentionPolicy(keep_last=1)
    found = star.collect("run", last, dry_run=False)
    assert found.kept == (("run", 100, ("base of 120",)), ("run", 120, ("last 1",)))
    assert [info.step for info in found.removed] == [110]
    Saved(200).commit(star)
    assert [info.step for info in star.collect("run", last, dry_run=False).removed] == [100, 120]


def test_retention_removes_dependents_before_their_base(star, monkeypatch):
    Saved(200).commit(star)
    order, remove = [], star._removal._remove_files
    monkeypatch.setattr(
        star._removal, "_remove_files", lambda info: (order.append(info.step), remove(info))
    )
    star.collect("run", RetentionPolicy(keep_last=1), dry_run=False)
    assert order == [110, 120, 100]


@pytest.mark.parametrize("how", ["truncated", "gone", "marked"])
def test_what_refers_to_a_damaged_base_is_not_intact(star, root, how):
    Saved(50).commit(star)
    path = content_file(root, 100)
    if how == "truncated":
        with path.open("r+b") as file:
            file.truncate(500)
    elif how == "gone":
        path.unlink()
    else:
        flip(path, 1000)
        with pytest.raises(Corrupt):
            star.verify("run", 100)
    assert star.get("run").step == 50
    assert star.counts["damaged_skipped"] == 3
    with pytest.raises(Corrupt):
        star.get("run", 120)


def test_what_refers_to_a_base_that_was_forgotten_or_replaced_says_so(star, root):
    star.close()
    content_file(root, 100).unlink()
    reopened = Store(root)
    with pytest.raises(Corrupt, match="run/110 refers to step 100, which is gone"):
        reopened.get("run", 110)
    other = Saved(7)
    other.step = 100
    other.commit(reopened)
    with pytest.raises(Corrupt, match="refers to step 100, which has other content now"):
        reopened.get("run", 110)
    reopened.close()


def test_verification_reads_the_base_as_well(star, root):
    info, verified = star.verify("run", 110)
    assert verified.base == FULL.written.ref(100)
    assert not info.damaged
    flip(content_file(root, 100), 1000)
    with pytest.raises(Corrupt, match="does not match its hash"):
        star.verify("run", 110)
    assert [info.damaged for info in star.list("run")] == [True, False, False]
    damaged = {
        sample.value
        for metric in StoreCollector(star, root).collect()
        for sample in metric.samples
        if sample.name == "penstock_checkpointer_damaged_checkpoints"
    }
    assert damaged == {1.0}


@pytest.mark.parametrize("notes", [True, False], ids=["with notes", "without"])
def test_base_is_known_again_after_the_catalogue_was_lost(star, root, notes):
    star.close()
    for path in root.glob("catalog.sqlite*"):
        path.unlink()
    if not notes:
        for path in root.glob("runs/*/*.json"):
            path.unlink()
    reopened = Store(root)
    assert [info.base_step for info in reopened.list("run")] == [None, 100, 100]
    with pytest.raises(DataFault, match="110, 120"):
        reopened.delete("run", 100)
    reopened.close()
