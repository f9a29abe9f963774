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
    wanted: Wanted,
) -> tuple[list[tuple[int, int]], NDArray[np.int64], NDArray[np.int64]]:
    """Every observation once, by file and row, and which of them each transition shows."""
    rows = np.concatenate([wanted.row, wanted.next_row])
    keys = np.tile(wanted.file.astype(np.int64), 2) << 32 | rows  # a file has less than 2^31 rows
    distinct, places = np.unique(keys, return_inverse=True)
    pairs = zip((distinct >> 32).tolist(), (distinct & 0xFFFFFFFF).tolist(), strict=True)
    places = places.reshape(-1).astype(np.int64)
    return list(pairs), places[: len(wanted.row)], places[len(wanted.row) :]
