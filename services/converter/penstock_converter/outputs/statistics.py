"""Statistics of features as LeRobot states them: min, max, mean, std, count, five quantiles.

Those of images are exact: pixels have 256 values, so histograms hold all there is to know and add
up across episodes. Those of numbers are taken from all values, one column at a time.
"""

from __future__ import annotations

from typing import Any, Self

import cv2
import numpy as np
from numpy.typing import NDArray

__all__ = ["QUANTILES", "Histogram", "Statistics", "of_columns"]

QUANTILES = {"q01": 0.01, "q10": 0.10, "q50": 0.50, "q90": 0.90, "q99": 0.99}

Statistics = dict[str, NDArray[np.float64]]
"""Arrays by name: (D,) for vectors, (3, 1, 1) for images, count (1,) always."""


class Histogram:
    """How often each level occurs in each channel of images.

    Args:
        counts: (3, 256) int64 for colours, (1, 65536) for depth.
        images: How many images were counted.
    """

    def __init__(self, counts: NDArray[np.int64], images: int = 0) -> None:
        self.counts, self.images = counts, images

    @classmethod
    def like(cls, pixels: NDArray[Any]) -> Self:
        """An empty one for images such as ``pixels``, (H, W, 3) uint8 or (H, W) uint16."""
        shape = (3, 256) if pixels.dtype == np.uint8 else (1, 65_536)
        return cls(np.zeros(shape, np.int64))

    def add(self, pixels: NDArray[Any]) -> None:
        """Count one image."""
        channels, levels = self.counts.shape
        for channel in range(channels):
            # Counts are float32, exact up to 2**24 pixels a bin.
            found = cv2.calcHist([pixels], [channel], None, [levels], [0, levels])
            self.counts[channel] += found.reshape(-1).astype(np.int64)
        self.images += 1

    def merge(self, other: Self) -> None:
        """Add the images of another histogram."""
        self.counts += other.counts
        self.images += other.images

    def statistics(self) -> Statistics:
        """Statistics by channel, (C, 1, 1); ``count`` is of images.

        Colours are scaled to [0, 1], distances stay millimetres.
        """
        channels, levels = self.counts.shape
        values = np.arange(levels, dtype=np.float64)
        pixels = self.counts.sum(axis=1)
        mean = (self.counts * values).sum(axis=1) / pixels
        variance = (self.counts * (values[None] - mean[:, None]) ** 2).sum(axis=1) / pixels
        occurring = self.counts > 0
        cumulative = self.counts.cumsum(axis=1)
        found = {
            "min": occurring.argmax(axis=1).astype(np.float64),
            "max": levels - 1.0 - occurring[:, ::-1].argmax(axis=1),
            "mean": mean,
            "std": np.sqrt(variance),
        }
        for name, share in QUANTILES.items():
            reached = cumulative >= np.ceil(share * pixels)[:, None]
            found[name] = reached.argmax(axis=1).astype(np.float64)
        scale = 255.0 if levels == 256 else 1.0  # noqa: PLR2004 - levels of uint8
        scaled = {name: each.reshape(channels, 1, 1) / scale for name, each in found.items()}
        return {**scaled, "count": np.array([self.images], np.float64)}


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
