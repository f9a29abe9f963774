"""The scrub: what it checks and when, what it marks, and that it stops at once."""

import errno
import io
import threading
import time
from collections import Counter

import numpy as np
import pytest
from penstock_checkpointer.metrics import StoreCollector
from penstock_checkpointer.scrub import Scrubber
from penstock_checkpointer.store import Store

from penstock.errors import Corrupt, Internal, NotFound

STATE = {"w": np.arange(5000)}
PATIENCE_S = 60
FAST = 1e12


def content_file(root, step=1):
    return root / "runs" / "run" / f"{step:019d}.pstk"


def flip(path, place=100):
    data = bytearray(path.read_bytes())
    data[place] ^= 0x10
    path.write_bytes(data)


def until(condition):
    deadline_s = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline_s, "waited in vain"
        time.sleep(0.005)


def test_damage_is_found_marked_counted_and_passed_over(store, save, root):
    save({"x": 1}, step=1)
    save(STATE, step=2)
    flip(content_file(root, 2))
    assert store.get("run").step == 2  # Not to be seen without reading it all.
    with Scrubber(store, 0.01, FAST):
        until(lambda: store.counts["damage_found"])
    assert [info.damaged for info in store.list("run")] == [False, True]
    assert store.damaged() == {"run": 1}
    assert store.get("run").step == 1
    with pytest.raises(Corrupt, match="run/2 was found damaged when it was last checked"):
        store.get("run", 2)


def test_damage_is_counted_once_however_often_it_is_found(store, save, root):
    save(STATE)
    flip(content_file(root))
    with Scrubber(store, 0.0001, FAST):
        until(lambda: store.counts["checkpoints_scrubbed"] >= 3)
    assert store.counts["damage_found"] == 1


def test_repaired_file_clears_the_mark(store, save, root):
    save(STATE)
    flip(content_file(root))
    with pytest.raises(Corrupt):
        store.verify("run", 1)
    flip(content_file(root))
    with Scrubber(store, 0.001, FAST):
        until(lambda: store.counts["damage_repaired"])
    assert not store.get("run").damaged


def test_verification_on_demand_clears_the_mark_too(store, save, root):
    save(STATE)
    flip(content_file(root))
    with pytest.raises(Corrupt):
        store.verify("run", 1)
    with pytest.raises(NotFound, match="1 are damaged"):
        store.verify("run")
    flip(content_file(root))
    assert not store.verify("run", 1)[0].damaged
    assert store.verify("run")[0].step == 1


def test_damaged_checkpoint_is_replaced_when_the_same_is_saved_again(store, save, load, root):
    save({"x": "y" * 3000}, tags=("best",), metrics={"loss": 1.0})
    store.pin("run", 1, pinned=True)
    flip(content_file(root))
    with pytest.raises(Corrupt):
        store.verify("run", 1)
    again = save({"x": "y" * 3000}, tags=("again",))
    assert (again.damaged, again.pinned, again.tags) == (False, True, ("again", "best"))
    assert again.metrics == {"loss": 1.0}
    assert load(store) == {"x": "y" * 3000}
    assert store.verify("run")[0].step == 1


def test_file_that_is_gone_is_damage(store, save, root):
    save(STATE)
    content_file(root).unlink()
    with pytest.raises(Corrupt, match="gone from the store"):
        store.verify("run", 1)
    assert store.list("run")[0].damaged


def test_disk_that_cannot_read_is_damage_and_other_faults_are_not(store, save, monkeypatch):
    info = save(STATE)

    def refuse_with(number):
        def refuse(_):
            raise OSError(number, "no")

        monkeypatch.setattr(store._shelf, "open", refuse)

    refuse_with(errno.EMFILE)
    with pytest.raises(Internal, match="checking run/1"):
        store.check(info)
    assert store.list("run") == [info]
    refuse_with(errno.EIO)
    with pytest.raises(Corrupt, match="the disk cannot read its file"):
        store.check(info)
    assert store.list("run")[0].damaged


def test_mark_survives_a_restart_and_a_rebuild(store, save, root):
    save(STATE)
    flip(content_file(root))
    with pytest.raises(Corrupt):
        store.verify("run", 1)
    store.close()
    reopened = Store(root)
    assert reopened.list("run")[0].damaged
    reopened.rebuild()
    assert reopened.list("run")[0].damaged
    reopened.close()


def test_checkpoint_deleted_while_it_is_read_is_not_marked(store, save, root):
    info = save(STATE)
    flip(content_file(root))

    def delete(file):
        store.delete("run", 1)
        return file

    with pytest.raises(Corrupt):
        store.check(info, delete)
    assert store.counts["damage_found"] == 0
    assert store.runs() == []


class Recorder:
    """A store that only says what is due, and notes what it was asked to check."""

    def __init__(self, infos):
        self.counts, self.infos, self.checked = Counter(), infos, []

    def least_recently_verified(self):
        return self.infos[0] if self.infos else None

    def check(self, info, through=None):
        del through
        self.checked.append(info.step)
        self.infos.pop(0)


@pytest.fixture
def aged(save):
    """Checkpoints whose last checks are so many seconds ago."""
    from dataclasses import replace

    info = save(STATE)

    def aged(*ages_s):
        now_ms = time.time() * 1000
        return [
            replace(info, step=step, verified_unix_ms=int(now_ms - age_s * 1000))
            for step, age_s in enumerate(ages_s)
        ]

    return aged


def test_only_what_is_due_is_checked(aged):
    recorder = Recorder(aged(5000, 4000, 1000))
    scrubber = Scrubber(recorder, 3600, FAST)
    assert scrubber._check_next() == 0
    assert scrubber._check_next() == 0
    assert scrubber._check_next() == 60  # Not due for long, but looked at again in a minute.
    assert recorder.checked == [0, 1]


def test_it_waits_no_longer_than_until_the_next_is_due(aged):
    assert 5 < Scrubber(Recorder(aged(3590)), 3600, FAST)._check_next() <= 10
    assert Scrubber(Recorder([]), 3600, FAST)._check_next() == 60


def test_check_from_the_future_does_not_put_the_next_one_off(aged):
    recorder = Recorder(aged(-100_000))
    assert Scrubber(recorder, 3600, FAST)._check_next() == 0
    assert recorder.checked == [0]


def test_one_checked_longest_ago_comes_first(store, save):
    for step in (1, 2, 3):
        save({"x": step}, step=step)
        until(lambda step=step: time.time() * 1000 > store.list("run")[-1].verified_unix_ms + 1)
    store.verify("run", 1)
    assert store.least_recently_verified().step == 2


def test_failure_that_says_nothing_about_a_file_is_counted_and_does_not_end_it(store, save):
    save(STATE)
    recorder = Recorder([])
    asked = threading.Event()

    def fail():
        asked.set()
        raise Internal("the catalogue is busy")

    recorder.least_recently_verified = fail
    with Scrubber(recorder, 3600, FAST) as scrubber:
        assert asked.wait(PATIENCE_S)
        until(lambda: recorder.counts["scrub_failures"] == 1)
        assert scrubber._thread.is_alive()


def test_reading_is_no_faster_than_it_may_be(store):
    waits = []

    class Clockless:
        """Notes how long it was asked to wait, and does not."""

        def wait(self, timeout):
            waits.append(timeout)
            return False

    scrubber = Scrubber(store, 1, 1000)
    scrubber._stopping = Clockless()
    paced = scrubber._paced(io.BytesIO(bytes(3 << 20)))
    for _ in range(3):
        assert len(paced.read(1 << 20)) == 1 << 20
    # 1 MiB at 1000 bytes per second takes 1048.576 s, and each read waits for those before it.
    assert waits[0] == 0
    assert waits[1] == pytest.approx(1048.576, abs=5)
    assert waits[2] == pytest.approx(2 * 1048.576, abs=5)


def test_it_stops_at_once_in_the_middle_of_a_slow_file(store, save, monkeypatch):
    save(STATE)
    reading = threading.Event()
    check = store.check

    def note(info, through=None):
        reading.set()
        check(info, through)

    monkeypatch.setattr(store, "check", note)
    scrubber = Scrubber(store, 0.001, 1.0)  # A byte per second: half a day for this file.
    scrubber.start()
    assert reading.wait(PATIENCE_S)
    scrubber.close()
    assert not scrubber._thread.is_alive()
    assert not store.list("run")[0].damaged
    assert store.counts["scrub_failures"] == 0


def test_metrics_tell_what_was_scrubbed(store, save, root):
    save(STATE)
    flip(content_file(root))
    with Scrubber(store, 0.001, FAST):
        until(lambda: store.counts["checkpoints_scrubbed"])
    found = {
        (sample.name, *sample.labels.values()): sample.value
        for metric in StoreCollector(store, root).collect()
        for sample in metric.samples
    }
    assert found["penstock_checkpointer_events_total", "checkpoints_scrubbed"] >= 1
    assert found["penstock_checkpointer_events_total", "damage_found"] == 1
    assert found["penstock_checkpointer_damaged_checkpoints", "run"] == 1
