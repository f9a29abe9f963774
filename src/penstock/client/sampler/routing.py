"""Which replica is asked for which rows next: pure, so that it can be tested without a wire."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["Load", "Part", "next_part", "part_rows"]

MIN_ROWS = 8
_PARTS_PER_REPLICA = 3
_UNKNOWN_RATE = 1.0


@dataclass(frozen=True)
class Load:
    """What a replica is busy with.

    Attributes:
        calls: Calls in flight to it.
        free: Calls it may be given besides; 0 passes it over.
        rows_per_s: What a call to it has brought lately; 0 when nothing is known yet.
        stalled: A call to it has brought nothing for long.
    """

    calls: int
    free: int
    rows_per_s: float = 0.0
    stalled: bool = False


@dataclass(frozen=True)
class Part:
    """Rows for one call.

    Attributes:
        replica: Index of the replica in the loads that were given.
        rows: ``(k,) int64``, ascending, indices into the rows that were given.
    """

    replica: int
    rows: NDArray[np.int64]


def part_rows(rows: int, replicas: int) -> int:
    """Rows of one part: all for one replica, else so few that a faster one can bring more parts.

    Args:
        rows: Of the batch.
        replicas: That may be asked.
    """
    if replicas <= 1:
        return max(1, rows)
    return max(MIN_ROWS, -(-rows // (replicas * _PARTS_PER_REPLICA)))


def next_part(
    files: NDArray[np.int64],
    may: NDArray[np.bool_],
    alone: NDArray[np.bool_],
    loads: Sequence[Load],
    size: int,
) -> Part | None:
    """The next call: the least busy replica, and rows that few others could bring.

    A replica is judged by the time in which it would bring another part: calls in flight over its
    rate. A row that only a stalled replica holds is asked of that one; where another replica holds
    it as well, it waits for that one to be free.

    Args:
        files: ``(n,) int64``: file of each row that nobody has been asked for.
        may: ``(n, R) bool``: whether a replica may be asked for the row.
        alone: ``(n,) bool``: rows that are asked for with rows of their own file only.
        loads: Of each of the ``R`` replicas.
        size: Rows of a part.

    Returns:
        None when no replica that is free may be asked for any of the rows.
    """
    stalled = np.array([load.stalled for load in loads], np.bool_)
    may = may.copy()
    elsewhere = np.asarray(may[:, ~stalled].any(axis=1))
    may[:, stalled] &= ~elsewhere[:, None]
    wanted = np.asarray(may.any(axis=0))
    rates = [load.rows_per_s for load in loads if load.rows_per_s > 0]
    # A replica that nothing is known of counts as an average one.
    usual = sum(rates) / len(rates) if rates else _UNKNOWN_RATE

    def busy(replica: int) -> tuple[float, int]:
        load = loads[replica]
        return (load.calls + 1) / (load.rows_per_s or usual), replica

    free = [r for r, load in enumerate(loads) if wanted[r] and load.free > 0]
    if not free:
        return None
    replica = min(free, key=busy)
    rows = np.flatnonzero(may[:, replica])
    # What others could bring as well comes last.
    rows = rows[np.argsort(may[rows].sum(axis=1), kind="stable")]
    if alone[rows[0]]:
        rows = rows[alone[rows] & (files[rows] == files[rows[0]])]
    else:
        rows = rows[~alone[rows]]
    return Part(replica, np.sort(rows[:size]))
