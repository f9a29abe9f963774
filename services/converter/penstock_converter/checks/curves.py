"""Curves of any length as few points: those that decide which pixels a line covers."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["COLUMNS", "Series", "thin_curves"]

COLUMNS = 460
"""Pixels that an episode is wide when it is drawn."""

_POINTS = 4

Series = tuple[int, NDArray[np.int64], NDArray[np.float64]]
"""An episode, frames (n,), and numbers (n, D) of them."""


def thin_curves(
    blocks: Iterable[tuple[int, NDArray[Any]]], length: int
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Keep the first, lowest, highest and last number of each column of pixels.

    A line through these covers the pixels that the line through all would (M4: Jugel et al.,
    VLDB 2014), so that a peak of one frame is seen however long the episode is. Memory grows with
    the width of a row and of a block, not with the episode. What is short enough stays as it is.

    Args:
        blocks: Numbers (n, D) in order, and the frame that each block begins with.
        length: Frames of the episode.

    Returns:
        Frames (m,) and numbers (m, D) of them, m at most 4 ``COLUMNS``.

    Raises:
        ValueError: There are no blocks.
    """
    if length <= _POINTS * COLUMNS:
        parts = [(start, values.astype(np.float64)) for start, values in blocks]
        frames = [np.arange(start, start + len(values)) for start, values in parts]
        return np.concatenate(frames), np.concatenate([values for _, values in parts])
    bucket = -(-length // COLUMNS)
    kept: dict[int, NDArray[np.float64]] = {}
    for start, values in blocks:
        begins = np.arange(-start % bucket, len(values), bucket)
        for rows in np.split(values.astype(np.float64), begins[begins > 0]):
            found = np.stack([rows[0], np.fmin.reduce(rows), np.fmax.reduce(rows), rows[-1]])
            number = start // bucket
            if (before := kept.get(number)) is not None:
                found[0] = before[0]
                found[1] = np.fmin(before[1], found[1])
                found[2] = np.fmax(before[2], found[2])
            kept[number] = found
            start += len(rows)  # noqa: PLW2901 - of the next rows
    numbers = np.array(sorted(kept), np.int64) * bucket
    offsets = np.array([0, bucket // 2, bucket // 2, bucket - 1])
    frames = np.minimum(numbers[:, None] + offsets, length - 1).reshape(-1)
    return frames, np.concatenate([_in_order(kept[number]) for number in sorted(kept)])


def _in_order(points: NDArray[np.float64]) -> NDArray[np.float64]:
    """Where numbers fall, the highest comes before the lowest, so that the line does not jump."""
    falls = points[0] > points[3]
    points[1:3, falls] = points[2:0:-1, falls]
    return points
