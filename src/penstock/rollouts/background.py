"""Work on rollouts in a thread of its own: a bounded queue, counted, whose errors come back."""

from __future__ import annotations

import atexit
import logging
import threading
import time
from collections import Counter, deque
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

from numpy.typing import NDArray

from penstock.errors import Cancelled, InvalidInput, LimitExceeded, PenstockError, TimedOut
from penstock.streams import RolloutInfo

__all__ = ["Background", "Job", "WhenFull"]

log = logging.getLogger(__name__)

WhenFull = Literal["block", "drop-oldest", "raise"]


@dataclass(slots=True)
class Job:
    """A rollout that is to be stored.

    Attributes:
        leaves: A copy, by path.
        iteration: Of the collector.
        policy_version: Version of the policy that acted.
        torch_paths: Leaves that were torch tensors.
        info: Set when it is stored.
    """

    leaves: dict[str, NDArray[Any]]
    iteration: int
    policy_version: int
    torch_paths: frozenset[str] = frozenset()
    info: Future[RolloutInfo | None] = field(default_factory=Future)


class Background:
    """Does one job after the other.

    Args:
        work: Does a job; called in the thread.
        max_queue_size: Jobs that may wait.
        when_full: ``block`` until there is room, ``drop-oldest``, or ``raise`` LimitExceeded.
        drain_s: How long to go on when the program is ended.
        counts: Counts ``stored``, ``dropped``, ``failed`` and ``waits``.

    Raises:
        InvalidInput: An argument is not valid.
    """

    def __init__(
        self,
        work: Callable[[Job], RolloutInfo | None],
        *,
        max_queue_size: int,
        when_full: WhenFull,
        drain_s: float,
        counts: Counter[str],
    ) -> None:
        if max_queue_size < 1:
            raise InvalidInput(
                f"max_queue_size={max_queue_size}: at least 1 must fit", field="max_queue_size"
            )
        if when_full not in get_args(WhenFull):
            raise InvalidInput(
                f"when_full={when_full!r}: choose one of {', '.join(get_args(WhenFull))}",
                field="when_full",
            )
        self._do = work
        self._max_queue_size, self._when_full = max_queue_size, when_full
        self._drain_s, self._counts = drain_s, counts
        self._changed = threading.Condition()
        self._waiting: deque[Job] = deque()
        self._current: Job | None = None
        self._errors: list[BaseException] = []
        self._closing = False
        # A daemon, so that a program that forgot close() still ends; atexit drains first.
        self._thread = threading.Thread(target=self._run, name="rollout-writer", daemon=True)
        self._thread.start()
        atexit.register(self._drain)

    def expect(self, iteration: int) -> None:
        """Look for room before a rollout is collected, so that raising loses none.

        Args:
            iteration: What there is to be room for, for messages.

        Raises:
            LimitExceeded: There is none, and ``when_full`` is ``raise``.
        """
        with self._changed:
            if self._when_full == "raise" and self._is_full():
                raise LimitExceeded(
                    f"iteration {iteration}: {self._max_queue_size} rollouts wait already: raise "
                    "max_queue_size, use more threads, or when_full='block'",
                    reason="QUEUE_FULL",
                )

    def make_room(self) -> float:
        """Drop the oldest or wait, before anything is copied, so that memory stays bounded.

        Returns:
            How long it took, in seconds.
        """
        begun_s = time.perf_counter()
        with self._changed:
            if self._is_full() and self._when_full == "drop-oldest":
                self._drop(self._waiting.popleft())
            if self._is_full():
                self._counts["waits"] += 1
                self._changed.wait_for(lambda: not self._is_full())
        return time.perf_counter() - begun_s

    def hand_over(self, job: Job) -> None:
        """Have a job done, for which room was reserved."""
        with self._changed:
            if self._closing:
                raise InvalidInput("the collector was closed", field="collector")
            self._waiting.append(job)
            self._changed.notify_all()

    def raise_errors(self) -> None:
        """Raise what went wrong since the last time.

        Raises:
            PenstockError: A job failed; further ones are its notes.
        """
        with self._changed:
            errors, self._errors = self._errors, []
        if errors:
            first, *others = errors
            for other in others:
                first.add_note(f"also: {other}")
            raise first

    def wait(self, timeout_s: float | None = None) -> None:
        """Wait until every job is done.

        Raises:
            TimedOut: It took longer.
            PenstockError: A job failed.
        """
        with self._changed:
            if not self._changed.wait_for(self._is_idle, timeout_s):
                raise TimedOut(
                    f"iterations {self._unfinished()} are not stored after {timeout_s} s"
                )
        self.raise_errors()

    def close(self, timeout_s: float | None = None) -> None:
        """Do what waits, then stop. May be called twice.

        Args:
            timeout_s: How long to go on; what is not done then is given up, and logged.

        Raises:
            PenstockError: A job failed.
        """
        with self._changed:
            self._closing = True
            self._changed.notify_all()
            if not self._changed.wait_for(self._is_idle, timeout_s):
                log.warning("iterations %s were not stored", self._unfinished())
                while self._waiting:
                    job = self._waiting.popleft()
                    self._counts["failed"] += 1
                    job.info.set_exception(
                        Cancelled(f"iteration {job.iteration}: the collector was closed before")
                    )
        atexit.unregister(self._drain)
        if self._is_idle():
            self._thread.join()
        self.raise_errors()

    def _drain(self) -> None:
        """The program ends: store what can be stored in time."""
        try:
            self.close(self._drain_s)
        except PenstockError as error:
            log.exception("a rollout could not be stored", exc_info=error)

    def _is_full(self) -> bool:
        return len(self._waiting) >= self._max_queue_size

    def _is_idle(self) -> bool:
        return not self._waiting and self._current is None

    def _unfinished(self) -> list[int]:
        current = [] if self._current is None else [self._current]
        return [job.iteration for job in (*current, *self._waiting)]

    def _drop(self, job: Job) -> None:
        self._counts["dropped"] += 1
        log.warning("iteration %d dropped, queue full", job.iteration)
        job.info.set_exception(
            LimitExceeded(
                f"iteration {job.iteration} was dropped: {self._max_queue_size} rollouts waited",
                reason="DROPPED",
            )
        )

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._waiting or self._closing)
                if not self._waiting:
                    return
                self._current = job = self._waiting.popleft()
                self._changed.notify_all()
            self._do_one(job)
            with self._changed:
                self._current = None
                self._changed.notify_all()
            # Until the next one comes its memory belongs to others.
            del job

    def _do_one(self, job: Job) -> None:
        try:
            info = self._do(job)
        except BaseException as error:  # noqa: BLE001 - handed to the caller's next call
            error.add_note(f"while storing iteration {job.iteration} in the background")
            log.warning("iteration %d could not be stored: %s", job.iteration, error)
            with self._changed:
                self._counts["failed"] += 1
                self._errors.append(error)
            job.info.set_exception(error)
        else:
            with self._changed:
                self._counts["stored"] += 1
            job.info.set_result(info)
