"""Waiting until a store changes, by a thread of this process or by another process."""

from __future__ import annotations

import threading
import time

from penstock_checkpointer.database import Database

__all__ = ["Changes"]

_LOOK_S = 0.015
"""How often others' changes are looked for: a few microseconds each time."""

_LOOK_AGAIN_S = 1.0
"""After that much a waiter looks for itself: a lease runs out without a change."""


class Changes:
    """Wakes who waits.

    Args:
        database: Whose changes count.
    """

    def __init__(self, database: Database) -> None:
        self._database = database
        self._condition = threading.Condition()
        self._count = 0
        self.closed = False

    def now(self) -> tuple[int, int]:
        """To be asked for before one looks for what one may have to wait for."""
        return self._count, self._database.others_version()

    def announce(self) -> None:
        """Something has changed."""
        with self._condition:
            self._count += 1
            self._condition.notify_all()

    def wait(self, seen: tuple[int, int], until_s: float) -> bool:
        """Wait for a change since ``seen``, or for a time that makes a new look worth while.

        Args:
            seen: What ``now`` gave.
            until_s: On the monotonic clock: when to give up.

        Returns:
            Whether to look again; False once the time is up or the store is closed.
        """
        look_s = time.monotonic() + _LOOK_AGAIN_S
        while not self.closed:
            now_s = time.monotonic()
            if now_s >= until_s:
                return False
            if now_s >= look_s or self.now() != seen:
                return True
            with self._condition:
                if self._count == seen[0] and not self.closed:
                    self._condition.wait(min(_LOOK_S, until_s - now_s))
        return False

    def close(self) -> None:
        """Wake everybody for good."""
        with self._condition:
            self.closed = True
            self._condition.notify_all()
