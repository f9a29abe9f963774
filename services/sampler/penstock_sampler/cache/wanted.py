"""The frames that a call asks for: which observations, of which recordings, at what size."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["Wanted", "shown"]


@dataclass(frozen=True)
class Wanted:
    """The frames of ``n`` transitions.

    Attributes:
        file: ``(n,)``: which recording.
        row: ``(n,)``: the current observation.
        next_row: ``(n,)``: the next one.
        cameras: How many.
        height: Pixels of every image.
        width: Pixels of every image.
    """

    file: NDArray[np.int32]
    row: NDArray[np.int64]
    next_row: NDArray[np.int64]
    cameras: int
    height: int
    width: int


def shown(
    wanted: Wanted, *, by_file: bool
) -> tuple[list[tuple[int, int]], NDArray[np.int64], NDArray[np.int64]]:
    """Every observation once, its file and row, and which of them each transition shows.

    Args:
        wanted: ``n`` transitions.
        by_file: Whether they are ordered by file and row; else as the transitions need them.
    """
    # A file has less than 2^31 rows.
    keys = (
        np.stack([wanted.row, wanted.next_row], axis=1)
        | wanted.file.astype(np.int64)[:, None] << 32
    )
    distinct, firsts, places = np.unique(keys, return_index=True, return_inverse=True)
    places = places.reshape(-1, 2).astype(np.int64)
    if not by_file:
        order = np.argsort(firsts)
        place_of = np.empty_like(order)
        place_of[order] = np.arange(len(order))
        distinct, places = distinct[order], place_of[places]
    pairs = zip((distinct >> 32).tolist(), (distinct & 0xFFFFFFFF).tolist(), strict=True)
    return list(pairs), places[:, 0], places[:, 1]
