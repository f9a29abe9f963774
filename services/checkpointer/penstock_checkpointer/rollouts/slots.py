"""How many calls may wait at a time: each holds a thread of the server."""

from __future__ import annotations

import threading
from collections.abc import Generator
from contextlib import contextmanager

__all__ = ["Slots"]


class Slots:
    """A number of places; who finds none is told at once.

    Args:
        count: How many there are.
    """

    def __init__(self, count: int) -> None:
        self._free = threading.Semaphore(count)

    @contextmanager
    def taken(self) -> Generator[bool]:
        """Hold a place for a while; gives whether there was one."""
        taken = self._free.acquire(blocking=False)
        try:
            yield taken
        finally:
            if taken:
                self._free.release()
