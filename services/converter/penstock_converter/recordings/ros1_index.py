"""The index of a ROS 1 bag, straight into arrays: 16 bytes a message while it is read."""

from __future__ import annotations

import os
from array import array
from bisect import bisect_left
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from rosbags import rosbag1
from rosbags.rosbag1.reader import Chunk, ChunkInfo, IndexData

from penstock_converter.recordings.ros1_records import INDEX, number_of, read_record
from penstock_converter.recordings.storage import Entries
from penstock_converter.recordings.views import FileView, Incomplete

__all__ = ["Column", "Ros1Index"]

_ENTRY_BYTES = 12
_MESSAGE_RECORD_BYTES = 46
"""Of a message's record, what is not its payload; newer recorders write no other fields."""

_ANY_CHUNK = Chunk(0, 0, bytes)

_CHUNKS = 256
"""Sizes of messages are found for so many chunks at a time."""


class Ros1Index(rosbag1.Reader):
    """The library's reader, which keeps 150 bytes a message, with an index of its own.

    It refuses what the library refuses, in its words. It reads no messages.
    """

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self._view: FileView | None = None
        self._found: dict[int, Column] = {}
        self._chunks_at, self._chunk_bytes = array("Q"), array("q")
        self._any_counts: dict[int, dict[int, int]] = {}

    @property
    def chunks_at(self) -> NDArray[np.int64]:
        """Places of the chunks in the file, (C,)."""
        return np.array(self._chunks_at, np.int64)

    def read_chunk(self) -> Chunk:
        """See the library."""
        assert self.bio  # noqa: S101 - the library opened it
        if self._view is None:
            size = os.fstat(self.bio.fileno()).st_size
            self._view = FileView(self.bio.fileno(), 0, size)
        at = self.bio.tell()
        super().read_chunk()
        record = read_record(self._view, at, whole=False)
        self._chunk_bytes.append(number_of(record.fields, "size", "<I"))
        # The library wants something to keep for each chunk; that may be the same for all.
        return _ANY_CHUNK

    def read_chunk_info(self) -> ChunkInfo:
        """See the library; of the connections in a chunk it keeps how many there are."""
        info = super().read_chunk_info()
        self._chunks_at.append(info.pos)
        count = len(info.connection_counts)
        counts = self._any_counts.setdefault(count, dict.fromkeys(range(count), 0))
        return ChunkInfo(info.pos, 0, 0, counts)

    def read_index_data(self, pos: int, indexes: dict[int, list[IndexData]]) -> None:
        """See the library.

        Raises:
            Incomplete: It is damaged.
        """
        del pos, indexes
        assert self.bio and self._view  # noqa: S101, PT018 - the library opened it
        at = self.bio.tell()
        record = read_record(self._view, at)
        version, count = (number_of(record.fields, name, "<I") for name in ("ver", "count"))
        if version != 1:
            raise Incomplete(f"IDXDATA version {version} is not supported")
        size = record.end - record.data_at
        if record.op != INDEX or size != count * _ENTRY_BYTES:
            raise Incomplete(f"the index of messages at {at} is damaged")
        column = self._found.setdefault(number_of(record.fields, "conn", "<I"), Column())
        column.add(len(self._chunk_bytes) - 1, self._view.take(record.data_at, size))
        self.bio.seek(record.end)

    def take_columns(self) -> dict[int, Column]:
        """What was found of each connection; asked for once."""
        columns = {each.id: self._found.pop(each.id, Column()) for each in self.connections}
        self._found.clear()
        self.chunk_infos.clear()
        self.chunks.clear()
        ends = np.array(self._chunk_bytes, np.int64)
        for first in range(0, len(ends), _CHUNKS):
            _add_sizes(list(columns.values()), first, ends)
        return columns


class Column:
    """Index entries of a connection as they are in the file.

    Attributes:
        size_bytes: Of its messages together, once that was found out.
    """

    def __init__(self) -> None:
        self.size_bytes = 0
        self._entries = bytearray()
        self._chunks, self._counts = array("q"), array("q")

    def __len__(self) -> int:
        return len(self._entries) // _ENTRY_BYTES

    def add(self, chunk: int, entries: bytes) -> None:
        """Take the entries of a chunk, numbered in the order of reading."""
        self._entries += entries
        self._chunks.append(chunk)
        self._counts.append(len(entries) // _ENTRY_BYTES)

    def between(self, first: int, stop: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Chunk and offset of the messages in the chunks ``[first, stop)``, (M,) int64 each."""
        begin, end = (bisect_left(self._chunks, chunk) for chunk in (first, stop))
        counts = np.array(self._counts[begin:end], np.int64)
        chunk = np.repeat(np.array(self._chunks[begin:end], np.int64), counts)
        at = sum(self._counts[:begin])
        return chunk, self._values[at : at + len(chunk), 2].astype(np.int64)

    def entries(self, chunks_at: NDArray[np.int64]) -> Entries:
        """Entries in order.

        Args:
            chunks_at: (C,) int64 places of the chunks in the file, in the order of reading.
        """
        values = self._values
        time_ns = values[:, 0].astype(np.int64)
        time_ns *= 1_000_000_000
        time_ns += values[:, 1]
        block = np.repeat(chunks_at[self._chunks], self._counts)
        return Entries.ordered(time_ns, block, values[:, 2], self.size_bytes)

    @property
    def _values(self) -> NDArray[np.uint32]:
        """Seconds, nanoseconds and offset, (M, 3)."""
        return np.frombuffer(self._entries, "<u4").reshape(-1, 3)


def _add_sizes(columns: Sequence[Column], first: int, ends: NDArray[np.int64]) -> None:
    """Sizes of the messages in chunks from ``first`` on: to the next one, or to the end."""
    found = [column.between(first, first + _CHUNKS) for column in columns]
    if not found:
        return
    owner = np.repeat(np.arange(len(found)), [len(chunk) for chunk, _ in found])
    chunk, offset = (np.concatenate(each) for each in zip(*found, strict=True))
    order = np.lexsort((offset, chunk))
    owner, chunk, offset = owner[order], chunk[order], offset[order]
    end = np.append(offset[1:], 0)
    last = np.append(chunk[1:] != chunk[:-1], True)[: len(chunk)]
    end = np.where(last, ends[chunk], end[: len(chunk)])
    sizes = np.maximum(end - offset - _MESSAGE_RECORD_BYTES, 0)
    for column, size in zip(columns, np.bincount(owner, sizes, len(columns)), strict=True):
        column.size_bytes += int(size)
