"""What one replica has done since it started: figures for ``GetStatus``."""

from __future__ import annotations

import secrets
import threading
import time
from collections import deque
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np

__all__ = ["Activity", "CacheStatus", "ReportsCache", "resident_bytes"]

_RECENT_FETCHES = 1024
_STATUS = Path("/proc/self/status")


@dataclass(frozen=True)
class CacheStatus:
    """State of a replica's frame cache; all zero without one.

    Attributes:
        hits: Observations read from the cache.
        misses: Observations read from their source.
        rebuilds: Cached files made again because they were stale or damaged.
        evictions: Cached files removed to stay under the limit.
        size_bytes: Size of all cached files.
        limit_bytes: What they may grow to.
        cached_files: Source files that are cached for at least one frame spec.
    """

    hits: int = 0
    misses: int = 0
    rebuilds: int = 0
    evictions: int = 0
    size_bytes: int = 0
    limit_bytes: int = 0
    cached_files: int = 0


@runtime_checkable
class ReportsCache(Protocol):
    """A backend with a frame cache."""

    def cache_status(self) -> CacheStatus:
        """State of the frame cache now."""
        ...


@dataclass
class Activity:
    """Counters of one process; safe to use from several threads.

    Attributes:
        replica_id: Drawn anew by every process, so that clients tell two of them apart.
        begun_s: When this process began to serve, ``time.monotonic()``.
        calls_in_flight: Calls that stream transitions now.
        transitions: Transitions sent.
        raw_bytes: Frames before encoding.
        sent_bytes: Frames as they were sent.
        local_descriptors: Descriptors handed to clients of the same machine.
        codec: Of the frames that were sent last; empty before.
    """

    replica_id: int = field(default_factory=lambda: secrets.randbits(64) or 1)
    begun_s: float = field(default_factory=time.monotonic)
    calls_in_flight: int = 0
    transitions: int = 0
    raw_bytes: int = 0
    sent_bytes: int = 0
    local_descriptors: int = 0
    codec: str = ""
    _fetch_s: deque[float] = field(default_factory=lambda: deque[float](maxlen=_RECENT_FETCHES))
    _lock: threading.Lock = field(default_factory=threading.Lock)

    @property
    def uptime_s(self) -> float:
        """Seconds since this process began to serve."""
        return time.monotonic() - self.begun_s

    def enter_call(self) -> None:
        """A call that streams transitions begins."""
        with self._lock:
            self.calls_in_flight += 1

    def leave_call(self, fetch_s: float | None) -> None:
        """Such a call ends; ``fetch_s`` is the duration of a Fetch that was answered whole."""
        with self._lock:
            self.calls_in_flight -= 1
            if fetch_s is not None:
                self._fetch_s.append(fetch_s)

    def sent(self, transitions: int, raw_bytes: int, sent_bytes: int, codec: str) -> None:
        """A part was handed to the transport; ``codec`` is empty without frames."""
        with self._lock:
            self.transitions += transitions
            self.raw_bytes += raw_bytes
            self.sent_bytes += sent_bytes
            self.codec = codec or self.codec

    def handed_descriptor(self) -> None:
        """A client of the same machine was given a descriptor."""
        with self._lock:
            self.local_descriptors += 1

    def fetch_quantiles_s(self) -> tuple[float, float]:
        """Median and 99th percentile of the last 1024 Fetch calls, in seconds; 0 without any."""
        with self._lock:
            recent = list(self._fetch_s)
        if not recent:
            return 0.0, 0.0
        median, tail = np.quantile(recent, (0.5, 0.99))
        return float(median), float(tail)


def resident_bytes(kind: str = "VmRSS") -> int:
    """Resident memory of this process; 0 where the system does not say.

    Args:
        kind: ``VmRSS`` for all of it, ``RssAnon`` for what is not backed by a file.
    """
    try:
        text = _STATUS.read_text("ascii")
    except OSError:
        return 0
    for line in text.splitlines():
        if line.startswith(f"{kind}:"):
            return int(line.split()[1]) * 1024
    return 0
