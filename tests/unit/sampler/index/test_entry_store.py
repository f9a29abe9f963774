"""What is known of a file stays on disk: found again, never believed when anything is off."""

from __future__ import annotations

import errno
import logging
import os
import shutil
from pathlib import Path

import h5py
import numpy as np
import penstock_sampler.index.record_store
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from penstock_sampler.index.dataset_index import DatasetIndex, build_index
from penstock_sampler.index.discovery import find_files
from penstock_sampler.index.entry_store import IndexStore
from penstock_sampler.options import DataOptions, parse_cameras
from unit.sampler.recording import arrays, write

from penstock.dataset import COLUMNS
from penstock.errors import DataFault

OPTIONS = DataOptions(parse_cameras("left,right,global"))
ROWS = 300


@pytest.fixture
def data(tmp_path: Path) -> Path:
    folder = tmp_path / "data"
    folder.mkdir()
    for number in range(3):
        write(folder / f"{number}.hdf5", arrays(ROWS, seed=number, terminals=[40, 99]))
    return folder


@pytest.fixture
def kept(tmp_path: Path) -> Path:
    return tmp_path / "index"


def _open(data: Path, kept: Path | None, options: DataOptions = OPTIONS) -> DatasetIndex:
    return build_index(find_files([f"{data}/*.hdf5"]), options, index_dir=kept)


def _entries(kept: Path) -> list[Path]:
    return sorted(kept.glob("*.index"))


def _entry_of(kept: Path, path: Path) -> Path:
    return IndexStore(kept, OPTIONS).entry(path)


def _assert_same(ours: DatasetIndex, theirs: DatasetIndex) -> None:
    assert ours.info.version == theirs.info.version
    assert ours.info.files == theirs.info.files
    assert ours.info.refused == theirs.info.refused
    for name in COLUMNS:
        for part in ("mean", "std", "min", "max"):
            one, other = (getattr(i.info.statistics[name], part) for i in (ours, theirs))
            assert one.tobytes() == other.tobytes()
    for name in ("file", "first_row", "length", "outcome", "split_key"):
        one, other = (getattr(index.episodes, name) for index in (ours, theirs))
        assert one.tobytes() == other.tobytes()
    _assert_same_records(ours, theirs)


def _assert_same_records(ours: DatasetIndex, theirs: DatasetIndex) -> None:
    ids = np.random.default_rng(0).permutation(ours.info.transitions)
    for one, other in zip(
        ours.read_records(ours.locate(ids)), theirs.read_records(theirs.locate(ids)), strict=True
    ):
        assert one.tobytes() == other.tobytes()


def _forbid_scans(monkeypatch: pytest.MonkeyPatch) -> None:
    def scan(*_: object) -> None:
        raise AssertionError("a file is read again although it is known")

    monkeypatch.setattr(penstock_sampler.index.record_store, "scan_file", scan)


def _flip(path: Path, offset: int) -> None:
    with path.open("r+b") as file:
        file.seek(offset)
        value = file.read(1)[0]
        file.seek(offset)
        file.write(bytes([value ^ 0x10]))


def test_a_second_start_reads_no_recording(
    data: Path, kept: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = _open(data, kept)
    assert len(_entries(kept)) == 3
    _forbid_scans(monkeypatch)
    _assert_same(_open(data, kept), first)


def test_what_is_kept_is_what_a_start_without_it_finds_out(data: Path, kept: Path) -> None:
    _open(data, kept)
    _assert_same(_open(data, kept), _open(data, None))


def test_a_value_changed_in_place_under_the_same_time_is_found_out(data: Path, kept: Path) -> None:
    before = _open(data, kept).info
    path = data / "1.hdf5"
    status = path.stat()
    with h5py.File(path, "a") as file:
        file["actions"][7] = 1
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert path.stat().st_size == status.st_size
    after = _open(data, kept)
    assert after.info.version != before.version
    _assert_same(after, _open(data, None))


def test_other_ways_of_reading_have_entries_of_their_own(data: Path, kept: Path) -> None:
    _open(data, kept)
    fewer = DataOptions(parse_cameras("left"))
    index = _open(data, kept, fewer)
    assert [camera.name for camera in index.info.cameras] == ["left"]
    assert len(_entries(kept)) == 6
    _assert_same(_open(data, kept), _open(data, None))


def test_a_refused_file_leaves_nothing_behind(data: Path, kept: Path) -> None:
    (data / "bad.hdf5").write_text("hello" * 100)
    for _ in range(2):
        assert [file.file_id for file in _open(data, kept).info.refused] == ["bad.hdf5"]
    assert sorted(kept.iterdir()) == _entries(kept)
    assert len(_entries(kept)) == 3


@pytest.mark.parametrize("place", ["magic", "version", "sizes", "hash", "document", "end"])
def test_a_damaged_entry_is_said_and_made_again(
    data: Path, kept: Path, caplog: pytest.LogCaptureFixture, place: str
) -> None:
    _open(data, kept)
    entry = _entry_of(kept, data / "1.hdf5")
    size = entry.stat().st_size
    with entry.open("rb") as file:
        head = file.read(24)
    document = int.from_bytes(head[16:24], "little")
    offsets = {"magic": 2, "version": 9, "sizes": 13, "hash": 50, "document": document + 9}
    _flip(entry, offsets.get(place, size - 1))
    with caplog.at_level(logging.WARNING):
        index = _open(data, kept)
    assert f"{entry} of {data / '1.hdf5'} is made again" in caplog.text
    _assert_same(index, _open(data, None))
    caplog.clear()
    _open(data, kept)
    assert "made again" not in caplog.text


@pytest.mark.parametrize("length", [0, 10, 64, -1])
def test_a_cut_entry_is_said_and_made_again(
    data: Path, kept: Path, caplog: pytest.LogCaptureFixture, length: int
) -> None:
    _open(data, kept)
    entry = _entry_of(kept, data / "1.hdf5")
    os.truncate(entry, length if length >= 0 else entry.stat().st_size - 1)
    with caplog.at_level(logging.WARNING):
        _assert_same(_open(data, kept), _open(data, None))
    assert f"{entry} of {data / '1.hdf5'} is made again" in caplog.text


def test_an_entry_under_the_name_of_another_file_is_not_believed(data: Path, kept: Path) -> None:
    _open(data, kept)
    shutil.copy(_entry_of(kept, data / "0.hdf5"), _entry_of(kept, data / "1.hdf5"))
    _assert_same(_open(data, kept), _open(data, None))


def test_records_damaged_while_they_are_served_are_made_again(
    data: Path, kept: Path, caplog: pytest.LogCaptureFixture
) -> None:
    index, clean = _open(data, kept), _open(data, None)
    entry = _entry_of(kept, data / "1.hdf5")
    _flip(entry, 64 + 100)
    with caplog.at_level(logging.WARNING):
        _assert_same_records(index, clean)
    assert f"{entry} of {data / '1.hdf5'} is made again" in caplog.text
    assert index.records.repaired == 1
    _assert_same_records(index, clean)
    assert index.records.repaired == 1


def test_entries_that_are_removed_while_they_are_served_are_made_again(
    data: Path, kept: Path
) -> None:
    index, clean = _open(data, kept), _open(data, None)
    shutil.rmtree(kept)
    kept.mkdir()
    _assert_same_records(index, clean)


def test_a_folder_that_vanishes_leaves_the_dataset_served(
    data: Path, kept: Path, caplog: pytest.LogCaptureFixture
) -> None:
    index, clean = _open(data, kept), _open(data, None)
    shutil.rmtree(kept)
    with caplog.at_level(logging.WARNING):
        _assert_same_records(index, clean)
    assert f"{kept} cannot be written" in caplog.text


def test_damaged_records_of_a_file_that_has_changed_name_it(data: Path, kept: Path) -> None:
    index = _open(data, kept)
    _flip(_entry_of(kept, data / "1.hdf5"), 64 + 100)
    with h5py.File(data / "1.hdf5", "a") as file:
        file["actions"][7] = 1
    with pytest.raises(DataFault, match=r"1\.hdf5: was changed") as raised:
        index.read_records(index.locate(np.arange(index.info.transitions)))
    assert raised.value.reason == "CHANGED"
    others = index.locate(np.arange(ROWS))
    assert len(index.read_records(others)[0]) == ROWS


def test_a_damaged_temporary_file_is_made_again(data: Path) -> None:
    index, clean = _open(data, None), _open(data, None)
    descriptor = index.records._spools[0].descriptor
    os.pwrite(descriptor, b"\xff" * 64, 200)
    _assert_same_records(index, clean)
    assert index.records.repaired == 1


def test_a_folder_that_cannot_be_written_is_said_and_done_without(
    data: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").touch()
    with caplog.at_level(logging.WARNING):
        index = _open(data, tmp_path / "file" / "index")
    assert f"{tmp_path / 'file' / 'index'} cannot be used" in caplog.text
    assert "PENSTOCK_CACHE_DIR" in caplog.text
    _assert_same(index, _open(data, None))


def test_a_disk_that_is_full_is_said_and_the_dataset_served(
    data: Path, kept: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("penstock_sampler.index.entry_store.write_entry", full)
    with caplog.at_level(logging.WARNING):
        index = _open(data, kept)
    assert "No space left on device" in caplog.text
    assert list(kept.iterdir()) == []
    _assert_same(index, _open(data, None))


def test_data_in_other_files_is_read_at_every_start(data: Path, kept: Path) -> None:
    with h5py.File(data / "1.hdf5", "a") as file:
        actions = file["actions"][...]
        del file["actions"]
        (data / "actions.raw").write_bytes(actions.tobytes())
        file.create_dataset(
            "actions",
            actions.shape,
            actions.dtype,
            external=[(str(data / "actions.raw"), 0, actions.nbytes)],
        )
    before = _open(data, kept).info.version
    assert len(_entries(kept)) == 2
    actions[3] += 1
    (data / "actions.raw").write_bytes(actions.tobytes())
    assert _open(data, kept).info.version != before


def test_entries_not_used_for_longest_make_room(data: Path, kept: Path) -> None:
    _open(data, kept)
    entries = {number: _entry_of(kept, data / f"{number}.hdf5") for number in range(3)}
    for number, hours in ((0, 1), (1, 3), (2, 2)):
        os.utime(entries[number], (1e9 - 3600 * hours, entries[number].stat().st_mtime))
    size = entries[0].stat().st_size
    store = IndexStore(kept, OPTIONS, limit_bytes=3 * size)
    assert store.load(data / "0.hdf5") is not None
    assert store.make_room(2 * size)
    assert _entries(kept) == [entries[0]]
    assert store.evicted == 2
    # What this process uses stays, so there is no room for three.
    assert not store.make_room(3 * size)
    assert _entries(kept) == [entries[0]]


def test_what_finds_no_room_is_served_from_a_temporary_file(
    data: Path, kept: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(IndexStore, "make_room", lambda *_: False)
    _assert_same(_open(data, kept), _open(data, None))
    assert list(kept.iterdir()) == []


def test_what_a_killed_writer_left_behind_goes_after_a_day(data: Path, kept: Path) -> None:
    kept.mkdir()
    old, new = kept / "old.index1.part", kept / "new.index1.part"
    for path, age_s in ((old, 90_000), (new, 60)):
        path.touch()
        when = path.stat().st_mtime - age_s
        os.utime(path, (when, when))
    _open(data, kept)
    assert not old.exists()
    assert new.exists()


def test_a_forked_process_repairs_for_itself(data: Path, kept: Path) -> None:
    index, clean = _open(data, kept), _open(data, None)
    _flip(_entry_of(kept, data / "1.hdf5"), 64 + 100)
    child = os.fork()
    if child == 0:
        try:
            _assert_same_records(index, clean)
        except BaseException:  # noqa: BLE001 - the parent sees the status
            os._exit(1)
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    _assert_same_records(index, clean)


@settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    changes=st.dictionaries(st.integers(0, 1 << 20), st.binary(min_size=1, max_size=8), max_size=4)
)
def test_no_bytes_of_an_entry_are_served_or_raise(
    changes: dict[int, bytes], tmp_path: Path
) -> None:
    data, kept = tmp_path / "fuzz", tmp_path / "fuzz-index"
    if not data.exists():
        data.mkdir()
        write(data / "0.hdf5", arrays(20, seed=1, terminals=[4]))
    _open(data, kept)
    entry = _entry_of(kept, data / "0.hdf5")
    whole = bytearray(entry.read_bytes())
    for offset, change in changes.items():
        at = offset % len(whole)
        whole[at : at + len(change)] = change
    entry.write_bytes(whole)
    _assert_same(_open(data, kept), _open(data, None))
