"""One thread for each camera: decoding and encoding run side by side, a bounded step behind.

Work that is shorter than handing it over is done at once instead.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Generic, TypeVar

__all__ = ["DirectLane", "Lane"]

I = TypeVar("I")  # noqa: E741 - input
O = TypeVar("O")  # noqa: E741 - output

DEPTH = 8
"""Items that wait for a lane at most: memory of a lane, times the size of a message."""


class Lane(Generic[I, O]):
    """Applies ``work`` to items in order, on a thread of its own; errors come out of ``take``.

    Args:
        name: Name of the thread.
        work: What is done to each item.
    """

    def __init__(self, name: str, work: Callable[[I], O]) -> None:
        self._work = work
        self._executor = ThreadPoolExecutor(1, thread_name_prefix=name)
        self._pending: deque[Future[O]] = deque()
        self._done: deque[O] = deque()

    def put(self, item: I) -> None:
        """Hand over an item; waits while the lane is ``DEPTH`` items behind."""
        while len(self._pending) >= DEPTH:
            self._done.append(self._pending.popleft().result())
        self._pending.append(self._executor.submit(self._work, item))

    def take(self, count: int) -> list[O]:
        """The next ``count`` results, in order; waits for them."""
        while len(self._done) < count:
            self._done.append(self._pending.popleft().result())
        return [self._done.popleft() for _ in range(count)]

    def settle(self) -> None:
        """Wait until everything handed over is done."""
        while self._pending:
            self._done.append(self._pending.popleft().result())

    def close(self) -> None:
        """Drop what waits, let the item at work end, and end the thread."""
        self._executor.shutdown(wait=True, cancel_futures=True)


class DirectLane(Generic[I, O]):
    """Applies ``work`` to items as they come, on the caller's thread; errors come out of ``put``.

    Args:
        work: What is done to each item.
    """

    def __init__(self, work: Callable[[I], O]) -> None:
        self._work = work
        self._done: deque[O] = deque()

    def put(self, item: I) -> None:
        """Do the work."""
        self._done.append(self._work(item))

    def take(self, count: int) -> list[O]:
        """The next ``count`` results, in order."""
        return [self._done.popleft() for _ in range(count)]

    def settle(self) -> None:
        """Everything handed over is done already."""

    def close(self) -> None:
        """Drop what nobody took."""
        self._done.clear()
