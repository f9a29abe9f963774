"""Joints, actions and rewards as records of fixed size, in blocks that are checked when read.

A batch takes one small read a transition instead of four through HDF5, and memory does not grow
with the dataset. A block is the records of neighbouring observations and the XXH3-64 of their
bytes, seeded with the number of the block, so that no block passes for another one.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import xxhash
from numpy.typing import NDArray

from penstock.errors import Corrupt, DataFault, Internal
from penstock_sampler.sources.files import FileIdentity, OpenFiles

__all__ = ["DamagedRecords", "RecordPlace", "RecordReader", "RecordShape", "RecordWriter"]

_BLOCK_BYTES = 4096
"""A page: what a read costs anyhow."""
_HASH_BYTES = 8
_READ_AT_ONCE = 512
"""Transitions whose blocks are in memory at a time."""


class DamagedRecords(Corrupt):
    """Records that are not what was written.

    Attributes:
        file: Number of their file.
        place: Where they were looked for.
    """

    def __init__(self, message: str, file: int, place: RecordPlace) -> None:
        super().__init__(message, reason="DAMAGED_INDEX")
        self.file, self.place = file, place


@dataclass(frozen=True)
class RecordShape:
    """Records of ``joint | action | reward`` as float32, one per observation.

    The record of an observation that no action follows (N+1 layout) has zeros for action and
    reward.

    Attributes:
        joint_dim: Width of a joint vector.
        action_dim: Width of an action vector.
    """

    joint_dim: int
    action_dim: int

    @property
    def width(self) -> int:
        """Numbers in a record."""
        return self.joint_dim + self.action_dim + 1

    @property
    def block_rows(self) -> int:
        """Records in a block."""
        return max(1, (_BLOCK_BYTES - _HASH_BYTES) // (4 * self.width))

    @property
    def block_bytes(self) -> int:
        """Size of a block with its hash."""
        return 4 * self.width * self.block_rows + _HASH_BYTES

    def size_bytes(self, rows: int) -> int:
        """Size of ``rows`` records in blocks; the last block is filled up with zeros."""
        return -(-rows // self.block_rows) * self.block_bytes


class RecordWriter:
    """Writes the records of one file from ``offset`` of an open file on.

    Args:
        descriptor: Where to.
        offset: Where in it.
        shape: Widths of the vectors.
    """

    def __init__(self, descriptor: int, offset: int, shape: RecordShape) -> None:
        self._descriptor, self._shape = descriptor, shape
        self._rest = np.empty((0, shape.width), np.float32)
        self._blocks = 0
        self._start = offset
        self.rows = 0

    @property
    def end(self) -> int:
        """Offset behind the last block that was written."""
        return self._start + self._blocks * self._shape.block_bytes

    def append(
        self,
        joint: NDArray[np.float32],
        action: NDArray[np.float32],
        reward: NDArray[np.float32],
    ) -> None:
        """Add ``(n, J)`` joints with ``(m, A)`` actions and ``(m,)`` rewards, m at most n.

        Raises:
            OSError: They cannot be written, for lack of room most likely.
        """
        kept = len(self._rest)
        records = np.zeros((kept + len(joint), self._shape.width), np.float32)
        records[:kept] = self._rest
        records[kept:, : self._shape.joint_dim] = joint
        records[kept : kept + len(action), self._shape.joint_dim : -1] = action
        records[kept : kept + len(reward), -1] = reward
        self.rows += len(joint)
        whole = len(records) // self._shape.block_rows * self._shape.block_rows
        self._write(records[:whole])
        self._rest = records[whole:].copy()

    def finish(self) -> None:
        """Write what does not fill a block.

        Raises:
            OSError: It cannot be written, for lack of room most likely.
        """
        if len(self._rest):
            block = np.zeros((self._shape.block_rows, self._shape.width), np.float32)
            block[: len(self._rest)] = self._rest
            self._write(block)
            self._rest = self._rest[:0]

    def _write(self, records: NDArray[np.float32]) -> None:
        count = len(records) // self._shape.block_rows
        if not count:
            return
        blocks = np.empty((count, self._shape.block_bytes), np.uint8)
        blocks[:, :-_HASH_BYTES] = records.reshape(count, -1).view(np.uint8)
        hashes = [
            xxhash.xxh3_64_intdigest(block[:-_HASH_BYTES].data, number)
            for number, block in enumerate(blocks, self._blocks)
        ]
        blocks[:, -_HASH_BYTES:] = np.array(hashes, "<u8").view(np.uint8).reshape(count, -1)
        data, offset = blocks.data.cast("B"), self.end
        while data:
            written = os.pwrite(self._descriptor, data, offset)
            data, offset = data[written:], offset + written
        self._blocks += count


@dataclass(frozen=True, slots=True)
class RecordPlace:
    """Where the records of one file are.

    Attributes:
        identity: The file they are in; None for one that has no name.
        descriptor: Of a file without a name; else -1.
        offset: Of the first block.
        rows: How many records.
    """

    identity: FileIdentity | None
    descriptor: int
    offset: int
    rows: int


class RecordReader:
    """Reads records of many files; safe to use from several threads, and after a fork.

    Args:
        shape: Widths of the vectors, the same for all files.
        places: By file.
        files: Opens what the places name.
    """

    def __init__(
        self,
        shape: RecordShape,
        places: Sequence[RecordPlace],
        files: OpenFiles,
    ) -> None:
        self._shape, self._files = shape, files
        self._places = list(places)

    def place(self, file: int) -> RecordPlace:
        """Where the records of ``file`` are."""
        return self._places[file]

    def replace(self, file: int, place: RecordPlace) -> None:
        """From now on, read the records of ``file`` from ``place``."""
        self._places[file] = place

    def read(
        self, file: NDArray[np.int32], rows: NDArray[np.int64], next_rows: NDArray[np.int64]
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Records of ``rows`` and of ``next_rows`` in files, both ``(n, J + A + 1) float32``.

        Raises:
            DamagedRecords: A block is not what was written, or what holds them is gone.
        """
        records = np.empty((2, len(rows), self._shape.width), np.float32)
        for start in range(0, len(rows), _READ_AT_ONCE):
            part = slice(start, start + _READ_AT_ONCE)
            both = np.concatenate([rows[part], next_rows[part]])
            found = self._read(np.tile(file[part], 2).astype(np.int64), both)
            records[:, part] = found.reshape(2, -1, self._shape.width)
        return records[0], records[1]

    def _read(self, files: NDArray[np.int64], rows: NDArray[np.int64]) -> NDArray[np.float32]:
        block_rows = self._shape.block_rows
        # A file has less than 2^31 rows: file and block fit one number each.
        keys, slots = np.unique(files << 32 | rows // block_rows, return_inverse=True)
        payload = np.empty((len(keys), block_rows * self._shape.width), np.float32)
        hashes = np.empty(len(keys), "<u8")
        owners = keys >> 32
        edges = [0, *(np.flatnonzero(np.diff(owners)) + 1).tolist(), len(keys)]
        blocks = (keys & 0xFFFFFFFF).tolist()
        for first, last in itertools.pairwise(edges):
            owner = int(owners[first])
            place = self._places[owner]
            wanted = blocks[first:last]
            if wanted[-1] * block_rows >= place.rows:
                raise Internal(f"file {owner} has {place.rows} records, not block {wanted[-1]}")
            damaged = self._fill(place, wanted, payload[first:last], hashes[first:last])
            if damaged:
                raise DamagedRecords(damaged, owner, place)
        table = payload.reshape(len(keys), block_rows, self._shape.width)
        return table[slots.reshape(-1), rows % block_rows]

    def _fill(
        self,
        place: RecordPlace,
        blocks: list[int],
        payload: NDArray[np.float32],
        hashes: NDArray[np.uint64],
    ) -> str:
        """Read blocks of one file; returns what is wrong with them, nothing if all is well."""
        if place.identity is None:
            return self._fill_from(place.descriptor, place.offset, blocks, payload, hashes)
        try:
            with self._files.descriptor(place.identity) as descriptor:
                return self._fill_from(descriptor, place.offset, blocks, payload, hashes)
        except DataFault as error:
            return error.message

    def _fill_from(
        self,
        descriptor: int,
        offset: int,
        blocks: list[int],
        payload: NDArray[np.float32],
        hashes: NDArray[np.uint64],
    ) -> str:
        size = self._shape.block_bytes
        # Several reads are under way on a cold disk before the first one is waited for.
        for block in blocks if len(blocks) > 1 else ():
            os.posix_fadvise(descriptor, offset + block * size, size, os.POSIX_FADV_WILLNEED)
        for position, block in enumerate(blocks):
            row, own = payload[position].data, hashes[position : position + 1].data
            got = os.preadv(descriptor, [row, own], offset + block * size)
            if got != size or xxhash.xxh3_64_intdigest(row, block) != int(hashes[position]):
                return f"block {block} of its records is not what was written"
        return ""
