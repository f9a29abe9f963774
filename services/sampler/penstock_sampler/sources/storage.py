"""Where the frames of one HDF5 dataset lie in its file."""

from __future__ import annotations

import math
import os
from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np
from numpy.typing import NDArray

from penstock_sampler.sources.column import Column
from penstock_sampler.sources.filters import NeedsHdf5, Pipeline, read_pipeline

__all__ = ["NOWHERE", "Chunked", "Contiguous", "Storage", "read_storage"]

NOWHERE = -(1 << 62)
"""Address of what was never written."""

_MAX_CHUNKS = 4 << 20
_MAX_CHUNK_BYTES = 32 << 20
"""Every reading thread decodes one at a time."""


@dataclass(frozen=True)
class Contiguous:
    """All frames one after the other.

    Attributes:
        address: Of the first frame, in bytes from the start of the file.
    """

    address: int

    def shifted(self, size_bytes: int) -> Contiguous:
        """The same, every address higher by so much."""
        return Contiguous(self.address + size_bytes)


@dataclass(frozen=True)
class Chunked:
    """Frames in chunks; a chunk holds the same part of each of some neighbouring frames.

    Attributes:
        addresses: ``(blocks, tiles) int64`` of each chunk, or :data:`NOWHERE`. Chunk ``(b, t)``
            holds frames from ``b * frames`` on, tile ``t`` of each.
        sizes: ``(blocks, tiles) uint32``, bytes as stored.
        masks: ``(blocks, tiles) uint32``, filters that were left out; None where none were.
        frames: Frames of one chunk.
        tile: Shape of the part of a frame that a chunk holds; reaches beyond the frame at its end.
        starts: Where each tile starts in the frame.
        pipeline: Filters of all chunks.
        fill: Value of what was never written.
    """

    addresses: NDArray[np.int64]
    sizes: NDArray[np.uint32]
    masks: NDArray[np.uint32] | None
    frames: int
    tile: tuple[int, int, int]
    starts: tuple[tuple[int, int, int], ...]
    pipeline: Pipeline
    fill: int

    @property
    def chunk_bytes(self) -> int:
        """Size of one decoded chunk."""
        return self.frames * math.prod(self.tile)

    @property
    def table_bytes(self) -> int:
        """Memory that the tables take."""
        masks = 0 if self.masks is None else self.masks.nbytes
        return self.addresses.nbytes + self.sizes.nbytes + masks

    def shifted(self, size_bytes: int) -> Chunked:
        """The same, every address higher by so much."""
        written = self.addresses != NOWHERE
        addresses = np.where(written, self.addresses + size_bytes, NOWHERE)
        return Chunked(
            addresses,
            self.sizes,
            self.masks,
            self.frames,
            self.tile,
            self.starts,
            self.pipeline,
            self.fill,
        )


Storage = Contiguous | Chunked


def read_storage(column: Column, path: Path, size_bytes: int) -> Storage:
    """Ask the HDF5 library where the frames of an image dataset are.

    Args:
        column: ``(rows, a, b, c) uint8``.
        path: The file that was opened.
        size_bytes: Its size, which every address is checked against.

    Raises:
        NeedsHdf5: They are stored in another way than the direct reads know.
    """
    if column.file_name != os.fsencode(path):
        raise NeedsHdf5("it is linked from another file")
    if column.is_external:
        raise NeedsHdf5("its data are in other files")
    layout = column.created.get_layout()
    if layout == h5py.h5d.CHUNKED:
        return _read_chunked(column, size_bytes)
    if layout != h5py.h5d.CONTIGUOUS:
        raise NeedsHdf5("its layout is virtual or compact")
    stored = column.handle.get_storage_size()
    address = column.address
    if address is None or stored != math.prod(column.shape):
        raise NeedsHdf5("its storage is not fully allocated")
    if address + stored > size_bytes:
        raise NeedsHdf5("it reaches beyond the end of the file")
    return Contiguous(address)


def _read_chunked(column: Column, size_bytes: int) -> Chunked:
    if not hasattr(column.handle, "chunk_iter"):
        raise NeedsHdf5("this HDF5 library lists no chunks: 1.12.3 or newer does")
    chunk: tuple[int, ...] = column.chunks or column.shape
    grid = [-(-extent // part) for extent, part in zip(column.shape, chunk, strict=True)]
    if math.prod(grid) > _MAX_CHUNKS or math.prod(chunk) > _MAX_CHUNK_BYTES:
        raise NeedsHdf5(f"it has {math.prod(grid)} chunks of {math.prod(chunk)} bytes")
    pipeline = read_pipeline(column.created)
    tiles = math.prod(grid[1:])
    addresses = np.full(grid[0] * tiles, NOWHERE, np.int64)
    sizes = np.zeros(grid[0] * tiles, np.uint32)
    masks = np.zeros(grid[0] * tiles, np.uint32)
    largest = 2 * math.prod(chunk) + 4096
    beyond = 0

    def note(info: h5py.h5d.StoreInfo) -> None:
        nonlocal beyond
        place = 0
        for offset, part, extent in zip(info.chunk_offset, chunk, grid, strict=True):
            place = place * extent + offset // part
        if (
            info.byte_offset + info.size > size_bytes
            or info.size > largest
            or (place >= len(addresses))
        ):
            beyond += 1
            return
        addresses[place] = info.byte_offset
        sizes[place] = info.size
        masks[place] = info.filter_mask

    column.handle.chunk_iter(note)
    if beyond:
        raise NeedsHdf5(f"{beyond} of its chunks are too large or beyond the end of the file")
    fill = 0
    if (addresses == NOWHERE).any():
        if column.created.get_fill_time() == h5py.h5d.FILL_TIME_NEVER:
            raise NeedsHdf5("parts were never written and have no fill value")
        fill = int(column.full().fillvalue)
    steps = [range(0, count * part, part) for count, part in zip(grid[1:], chunk[1:], strict=True)]
    return Chunked(
        addresses=addresses.reshape(grid[0], tiles),
        sizes=sizes.reshape(grid[0], tiles),
        masks=masks.reshape(grid[0], tiles) if masks.any() else None,
        frames=chunk[0],
        tile=(chunk[1], chunk[2], chunk[3]),
        starts=tuple((a, b, c) for a in steps[0] for b in steps[1] for c in steps[2]),
        pipeline=pipeline,
        fill=fill,
    )
