"""What the formats have in common: an index of messages, and messages read through it.

An index has 16 bytes a message and holds no payload, so memory never follows the recording.
Chunks are decompressed one at a time, and those of a small cache are kept.
"""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from array import array
from collections import OrderedDict
from collections.abc import Collection
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from rosbags.interfaces import Connection, MessageDefinition

from penstock_converter.recordings.views import FileView, Incomplete, MemoryView, View

__all__ = ["Channel", "ChunkedFile", "Entries", "EntryList", "Place", "Storage", "channel_of"]

_CACHE_BYTES = 64_000_000
"""Of decompressed chunks; recorders with several threads write chunks that overlap in time."""

_VIEWS = 16
"""Chunks that stay in the file and are kept open; each has read a little ahead."""


class Channel(NamedTuple):
    """A stream of messages in one file.

    Attributes:
        number: Its name within the file.
        topic: Several channels may have the same.
        msgtype: As it is spelled in the file.
        definition: Of the type; may be none.
    """

    number: int
    topic: str
    msgtype: str
    definition: MessageDefinition


class Place(NamedTuple):
    """Where a message is: its time of receipt in ns, its block (0 is the file) and offset."""

    time_ns: int
    block: int
    offset: int


class Entries(NamedTuple):
    """Messages of a channel, by time of receipt, then in the order of the file.

    Attributes:
        time_ns: (M,) int64, of receipt.
        block: (M,) int32, number of the block in ``blocks``.
        offset: (M,) uint32 or int64, in the block.
        blocks: (B,) int64, sorted: place of each chunk in the file; 0 where there is none.
        size_bytes: Of all together; estimated where the index does not say.
    """

    time_ns: NDArray[np.int64]
    block: NDArray[np.int32]
    offset: NDArray[np.integer]
    blocks: NDArray[np.int64]
    size_bytes: int

    @classmethod
    def ordered(
        cls,
        time_ns: NDArray[np.int64],
        block: NDArray[np.int64],
        offset: NDArray[np.integer],
        size_bytes: int,
    ) -> Entries:
        """Entries from columns in any order; ``block`` is the place of each block."""
        if not (time_ns[1:] > time_ns[:-1]).all():
            order = np.lexsort((offset, block, time_ns))
            time_ns, block, offset = time_ns[order], block[order], offset[order]
        blocks, numbers = np.unique(block, return_inverse=True)
        narrow = not len(offset) or (offset.min() >= 0 and offset.max() >> 32 == 0)
        offset = offset.astype(np.uint32 if narrow else np.int64)
        return cls(time_ns, numbers.astype(np.int32), offset, blocks, size_bytes)


class EntryList:
    """Entries of a channel as they are found."""

    def __init__(self) -> None:
        self._columns = (array("q"), array("q"), array("q"))
        self._size_bytes = 0

    def __len__(self) -> int:
        return len(self._columns[0])

    def add(self, place: Place, size_bytes: int) -> None:
        """Add one message.

        Raises:
            Incomplete: Its time is beyond the year 2262.
        """
        if place.time_ns >> 63:
            raise Incomplete(f"a message has the time {place.time_ns} ns")
        for column, value in zip(self._columns, place, strict=True):
            column.append(value)
        self._size_bytes += size_bytes

    def entries(self) -> Entries:
        """All of them in order."""
        time_ns, block, offset = (np.array(column, np.int64) for column in self._columns)
        return Entries.ordered(time_ns, block, offset, self._size_bytes)


class Storage(ABC):
    """One storage file, open.

    Attributes:
        path: The file.
        channels: What is in it.
        warnings: What was lost, for people.
    """

    path: Path
    channels: tuple[Channel, ...]
    warnings: tuple[str, ...] = ()

    @abstractmethod
    def index(self, channels: Collection[int]) -> dict[int, Entries]:
        """Entries of channels, to be asked for once; no payload is read if there is an index."""

    @abstractmethod
    def read(self, channel: int, place: Place, limit_bytes: int | None = None) -> bytes:
        """The message at a place of the index, or no more than the first bytes of it.

        Raises:
            Incomplete: There is no such message any more.
        """

    @abstractmethod
    def salvage(self) -> int:
        """Go through the whole file and take what is there; returns how many messages."""

    def forget(self) -> None:
        """Give back the memory of what was read: another file is read now."""
        return

    @abstractmethod
    def close(self) -> None:
        """Give back the file."""


class ChunkedFile(Storage):
    """A file of chunks; those of a format know how to open one and what a message looks like."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._descriptor = os.open(path, os.O_RDONLY)
        self.size_bytes = os.fstat(self._descriptor).st_size
        self.view = FileView(self._descriptor, 0, self.size_bytes)
        self._chunks: OrderedDict[int, View] = OrderedDict()
        self._cost = 0
        self._latest: tuple[int, View] = (0, self.view)

    @abstractmethod
    def open_chunk(self, at: int) -> View:
        """The content of the chunk whose record begins at ``at``.

        Raises:
            Incomplete: It is cut or damaged.
        """

    def block(self, at: int) -> View:
        """The file or a chunk of it, from the cache if it is there."""
        latest, found = self._latest
        if at == latest:
            return found
        if at == 0:
            return self.view
        found = self._chunks.get(at)
        if found is None:
            found = self._chunks[at] = self.open_chunk(at)
            self._cost += _cost(found)
            while self._cost > _CACHE_BYTES and len(self._chunks) > 1:
                _, gone = self._chunks.popitem(last=False)
                self._cost -= _cost(gone)
        self._chunks.move_to_end(at)
        self._latest = at, found
        return found

    def forget(self) -> None:
        """See ``Storage``."""
        self._chunks.clear()
        self._cost = 0
        self._latest = 0, self.view

    def close(self) -> None:
        """See ``Storage``."""
        self.forget()
        os.close(self._descriptor)


def _cost(chunk: View) -> int:
    """Share of the cache that a chunk takes, in bytes."""
    return chunk.size_bytes if isinstance(chunk, MemoryView) else _CACHE_BYTES // _VIEWS


def channel_of(connection: Connection) -> Channel:
    """A channel as rosbags found it.

    Raises:
        Incomplete: Its names are none; SQLite keeps anything anywhere.
    """
    names: list[Any] = [connection.topic, connection.msgtype]
    if not all(isinstance(name, str) and name for name in names):
        raise Incomplete(f"a topic has the name and type {names}")
    return Channel(connection.id, connection.topic, connection.msgtype, connection.msgdef)
