"""Moments of a column: what is enough to have mean, deviation and range, and can be merged.

Merging is by Chan, Golub and LeVeque, "Updating formulae and a pairwise algorithm for computing
sample variances" (1979), in float64. Merged in the same order, the same parts give the same bits.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

__all__ = ["ColumnStatistics", "Moments"]


@dataclass(frozen=True)
class ColumnStatistics:
    """Statistics of one column over all servable transitions, each array ``(D,) float32``."""

    mean: NDArray[np.float32]
    std: NDArray[np.float32]
    min: NDArray[np.float32]
    max: NDArray[np.float32]
    count: int


@dataclass(frozen=True)
class Moments:
    """Moments of ``count`` rows, each array ``(D,) float64``.

    Attributes:
        count: Rows that went in.
        mean: Their mean.
        squares: Sum of squared differences from the mean.
        min: Smallest value; plus infinity when no row went in.
        max: Largest value; minus infinity when no row went in.
    """

    count: int
    mean: NDArray[np.float64]
    squares: NDArray[np.float64]
    min: NDArray[np.float64]
    max: NDArray[np.float64]

    @classmethod
    def empty(cls, width: int) -> Moments:
        """Moments of no rows; nobody may write to the arrays."""
        return cls(0, *_nothing(width))

    @classmethod
    def of(cls, rows: NDArray[np.float64]) -> Moments:
        """Moments of ``rows``, ``(n, D)`` and finite."""
        if not len(rows):
            return cls.empty(rows.shape[1])
        mean = rows.mean(axis=0)
        squares = np.square(rows - mean).sum(axis=0)
        return cls(len(rows), mean, squares, rows.min(axis=0), rows.max(axis=0))

    def part(self, start: int, stop: int) -> Moments:
        """Moments of the columns from ``start`` to before ``stop``."""
        columns = slice(start, stop)
        return Moments(
            self.count,
            self.mean[columns],
            self.squares[columns],
            self.min[columns],
            self.max[columns],
        )

    def merged(self, other: Moments) -> Moments:
        """Moments of the rows of both."""
        if not other.count:
            return self
        if not self.count:
            return other
        total = self.count + other.count
        difference = other.mean - self.mean
        return Moments(
            total,
            self.mean + difference * (other.count / total),
            self.squares + other.squares + np.square(difference) * self.count * other.count / total,
            np.minimum(self.min, other.min),
            np.maximum(self.max, other.max),
        )

    def statistics(self) -> ColumnStatistics:
        """Mean, the population's standard deviation, range; all zero when no row went in."""
        if not self.count:
            zero = np.zeros(len(self.mean), np.float32)
            return ColumnStatistics(zero, zero, zero, zero, 0)
        return ColumnStatistics(
            mean=self.mean.astype(np.float32),
            std=np.sqrt(self.squares / self.count).astype(np.float32),
            min=self.min.astype(np.float32),
            max=self.max.astype(np.float32),
            count=self.count,
        )


@lru_cache(16)
def _nothing(width: int) -> tuple[NDArray[np.float64], ...]:
    arrays = tuple(np.full(width, value) for value in (0.0, 0.0, np.inf, -np.inf))
    for array in arrays:
        array.setflags(write=False)
    return arrays
