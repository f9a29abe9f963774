"""Saving in the background: the training loop only waits for a copy of its tensors."""

from __future__ import annotations

import atexit
import logging
import threading
import time
from collections import Counter, deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Self, get_args

from penstock.checkpoints import CheckpointInfo, check_run, check_step, check_tag
from penstock.client.channel import RETRY_S
from penstock.client.checkpoint import CheckpointClient, WriterTokens, open_checkpoints
from penstock.container import Flattened, Profile, check_profile, flatten
from penstock.errors import InvalidInput, LimitExceeded, PenstockError, TimedOut
from penstock.targets import Target

__all__ = ["AsyncCheckpointSaver", "SaverReport", "WhenFull"]

log = logging.getLogger(__name__)

WhenFull = Literal["block", "drop-oldest", "raise"]


@dataclass(frozen=True, slots=True)
class SaverReport:
    """What became of the checkpoints that were handed over, by step.

    Attributes:
        saved: Durable in the store.
        dropped: Given up for newer ones (``when_full="drop-oldest"``).
        failed: Refused, or the store stayed away; the errors were raised.
        unfinished: Still waiting or being saved.
    """

    saved: tuple[int, ...]
    dropped: tuple[int, ...]
    failed: tuple[int, ...]
    unfinished: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class _Job:
    state: Flattened
    step: int
    tags: tuple[str, ...]
    metrics: Mapping[str, float]


class AsyncCheckpointSaver:
    """Saves checkpoints of one run in the background, in order.

    ``save_async`` copies every tensor before it returns, so that training may go on at once and no
    checkpoint mixes two steps. One thread encodes and uploads. Memory holds at most
    ``max_queue_size`` waiting copies and the one being saved.

    An error of a background save is raised by the next ``save_async``, ``wait`` or ``shutdown``.
    When the program ends, what is waiting is still saved; a signal that ends it at once is the
    caller's to handle, by calling ``shutdown``.

    Args:
        target: ``file:///directory`` or ``grpc://host:50053``.
        run: Name of the run.
        max_queue_size: Copies that may wait.
        when_full: ``block`` until there is room, ``drop-oldest`` (counted and logged), or
            ``raise`` LimitExceeded.
        compress: ``small``, ``lz4`` or ``none``.
        retry_s: How long to wait for a service that is away.
        tokens: Of this writer; those of the process if None.

    Attributes:
        counts: ``saved``, ``dropped``, ``failed`` so far.

    Raises:
        InvalidInput: An argument is not valid.
        Unsupported: ``compress`` or an embedded store needs a package that is not installed.
    """

    def __init__(
        self,
        target: str | Target,
        *,
        run: str,
        max_queue_size: int = 3,
        when_full: WhenFull = "block",
        compress: Profile = "small",
        retry_s: float = RETRY_S,
        tokens: WriterTokens | None = None,
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
        self._run = check_run(run)
        self._compress: Profile = check_profile(compress)
        self._max_queue_size, self._when_full = max_queue_size, when_full
        self._client: CheckpointClient = open_checkpoints(target, retry_s=retry_s, tokens=tokens)
        self.counts: Counter[str] = Counter()
        self._changed = threading.Condition()
        self._waiting: deque[_Job] = deque()
        self._reserved = 0
        self._current: _Job | None = None
        self._saved: list[int] = []
        self._dropped: list[int] = []
        self._failed: list[int] = []
        self._errors: list[BaseException] = []
        self._closing = False
        self._newest: CheckpointInfo | None = None
        # A daemon, so that a program that forgot shutdown() still ends; atexit drains first.
        self._thread = threading.Thread(target=self._work, name="checkpoint-saver", daemon=True)
        self._thread.start()
        atexit.register(self.shutdown)

    @property
    def newest(self) -> CheckpointInfo | None:
        """The checkpoint that was stored last, None before the first."""
        with self._changed:
            return self._newest

    def save_async(
        self,
        checkpoint: Any,
        step: int,
        tags: Sequence[str] = (),
        metrics: Mapping[str, float] | None = None,
    ) -> None:
        """Copy a state and hand it over; it is saved later.

        Args:
            checkpoint: Dicts, lists, numbers, strings, tensors, arrays.
            step: Step of the run.
            tags: Names that will point at this step.
            metrics: Numbers kept beside it.

        Raises:
            InvalidInput: The state holds a type that cannot be kept, named with its path.
            LimitExceeded: The queue is full and ``when_full`` is ``raise``.
            PenstockError: An earlier save failed; this state was not taken.
        """
        check_step(step)
        for tag in tags:
            check_tag(tag)
        self._reserve(step)
        job: _Job | None = None
        try:
            job = _Job(flatten(checkpoint, copy=True), step, tuple(tags), dict(metrics or {}))
        finally:
            with self._changed:
                self._reserved -= 1
                if job is not None:
                    self._waiting.append(job)
                self._changed.notify_all()

    def wait(self, timeout_s: float | None = None) -> None:
        """Wait until everything that was handed over is durable.

        Raises:
            TimedOut: It took longer than ``timeout_s``; saving goes on.
            PenstockError: A save failed.
        """
        with self._changed:
            if not self._changed.wait_for(self._is_idle, timeout_s):
                raise TimedOut(
                    f"checkpoints {self._unfinished()} of run {self._run!r} are not stored after "
                    f"{timeout_s} s"
                )
            self._raise_errors()

    def shutdown(self, timeout_s: float | None = None) -> SaverReport:
        """Save what is waiting, stop, and say what became of everything. May be called twice.

        Args:
            timeout_s: How long to go on saving; what is not stored then is in ``unfinished``.

        Raises:
            PenstockError: A save failed.
        """
        deadline_s = None if timeout_s is None else time.monotonic() + timeout_s
        with self._changed:
            self._closing = True
            self._changed.notify_all()
            done = self._changed.wait_for(self._is_idle, timeout_s)
            unfinished = self._unfinished()
            if not done:
                log.warning("run %r: checkpoints %s were not stored", self._run, unfinished)
                self._waiting.clear()
                self._changed.notify_all()
        atexit.unregister(self.shutdown)
        if done:
            left_s = None if deadline_s is None else max(0.1, deadline_s - time.monotonic())
            self._thread.join(left_s)
            self._client.close()
        with self._changed:
            self._raise_errors()
            return SaverReport(
                tuple(self._saved), tuple(self._dropped), tuple(self._failed), unfinished
            )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        try:
            self.shutdown()
        except PenstockError as error:
            if kind is None:
                raise
            # The block's own exception goes on; it must not be hidden by this one.
            log.exception("run %r: a background save failed", self._run, exc_info=error)

    def _reserve(self, step: int) -> None:
        """Wait for room before anything is copied, so that memory stays bounded."""
        with self._changed:
            self._raise_errors()
            if self._closing:
                raise InvalidInput(f"step {step}: this saver was shut down", field="saver")
            if self._is_full() and self._when_full == "raise":
                raise LimitExceeded(
                    f"step {step}: {self._max_queue_size} checkpoints of run {self._run!r} wait "
                    "already: save less often, or use when_full='block'",
                    reason="QUEUE_FULL",
                )
            while self._is_full() and self._when_full == "drop-oldest" and self._waiting:
                dropped = self._waiting.popleft()
                self._dropped.append(dropped.step)
                self.counts["dropped"] += 1
                log.warning("run %r: checkpoint %d dropped, queue full", self._run, dropped.step)
            self._changed.wait_for(lambda: not self._is_full())
            self._reserved += 1

    def _is_full(self) -> bool:
        return len(self._waiting) + self._reserved >= self._max_queue_size

    def _is_idle(self) -> bool:
        return not self._waiting and not self._reserved and self._current is None

    def _unfinished(self) -> tuple[int, ...]:
        current = () if self._current is None else (self._current.step,)
        return (*current, *(job.step for job in self._waiting))

    def _raise_errors(self) -> None:
        if not self._errors:
            return
        first, *others = self._errors
        self._errors.clear()
        for other in others:
            first.add_note(f"also: {other}")
        raise first

    def _work(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._waiting or (self._closing and self._is_idle()))
                if not self._waiting:
                    return
                self._current = job = self._waiting.popleft()
                self._changed.notify_all()
            error: BaseException | None = None
            try:
                info = self._client.save(
                    job.state,
                    self._run,
                    job.step,
                    tags=job.tags,
                    metrics=job.metrics,
                    compress=self._compress,
                )
            except BaseException as caught:  # noqa: BLE001 - handed to the caller's next call
                error, info = caught, None
            with self._changed:
                self._current = None
                if error is None:
                    self._newest = info
                    self._saved.append(job.step)
                    self.counts["saved"] += 1
                else:
                    error.add_note(f"while saving {self._run}/{job.step} in the background")
                    self._errors.append(error)
                    self._failed.append(job.step)
                    self.counts["failed"] += 1
                    log.warning("run %r: saving %d failed: %s", self._run, job.step, error)
                self._changed.notify_all()
            del job
