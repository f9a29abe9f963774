"""However frames are stored, they are read as they were written."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import h5py
import hdf5plugin
import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from penstock_sampler import sources
from penstock_sampler.metrics import SOURCE_MISMATCHES
from penstock_sampler.sources import finding
from penstock_sampler.sources.files import FileIdentity, OpenFiles
from penstock_sampler.sources.finding import FrameSources
from penstock_sampler.sources.frames import FrameReader
from penstock_sampler.sources.images import ImageColumn
from penstock_sampler.sources.reading import ChunkSource, Hdf5Source, PlainSource
from penstock_sampler.sources.scratch import Scratch

from penstock import native

ROWS, HEIGHT, WIDTH = 11, 6, 8
SHAPE = (ROWS, HEIGHT, WIDTH, 3)
ONE, FOUR = (1, HEIGHT, WIDTH, 3), (4, HEIGHT, WIDTH, 3)
LZF = ChunkSource if native.available() else Hdf5Source

# What a dataset is written with, and what is to read it.
STORAGE: dict[str, tuple[dict[str, Any], type]] = {
    "contiguous": ({}, PlainSource),
    "one frame a chunk": ({"chunks": ONE}, PlainSource),
    "chunks that do not divide the rows": ({"chunks": FOUR}, PlainSource),
    "parts of frames": ({"chunks": (3, 4, 5, 2)}, ChunkSource),
    "gzip": ({"chunks": ONE, "compression": "gzip"}, ChunkSource),
    "gzip, many frames": ({"chunks": FOUR, "compression": "gzip"}, ChunkSource),
    "gzip, parts": ({"chunks": (2, 6, 3, 1), "compression": "gzip"}, ChunkSource),
    "shuffled gzip": ({"chunks": ONE, "compression": "gzip", "shuffle": True}, ChunkSource),
    "lzf": ({"chunks": ONE, "compression": "lzf"}, LZF),
    "shuffled lzf": ({"chunks": FOUR, "compression": "lzf", "shuffle": True}, LZF),
    "lz4": ({"chunks": FOUR, **hdf5plugin.LZ4()}, ChunkSource),
    "lz4, small blocks": ({"chunks": FOUR, **hdf5plugin.LZ4(nbytes=100)}, ChunkSource),
    "blosc lz4": ({"chunks": FOUR, **hdf5plugin.Blosc(cname="lz4")}, ChunkSource),
    "blosc zstd": ({"chunks": FOUR, **hdf5plugin.Blosc(cname="zstd", shuffle=2)}, ChunkSource),
    "blosc blosclz": ({"chunks": ONE, **hdf5plugin.Blosc(cname="blosclz")}, ChunkSource),
    "blosc zlib": ({"chunks": ONE, **hdf5plugin.Blosc(cname="zlib")}, ChunkSource),
    "growing": ({"chunks": FOUR, "maxshape": (None, HEIGHT, WIDTH, 3)}, PlainSource),
    "growing every way": ({"chunks": FOUR, "maxshape": (None,) * 4}, PlainSource),
    "bitshuffle": ({"chunks": FOUR, **hdf5plugin.Bitshuffle(cname="lz4")}, Hdf5Source),
    "blosc2": ({"chunks": FOUR, **hdf5plugin.Blosc2()}, Hdf5Source),
    "zstd": ({"chunks": FOUR, **hdf5plugin.Zstd()}, Hdf5Source),
    "fletcher": ({"chunks": FOUR, "fletcher32": True}, Hdf5Source),
    "scale and offset": ({"chunks": FOUR, "scaleoffset": 0}, Hdf5Source),
}


def pictures(rows: int = ROWS, shape: tuple[int, ...] = (HEIGHT, WIDTH, 3)) -> NDArray[np.uint8]:
    """Frames of a few values, half of each compressible, each frame another one."""
    found = np.random.default_rng(3).integers(0, 256, (rows, *shape), np.uint8)
    found[:, : shape[0] // 2] = np.arange(rows, dtype=np.uint8)[:, None, None, None]
    return found


def image(dataset: str = "frames", order: Any = "hwc") -> ImageColumn:
    return ImageColumn("left", dataset, HEIGHT, WIDTH, order)


class Readers:
    """A reader and what it found out about a file."""

    def __init__(self) -> None:
        self.files = OpenFiles(8)
        self.reader = FrameReader(self.files, io_threads=2)

    def kind(self, path: Path, column: ImageColumn) -> type:
        found = FrameSources(self.files, Scratch()).find(FileIdentity.of(path), (column,))
        return type(found[0])

    def read(self, path: Path, start: int, stop: int, column: ImageColumn) -> NDArray[np.uint8]:
        out = np.full((stop - start, 1, HEIGHT, WIDTH, 3), 99, np.uint8)
        self.reader.read_block(FileIdentity.of(path), (column,), start, stop, out)
        return out[:, 0]


@pytest.fixture
def readers() -> Iterator[Readers]:
    found = Readers()
    yield found
    found.reader.close()
    found.files.close()


@pytest.mark.parametrize("storage", STORAGE)
@pytest.mark.parametrize("library", ["earliest", "latest"])
@pytest.mark.parametrize("user_block", [0, 1024])
def test_frames_are_read_as_written(
    tmp_path: Path, readers: Readers, storage: str, library: str, user_block: int
) -> None:
    options, kind = STORAGE[storage]
    path, frames = tmp_path / "a.h5", pictures()
    with h5py.File(path, "w", libver=library, userblock_size=user_block) as file:
        file.create_dataset("before", data=np.arange(5))
        file.create_dataset("frames", data=frames, **options)
    assert readers.kind(path, image()) is kind
    for start, stop in ((0, ROWS), (ROWS - 1, ROWS), (3, 9)):
        np.testing.assert_array_equal(readers.read(path, start, stop, image()), frames[start:stop])


def test_channels_first_are_turned(tmp_path: Path, readers: Readers) -> None:
    frames = pictures(shape=(3, HEIGHT, WIDTH))
    for name, options in (("plain", {}), ("gzip", {"chunks": True, "compression": "gzip"})):
        path = tmp_path / f"{name}.h5"
        with h5py.File(path, "w") as file:
            file.create_dataset("frames", data=frames, **options)
        found = readers.read(path, 0, ROWS, image(order="chw"))
        np.testing.assert_array_equal(found, frames.transpose(0, 2, 3, 1))


@pytest.mark.parametrize("compression", [None, "gzip"])
def test_frames_that_were_never_written_have_the_fill_value(
    tmp_path: Path, readers: Readers, compression: str | None
) -> None:
    path, frames = tmp_path / "a.h5", pictures()
    with h5py.File(path, "w") as file:
        stored = file.create_dataset(
            "frames", SHAPE, "u1", chunks=ONE, compression=compression, fillvalue=7
        )
        stored[2], stored[9] = frames[2], frames[9]
    expected = np.full(SHAPE, 7, np.uint8)
    expected[[2, 9]] = frames[[2, 9]]
    assert readers.kind(path, image()) is (ChunkSource if compression else PlainSource)
    np.testing.assert_array_equal(readers.read(path, 0, ROWS, image()), expected)


@pytest.mark.parametrize("kind", ["external", "virtual", "compact", "linked file"])
def test_unusual_storage_is_left_to_the_library(
    tmp_path: Path, readers: Readers, kind: str
) -> None:
    path, frames = tmp_path / "a.h5", pictures()
    with h5py.File(tmp_path / "other.h5", "w") as file:
        file["frames"] = frames
    with h5py.File(path, "w") as file:
        if kind == "external":
            (tmp_path / "raw").write_bytes(frames.tobytes())
            place = (str(tmp_path / "raw"), 0, frames.nbytes)
            file.create_dataset("frames", SHAPE, "u1", external=[place])
        elif kind == "virtual":
            layout = h5py.VirtualLayout(SHAPE, "u1")
            layout[:] = h5py.VirtualSource(str(tmp_path / "other.h5"), "frames", SHAPE)
            file.create_virtual_dataset("frames", layout)
        elif kind == "compact":
            created = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
            created.set_layout(h5py.h5d.COMPACT)
            space = h5py.h5s.create_simple(SHAPE)
            stored = h5py.h5d.create(file.id, b"frames", h5py.h5t.NATIVE_UINT8, space, created)
            h5py.Dataset(stored)[...] = frames
        else:
            file["frames"] = h5py.ExternalLink("other.h5", "/frames")
    assert readers.kind(path, image()) is Hdf5Source
    np.testing.assert_array_equal(readers.read(path, 2, 8, image()), frames[2:8])


def test_a_linked_dataset_of_the_same_file_is_read_directly(
    tmp_path: Path, readers: Readers
) -> None:
    path, frames = tmp_path / "a.h5", pictures()
    with h5py.File(path, "w") as file:
        file["old/camera"] = frames
        file["frames"] = h5py.SoftLink("/old/camera")
    assert readers.kind(path, image()) is PlainSource
    np.testing.assert_array_equal(readers.read(path, 0, ROWS, image()), frames)


@pytest.mark.parametrize("storage", ["contiguous", "one frame a chunk", "gzip"])
def test_a_wrong_address_is_caught_before_it_is_used(
    tmp_path: Path,
    readers: Readers,
    storage: str,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    path, frames = tmp_path / "a.h5", pictures()
    with h5py.File(path, "w") as file:
        file.create_dataset("frames", data=frames, **STORAGE[storage][0])

    def lie(*arguments: Any) -> sources.storage.Storage:
        return sources.storage.read_storage(*arguments).shifted(-1)

    monkeypatch.setattr(finding, "read_storage", lie)
    before = SOURCE_MISMATCHES._value.get()
    with caplog.at_level(logging.WARNING):
        np.testing.assert_array_equal(readers.read(path, 0, ROWS, image()), frames)
    assert SOURCE_MISMATCHES._value.get() == before + 1
    assert str(path) in caplog.text
    assert readers.kind(path, image()) is Hdf5Source


def test_a_wrong_address_of_the_last_frame_alone_is_caught(
    tmp_path: Path, readers: Readers, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, frames = tmp_path / "a.h5", pictures()
    with h5py.File(path, "w") as file:
        file.create_dataset("frames", data=frames, chunks=ONE)

    def lie(*arguments: Any) -> sources.storage.Storage:
        found = sources.storage.read_storage(*arguments)
        found.addresses[-1] -= 1
        return found

    monkeypatch.setattr(finding, "read_storage", lie)
    assert readers.kind(path, image()) is Hdf5Source


def test_tables_of_chunks_are_forgotten_beyond_their_limit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(finding, "_KEPT_BYTES", 6 * finding._SOURCE_BYTES)
    frames, paths = pictures(), [tmp_path / f"{number}.h5" for number in range(20)]
    for number, path in enumerate(paths):
        with h5py.File(path, "w") as file:
            file.create_dataset("frames", data=np.roll(frames, number, axis=0), chunks=ONE)
    files = OpenFiles(4)
    found = FrameSources(files, Scratch())
    for _ in range(2):
        for number, path in enumerate(paths):
            source = found.find(FileIdentity.of(path), (image(),))[0]
            out = np.empty((HEIGHT, WIDTH, 3), np.uint8)
            source.read([5], [out])
            np.testing.assert_array_equal(out, np.roll(frames, number, axis=0)[5])
            assert len(found._known) <= 6
    files.close()


SIDES = st.tuples(*(st.integers(1, side) for side in SHAPE))


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    chunks=SIDES,
    compression=st.sampled_from([None, "gzip", "lzf"]),
    rows=st.lists(st.integers(0, ROWS - 1), min_size=1, max_size=6, unique=True).map(sorted),
)
@example(chunks=(ROWS, 1, 1, 1), compression="gzip", rows=[0, 10])
def test_any_chunk_shape_gives_the_rows_that_are_asked_for(
    tmp_path: Path, chunks: tuple[int, ...], compression: str | None, rows: list[int]
) -> None:
    path, frames = tmp_path / "a.h5", pictures()
    with h5py.File(path, "w") as file:
        file.create_dataset("frames", data=frames, chunks=chunks, compression=compression)
    files = OpenFiles(2)
    source = FrameSources(files, Scratch()).find(FileIdentity.of(path), (image(),))[0]
    assert type(source) is not Hdf5Source or compression == "lzf"
    out = np.zeros((len(rows), HEIGHT, WIDTH, 3), np.uint8)
    for first, last in source.groups(rows, 4):
        source.read(rows[first:last], list(out[first:last]))
    files.close()
    np.testing.assert_array_equal(out, frames[rows])
