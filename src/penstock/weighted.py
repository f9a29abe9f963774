"""Draws in proportion to weights: a search over sums of segments, then one within a segment.

A segment is a run of at most 512 transitions of one episode, so a draw costs O(log episodes) plus
a look at one segment, and a changed weight costs the sum of one. All sums run from left to right
in float64, so that every machine and every rank gets the same ones, whatever else is drawn.
"""

from __future__ import annotations

import threading
from contextlib import nullcontext
from typing import Any

import numpy as np
from numpy.typing import NDArray

from penstock.draws import unit
from penstock.errors import InvalidInput
from penstock.weights import Priorities, Weights, check_weights

__all__ = ["WeightedPlaces"]

_SEGMENT = 512
"""Part of what fixes a draw: runs resume on it, so it never changes."""
_BLOCK = 1 << 18
"""Transitions whose weights are summed at a time: the memory that sums need."""


class WeightedPlaces:
    """Draws places among the transitions of some episodes.

    Args:
        first: ``(E,) int64``: id of each episode's first transition.
        ends: ``(E,) int64``: place after each episode's last transition, ascending.
        bounds: ``(P + 1,) int64``: places where the parts of the dataset begin, and the total.
        weights: Of every transition of the dataset, by id.
        names: What each part is called in an error.

    Raises:
        InvalidInput: A weight is negative or not finite, or a part has none above 0.
    """

    def __init__(
        self,
        first: NDArray[np.int64],
        ends: NDArray[np.int64],
        bounds: NDArray[np.int64],
        weights: Weights,
        names: list[str],
    ) -> None:
        lengths = np.diff(ends, prepend=0)
        counts = -(-lengths // _SEGMENT)
        episode = np.repeat(np.arange(len(lengths), dtype=np.int64), counts)
        within = (
            np.arange(len(episode)) - np.repeat(np.cumsum(counts) - counts, counts)
        ) * _SEGMENT
        self._first = first[episode] + within
        self._place = (ends - lengths)[episode] + within
        self._length = np.minimum(lengths[episode] - within, _SEGMENT).astype(np.int32)
        # Segments never cross parts, because episodes do not.
        self._bounds = np.searchsorted(self._place, bounds, side="left")
        self._names, self._weights = names, weights
        self._by_id = np.argsort(self._first, kind="stable")
        self._sums = np.zeros(len(self._first), np.float64)
        self._cumulative = np.zeros(len(self._first), np.float64)
        self._version = -1
        self._lock = threading.Lock()
        with self._lock, self._held():
            self._refresh()

    def draw(
        self, part: NDArray[np.int64], which: NDArray[np.uint64], within: NDArray[np.uint64]
    ) -> NDArray[np.int64]:
        """Places of ``n`` draws, ``(n,) int64``.

        Args:
            part: ``(n,) int64``: the part each is drawn from.
            which: ``(n,) uint64`` uniform words that choose segments.
            within: ``(n,) uint64`` uniform words that choose transitions in them.

        Raises:
            InvalidInput: A weight has become negative, or all of a part have become zero.
        """
        with self._lock, self._held():
            if isinstance(self._weights, Priorities) or self._weights.flags.writeable:
                self._refresh()
            segments = np.empty(len(part), np.int64)
            for number in np.unique(part).tolist():
                rows = part == number
                begin, end = self._bounds[number], self._bounds[number + 1]
                segments[rows] = begin + _pick(self._cumulative[begin:end], unit(which[rows]))
            places = self._place[segments]
            values = self._values()
            fractions = unit(within)
            for row, segment in enumerate(segments.tolist()):
                start = self._first[segment]
                chosen = values[start : start + self._length[segment]]
                running = np.cumsum(chosen, dtype=np.float64)
                places[row] += _pick(running, fractions[row : row + 1])[0]
        return places

    def _held(self) -> Any:
        return self._weights.lock if isinstance(self._weights, Priorities) else nullcontext()

    def _values(self) -> NDArray[Any]:
        return self._weights.values if isinstance(self._weights, Priorities) else self._weights

    def _refresh(self) -> None:
        """Sum what may have changed since the last draw."""
        changed = None
        if isinstance(self._weights, Priorities):
            version, changed = self._weights.changes_since(self._version)
            if version == self._version:
                return
            self._version = version
        if changed is None:
            self._sum(self._by_id)
        else:
            # The segment that begins last at or before an id holds it, if any does.
            at = np.searchsorted(self._first, changed, side="right", sorter=self._by_id) - 1
            touched = np.unique(self._by_id[at[at >= 0]])
            self._sum(touched[np.argsort(self._first[touched], kind="stable")])
        for number, name in enumerate(self._names):
            part = slice(self._bounds[number], self._bounds[number + 1])
            self._cumulative[part] = np.cumsum(self._sums[part])
            if not self._cumulative[part][-1] > 0.0:
                raise InvalidInput(
                    f"the weights of {name} are all zero: give at least one transition a weight "
                    "above 0, or use sampling 'uniform'",
                    field="weights",
                )

    def _sum(self, segments: NDArray[np.int64]) -> None:
        """Sum the weights of ``segments``, which ascend by id, block by block."""
        values = self._values()
        blocks = self._first[segments] // _BLOCK
        for chosen in np.split(segments, np.flatnonzero(np.diff(blocks)) + 1):
            if not len(chosen):
                continue
            lengths = self._length[chosen].astype(np.int64)
            number = np.repeat(np.arange(len(chosen)), lengths)
            offset = self._first[chosen] - (np.cumsum(lengths) - lengths)
            ids = offset[number] + np.arange(len(number))
            weights = values[ids]
            check_weights(weights, ids)
            # Adds one after the other, unlike np.add.reduceat, whose order is its own affair.
            self._sums[chosen] = np.bincount(number, weights, minlength=len(chosen))


def _pick(cumulative: NDArray[np.float64], fraction: NDArray[np.float64]) -> NDArray[np.int64]:
    """The entry that each fraction of the total falls into; never one without weight."""
    total = cumulative[-1]
    found = np.searchsorted(cumulative, fraction * total, side="right")
    # A product may round up to the total: that belongs to the last entry with a weight.
    return np.minimum(found, np.searchsorted(cumulative, total, side="left"))
