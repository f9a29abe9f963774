"""What the batches of a client share, and one call that is on its way."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from penstock.client.sampler.direct import DirectPort
from penstock.client.sampler.fleet import Fleet
from penstock.client.sampler.replica import Connection, Replica
from penstock.client.sampler.threads import DaemonThreads
from penstock.client.sampler.transfer import TransferStatistics

__all__ = ["CALLS_IN_FLIGHT", "Call", "Fetching"]

CALLS_IN_FLIGHT = 8
HEDGE_AFTER_S = 0.5
GIVE_UP_S = 20.0
_HEDGE_FACTOR = 8.0
_GAP_WEIGHT = 0.05


class Fetching:
    """What all batches of a client share: threads, bounds, and the usual pace of messages.

    Attributes:
        calls: Calls in flight, without those that are stalled; guarded by the fleet's lock.
        gap_s: Usual time between two messages of a call; guarded likewise.
        hedge_after_s: A call that brings nothing for so long is hedged, at the earliest.
        give_up_s: A call that brings nothing for so long is cancelled.
        turns: Counts fetches, so that replicas can take turns.
    """

    def __init__(self, fleet: Fleet, transfer: TransferStatistics) -> None:
        self.fleet, self.transfer = fleet, transfer
        self.calls = 0
        self.gap_s = 0.0
        self.hedge_after_s, self.give_up_s = HEDGE_AFTER_S, GIVE_UP_S
        self.threads = DaemonThreads("penstock-fetch", 8 * CALLS_IN_FLIGHT)
        self.turns = itertools.count()

    @property
    def patience_s(self) -> float:
        """How long a call may bring nothing before its rows are asked of another replica too."""
        return max(self.hedge_after_s, _HEDGE_FACTOR * self.gap_s)

    def note_gap(self, seconds: float) -> None:
        """Take the time between two messages into the average."""
        self.gap_s += _GAP_WEIGHT * (seconds - self.gap_s)


@dataclass(eq=False)
class Call:
    """One part on its way; guarded by the fleet's lock, but for what its own thread does.

    Attributes:
        replica: Who is asked.
        connection: On which channel; held until the call has ended.
        direct: Where to ask first; None for nowhere else.
        version: Of the replica's dataset.
        rows: ``(k,) int64``: rows of the batch.
        local_ids: ``(k,) int64``: their ids at the replica.
        begun: Time (monotonic) when it was issued.
        moved: Time (monotonic) when something last came.
        brought: How many of the rows have come.
        decoding: Whether its thread writes to the batch now.
        stalled: Whether others may be asked for what it has not brought.
        given_up: Whether it was cancelled.
        ended: Whether it is out of the books.
        stream: What is iterated, once there is one; can be cancelled.
    """

    replica: Replica
    connection: Connection
    direct: DirectPort | None
    version: str
    rows: NDArray[np.int64]
    local_ids: NDArray[np.int64]
    begun: float
    moved: float
    brought: int = 0
    decoding: bool = False
    stalled: bool = False
    given_up: bool = False
    ended: bool = False
    stream: Any = None
