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
        first: (F,) int32 number of the message, in the bag's order; -1 where none fits.
        second: (F,) int32 number of the message to blend with; -1 where there is none.
        weight: (F,) float64 share of ``second``, in [0, 1].
        distance_s: (F,) float32 seconds to the farthest message used, inf where none exists.

    Without interpolation, ``second`` and ``weight`` are one value, repeated without memory.
    """

    first: NDArray[np.int32]
    second: NDArray[np.int32]
    weight: NDArray[np.float64]
    distance_s: NDArray[np.float32]

    @property
    def matched(self) -> NDArray[np.bool_]:
        """(F,) bool, which frames have what they need."""
        return self.first >= 0

    def at(self, frames: NDArray[np.integer] | slice) -> Track:
        """The track of some of the frames; of a slice, it is a view."""
        first = self.first[frames]
        second, weight = self.second, self.weight
        if second.strides == (0,):
            second = np.broadcast_to(second[:1], first.shape)
            weight = np.broadcast_to(weight[:1], first.shape)
        else:
            second, weight = second[frames], weight[frames]
        return Track(first, second, weight, self.distance_s[frames])


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
    times, order = times_ns, None
    if (times[1:] < times[:-1]).any():
        order = np.argsort(times_ns, kind="stable")
        times = times_ns[order]
    last = len(times) - 1
    # The last message not after the moment, and the first one not before it.
    before = np.searchsorted(times, moments_ns, side="right") - 1
    after = np.searchsorted(times, moments_ns, side="left")
    age = _seconds(moments_ns, times, before, exists=before >= 0)
    wait = -_seconds(moments_ns, times, after, exists=after <= last)
    second = np.broadcast_to(np.int32(-1), moments_ns.shape)
    weight = np.broadcast_to(np.float64(0), moments_ns.shape)
    if how == "hold":
        first, distance = before, age
    elif how == "nearest":
        later = wait < age
        first, distance = np.where(later, after, before), np.minimum(age, wait)
    else:
        first, distance = before, np.where(age == 0, 0.0, np.maximum(age, wait))
    fits = distance <= tolerance_s + 1e-9
    if not np.isfinite(tolerance_s):
        fits &= np.isfinite(distance)
    if how == "interpolate":
        blended = fits & (age != 0)
        second, weight = second.copy(), weight.copy()
        second[blended] = _numbers(after[blended], order)
        weight[blended] = age[blended] / (age[blended] + wait[blended])
    chosen = np.where(fits, _numbers(np.clip(first, 0, last), order), np.int32(-1))
    return Track(chosen, second, weight, distance.astype(np.float32))


def _numbers(at: NDArray[np.intp], order: NDArray[np.intp] | None) -> NDArray[np.int32]:
    """Numbers of messages by their places in ``order``."""
    return (at if order is None else order[at]).astype(np.int32)


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
