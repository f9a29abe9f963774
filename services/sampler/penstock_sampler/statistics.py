"""Moments of a column in one pass of bounded memory."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from penstock.moments import Moments

__all__ = ["RunningStatistics"]


class RunningStatistics:
    """Moments of the rows seen so far; rows with a value that is not finite are left out.

    Attributes:
        moments: Of the rows that went in.
        left_out: Rows with a value that is not finite.
    """

    def __init__(self, width: int) -> None:
        self.moments = Moments.empty(width)
        self.left_out = 0

    def add(self, values: NDArray[np.float32]) -> None:
        """Take in ``values``, ``(rows, width)``."""
        finite = np.isfinite(values).all(axis=1)
        self.left_out += len(values) - int(np.count_nonzero(finite))
        self.moments = self.moments.merged(Moments.of(values[finite].astype(np.float64)))
