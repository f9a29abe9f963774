"""Mean, standard deviation, minimum and maximum of a column in one pass of bounded memory.

Blocks are merged by Chan, Golub and LeVeque, "Updating formulae and a pairwise algorithm for
computing sample variances" (1979), in float64.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from penstock.dataset import ColumnStatistics

__all__ = ["RunningStatistics"]


class RunningStatistics:
    """Statistics of the rows seen so far; rows with a value that is not finite are left out.

    Attributes:
        count: Rows that went in.
        left_out: Rows with a value that is not finite.
    """

    def __init__(self, width: int) -> None:
        self.count = 0
        self.left_out = 0
        self._mean = np.zeros(width, np.float64)
        self._squares = np.zeros(width, np.float64)
        self._min = np.full(width, np.inf)
        self._max = np.full(width, -np.inf)

    def add(self, values: NDArray[np.float32]) -> None:
        """Take in ``values``, ``(rows, width)``."""
        finite = np.isfinite(values).all(axis=1)
        self.left_out += len(values) - int(np.count_nonzero(finite))
        rows = values[finite].astype(np.float64)
        if not len(rows):
            return
        block = RunningStatistics(rows.shape[1])
        block.count = len(rows)
        block._mean = rows.mean(axis=0)
        block._squares = np.square(rows - block._mean).sum(axis=0)
        block._min, block._max = rows.min(axis=0), rows.max(axis=0)
        self.merge(block)

    def merge(self, other: RunningStatistics) -> None:
        """Take in all that ``other`` has seen."""
        total = self.count + other.count
        self.left_out += other.left_out
        if not other.count:
            return
        difference = other._mean - self._mean
        self._squares += other._squares + np.square(difference) * self.count * other.count / total
        self._mean += difference * (other.count / total)
        np.minimum(self._min, other._min, out=self._min)
        np.maximum(self._max, other._max, out=self._max)
        self.count = total

    def result(self) -> ColumnStatistics:
        """The statistics; all zero when no row went in. ``std`` is the population's."""
        if not self.count:
            zero = np.zeros(len(self._mean), np.float32)
            return ColumnStatistics(zero, zero, zero, zero, 0)
        return ColumnStatistics(
            mean=self._mean.astype(np.float32),
            std=np.sqrt(self._squares / self.count).astype(np.float32),
            min=self._min.astype(np.float32),
            max=self._max.astype(np.float32),
            count=self.count,
        )
