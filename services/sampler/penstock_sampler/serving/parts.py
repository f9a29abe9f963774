"""Cuts encoded observations into the parts of an answer: about one message's worth each.

Nothing is copied or read here: a part names ranges of the data.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from penstock.observations import Observations

__all__ = ["CutPart", "cut"]


@dataclass(frozen=True)
class CutPart:
    """Consecutive rows of what was read, and the observations that they show.

    Attributes:
        start: First row.
        stop: Row after the last one.
        image_bytes: ``(N, C) uint32``: encoded sizes, every observation of these rows once.
        ranges: First byte and byte after the last one of each piece of the data that it needs.
        size_bytes: Of all pieces together.
        current: ``(rows,) int64`` into ``image_bytes``.
        following: ``(rows,) int64``, likewise.
    """

    start: int
    stop: int
    image_bytes: NDArray[np.uint32]
    ranges: list[tuple[int, int]]
    size_bytes: int
    current: NDArray[np.int64]
    following: NDArray[np.int64]


def cut(read: Observations, part_bytes: int) -> Iterator[CutPart]:
    """Cut what was read into parts of at most ``part_bytes``, but of one row at least.

    An observation that rows of two parts show goes into both.
    """
    sizes = read.image_bytes.sum(axis=1, dtype=np.int64)
    ends = np.cumsum(sizes)
    starts = ends - sizes
    for start, stop in _rows(read, sizes.tolist(), part_bytes):
        shown = np.concatenate([read.current[start:stop], read.following[start:stop]])
        used, places = np.unique(shown, return_inverse=True)
        # Neighbours in the data leave as one piece.
        breaks = np.flatnonzero(np.diff(used) != 1) + 1
        firsts = used[np.concatenate([[0], breaks])]
        lasts = used[np.concatenate([breaks - 1, [len(used) - 1]])]
        ranges = list(zip(starts[firsts].tolist(), ends[lasts].tolist(), strict=True))
        rows = stop - start
        yield CutPart(
            start,
            stop,
            read.image_bytes[used],
            ranges,
            int(sizes[used].sum()),
            places[:rows],
            places[rows:],
        )


def _rows(read: Observations, sizes: list[int], part_bytes: int) -> Iterator[tuple[int, int]]:
    start, held_bytes, held = 0, 0, set[int]()
    pairs = zip(read.current.tolist(), read.following.tolist(), strict=True)
    for row, pair in enumerate(pairs):
        added = {shown for shown in pair if shown not in held}
        added_bytes = sum(sizes[shown] for shown in added)
        if row > start and held_bytes + added_bytes > part_bytes:
            yield start, row
            start, held_bytes, held, added = row, 0, set[int](), set(pair)
            added_bytes = sum(sizes[shown] for shown in added)
        held |= added
        held_bytes += added_bytes
    if len(read.current) > start:
        yield start, len(read.current)
