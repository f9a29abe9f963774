"""Reading frames of one dataset: plainly stored, in encoded chunks, or through the HDF5 library."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from penstock.errors import Corrupt
from penstock_sampler.sources.files import FileIdentity, OpenFile, OpenFiles, unreadable
from penstock_sampler.sources.scratch import Scratch
from penstock_sampler.sources.storage import NOWHERE, Chunked, Contiguous, Storage

__all__ = ["ChunkSource", "FrameSource", "Hdf5Source", "PlainSource", "direct_source"]

_MOST_BUFFERS = 512
"""Of one call; systems take at most 1024."""


class FrameSource(Protocol):
    """Frames of one dataset; safe to use from several threads.

    Attributes:
        frame_shape: Shape of a frame as stored.
        rows: Number of frames.
        memory_bytes: What the source keeps in memory.
    """

    frame_shape: tuple[int, int, int]
    rows: int
    memory_bytes: int

    def groups(self, rows: Sequence[int], most: int) -> Iterator[tuple[int, int]]:
        """Ranges of positions in ``rows`` that one call of :meth:`read` is to read.

        Args:
            rows: Ascending, each once, at least one.
            most: Positions of a range, unless more come out of one decoded chunk.
        """
        ...

    def read(self, rows: Sequence[int], frames: Sequence[NDArray[np.uint8]]) -> None:
        """Read one group.

        Args:
            rows: Of one range that :meth:`groups` gave.
            frames: As many arrays of :attr:`frame_shape`, contiguous, filled.

        Raises:
            DataFault: The file cannot be read any more; names file and dataset.
        """
        ...


class PlainSource:
    """Frames that are stored as they are: neighbours are read by one call, wherever they go.

    Args:
        files: Hands out the descriptor.
        identity: The file.
        dataset: Path in the file, for messages.
        shape: ``(rows, a, b, c)`` of the dataset.
        storage: Contiguous, or chunks of whole frames without filters.
    """

    def __init__(
        self,
        files: OpenFiles,
        identity: FileIdentity,
        dataset: str,
        shape: tuple[int, int, int, int],
        storage: Storage,
    ) -> None:
        self._files, self._identity, self._dataset, self._storage = (
            files,
            identity,
            dataset,
            storage,
        )
        self.rows, self.frame_shape = shape[0], shape[1:]
        self._frame_bytes = math.prod(self.frame_shape)
        self.memory_bytes = storage.table_bytes if isinstance(storage, Chunked) else 0

    def groups(self, rows: Sequence[int], most: int) -> Iterator[tuple[int, int]]:
        """Frames that follow each other in the file."""
        yield from _runs(
            [self._address(row) for row in rows], self._frame_bytes, min(most, _MOST_BUFFERS)
        )

    def read(self, rows: Sequence[int], frames: Sequence[NDArray[np.uint8]]) -> None:
        """Read one group; see :class:`FrameSource`."""
        address = self._address(rows[0])
        if address == NOWHERE:
            for frame in frames:
                frame.fill(self._fill)
            return
        with self._files.descriptor(self._identity) as descriptor:
            _read_exactly(descriptor, frames, address, (self._identity, self._dataset))

    @property
    def _fill(self) -> int:
        return self._storage.fill if isinstance(self._storage, Chunked) else 0

    def _address(self, row: int) -> int:
        storage = self._storage
        if isinstance(storage, Contiguous):
            return storage.address + row * self._frame_bytes
        block, place = divmod(row, storage.frames)
        found = int(storage.addresses[block, 0])
        return found if found == NOWHERE else found + place * self._frame_bytes


class ChunkSource:
    """Frames in chunks that are decoded, or that hold parts of frames.

    Args:
        files: Hands out the descriptor.
        identity: The file.
        dataset: Path in the file, for messages.
        shape: ``(rows, a, b, c)`` of the dataset.
        storage: Its chunks.
        scratch: Working memory.
    """

    def __init__(
        self,
        files: OpenFiles,
        identity: FileIdentity,
        dataset: str,
        shape: tuple[int, int, int, int],
        storage: Chunked,
        scratch: Scratch,
    ) -> None:
        self._files, self._identity, self._dataset = files, identity, dataset
        self._storage, self._scratch = storage, scratch
        self.rows, self.frame_shape = shape[0], shape[1:]
        self.memory_bytes = storage.table_bytes

    def groups(self, rows: Sequence[int], most: int) -> Iterator[tuple[int, int]]:
        """Frames of one chunk, which is decoded once."""
        blocks = [row // self._storage.frames for row in rows]
        yield from _runs(blocks, 0, max(most, self._storage.frames))

    def read(self, rows: Sequence[int], frames: Sequence[NDArray[np.uint8]]) -> None:
        """Read one group; see :class:`FrameSource`."""
        storage = self._storage
        block = rows[0] // storage.frames
        if storage.frames == 1 and storage.tile == self.frame_shape:
            self._decode(block, 0, frames[0].reshape(-1))
            return
        places = [row - block * storage.frames for row in rows]
        decoded = self._scratch.take("chunk", storage.chunk_bytes)
        chunk = decoded.reshape(storage.frames, *storage.tile)
        for tile, (a, b, c) in enumerate(storage.starts):
            self._decode(block, tile, decoded)
            for place, frame in zip(places, frames, strict=True):
                # The last tile of an axis reaches beyond the frame.
                part = frame[
                    a : a + storage.tile[0], b : b + storage.tile[1], c : c + storage.tile[2]
                ]
                np.copyto(part, chunk[place, : part.shape[0], : part.shape[1], : part.shape[2]])

    def _decode(self, block: int, tile: int, out: NDArray[np.uint8]) -> None:
        storage = self._storage
        address = int(storage.addresses[block, tile])
        if address == NOWHERE:
            out.fill(storage.fill)
            return
        stored = self._scratch.take("stored", int(storage.sizes[block, tile]))
        with self._files.descriptor(self._identity) as descriptor:
            _read_exactly(descriptor, [stored], address, (self._identity, self._dataset))
        mask = 0 if storage.masks is None else int(storage.masks[block, tile])
        try:
            storage.pipeline.run(stored, mask, out)
        except Corrupt as error:
            raise unreadable(self._identity, error.message, self._dataset) from error


class Hdf5Source:
    """Frames that only the HDF5 library can read, one read of a process at a time.

    Args:
        files: Hands out the HDF5 file.
        identity: The file.
        dataset: Path in the file.
        shape: ``(rows, a, b, c)`` of the dataset.
    """

    memory_bytes = 0

    def __init__(
        self,
        files: OpenFiles,
        identity: FileIdentity,
        dataset: str,
        shape: tuple[int, int, int, int],
    ) -> None:
        self._files, self._identity, self._dataset = files, identity, dataset
        self.rows, self.frame_shape = shape[0], shape[1:]

    def groups(self, rows: Sequence[int], most: int) -> Iterator[tuple[int, int]]:
        """Frames that are neighbours."""
        yield from _runs(rows, 1, most)

    def read(self, rows: Sequence[int], frames: Sequence[NDArray[np.uint8]]) -> None:
        """Read one group; see :class:`FrameSource`."""

        def action(file: OpenFile) -> NDArray[np.uint8]:
            return file.column(self._dataset).read(rows[0], rows[0] + len(rows))

        for frame, found in zip(frames, self._files.read(self._identity, action), strict=True):
            np.copyto(frame, found)


def direct_source(
    files: OpenFiles,
    identity: FileIdentity,
    dataset: str,
    shape: tuple[int, int, int, int],
    storage: Storage,
    scratch: Scratch,
) -> FrameSource:
    """The source that reads such storage without the HDF5 library."""
    if isinstance(storage, Chunked) and (
        storage.pipeline.decode is not None
        or storage.tile != shape[1:]
        or (storage.sizes[storage.addresses != NOWHERE] != storage.chunk_bytes).any()
    ):
        return ChunkSource(files, identity, dataset, shape, storage, scratch)
    return PlainSource(files, identity, dataset, shape, storage)


def _runs(values: Sequence[int], step: int, most: int) -> Iterator[tuple[int, int]]:
    """Ranges of at most ``most`` positions along which values grow by ``step``."""
    first = 0
    for position in range(1, len(values)):
        if values[position] - values[position - 1] != step or position - first == most:
            yield first, position
            first = position
    yield first, len(values)


def _read_exactly(
    descriptor: int,
    buffers: Sequence[NDArray[np.uint8]],
    address: int,
    place: tuple[FileIdentity, str],
) -> None:
    """Fill ``buffers`` with neighbouring bytes of the file.

    Raises:
        DataFault: The file ends before.
    """
    wanted = sum(buffer.size for buffer in buffers)
    got = os.preadv(descriptor, [buffer.data for buffer in buffers], address)
    if got == wanted:
        return
    # A signal or a network file system may cut a call short; only nothing at all is the end.
    done = got
    for buffer in buffers:
        flat = buffer.reshape(-1)
        skipped = min(got, flat.size)
        got -= skipped
        while skipped < flat.size:
            more = os.preadv(descriptor, [flat[skipped:].data], address + done)
            if more == 0:
                identity, dataset = place
                raise unreadable(
                    identity, f"the file ends {wanted - done} bytes too early", dataset
                )
            skipped += more
            done += more
