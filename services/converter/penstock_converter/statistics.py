"""Statistics of features as LeRobot states them: min, max, mean, std, count, five quantiles.

Those of images are exact: pixels have 256 values, so histograms hold all there is to know and add
up across episodes. Those of numbers are taken from all values, one column at a time.
"""

from __future__ import annotations

from typing import Self

import cv2
import numpy as np
from numpy.typing import NDArray

from penstock_converter.images import Pixels

__all__ = ["QUANTILES", "ImageHistogram", "Statistics", "of_columns"]

QUANTILES = {"q01": 0.01, "q10": 0.10, "q50": 0.50, "q90": 0.90, "q99": 0.99}
_LEVELS = np.arange(256, dtype=np.float64)

Statistics = dict[str, NDArray[np.float64]]
"""Arrays by name: (D,) for vectors, (3, 1, 1) for images, count (1,) always."""


class ImageHistogram:
    """How often each level occurs in each channel: (3, 256) int64, and the number of images."""

    def __init__(self) -> None:
        self._counts = np.zeros((3, 256), np.int64)
        self._images = 0

    def add(self, pixels: Pixels) -> None:
        """Count one image."""
        for channel in range(3):
            # Counts are float32, exact up to 2**24 pixels a bin.
            counts = cv2.calcHist([pixels], [channel], None, [256], [0, 256])
            self._counts[channel] += counts.reshape(-1).astype(np.int64)
        self._images += 1

    def merge(self, other: Self) -> None:
        """Add the images of another histogram."""
        self._counts += other._counts
        self._images += other._images

    def statistics(self) -> Statistics:
        """Statistics of pixels scaled to [0, 1]; ``count`` is of images."""
        pixels = self._counts.sum(axis=1)
        mean = (self._counts * _LEVELS).sum(axis=1) / pixels
        variance = (self._counts * (_LEVELS[None] - mean[:, None]) ** 2).sum(axis=1) / pixels
        occurring = self._counts > 0
        cumulative = self._counts.cumsum(axis=1)
        levels = {
            "min": occurring.argmax(axis=1).astype(np.float64),
            "max": 255.0 - occurring[:, ::-1].argmax(axis=1),
            "mean": mean,
            "std": np.sqrt(variance),
        }
        for name, share in QUANTILES.items():
            reached = cumulative >= np.ceil(share * pixels)[:, None]
            levels[name] = reached.argmax(axis=1).astype(np.float64)
        scaled = {name: values.reshape(3, 1, 1) / 255.0 for name, values in levels.items()}
        return {**scaled, "count": np.array([self._images], np.float64)}


def of_columns(values: NDArray[np.generic]) -> Statistics:
    """Statistics of ``values`` (N, D), N >= 1, each column by itself; memory for one column.

    Quantiles are interpolated linearly, as ``numpy.quantile`` does.
    """
    count, width = values.shape
    names = ("min", "max", "mean", "std", *QUANTILES)
    table = np.empty((len(names), width), np.float64)
    for index in range(width):
        column = np.asarray(values[:, index], np.float64)
        table[:4, index] = column.min(), column.max(), column.mean(), column.std()
        table[4:, index] = np.quantile(column, list(QUANTILES.values()))
    return {
        **{name: table[row] for row, name in enumerate(names)},
        "count": np.array([count], np.float64),
    }
