"""Threads that wait for a wire and never hold up the end of a process."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable

__all__ = ["DaemonThreads"]

Task = Callable[[], None]


class DaemonThreads:
    """Runs tasks in threads that are made when they are needed and kept for the next task.

    The executors of the standard library join their threads when the interpreter ends, so that a
    program would wait for a server that does not answer. These threads end with it. A task must
    catch its own errors.

    Args:
        name: Of the threads.
        most: Threads at a time; further tasks wait.
    """

    def __init__(self, name: str, most: int) -> None:
        self._name, self._most = name, most
        self._tasks: queue.SimpleQueue[Task | None] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._threads: list[threading.Thread] = []
        self._pending = 0

    def submit(self, task: Task) -> None:
        """Run ``task`` soon."""
        with self._lock:
            self._pending += 1
            if self._pending > len(self._threads) < self._most:
                thread = threading.Thread(
                    target=self._run, name=f"{self._name}-{len(self._threads)}", daemon=True
                )
                self._threads.append(thread)
                thread.start()
        self._tasks.put(task)

    def close(self, wait_s: float) -> None:
        """Let threads end when their tasks have; wait for them at most ``wait_s`` each."""
        with self._lock:
            threads = list(self._threads)
        for _ in threads:
            self._tasks.put(None)
        for thread in threads:
            if thread is not threading.current_thread():
                thread.join(wait_s)

    def _run(self) -> None:
        while (task := self._tasks.get()) is not None:
            try:
                task()
            finally:
                with self._lock:
                    self._pending -= 1
            del task  # it may hold the memory of a batch
