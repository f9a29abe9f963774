"""Which message each frame gets from each topic. Works on times alone."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

__all__ = ["Track", "align"]

Align = Literal["nearest", "hold", "interpolate"]


@dataclass(frozen=True)
class Track:
    """What one feature takes from its topic, frame by frame.

    Attributes:
        first: (F,) int64 number of the message, in the bag's order; -1 where none fits.
        second: (F,) int64 number of the message to blend with; -1 where there is none.
        weight: (F,) float64 share of ``second``, in [0, 1].
        distance_s: (F,) float64 seconds to the farthest message used, inf where none exists.
    """

    first: NDArray[np.int64]
    second: NDArray[np.int64]
    weight: NDArray[np.float64]
    distance_s: NDArray[np.float64]

    @property
    def matched(self) -> NDArray[np.bool_]:
        """(F,) bool, which frames have what they need."""
        return self.first >= 0

    def at(self, frames: NDArray[np.int64]) -> Track:
        """The track of some of the frames."""
        return Track(
            self.first[frames], self.second[frames], self.weight[frames], self.distance_s[frames]
        )


def align(
    moments_ns: NDArray[np.int64],
    times_ns: NDArray[np.int64],
    how: Align,
    tolerance_s: float,
) -> Track:
    """Pick messages for moments.

    Args:
        moments_ns: (F,) int64 moments to be filled, any order.
        times_ns: (M,) int64 times of the messages, any order, M >= 1.
        how: ``nearest`` (the earlier one of two as near), ``hold`` (the last one not after the
            moment), ``interpolate`` (the two around it; one alone where it fits exactly).
        tolerance_s: A message farther from the moment than this does not fit.
    """
    order = np.argsort(times_ns, kind="stable")
    times = times_ns[order]
    last = len(times) - 1
    # The last message not after the moment, and the first one not before it.
    before = np.searchsorted(times, moments_ns, side="right") - 1
    after = np.searchsorted(times, moments_ns, side="left")
    age = _seconds(moments_ns, times, before, exists=before >= 0)
    wait = -_seconds(moments_ns, times, after, exists=after <= last)
    second = np.full(len(moments_ns), -1, np.int64)
    weight = np.zeros(len(moments_ns))
    if how == "hold":
        first, distance = before, age
    elif how == "nearest":
        later = wait < age
        first, distance = np.where(later, after, before), np.minimum(age, wait)
    else:
        exact = age == 0
        first, distance = before, np.where(exact, 0.0, np.maximum(age, wait))
        blended = np.isfinite(distance) & ~exact
        second[blended] = order[after[blended]]
        weight[blended] = age[blended] / (age[blended] + wait[blended])
    fits = distance <= tolerance_s + 1e-9
    if not np.isfinite(tolerance_s):
        fits &= np.isfinite(distance)
    chosen = np.where(fits, order[np.clip(first, 0, last)], -1)
    return Track(
        chosen.astype(np.int64), np.where(fits, second, -1), np.where(fits, weight, 0.0), distance
    )


def _seconds(
    moments_ns: NDArray[np.int64],
    times_ns: NDArray[np.int64],
    numbers: NDArray[np.int64],
    *,
    exists: NDArray[np.bool_],
) -> NDArray[np.float64]:
    """Moment minus time of message, in seconds; inf (after sign) where there is no message."""
    clipped = np.clip(numbers, 0, len(times_ns) - 1)
    difference = (moments_ns - times_ns[clipped]) * 1e-9
    missing = np.where(numbers < 0, np.inf, -np.inf)
    return np.where(exists, difference, missing)
