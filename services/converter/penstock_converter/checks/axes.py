"""Axes of plots: what they span, and round numbers along them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

__all__ = ["Axis", "fit_axis"]

_SAME = 1e-9
"""Numbers that differ by less than this share of their size are the same for the eye."""

_NOTHING = 1e-300
_FIXED = 1e-4, 1e9
"""The finest step and the largest number that are written without an exponent."""


class Axis(NamedTuple):
    """Its ends, the numbers marked along it, (n,), and their texts."""

    low: float
    high: float
    ticks: NDArray[np.float64]
    texts: list[str]

    def share(self, values: NDArray[np.float64]) -> NDArray[np.float64]:
        """How far along the axis values are: 0 at its low end, 1 at its high one."""
        return (values - self.low) / (self.high - self.low)


def fit_axis(values: Sequence[NDArray[np.float64]], margin: float, most: int) -> Axis:
    """An axis for all values that are not NaN.

    Args:
        values: Of any shapes; none beyond 1e300.
        margin: Room at either end as a share of what they span.
        most: Ticks at most.
    """
    known = [part for part in values if np.isfinite(part).any()]
    low = min((float(np.nanmin(part)) for part in known), default=0.0)
    high = max((float(np.nanmax(part)) for part in known), default=0.0)
    size = max(abs(low), abs(high))
    if size < _NOTHING:
        low, high = -0.5, 0.5
    elif high - low <= size * _SAME:
        low, high = low - size / 10, high + size / 10
    else:
        room = (high - low) * margin
        low, high = low - room, high + room
    step = _round_step((high - low) / most)
    counts = np.arange(math.ceil(low / step), math.floor(high / step) + 1, dtype=np.float64)
    ticks = counts * step
    return Axis(low, high, ticks, [_text(tick, step, size) for tick in ticks.tolist()])


def _round_step(least: float) -> float:
    """The smallest of 1, 2, 5, 10, 20, ... that is not less."""
    power = 10.0 ** math.floor(math.log10(least))
    return next((factor * power for factor in (1, 2, 5) if factor * power >= least), 10 * power)


def _text(tick: float, step: float, size: float) -> str:
    finest, largest = _FIXED
    digits = -math.floor(math.log10(step) + _SAME)
    if step >= finest and size < largest:
        return f"{tick:.{max(0, digits)}f}"
    digits += math.floor(math.log10(abs(tick))) if tick else 0
    return f"{tick:.{max(0, digits)}e}" if tick else "0"
