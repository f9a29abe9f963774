"""Prepares the next message of a stream while the one before is on its way."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import TypeVar

__all__ = ["Ahead"]

T = TypeVar("T")


class Ahead:
    """Runs tasks one ahead of their use; safe to use from several threads.

    Args:
        threads: Streams that may be ahead at a time; further ones wait for each other.
    """

    def __init__(self, threads: int) -> None:
        self._pool = ThreadPoolExecutor(threads, "penstock-ahead")

    def run(self, tasks: Iterable[Callable[[], T]], worth: Callable[[], bool]) -> Iterator[T]:
        """What the tasks give, in their order.

        What a task raises is raised where its result would have been given. No task runs any more
        when this ends, whoever ends it.

        Args:
            tasks: One after the other.
            worth: Whether the next one waits for something, so that it is worth a thread's turn.
        """
        waiting: Future[T] | None = None
        try:
            for task in tasks:
                following = self._pool.submit(task) if worth() else None
                if waiting is not None:
                    before, waiting = waiting, following
                    yield before.result()
                waiting = following
                if following is None:
                    yield task()
            if waiting is not None:
                yield waiting.result()
        finally:
            if waiting is not None:
                wait([waiting])
