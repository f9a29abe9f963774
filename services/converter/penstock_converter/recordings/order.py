"""The order in which a recorder wrote messages: it tells whether the recorder's clock was set back.

Readers yield messages by time of receipt. When the clock goes back, those of two moments have the
same times and come mixed; only their places in the file tell them apart.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

__all__ = ["SetBack", "find_set_back"]

_SHORTEST_S = 0.5
"""Recorders with several threads write messages a little out of order; clocks are set by more."""


class SetBack(NamedTuple):
    """That the clock of a recorder was set back.

    Attributes:
        topic: Whose messages told it.
        messages: How many of them were written before.
        seconds: How far it was set.
    """

    topic: str
    messages: int
    seconds: float


def find_set_back(topic: str, files: Iterable[NDArray[np.int64]]) -> SetBack | None:
    """Where the clock was set back so that messages of two moments are mixed, if it was.

    Files that were put together in another order than time, with no two parts at one time, are
    good: reading by time repairs them.

    Args:
        topic: Whose messages they are.
        files: (M,) int64 times of receipt in nanoseconds, in the order of each file.
    """
    shortest_ns = round(_SHORTEST_S * 1e9)
    for times in files:
        steps = np.diff(times)
        backwards = np.flatnonzero(steps < -shortest_ns) + 1
        if not len(backwards):
            continue
        # Parts have no leaps either way, so two that share a time do so by their messages.
        starts = np.flatnonzero(np.abs(steps) > shortest_ns) + 1
        parts = np.split(times, starts)
        first = np.array([part.min() for part in parts])
        last = np.array([part.max() for part in parts])
        order = np.argsort(first, kind="stable")
        ends = np.minimum(np.maximum.accumulate(last[order])[:-1], last[order][1:])
        mixed = ends - first[order][1:]
        number = int(np.argmax(mixed))
        if mixed[number] > shortest_ns:
            # Of two parts at one time, the one that was written later came after the clock was set.
            later = int(starts[max(order[number], order[number + 1]) - 1])
            before = backwards[backwards <= later]
            at = int(before[-1] if len(before) else backwards[0])
            return SetBack(topic, at, float(-steps[at - 1]) / 1e9)
    return None
