"""Frames through the cache are those of the recordings, whatever happens to either of them."""

from __future__ import annotations

import errno
import logging
import os
import shutil
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from penstock_sampler.backend import Hdf5Backend
from penstock_sampler.cache import building
from unit.sampler.cache.cached import (
    IMAGE_CODECS,
    STORED,
    batch_of,
    cache_of,
    fill,
    flip,
    open_dataset,
    sent,
    succeeds_in_a_fork,
)
from unit.sampler.recording import CAMERAS, arrays, write

from penstock.batch import FrameSpec
from penstock.errors import DataFault
from penstock.frame_file import FrameFile

ROWS = 12
SMALL, LARGE = FrameSpec(4, 5), FrameSpec(9, 7)

Open = Callable[..., Hdf5Backend]


@pytest.fixture
def data(tmp_path: Path) -> Path:
    folder = tmp_path / "data"
    folder.mkdir()
    return folder


@pytest.fixture
def frames(tmp_path: Path) -> Path:
    return tmp_path / "frames"


@pytest.fixture
def open_data(data: Path, frames: Path) -> Iterator[Open]:
    opened: list[Hdf5Backend] = []

    def open_one(folder: Path | str = frames, **settings: Any) -> Hdf5Backend:
        opened.append(open_dataset(f"{data}/*.hdf5", folder, **settings))
        return opened[-1]

    yield open_one
    for backend in opened:
        backend.close()


def _write_files(data: Path, count: int = 3, **options: Any) -> None:
    for number in range(count):
        write(data / f"{number}.hdf5", arrays(ROWS, terminals=[4], seed=number, **options))


def _counted(backend: Hdf5Backend) -> tuple[int, int]:
    status = backend.cache_status()
    return status.hits, status.misses


def _cached(frames: Path) -> list[Path]:
    return sorted(frames.glob("*.frames"))


def _cached_of(backend: Hdf5Backend, number: int, spec: FrameSpec = STORED) -> Path:
    key = backend._frames.key(number, *spec.resolve(backend.info()))
    return cache_of(backend).store.folder / key.name


def _rewrite(path: Path, contents: Any, *, keep_size: bool = True) -> None:
    """Other content in place, as a recorder would that runs again; another time of change."""
    before = path.stat()
    with h5py.File(path, "a") as file:
        for name, values in contents.items():
            file[name][...] = values
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns + 10**9))
    assert not keep_size or path.stat().st_size == before.st_size


def _warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    """Of the cache."""
    return [
        record.message
        for record in caplog.records
        if record.levelno >= logging.WARNING and record.name.startswith("penstock_sampler.cache")
    ]


@pytest.mark.parametrize("codec", ["auto", *IMAGE_CODECS])
@pytest.mark.parametrize("order", ["hwc", "chw"])
@pytest.mark.parametrize("observations", [ROWS, ROWS + 1])
@pytest.mark.parametrize("spec", [STORED, SMALL, LARGE], ids=["stored", "smaller", "larger"])
def test_bytes_through_the_cache_are_those_on_the_fly(
    data: Path, open_data: Open, codec: str, order: str, observations: int, spec: FrameSpec
) -> None:
    for number in range(2):
        # The last of N observations can only be shown by a terminal row.
        terminals = [4, ROWS - 1] if observations == ROWS else [4]
        contents = arrays(
            ROWS, observations=observations, order=order, terminals=terminals, seed=number
        )
        write(data / f"{number}.hdf5", contents)
    plain, cached = open_data("none"), open_data(codec=codec)
    assert plain.info().transitions == 2 * ROWS
    ids = np.random.default_rng(1).permutation(np.repeat(np.arange(2 * ROWS), 2))
    expected = batch_of(plain, ids, spec)
    np.testing.assert_array_equal(batch_of(cached, ids, spec), expected)
    assert cache_of(cached).wait(60)
    assert _counted(cached) == (0, 2 * len(ids))
    np.testing.assert_array_equal(batch_of(cached, ids, spec), expected)
    assert _counted(cached) == (2 * len(ids), 2 * len(ids))
    np.testing.assert_array_equal(sent(cached, ids, spec), expected)
    # Of what is sent, every observation is read once.
    assert _counted(cached) == (2 * len(ids) + 2 * observations, 2 * len(ids))
    for number in range(2):
        header = FrameFile.open(_cached_of(cached, number, spec)).header
        assert codec in ("auto", header.codec)


def test_cached_frames_are_those_that_were_recorded(data: Path, open_data: Open) -> None:
    contents = arrays(ROWS, terminals=[4])
    write(data / "0.hdf5", contents)
    backend = open_data()
    fill(backend)
    found = batch_of(backend, range(ROWS))
    assert _counted(backend) == (2 * ROWS, 2 * ROWS)
    images = np.stack([contents[f"observations/{name}"] for name in CAMERAS], axis=1)
    following = [row if row == 4 else row + 1 for row in range(ROWS)]
    np.testing.assert_array_equal(found[:, 0], images[:ROWS])
    np.testing.assert_array_equal(found[:, 1], images[following])


def test_several_sizes_are_cached_beside_each_other(
    data: Path, frames: Path, open_data: Open
) -> None:
    _write_files(data)
    plain, cached = open_data("none"), open_data()
    ids = np.arange(3 * ROWS)
    specs = (STORED, SMALL, LARGE)
    expected = [batch_of(plain, ids, spec) for spec in specs]
    for _ in range(2):
        for spec, frames_of_it in zip(specs, expected, strict=True):
            np.testing.assert_array_equal(batch_of(cached, ids, spec), frames_of_it)
        assert cache_of(cached).wait(60)
    assert len(_cached(frames)) == 9
    assert _counted(cached) == (3 * 2 * len(ids), 3 * 2 * len(ids))
    assert cached.cache_status().cached_files == 3


def test_sampling_works_before_while_and_after_a_file_is_cached(
    data: Path, frames: Path, open_data: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    _write_files(data, 1)
    almost_done, go_on = threading.Event(), threading.Event()
    check = building._require_unchanged

    def held(identity: Any) -> None:
        almost_done.set()
        assert go_on.wait(60)
        check(identity)

    monkeypatch.setattr(building, "_require_unchanged", held)
    ids = np.arange(ROWS)
    expected = batch_of(open_data("none"), ids)
    cached = open_data()
    np.testing.assert_array_equal(batch_of(cached, ids), expected)
    assert almost_done.wait(60)
    assert len(list(frames.glob("*.part"))) == 1
    np.testing.assert_array_equal(batch_of(cached, ids), expected)
    np.testing.assert_array_equal(sent(cached, ids), expected)
    assert _counted(cached) == (0, 4 * ROWS + ROWS + 1)
    go_on.set()
    assert cache_of(cached).wait(60)
    np.testing.assert_array_equal(batch_of(cached, ids), expected)
    assert _counted(cached)[0] == 2 * ROWS


@pytest.mark.parametrize("read", [batch_of, sent])
def test_a_batch_mixes_files_that_are_cached_and_files_that_are_not(
    data: Path, open_data: Open, read: Any
) -> None:
    _write_files(data, 4)
    ids = np.random.default_rng(2).permutation(4 * ROWS)
    expected = batch_of(open_data("none"), ids)
    filling = open_data()
    fill(filling)
    for number in (1, 2):
        _cached_of(filling, number).unlink()
    cached = open_data(cache_threads=0)
    np.testing.assert_array_equal(read(cached, ids), expected)
    hits, misses = _counted(cached)
    assert hits == misses > 0


def test_files_of_several_codecs_make_one_batch(data: Path, open_data: Open) -> None:
    _write_files(data, 4)
    ids = np.arange(4 * ROWS)
    plain = open_data("none")
    for number, codec in enumerate(IMAGE_CODECS):
        backend = open_data(codec=codec)
        batch_of(backend, [number * ROWS])
        assert cache_of(backend).wait(60)
        assert FrameFile.open(_cached_of(backend, number)).header.codec == codec
    cached = open_data(cache_threads=0)
    np.testing.assert_array_equal(batch_of(cached, ids), batch_of(plain, ids))
    assert _counted(cached) == (2 * len(ids), 0)
    for accepted in (IMAGE_CODECS, ("raw",), ("bitplanes", "lz4")):
        np.testing.assert_array_equal(
            sent(cached, ids, accepted=accepted), batch_of(plain, ids), str(accepted)
        )


def test_files_with_images_of_another_size_are_cached_at_the_one_asked_for(
    data: Path, open_data: Open
) -> None:
    _write_files(data, 2)
    write(data / "9.hdf5", arrays(ROWS, size=(12, 16), seed=9))
    plain, cached = open_data("none"), open_data()
    ids = np.arange(3 * ROWS)
    fill(cached)
    np.testing.assert_array_equal(batch_of(cached, ids), batch_of(plain, ids))
    assert _counted(cached)[0] == 2 * len(ids)


def test_threads_get_the_same_bytes_while_the_cache_fills(data: Path, open_data: Open) -> None:
    _write_files(data, 6)
    plain, cached = open_data("none"), open_data(cache_threads=3)
    ids = [np.random.default_rng(seed).integers(0, 6 * ROWS, 40) for seed in range(30)]
    expected = [batch_of(plain, some, SMALL) for some in ids]
    with ThreadPoolExecutor(4) as pool:
        found = pool.map(lambda some: batch_of(cached, some, SMALL), ids)
        for one, other in zip(expected, found, strict=True):
            np.testing.assert_array_equal(one, other)
    assert sum(_counted(cached)) == 2 * 40 * 30


def test_a_next_start_uses_what_is_there(data: Path, open_data: Open) -> None:
    _write_files(data)
    fill(open_data())
    again = open_data()
    fill(again)
    assert _counted(again) == (2 * 3 * ROWS, 0)


def _flip_record(path: Path) -> None:
    flip(path, path.stat().st_size - 100)


def _flip_index(path: Path) -> None:
    header = FrameFile.open(path).header
    # Of the last entry, its offset.
    flip(path, header.data_offset(header.reserve()) - header.entry_bytes)


def _flip_header(path: Path) -> None:
    flip(path, 40)


def _cut(path: Path) -> None:
    os.truncate(path, path.stat().st_size - 100)


def _empty(path: Path) -> None:
    os.truncate(path, 0)


def _other_content(path: Path) -> None:
    other = next(found for found in _cached(path.parent) if found != path)
    path.write_bytes(other.read_bytes())


DAMAGE = [_flip_record, _flip_index, _flip_header, _cut, _empty, _other_content]


@pytest.mark.parametrize("damage", DAMAGE)
@pytest.mark.parametrize("read", [batch_of, sent])
@pytest.mark.parametrize("codec", ["raw", "bitplanes_lz4"])
def test_damage_between_two_runs_is_named_and_mended_and_never_read(
    data: Path,
    open_data: Open,
    caplog: pytest.LogCaptureFixture,
    damage: Any,
    read: Any,
    codec: str,
) -> None:
    _write_files(data)
    ids = np.arange(3 * ROWS)
    expected = batch_of(open_data("none"), ids)
    first = open_data(codec=codec)
    fill(first)
    first.close()
    path = _cached_of(first, 1)
    damage(path)
    cached = open_data(codec=codec)
    caplog.clear()
    np.testing.assert_array_equal(read(cached, ids), expected)
    (line,) = _warnings(caplog)
    assert str(path) in line
    assert f"frames are read from {data / '1.hdf5'} until it is built again" in line
    assert cache_of(cached).wait(60)
    assert cached.cache_status().rebuilds == 1
    hits, misses = _counted(cached)
    np.testing.assert_array_equal(read(cached, ids), expected)
    # All three files are read from the cache now, before it were two and what is sound of one.
    assert _counted(cached) == (hits + hits + misses, misses)
    assert 0 < misses <= hits // 2
    assert len(_warnings(caplog)) == 1


@pytest.mark.parametrize("damage", [_flip_record, _flip_index, _cut, _empty])
@pytest.mark.parametrize("read", [batch_of, sent])
@pytest.mark.parametrize("codec", ["raw", "bitplanes_lz4"])
def test_damage_under_a_running_server_is_named_and_mended_and_never_read(
    data: Path,
    open_data: Open,
    caplog: pytest.LogCaptureFixture,
    damage: Any,
    read: Any,
    codec: str,
) -> None:
    _write_files(data)
    ids = np.arange(3 * ROWS)
    expected = batch_of(open_data("none"), ids)
    cached = open_data(codec=codec)
    fill(cached)
    np.testing.assert_array_equal(read(cached, ids), expected)
    path = _cached_of(cached, 1)
    damage(path)
    caplog.clear()
    np.testing.assert_array_equal(read(cached, ids), expected)
    assert cache_of(cached).wait(60)
    (line,) = _warnings(caplog)
    assert str(path) in line
    assert cached.cache_status().rebuilds == 1
    before = _counted(cached)
    np.testing.assert_array_equal(read(cached, ids), expected)
    assert _counted(cached)[1] == before[1]


def test_a_recording_changed_in_place_is_never_served_stale(
    data: Path, frames: Path, open_data: Open, caplog: pytest.LogCaptureFixture
) -> None:
    _write_files(data)
    ids = np.arange(3 * ROWS)
    old = open_data()
    fill(old)
    stale = _cached_of(old, 1)
    # Only the frames in its middle: nothing else of the recording tells.
    images = np.full((3, 6, 8, 3), 200, np.uint8)
    with h5py.File(data / "1.hdf5") as file:
        left = file["observations/left_image"][...]
    left[5:8] = images
    _rewrite(data / "1.hdf5", {"observations/left_image": left})
    new = open_data()
    expected = batch_of(open_data("none"), ids)
    np.testing.assert_array_equal(expected[ROWS + 5, 0, 0], images[0])
    np.testing.assert_array_equal(batch_of(new, ids), expected)
    assert _counted(new) == (2 * 2 * ROWS, 2 * ROWS)
    assert cache_of(new).wait(60)
    np.testing.assert_array_equal(batch_of(new, ids), expected)
    assert _counted(new) == (5 * 2 * ROWS, 2 * ROWS)
    assert not stale.exists()
    assert len(_cached(frames)) == 3
    assert new.cache_status().rebuilds == 1
    assert f"{stale}: dropped, {data / '1.hdf5'} has changed since it was built" in caplog.text


@pytest.mark.parametrize("how", ["replaced by another", "written anew", "copied over"])
def test_a_replaced_recording_is_never_served_stale(
    data: Path, frames: Path, open_data: Open, tmp_path: Path, how: str
) -> None:
    _write_files(data)
    ids = np.arange(3 * ROWS)
    fill(open_data())
    path, status = data / "1.hdf5", (data / "1.hdf5").stat()
    if how == "written anew":
        write(path, arrays(ROWS, seed=77, size=(6, 8)))
    else:
        other = write(tmp_path / "other.hdf5", arrays(ROWS, seed=77))
        if how == "replaced by another":
            other.replace(path)
        else:
            shutil.copyfile(other, path)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns + 10**9))
    new = open_data()
    expected = batch_of(open_data("none"), ids)
    for _ in range(2):
        np.testing.assert_array_equal(batch_of(new, ids), expected)
        assert cache_of(new).wait(60)
    assert new.cache_status().rebuilds == 1
    assert len(_cached(frames)) == 3


def test_a_replaced_recording_with_other_images_leaves_nothing_stale(
    data: Path, frames: Path, open_data: Open
) -> None:
    _write_files(data, 2)
    old = open_data()
    for spec in (SMALL, LARGE):
        fill(old, spec)
    write(data / "1.hdf5", arrays(ROWS, size=(10, 12), order="chw"))
    new = open_data()
    fill(new, SMALL)
    ids = np.arange(2 * ROWS)
    np.testing.assert_array_equal(
        batch_of(new, ids, SMALL), batch_of(open_data("none"), ids, SMALL)
    )
    # Both sizes of the old one are gone.
    assert len(_cached(frames)) == 3
    assert new.cache_status().rebuilds == 2


def test_a_run_goes_on_with_what_it_began_with_while_that_is_cached(
    data: Path, open_data: Open
) -> None:
    """What was cached is of the version that the run opened, so it is right for it."""
    _write_files(data)
    ids = np.arange(3 * ROWS)
    old = open_data()
    expected = batch_of(old, ids)
    assert cache_of(old).wait(60)
    (data / "0.hdf5").unlink()
    _rewrite(data / "1.hdf5", {"observations/left_image": np.zeros((ROWS + 1, 6, 8, 3))})
    np.testing.assert_array_equal(batch_of(old, ids), expected)


def test_a_run_whose_recording_changed_before_it_was_cached_is_told(
    data: Path, frames: Path, open_data: Open
) -> None:
    _write_files(data)
    backend = open_data()
    _rewrite(data / "1.hdf5", {"observations/left_image": np.zeros((ROWS + 1, 6, 8, 3))})
    for _ in range(2):
        with pytest.raises(DataFault, match=r"1\.hdf5: was changed"):
            batch_of(backend, range(3 * ROWS))
        assert cache_of(backend).wait(60)
    assert _cached_of(backend, 1) not in _cached(frames)
    assert len(_cached(frames)) == 2


@pytest.mark.parametrize("read", [batch_of, sent])
def test_a_recording_that_is_gone_is_named_and_the_others_are_cached(
    data: Path, frames: Path, open_data: Open, caplog: pytest.LogCaptureFixture, read: Any
) -> None:
    _write_files(data)
    expected = batch_of(open_data("none"), range(ROWS))
    backend = open_data()
    (data / "1.hdf5").unlink()
    for _ in range(5):
        with pytest.raises(DataFault, match=r"1\.hdf5: cannot be found"):
            read(backend, range(3 * ROWS))
        assert cache_of(backend).wait(60)
    assert len(_cached(frames)) == 2
    np.testing.assert_array_equal(read(backend, range(ROWS)), expected)
    said = [line for line in _warnings(caplog) if "its frames are not cached" in line]
    assert len(said) == 1
    assert str(data / "1.hdf5") in said[0]


RAW_BYTES = 401 * 3 * 6 * 8 * 3


def _write_large(data: Path, count: int) -> None:
    for number in range(count):
        write(data / f"{number}.hdf5", arrays(400, seed=number))


def test_data_larger_than_the_limit_is_cached_in_part_and_nothing_is_built_in_turn(
    data: Path, frames: Path, open_data: Open, caplog: pytest.LogCaptureFixture
) -> None:
    _write_large(data, 3)
    ids = np.random.default_rng(0).integers(0, 1200, 60)
    expected = batch_of(open_data("none"), ids)
    backend = open_data(cache_bytes=int(2.5 * RAW_BYTES), codec="raw")
    files: list[int] = []
    for _ in range(6):
        np.testing.assert_array_equal(batch_of(backend, ids), expected)
        assert cache_of(backend).wait(60)
        files.append(len(_cached(frames)))
    assert files == [2] * 6
    status = backend.cache_status()
    assert status.size_bytes <= status.limit_bytes
    assert (status.evictions, status.rebuilds) == (0, 0)
    assert status.hits > status.misses > 0
    (line,) = _warnings(caplog)
    assert "there is no room (cache_bytes sets the limit)" in line


def test_what_was_not_used_for_longest_makes_room_for_what_is(
    data: Path, frames: Path, open_data: Open
) -> None:
    _write_large(data, 3)
    backend = open_data(cache_bytes=int(2.5 * RAW_BYTES), codec="raw")
    for number, seconds_ago in ((0, 900), (1, 1200)):
        batch_of(backend, [400 * number])
        assert cache_of(backend).wait(60)
        path = _cached_of(backend, number)
        when = path.stat().st_ctime - seconds_ago
        os.utime(path, (when, when))
    batch_of(backend, [800])
    assert cache_of(backend).wait(60)
    assert set(_cached(frames)) == {_cached_of(backend, 0), _cached_of(backend, 2)}
    assert backend.cache_status().evictions == 1


def test_a_limit_too_small_for_any_file_is_said_once_and_all_is_read_on_the_fly(
    data: Path, frames: Path, open_data: Open, caplog: pytest.LogCaptureFixture
) -> None:
    _write_large(data, 2)
    ids = np.arange(0, 800, 20)
    expected = batch_of(open_data("none"), ids)
    backend = open_data(cache_bytes=RAW_BYTES // 2, codec="raw")
    for _ in range(4):
        np.testing.assert_array_equal(batch_of(backend, ids), expected)
        np.testing.assert_array_equal(sent(backend, ids), expected)
        assert cache_of(backend).wait(60)
    assert _cached(frames) == []
    assert _counted(backend)[0] == 0
    assert len(_warnings(caplog)) == 1


def test_a_full_disk_is_said_once_and_all_is_read_on_the_fly(
    data: Path,
    frames: Path,
    open_data: Open,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    _write_files(data)
    ids = np.arange(3 * ROWS)
    expected = batch_of(open_data("none"), ids)
    backend = open_data()

    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("penstock.frame_file.writer.os.pwrite", full)
    for _ in range(4):
        np.testing.assert_array_equal(batch_of(backend, ids), expected)
        assert cache_of(backend).wait(60)
    (line,) = _warnings(caplog)
    assert "is not cached, but read on the fly: the disk is full" in line
    assert list(frames.glob("*.*")) == []
    assert _counted(backend) == (0, 4 * 2 * len(ids))


def test_a_folder_that_vanishes_is_no_harm(data: Path, frames: Path, open_data: Open) -> None:
    _write_files(data)
    ids = np.arange(3 * ROWS)
    expected = batch_of(open_data("none"), ids)
    backend = open_data()
    fill(backend)
    shutil.rmtree(frames)
    # The open files go on; new ones cannot be made.
    np.testing.assert_array_equal(batch_of(backend, ids), expected)
    np.testing.assert_array_equal(batch_of(backend, ids, SMALL).shape[-3:], (4, 5, 3))
    assert cache_of(backend).wait(60)


def test_frames_in_other_files_are_read_there_at_every_call(
    data: Path, frames: Path, open_data: Open
) -> None:
    contents = arrays(ROWS)
    images = contents.pop("observations/left_image")
    raw = data / "images.raw"
    raw.write_bytes(images.tobytes())
    with h5py.File(write(data / "0.hdf5", contents), "a") as file:
        external = [(str(raw), 0, images.nbytes)]
        file.create_dataset("observations/left_image", images.shape, "u1", external=external)
    backend = open_data()
    fill(backend)
    assert _cached(frames) == []
    raw.write_bytes(np.full_like(images, 9).tobytes())
    assert (batch_of(backend, [3])[0, :, 0] == 9).all()
    assert _counted(backend)[0] == 0


def test_another_process_finds_what_this_one_cached(
    data: Path, open_data: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("penstock_sampler.cache.store._LOOK_AGAIN_S", 0.0)
    _write_files(data)
    ours, theirs = open_data(), open_data(cache_threads=0)
    batch_of(theirs, range(3 * ROWS))
    fill(ours)
    before = _counted(theirs)
    np.testing.assert_array_equal(
        batch_of(theirs, range(3 * ROWS)), batch_of(open_data("none"), range(3 * ROWS))
    )
    assert _counted(theirs) == (before[0] + 2 * 3 * ROWS, before[1])


def test_a_descriptor_is_handed_out_once_a_file_is_cached(data: Path, open_data: Open) -> None:
    _write_files(data, 1)
    backend = open_data()
    assert backend.cached_frames("0.hdf5", SMALL) is None
    assert cache_of(backend).wait(60)
    descriptor = backend.cached_frames("0.hdf5", SMALL)
    assert descriptor is not None
    file = FrameFile.open(descriptor)
    out = np.empty((ROWS, 2, 3, 4, 5, 3), np.uint8)
    rows = np.arange(ROWS)
    file.read_into(rows, np.where(rows == 4, rows, rows + 1), out)
    np.testing.assert_array_equal(out, batch_of(backend, rows, SMALL))
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.write(descriptor, b"x")


def test_no_transitions_are_no_frames(data: Path, open_data: Open) -> None:
    _write_files(data, 1)
    backend = open_data()
    assert batch_of(backend, []).shape == (0, 2, 3, 6, 8, 3)
    assert sent(backend, [], accepted=("raw",)).shape == (0, 2, 3, 6, 8, 3)
    assert _counted(backend) == (0, 0)


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_a_forked_worker_reads_through_the_cache(data: Path, open_data: Open) -> None:
    _write_files(data)
    ids = np.arange(3 * ROWS)
    backend = open_data()
    fill(backend)
    expected = batch_of(backend, ids)

    def work() -> None:
        before = _counted(backend)[1]
        np.testing.assert_array_equal(batch_of(backend, ids), expected)
        assert sent(backend, ids, SMALL).shape[-3:] == (4, 5, 3)
        # The other size is cached by nobody yet.
        assert _counted(backend)[1] == before + 3 * (ROWS + 1)

    assert succeeds_in_a_fork(work)
    np.testing.assert_array_equal(batch_of(backend, ids), expected)
