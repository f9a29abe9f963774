"""A batch's frames from many files: right in place, whole, and bounded in what is open."""

from __future__ import annotations

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
from descriptors import open_below
from penstock_sampler.sources.files import FileIdentity, OpenFiles
from penstock_sampler.sources.frames import FrameReader, FrameRequest
from penstock_sampler.sources.images import ImageColumn

from penstock.errors import DataFault, InvalidInput
from penstock.resize import resize_into

ROWS, HEIGHT, WIDTH = 12, 10, 14
CAMERAS = ("left", "right")
IMAGES = tuple(ImageColumn(name, name, HEIGHT, WIDTH, "hwc") for name in CAMERAS)
STORAGE: dict[str, dict[str, Any]] = {
    "contiguous": {},
    "chunks": {"chunks": (1, HEIGHT, WIDTH, 3)},
    "gzip": {"chunks": (4, HEIGHT, WIDTH, 3), "compression": "gzip"},
}


def pixels(seed: int) -> np.ndarray:
    """``(cameras, rows, height, width, 3)``."""
    shape = (len(CAMERAS), ROWS, HEIGHT, WIDTH, 3)
    return np.random.default_rng(seed).integers(0, 256, shape, np.uint8)


def record(path: Path, seed: int = 0, **options: Any) -> FileIdentity:
    with h5py.File(path, "w") as file:
        for name, frames in zip(CAMERAS, pixels(seed), strict=True):
            file.create_dataset(name, data=frames, **options)
    return FileIdentity.of(path)


def ask(identity: FileIdentity, rows: Any, places: Any) -> FrameRequest:
    return FrameRequest(identity, IMAGES, np.asarray(rows, np.int64), np.asarray(places, np.int64))


def batch(rows: int, size: tuple[int, int] = (HEIGHT, WIDTH)) -> np.ndarray:
    return np.full((rows, 2, len(CAMERAS), *size, 3), 77, np.uint8)


Make = Callable[..., FrameReader]


@pytest.fixture
def make() -> Iterator[Make]:
    opened: list[tuple[FrameReader, OpenFiles]] = []

    def one(io_threads: int = 3, limit: int = 8) -> FrameReader:
        files = OpenFiles(limit)
        opened.append((FrameReader(files, io_threads), files))
        return opened[-1][0]

    yield one
    for reader, files in opened:
        reader.close()
        files.close()


@pytest.mark.parametrize("storage", STORAGE)
@pytest.mark.parametrize("size", [(HEIGHT, WIDTH), (7, 9), (20, 3)])
@pytest.mark.parametrize("io_threads", [1, 4])
def test_every_place_gets_its_frame(
    tmp_path: Path, make: Make, storage: str, size: tuple[int, int], io_threads: int
) -> None:
    """Random pairs over 5 files, some rows more than once."""
    identities = [record(tmp_path / f"{n}.h5", n, **STORAGE[storage]) for n in range(5)]
    rng = np.random.default_rng(1)
    files, rows = rng.integers(0, 5, 40), rng.integers(0, ROWS - 1, 40)
    requests = [
        ask(
            identities[file],
            np.concatenate([rows[files == file], rows[files == file] + 1]),
            [(place, slot) for slot in (0, 1) for place in np.flatnonzero(files == file)],
        )
        for file in range(5)
    ]
    out = batch(40, size)
    make(io_threads).read(requests, out)
    for place, (file, row) in enumerate(zip(files, rows, strict=True)):
        for slot in (0, 1):
            for camera, stored in enumerate(pixels(file)[:, row + slot]):
                expected = np.empty((*size, 3), np.uint8)
                resize_into(stored, expected)
                np.testing.assert_array_equal(out[place, slot, camera], expected)


def test_places_that_are_not_asked_for_stay_as_they_are(tmp_path: Path, make: Make) -> None:
    identity, out = record(tmp_path / "a.h5"), batch(3)
    make().read([ask(identity, [4], [(1, 1)])], out)
    np.testing.assert_array_equal(out[1, 1], pixels(0)[:, 4])
    assert (out[[0, 2]] == 77).all()
    assert (out[1, 0] == 77).all()


@pytest.mark.parametrize("storage", STORAGE)
@pytest.mark.parametrize(("start", "stop"), [(0, ROWS), (3, 4), (2, 11), (5, 5)])
def test_a_block_is_read_in_order(
    tmp_path: Path, make: Make, storage: str, start: int, stop: int
) -> None:
    identity = record(tmp_path / "a.h5", **STORAGE[storage])
    out = np.empty((stop - start, len(CAMERAS), HEIGHT, WIDTH, 3), np.uint8)
    make().read_block(identity, IMAGES, start, stop, out)
    np.testing.assert_array_equal(out, pixels(0)[:, start:stop].swapaxes(0, 1))


def test_a_pair_of_neighbours_costs_one_call(
    tmp_path: Path, make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    identity, reader, out = record(tmp_path / "a.h5"), make(), batch(1)
    request = ask(identity, [6, 7], [(0, 0), (0, 1)])
    reader.read([request], out)
    calls: list[int] = []
    preadv = os.preadv

    def counted(descriptor: int, buffers: Any, offset: int) -> int:
        calls.append(len(buffers))
        return preadv(descriptor, buffers, offset)

    monkeypatch.setattr(os, "preadv", counted)
    reader.read([request], out)
    assert calls == [2, 2]  # one for each camera


def test_calls_that_are_cut_short_are_continued(
    tmp_path: Path, make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    identity, reader = record(tmp_path / "a.h5"), make(1)
    preadv, left = os.preadv, [0]

    def short(descriptor: int, buffers: Any, offset: int) -> int:
        left[0] = (left[0] + 101) % 700
        room, cut = left[0] + 1, []
        for buffer in buffers:
            part = memoryview(buffer).cast("B")[:room]
            room -= len(part)
            cut += [part] if len(part) else []
        return preadv(descriptor, cut, offset)

    monkeypatch.setattr(os, "preadv", short)
    out = np.empty((ROWS, len(CAMERAS), HEIGHT, WIDTH, 3), np.uint8)
    reader.read_block(identity, IMAGES, 0, ROWS, out)
    np.testing.assert_array_equal(out, pixels(0).swapaxes(0, 1))


def test_a_chunk_of_many_frames_is_read_once_for_a_batch(
    tmp_path: Path, make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    identity = record(tmp_path / "a.h5", **STORAGE["gzip"])
    reader, out, calls = make(), batch(ROWS), list[int]()
    request = ask(identity, range(ROWS), [(row, 0) for row in range(ROWS)])
    reader.read([request], out)
    preadv = os.preadv

    def counted(descriptor: int, buffers: Any, offset: int) -> int:
        calls.append(offset)
        return preadv(descriptor, buffers, offset)

    monkeypatch.setattr(os, "preadv", counted)
    reader.read([request], out)
    assert len(calls) == len(set(calls)) == len(CAMERAS) * ROWS // 4


@pytest.mark.parametrize("limit", [1, 3])
def test_descriptors_stay_bounded_over_300_files(
    tmp_path: Path, make: Make, limit: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = record(tmp_path / "first.h5").path
    copies = [Path(shutil.copyfile(first, tmp_path / f"{number}.h5")) for number in range(300)]
    identities = [FileIdentity.of(copy) for copy in copies]
    reader, out = make(4, limit), batch(300)
    most, lock = [0], threading.Lock()
    preadv = os.preadv

    def counted(descriptor: int, buffers: Any, offset: int) -> int:
        with lock:
            most[0] = max(most[0], open_below(tmp_path))
        return preadv(descriptor, buffers, offset)

    monkeypatch.setattr(os, "preadv", counted)
    for _ in range(2):
        reader.read([ask(one, [3], [(place, 0)]) for place, one in enumerate(identities)], out)
    assert 1 <= most[0] <= limit
    assert (out[:, 0] == pixels(0)[:, 3]).all()


def test_callers_share_a_reader(tmp_path: Path, make: Make) -> None:
    identities = [record(tmp_path / f"{n}.h5", n, **STORAGE["gzip"]) for n in range(6)]
    reader = make(3, limit=2)

    def one(seed: int) -> bool:
        rng, out = np.random.default_rng(seed), batch(6, (8, 8))
        rows = rng.integers(0, ROWS, 6)
        reader.read([ask(identities[n], [rows[n]], [(n, 0)]) for n in range(6)], out)
        alone = batch(6, (8, 8))
        for n in range(6):
            FrameReader(OpenFiles(1), 1).read([ask(identities[n], [rows[n]], [(n, 0)])], alone)
        return np.array_equal(out, alone)

    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(one, range(12)))


@pytest.mark.parametrize("places", [[(3, 0)], [(-1, 0)], [(0, 2)]])
def test_a_place_outside_the_batch_is_refused(tmp_path: Path, make: Make, places: Any) -> None:
    identity = record(tmp_path / "a.h5")
    with pytest.raises(InvalidInput, match="place "):
        make().read([ask(identity, [0], places)], batch(3))


def test_a_batch_that_is_not_contiguous_is_refused(tmp_path: Path, make: Make) -> None:
    identity = record(tmp_path / "a.h5")
    with pytest.raises(InvalidInput, match="contiguous"):
        make().read([ask(identity, [0], [(0, 0)])], batch(4)[::2])


@pytest.mark.parametrize("row", [-1, ROWS])
def test_a_row_that_is_not_there_is_named(tmp_path: Path, make: Make, row: int) -> None:
    identity = record(tmp_path / "a.h5")
    with pytest.raises(DataFault, match=rf"a\.h5: .*left: rows {row} to {row} of {ROWS}"):
        make().read([ask(identity, [row], [(0, 0)])], batch(1))
