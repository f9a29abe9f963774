"""Where the messages of topics are, in the order in which they are read."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from penstock_converter.recordings.storage import Entries, Place

__all__ = ["TopicIndex"]


class TopicIndex(NamedTuple):
    """Messages of one topic or several: 17 bytes each, in most recordings.

    Attributes:
        time_ns: (M,) int64, of receipt.
        stream: (M,) unsigned, number of the channel among those of all files.
        block: (M,) int32, see ``Entries``.
        offset: (M,) uint32 or int64, see ``Entries``.
        blocks: (B,) int64, see ``Entries``; blocks of several files may have one place.
        size_bytes: Of all together, about.
    """

    time_ns: NDArray[np.int64]
    stream: NDArray[np.unsignedinteger]
    block: NDArray[np.int32]
    offset: NDArray[np.integer]
    blocks: NDArray[np.int64]
    size_bytes: int

    @classmethod
    def of(cls, stream: int, entries: Entries) -> TopicIndex:
        """Messages of one channel."""
        streams = np.full(len(entries.time_ns), stream, np.min_scalar_type(stream))
        return cls(entries.time_ns, streams, *entries[1:])

    @classmethod
    def joined(cls, parts: Sequence[TopicIndex]) -> TopicIndex:
        """Messages of all parts, one part after the other."""
        if not parts:
            empty = np.zeros(0, np.int64)
            return cls.of(0, Entries.ordered(empty, empty, empty, size_bytes=0))
        if len(parts) == 1:
            return parts[0]
        blocks = np.unique(np.concatenate([part.blocks for part in parts]))
        places = [np.searchsorted(blocks, part.blocks).astype(np.int32) for part in parts]
        return cls(
            np.concatenate([part.time_ns for part in parts]),
            np.concatenate([part.stream for part in parts]),
            np.concatenate([at[part.block] for at, part in zip(places, parts, strict=True)]),
            np.concatenate([part.offset for part in parts]),
            blocks,
            sum(part.size_bytes for part in parts),
        )

    def at(self, which: NDArray[np.integer]) -> TopicIndex:
        """Some of the messages, and the blocks that they are in."""
        used, block = np.unique(self.block[which], return_inverse=True)
        return TopicIndex(
            self.time_ns[which],
            self.stream[which],
            block.astype(np.int32),
            self.offset[which],
            self.blocks[used],
            self.size_bytes,
        )

    def places(self, which: NDArray[np.integer]) -> Iterator[tuple[int, Place]]:
        """Stream and place of some of the messages."""
        columns = (self.time_ns[which], self.blocks[self.block[which]], self.offset[which])
        rows = zip(*(column.tolist() for column in columns), strict=True)
        return zip(self.stream[which].tolist(), map(Place._make, rows), strict=True)

    def order(self, files: NDArray[np.int64]) -> NDArray[np.intp]:
        """The order in which messages are read: by file, then time of receipt, then place.

        Args:
            files: (S,) int64, number of the file of each stream.
        """
        return np.lexsort((self.offset, self.block, self.time_ns, files[self.stream]))
