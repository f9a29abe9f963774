"""Bounds the streams of a server: how many there are, and how long one may wait for its client."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Generator
from dataclasses import dataclass
from typing import Protocol

import structlog

from penstock.errors import LimitExceeded
from penstock_sampler import metrics

__all__ = ["Caller", "Stream", "Streams"]

log = structlog.get_logger(__name__)

_RETRY_S = 0.2
_LONGEST_LOOK_S = 5.0


class Caller(Protocol):
    """Who asked for a stream: of gRPC's context what streams need."""

    def peer(self) -> str:
        """Where it is, for the log."""
        ...

    def is_active(self) -> bool:
        """Whether it still wants an answer."""
        ...

    def cancel(self) -> object:
        """End the call, from any thread."""
        ...


@dataclass(eq=False)
class Stream:
    """One stream; waiting for its client from ``sending`` to ``sent``."""

    peer: str
    cancel: Callable[[], object]
    waits_since_s: float | None = None

    def sending(self) -> None:
        """A message goes to the transport, which takes it when the client reads."""
        self.waits_since_s = time.monotonic()

    def sent(self) -> None:
        """The transport took it."""
        self.waits_since_s = None


class Streams:
    """The streams that are open; safe to use from several threads.

    A stream holds a thread and a few messages. A client that stops reading would hold them for
    ever, and some of those would hold the server, so a stream that has waited ``stall_s`` for its
    client is cancelled: it can ask again for what it has not got.

    Args:
        limit: Streams at a time.
        stall_s: Seconds that one may wait for its client; 0 for any.
    """

    def __init__(self, limit: int, stall_s: float) -> None:
        self.limit, self._stall_s = limit, stall_s
        self._open: set[Stream] = set()
        self._lock = threading.Lock()
        self._changed = threading.Condition(self._lock)
        self._watch: threading.Thread | None = None

    @contextlib.contextmanager
    def admit(self, peer: str, cancel: Callable[[], object]) -> Generator[Stream]:
        """Hold a place for a stream.

        Args:
            peer: Whose stream it is, for the log.
            cancel: Ends the stream, from another thread.

        Raises:
            LimitExceeded: All places are taken; says when to ask again.
        """
        stream = Stream(peer, cancel)
        with self._lock:
            if len(self._open) >= self.limit:
                metrics.REFUSED_CALLS.inc()
                raise LimitExceeded(
                    f"{self.limit} streams are open, this server takes no more: ask again in "
                    f"{_RETRY_S} s, or ask another replica",
                    reason="BUSY",
                    retry_after_s=_RETRY_S,
                )
            self._open.add(stream)
            metrics.STREAMS.set(len(self._open))
            if self._stall_s and self._watch is None:
                self._watch = threading.Thread(
                    target=self._end_stalled, name="stalled-streams", daemon=True
                )
                self._watch.start()
        try:
            yield stream
        finally:
            with self._lock:
                self._open.discard(stream)
                metrics.STREAMS.set(len(self._open))
                if not self._open:
                    self._changed.notify_all()

    def _end_stalled(self) -> None:
        """Look at the streams while there are any; the next first one starts this again."""
        while True:
            with self._lock:
                self._changed.wait(min(self._stall_s / 4, _LONGEST_LOOK_S))
                if not self._open:
                    self._watch = None
                    return
                latest_s = time.monotonic() - self._stall_s
                stalled = [
                    stream
                    for stream in self._open
                    if stream.waits_since_s is not None and stream.waits_since_s < latest_s
                ]
            for stream in stalled:
                stream.sent()
                metrics.STALLED_STREAMS.inc()
                log.warning("client stopped reading", peer=stream.peer, stall_s=self._stall_s)
                stream.cancel()
