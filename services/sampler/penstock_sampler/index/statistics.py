"""Moments of columns in one pass of bounded memory."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from penstock.moments import Moments

__all__ = ["RunningStatistics"]


class RunningStatistics:
    """Moments of the rows seen so far; of a column, rows that are not finite are left out.

    Args:
        widths: Of each column, in their order.

    Attributes:
        moments: By column, of the rows that went in.
        left_out: By column, rows with a value that is not finite.
    """

    def __init__(self, widths: Mapping[str, int]) -> None:
        self.moments = {name: Moments.empty(width) for name, width in widths.items()}
        self.left_out = dict.fromkeys(widths, 0)

    def add(self, columns: Mapping[str, NDArray[np.float32]]) -> None:
        """Take in ``(rows, width)`` of every column."""
        values = np.concatenate([columns[name] for name in self.moments], axis=1, dtype=np.float64)
        if np.isfinite(values).all():
            # All at once: for small files, calls cost more than numbers.
            found = Moments.of(values)
            start = 0
            for name, seen in self.moments.items():
                stop = start + columns[name].shape[1]
                self.moments[name] = seen.merged(found.part(start, stop))
                start = stop
            return
        for name, seen in self.moments.items():
            given = columns[name]
            kept = given[np.isfinite(given).all(axis=1)].astype(np.float64)
            self.left_out[name] += len(given) - len(kept)
            self.moments[name] = seen.merged(Moments.of(kept))
