"""What has come over the wire, from whom, and how long a consumer waited for it."""

from __future__ import annotations

import threading
from collections import deque
from dataclasses import dataclass, field

import numpy as np

__all__ = ["ReplicaShare", "TransferStatistics"]

_KEPT_SECONDS = 1024


@dataclass
class ReplicaShare:
    """What one replica has brought."""

    rows: int = 0
    wire_bytes: int = 0


@dataclass
class TransferStatistics:
    """Counters of one client; safe to read at any time.

    Attributes:
        raw_bytes: Frames after decoding, those of the same machine's cache included.
        wire_bytes: Frames as they were sent.
        direct_bytes: Those of them that came over direct ports.
        local_bytes: Frames that were read from the same machine's cache, after decoding.
        batches: Batches that were given out.
        retries: Attempts that were made again, whatever the cause.
        reissues: Parts that another replica, or the same one later, had to bring.
        hedges: Parts that were asked for a second time because the first answer was slow.
        duplicate_rows: Rows that came twice and were thrown away.
        skipped_rows: Rows that nobody holds any more and batches go without.
        local_faults: Times that a cached file of the same machine, or the socket that hands it out,
            could not be used; its rows came over the wire.
        direct_faults: Times that a replica's direct port could not be reached or broke off; its
            rows came from its other port.
        wait_s: Seconds a consumer waited for batches: starvation.
        loop_s: Seconds between the first and the last batch given out, with all waiting.
        replicas: By address.
    """

    raw_bytes: int = 0
    wire_bytes: int = 0
    direct_bytes: int = 0
    local_bytes: int = 0
    batches: int = 0
    retries: int = 0
    reissues: int = 0
    hedges: int = 0
    duplicate_rows: int = 0
    skipped_rows: int = 0
    local_faults: int = 0
    direct_faults: int = 0
    wait_s: float = 0.0
    loop_s: float = 0.0
    replicas: dict[str, ReplicaShare] = field(default_factory=dict[str, ReplicaShare])
    _seconds: deque[float] = field(
        default_factory=lambda: deque[float](maxlen=_KEPT_SECONDS), repr=False
    )
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    def add(self, **amounts: float) -> None:
        """Add to counters by name."""
        with self._lock:
            for name, amount in amounts.items():
                setattr(self, name, getattr(self, name) + amount)

    def add_rows(self, replica: str, rows: int, wire_bytes: int, raw_bytes: int) -> None:
        """Count rows that ``replica`` brought."""
        with self._lock:
            share = self.replicas.setdefault(replica, ReplicaShare())
            share.rows += rows
            share.wire_bytes += wire_bytes
            self.wire_bytes += wire_bytes
            self.raw_bytes += raw_bytes

    def add_batch(self, seconds: float) -> None:
        """Count a batch and the seconds it took to fetch."""
        with self._lock:
            self.batches += 1
            self._seconds.append(seconds)

    @property
    def batch_p50_s(self) -> float:
        """Median seconds of the last 1024 batches."""
        return self._quantile(0.5)

    @property
    def batch_p99_s(self) -> float:
        """99th percentile of the seconds of the last 1024 batches."""
        return self._quantile(0.99)

    @property
    def wait_share(self) -> float:
        """Share of the loop's time that went into waiting for batches: 0 is never starved."""
        return self.wait_s / self.loop_s if self.loop_s else 0.0

    def _quantile(self, share: float) -> float:
        with self._lock:
            seconds = list(self._seconds)
        return float(np.quantile(seconds, share)) if seconds else 0.0
