"""How long a client goes on asking: for a service that is away, and for a place in a full queue."""

from __future__ import annotations

import random
import threading
import time

from penstock.errors import LimitExceeded, PenstockError, Unavailable

__all__ = ["QUEUE_FULL", "Patience", "QueuePatience"]

QUEUE_FULL = "QUEUE_FULL"

_FIRST_WAIT_S, _LONGEST_WAIT_S = 0.1, 3.0
_FIRST_PLACE_S, _LONGEST_PLACE_S = 0.02, 0.5


class Patience:
    """Waits longer each time, until nothing has gone on for too long.

    Args:
        retry_s: For how long.
        closed: Ends a wait.
    """

    def __init__(self, retry_s: float, closed: threading.Event) -> None:
        self._retry_s, self._closed = retry_s, closed
        self.progress()

    def progress(self) -> None:
        """Something has gone on."""
        self._since_s = time.monotonic()
        self._wait_s = _FIRST_WAIT_S

    def wait(self, error: Unavailable) -> None:
        """Wait before the next try.

        Raises:
            Unavailable: ``error``, as it has been too long, or the client is closed.
        """
        if self._closed.is_set() or time.monotonic() - self._since_s > self._retry_s:
            raise error
        # Half of it at random: those that lost one service do not come back all at once.
        self._closed.wait(self._wait_s * random.uniform(0.5, 1))  # noqa: S311 - no secret
        self._wait_s = min(2 * self._wait_s, _LONGEST_WAIT_S)


class QueuePatience:
    """Waits for a place in a full queue.

    Args:
        wait_s: For how long; None for ever.
        closed: Ends a wait.
    """

    def __init__(self, wait_s: float | None, closed: threading.Event) -> None:
        self._until_s = None if wait_s is None else time.monotonic() + wait_s
        self._closed = closed
        self._wait_s = _FIRST_PLACE_S

    def wait(self, error: PenstockError) -> None:
        """Wait before the next try.

        Raises:
            LimitExceeded: The time is up, or the client is closed.
        """
        left_s = self._wait_s if self._until_s is None else self._until_s - time.monotonic()
        if self._closed.is_set() or left_s <= 0:
            raise LimitExceeded(error.message, reason=QUEUE_FULL, metadata=error.metadata)
        self._closed.wait(min(left_s, self._wait_s))
        self._wait_s = min(1.5 * self._wait_s, _LONGEST_PLACE_S)
