"""Cuts encoded observations into the parts of an answer: about one message's worth each.

Nothing is copied or read here: a part names ranges of the data.
"""

from __future__ import annotations

import itertools
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
        used: Which observations of what was read they are.
        current: For each row, which of ``image_bytes`` it shows.
        following: Likewise, for its next observation.
    """

    start: int
    stop: int
    image_bytes: NDArray[np.uint32]
    ranges: list[tuple[int, int]]
    size_bytes: int
    used: list[int]
    current: list[int]
    following: list[int]


def cut(read: Observations, part_bytes: int, row_bytes: int) -> Iterator[CutPart]:
    """Cut what was read into parts of at most ``part_bytes``, but of one row at least.

    ``row_bytes`` is what a row takes besides its encoded images.

    An observation that rows of two parts show goes into both.
    """
    sizes: list[int] = read.image_bytes.sum(axis=1, dtype=np.int64).tolist()
    ends = list(itertools.accumulate(sizes))
    current: list[int] = read.current.tolist()
    following: list[int] = read.following.tolist()
    # Plain numbers: a part has a few rows, for which arrays cost more than they give.
    for start, stop in _rows(current, following, sizes, part_bytes, row_bytes):
        used = sorted({*current[start:stop], *following[start:stop]})
        places = {shown: place for place, shown in enumerate(used)}
        ranges: list[tuple[int, int]] = []
        for shown in used:
            begin = ends[shown] - sizes[shown]
            if ranges and ranges[-1][1] == begin:  # neighbours in the data leave as one piece
                begin = ranges.pop()[0]
            ranges.append((begin, ends[shown]))
        yield CutPart(
            start,
            stop,
            read.image_bytes[used],
            ranges,
            sum(sizes[shown] for shown in used),
            used,
            [places[shown] for shown in current[start:stop]],
            [places[shown] for shown in following[start:stop]],
        )


def _rows(
    current: list[int], following: list[int], sizes: list[int], part_bytes: int, row_bytes: int
) -> Iterator[tuple[int, int]]:
    start, held_bytes = 0, 0
    part_of = [-1] * len(sizes)  # the part, named by its first row, that holds an observation
    for row, (shown, after) in enumerate(zip(current, following, strict=True)):
        added_bytes = row_bytes + (0 if part_of[shown] == start else sizes[shown])
        if after != shown and part_of[after] != start:
            added_bytes += sizes[after]
        if row > start and held_bytes + added_bytes > part_bytes:
            yield start, row
            start, held_bytes = row, 0
            added_bytes = row_bytes + sizes[shown] + (sizes[after] if after != shown else 0)
        part_of[shown] = part_of[after] = start
        held_bytes += added_bytes
    if len(current) > start:
        yield start, len(current)
