"""Where the messages of topics are, in the order in which they are read."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from penstock_converter.recordings.storage import Entries

__all__ = ["TopicIndex"]


class TopicIndex(NamedTuple):
    """Messages of one topic or several.

    Attributes:
        time_ns: (M,) int64, of receipt.
        stream: (M,) int64, number of the channel among those of all files.
        block: (M,) int64, see ``Entries``.
        offset: (M,) int64, see ``Entries``.
        size_bytes: Of all together, about.
    """

    time_ns: NDArray[np.int64]
    stream: NDArray[np.int64]
    block: NDArray[np.int64]
    offset: NDArray[np.int64]
    size_bytes: int

    @classmethod
    def of(cls, stream: int, entries: Entries) -> TopicIndex:
        """Messages of one channel."""
        time_ns, block, offset, size_bytes = entries
        return cls(time_ns, np.full(len(time_ns), stream, np.int64), block, offset, size_bytes)

    @classmethod
    def joined(cls, parts: Sequence[TopicIndex]) -> TopicIndex:
        """Messages of all parts, one part after the other."""
        empty = np.zeros(0, np.int64)
        time_ns, stream, block, offset = (
            np.concatenate([empty, *(part.columns[column] for part in parts)])
            for column in range(4)
        )
        return cls(time_ns, stream, block, offset, sum(part.size_bytes for part in parts))

    @property
    def columns(self) -> tuple[NDArray[np.int64], ...]:
        """Time, stream, block and offset, (M,) each."""
        return self.time_ns, self.stream, self.block, self.offset

    def at(self, which: NDArray[np.integer]) -> TopicIndex:
        """Some of the messages."""
        time_ns, stream, block, offset = (column[which] for column in self.columns)
        return TopicIndex(time_ns, stream, block, offset, self.size_bytes)

    def order(self, files: NDArray[np.int64]) -> NDArray[np.intp]:
        """The order in which messages are read: by file, then time of receipt, then place.

        Args:
            files: (S,) int64, number of the file of each stream.
        """
        return np.lexsort((self.offset, self.block, self.time_ns, files[self.stream]))
