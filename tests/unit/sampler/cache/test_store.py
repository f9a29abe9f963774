"""The folder of cached files: what is found, what is dropped and why, who is evicted."""

from __future__ import annotations

import logging
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from penstock_sampler.cache import FrameKey, FrameStore, room, store
from prometheus_client import REGISTRY
from unit.sampler.cache.cached import (
    flip,
    frames_for,
    key_of,
    put,
    records,
    succeeds_in_a_fork,
)

from penstock.frame_file import FrameFileWriter

A, B, C = (key_of(f"/data/{name}.hdf5", rows=40, height=16, width=16) for name in "abc")
ONE = 40 * 2 * 16 * 16 * 3
"""Bytes of the frames of each of them."""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "frames"


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """A clock of seconds that stands still until it is moved."""
    clock = SimpleNamespace(now_s=1000.0)
    monkeypatch.setattr(store, "time", SimpleNamespace(monotonic=lambda: clock.now_s))
    return clock


def _metric(name: str) -> float:
    return REGISTRY.get_sample_value(f"penstock_sampler_cache_{name}_total") or 0.0


def _names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def _used(frames: FrameStore, key: FrameKey, seconds_ago: float) -> None:
    """As if ``key`` had been used last some time ago, by whichever process."""
    path = frames.folder / key.name
    when = path.stat().st_ctime - seconds_ago
    os.utime(path, (when, when))


def test_what_was_put_is_found(folder: Path) -> None:
    frames = FrameStore(folder)
    assert frames.find(A) is None
    np.testing.assert_array_equal(put(frames, A, seed=4), records(frames, A))
    assert frames.find(B) is None


def test_what_another_process_put_is_found_after_a_while(
    folder: Path, clock: SimpleNamespace
) -> None:
    ours, theirs = FrameStore(folder), FrameStore(folder)
    assert ours.find(A) is None
    put(theirs, A)
    assert ours.find(A) is None
    clock.now_s += 3
    assert ours.find(A) is not None


def _empty(path: Path) -> None:
    path.write_bytes(b"")


def _truncate(path: Path) -> None:
    os.truncate(path, path.stat().st_size - 1)


def _headless(path: Path) -> None:
    flip(path, 40)


def _garbage(path: Path) -> None:
    path.write_bytes(os.urandom(path.stat().st_size))


def _other_recording(path: Path) -> None:
    other = FrameStore(path.parent / "other")
    put(other, B)
    shutil.copy(other.folder / B.name, path)


DAMAGE = {
    "empty": (_empty, "is no file of cached frames"),
    "truncated": (_truncate, "its header says"),
    "header": (_headless, "the header does not match its hash"),
    "garbage": (_garbage, "is no file of cached frames"),
    "frames of another recording": (_other_recording, "it holds other frames than its name says"),
}


@pytest.mark.parametrize(("damage", "why"), DAMAGE.values(), ids=DAMAGE)
def test_damage_is_seen_when_it_is_opened_said_counted_and_gone(
    folder: Path, caplog: pytest.LogCaptureFixture, damage: object, why: str
) -> None:
    frames, counted = FrameStore(folder), _metric("rebuilds")
    put(frames, A)
    path = folder / A.name
    assert callable(damage)
    damage(path)
    for _ in range(3):
        assert frames.find(A) is None
    assert not path.exists()
    (line,) = [record.message for record in caplog.records if record.levelno >= logging.WARNING]
    assert str(path) in line
    assert why in line
    assert "frames are read from /data/a.hdf5 until it is built again" in line
    assert frames.rebuilds == 1
    assert _metric("rebuilds") == counted + 1
    np.testing.assert_array_equal(put(frames, A), records(frames, A))


def test_damage_that_several_notice_counts_once(folder: Path) -> None:
    frames = FrameStore(folder)
    put(frames, A)
    file = frames.find(A)
    assert file is not None
    for _ in range(3):
        frames.drop(A, "row 3 does not match its hash", file)
    frames.drop(A, "the header does not match its hash")
    assert frames.rebuilds == 1
    assert frames.find(A) is None


def test_a_file_that_was_built_again_meanwhile_is_not_dropped(folder: Path) -> None:
    frames = FrameStore(folder)
    put(frames, A)
    damaged = frames.find(A)
    rebuilt = put(frames, A, seed=5)
    frames.drop(A, "row 3 does not match its hash", damaged)
    assert frames.rebuilds == 0
    np.testing.assert_array_equal(records(frames, A), rebuilt)


def test_damage_that_cannot_be_removed_is_said_once_and_not_used(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    frames = FrameStore(folder)
    (folder / A.name).mkdir()
    for _ in range(5):
        assert frames.find(A) is None
    (line,) = [record.message for record in caplog.records if record.levelno >= logging.WARNING]
    assert f"{folder / A.name}: not used, cannot be removed" in line


def test_what_was_built_from_another_state_is_dropped_in_every_size(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    frames = FrameStore(folder)
    new = key_of(modified_ns=9)
    stale = [key_of(), key_of(height=7), key_of(size_bytes=999), key_of(cameras=("left",))]
    fresh = [new, key_of(modified_ns=9, height=7), key_of(modified_ns=9, cameras=("left",)), B]
    for key in (*stale, *fresh):
        put(frames, key)
        assert frames.find(key) is not None
    frames.drop_stale(new)
    assert _names(folder) == {key.name for key in fresh}
    assert [frames.find(key) for key in stale] == [None] * 4
    assert frames.rebuilds == 4
    assert caplog.text.count("/data/a.hdf5 has changed since it was built") == 4


def test_damaged_files_of_a_recording_go_with_the_stale_ones(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    frames = FrameStore(folder)
    put(frames, key_of(height=7))
    _truncate(folder / key_of(height=7).name)
    frames.drop_stale(key_of())
    assert _names(folder) == set()
    assert "its header says" in caplog.text


def test_the_least_recently_used_makes_room(folder: Path) -> None:
    frames, counted = FrameStore(folder, int(2.5 * ONE), in_use_s=60), _metric("evictions")
    for key, seconds_ago in ((A, 300), (B, 500)):
        put(frames, key)
        assert frames.find(key) is not None
        _used(frames, key, seconds_ago)
    with frames.room(C, ONE) as there_is:
        assert there_is
        put(frames, C)
    assert _names(folder) == {A.name, C.name}
    assert (frames.evictions, _metric("evictions")) == (1, counted + 1)
    assert frames.find(B) is None


def test_what_is_in_use_is_not_evicted_and_nothing_is_evicted_in_vain(folder: Path) -> None:
    frames = FrameStore(folder, int(2.5 * ONE), in_use_s=60)
    for key, seconds_ago in ((A, 300), (B, 20)):
        put(frames, key)
        _used(frames, key, seconds_ago)
    with frames.room(C, 2 * ONE) as there_is:
        assert not there_is
    assert _names(folder) == {A.name, B.name}
    assert frames.evictions == 0


def test_finding_a_file_keeps_it_from_other_processes(folder: Path, clock: SimpleNamespace) -> None:
    ours, theirs = FrameStore(folder), FrameStore(folder, ONE // 2, in_use_s=60)
    put(ours, A)
    ours.find(A)
    _used(ours, A, 300)
    clock.now_s += 61
    assert ours.find(A) is not None
    with theirs.room(B, 10) as there_is:
        assert not there_is
    assert ours.find(A) is not None


def test_opening_a_file_keeps_it_from_other_processes(folder: Path) -> None:
    ours, theirs = FrameStore(folder), FrameStore(folder, ONE // 2, in_use_s=60)
    put(ours, A)
    _used(ours, A, 300)
    assert ours.find(A) is not None
    with theirs.room(B, 10) as there_is:
        assert not there_is


def test_what_another_process_evicted_is_let_go_and_read_to_the_end(
    folder: Path, clock: SimpleNamespace
) -> None:
    ours, theirs = FrameStore(folder), FrameStore(folder, ONE, in_use_s=60)
    expected = put(ours, A)
    file = ours.find(A)
    assert file is not None
    _used(ours, A, 300)
    with theirs.room(B, ONE // 2) as there_is:
        assert there_is
    data, _ = file.read_records(range(40))
    assert data == expected.tobytes()
    clock.now_s += 61
    assert ours.find(A) is None


def test_what_is_not_used_is_let_go_so_that_its_space_is_free(
    folder: Path, clock: SimpleNamespace
) -> None:
    frames = FrameStore(folder, in_use_s=600)
    put(frames, A)
    frames.find(A)
    frames.measure()
    assert list(frames._open) == [A.name]
    clock.now_s += 700
    frames.measure()
    assert list(frames._open) == []
    assert frames.find(A) is not None


def test_open_files_are_bounded_and_the_oldest_is_let_go(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store, "_MOST_OPEN", 2)
    frames = FrameStore(folder)
    for key in (A, B, C):
        put(frames, key)
    for key in (A, B, A, C):
        assert frames.find(key) is not None
    assert list(frames._open) == [A.name, C.name]
    assert frames.find(B) is not None
    assert list(frames._open) == [C.name, B.name]


def test_a_limit_too_small_for_one_file_gives_no_room(folder: Path) -> None:
    frames = FrameStore(folder, ONE // 2, in_use_s=0)
    with frames.room(A, ONE) as there_is:
        assert not there_is


def test_a_lower_limit_holds_from_the_start(folder: Path) -> None:
    frames = FrameStore(folder)
    for key, seconds_ago in ((A, 400), (B, 300), (C, 20)):
        put(frames, key)
        _used(frames, key, seconds_ago)
    FrameStore(folder, int(2.5 * ONE), in_use_s=60)
    assert _names(folder) == {B.name, C.name}


def test_the_last_room_is_given_away_once(folder: Path) -> None:
    frames = FrameStore(folder, int(1.5 * ONE))
    with frames.room(A, ONE) as there_is, frames.room(B, ONE) as there_is_more:
        assert (there_is, there_is_more) == (True, False)
    with frames.room(B, ONE) as there_is:
        assert there_is


def test_a_file_that_is_being_written_counts_with_its_whole_size(folder: Path) -> None:
    frames = FrameStore(folder, int(2.5 * ONE))
    with frames.room(A, ONE), FrameFileWriter(folder / A.name, A.header("raw")) as writer:
        data = frames_for(A)[:10]
        writer.append(data.tobytes(), np.full((10, 2), 16 * 16 * 3, np.uint32))
        with frames.room(B, int(1.4 * ONE)) as there_is:
            assert there_is
        with frames.room(B, int(1.6 * ONE)) as there_is:
            assert not there_is


def test_a_file_that_outgrows_its_room_is_given_more_or_remembered(folder: Path) -> None:
    frames = FrameStore(folder, 3 * ONE)
    with frames.room(A, ONE) as there_is:
        assert there_is
        assert frames.enlarge(A, 2 * ONE)
        assert not frames.enlarge(A, 4 * ONE)
    # Another try that begins as small would be in vain.
    with frames.room(A, ONE) as there_is:
        assert not there_is


def test_the_last_fiftieth_of_a_disk_is_left_free(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    frames = FrameStore(folder, 100 * ONE, in_use_s=60)
    disk = 1000 * ONE
    monkeypatch.setattr(
        room.shutil, "disk_usage", lambda _: SimpleNamespace(total=disk, free=22 * ONE)
    )
    with frames.room(A, int(1.9 * ONE)) as there_is:
        assert there_is
        # Two files at a time share what is free.
        with frames.room(B, int(0.2 * ONE)) as there_is_more:
            assert not there_is_more
    with frames.room(A, int(2.1 * ONE)) as there_is:
        assert not there_is


def test_without_a_limit_half_of_what_is_free_may_be_taken(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(FrameStore(folder), A)
    monkeypatch.setattr(
        store.shutil, "disk_usage", lambda _: SimpleNamespace(total=100 * ONE, free=10 * ONE)
    )
    frames = FrameStore(folder)
    assert frames.limit_bytes == pytest.approx(6 * ONE, rel=0.1)


_WRITE = """
import signal, sys
from pathlib import Path
from penstock.frame_file import FrameFileWriter, FrameHeader, FrameSource
header = FrameHeader(FrameSource("x", 1, 1, "00"), 5, 7, ("left",), "raw", 9)
writer = FrameFileWriter(Path(sys.argv[1]), header)
print("writing", flush=True)
signal.pause()
"""


def test_what_a_killed_process_left_is_removed_and_what_is_written_stays(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    frames = FrameStore(folder)
    process = subprocess.Popen(
        [sys.executable, "-c", _WRITE, str(folder / A.name)], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "writing\n"
    FrameStore(folder)
    (unfinished,) = folder.iterdir()
    assert frames.measure() == 0
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stdout.close()
    with caplog.at_level(logging.INFO):
        FrameStore(folder)
    assert list(folder.iterdir()) == []
    assert f"{unfinished}: removed, its writer did not finish it" in caplog.text


def test_recordings_are_counted_whatever_the_sizes_of_their_images(folder: Path) -> None:
    frames = FrameStore(folder)
    for key in (A, key_of("/data/a.hdf5", height=9), key_of("/data/a.hdf5", cameras=("left",)), B):
        put(frames, key)
    assert frames.measure() == 2
    assert frames.size_bytes >= 2 * ONE


def test_other_files_in_the_folder_are_left_alone(folder: Path) -> None:
    folder.mkdir()
    (folder / "notes.txt").write_text("mine")
    frames = FrameStore(folder, ONE, in_use_s=0)
    with frames.room(A, ONE // 2):
        pass
    frames.drop_stale(A)
    assert _names(folder) == {"notes.txt"}


def test_a_folder_that_vanishes_gives_nothing_and_can_come_back(
    folder: Path, clock: SimpleNamespace, caplog: pytest.LogCaptureFixture
) -> None:
    frames = FrameStore(folder)
    shutil.rmtree(folder)
    assert frames.find(A) is None
    assert frames.measure() == 0
    assert f"{folder}: cannot be listed" in caplog.text
    folder.mkdir()
    put(frames, A)
    clock.now_s += 3
    assert frames.find(A) is not None


def test_a_forked_process_reads_for_itself(folder: Path) -> None:
    frames = FrameStore(folder)
    expected = put(frames, A)
    assert frames.find(A) is not None
    # Held by another thread, as it may be at a fork.
    with frames._lock:
        assert succeeds_in_a_fork(
            lambda: np.testing.assert_array_equal(records(frames, A), expected)
        )
    np.testing.assert_array_equal(records(frames, A), expected)
