"""Saving in the background: the training loop waits for milliseconds, not for a copy."""

from __future__ import annotations

import atexit
import logging
import threading
import time
from collections import Counter, deque
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self

from penstock.checkpoints import CheckpointInfo, check_step, check_tag
from penstock.client.channel import RETRY_S
from penstock.client.checkpoint import PROCESS_TOKENS, WriterTokens, resolve_target
from penstock.client.saving.barrier import Barrier
from penstock.client.saving.options import (
    SaverReport,
    WhenFull,
    check_queue,
    check_rebase,
    check_target,
    profile_of,
)
from penstock.client.saving.snapshots import Snapshots
from penstock.client.saving.termination import leave_termination, soften_termination
from penstock.client.saving.uploader import Job, Uploader
from penstock.container import Profile
from penstock.errors import InvalidInput, LimitExceeded, PenstockError, TimedOut
from penstock.monitor import PerformanceMonitor
from penstock.targets import Target

__all__ = ["AsyncCheckpointSaver"]

log = logging.getLogger(__name__)

_FILE_KINDS = (".pstk", ".pt", ".pth", ".pt.lz4")


class AsyncCheckpointSaver:
    """Saves checkpoints of one run in the background, in order.

    ``save_async`` copies small tensors, arrays and plain values at once. Large tensors, and what
    optimizers step, it copies in the background, while forward and backward run. The next step of
    any optimizer waits until that copy is complete, so no checkpoint mixes two steps. Whatever else
    writes to a saved tensor (not an array) between ``save_async`` and that step belongs into
    ``with saver.guard():``; where no optimizer has stepped yet, everything is copied at once. A
    second process, which makes way for training, encodes and stores. ``debug=True`` proves that
    nothing tore, and takes its time.

    Memory: one copy of the state for each that waits or is being saved, at most
    ``max_queue_size + 1``, kept for the next ones.

    An error of a background save is raised by the next ``save_async``, ``wait`` or ``shutdown``.
    When the program ends, also by SIGINT or SIGTERM (unless it handles these itself), what is
    waiting is still saved for up to ``drain_s``, and what did not make it is logged.

    Args:
        target: ``file:///directory`` or ``grpc://host:50053``; None to save to files alone.
        run: Name of the run; needed with a target.
        max_queue_size: Snapshots that may wait.
        when_full: ``block`` until there is room, ``drop-oldest`` (counted and logged), or
            ``raise`` LimitExceeded.
        compress: ``small`` (True), ``fast``, ``delta``, ``policy-bf16`` (loses precision: for
            policies that are run, not trained) or ``none`` (False).
        rebase_every: Checkpoints that share a base. The first of them is whole, in the others what
            equals it is left out, and with ``delta`` the rest is subtracted. None means 8 for
            ``delta`` and 1 (all whole) for the others.
        retry_s: How long to wait for a service that is away.
        drain_s: How long to go on saving when the program is ended.
        tokens: Of this writer; those of the process if None.
        debug: Hash the tensors before and after; TornSnapshot is raised by the step, or the call,
            that comes after a write which was not guarded.

    Attributes:
        counts: ``saved``, ``dropped``, ``failed``, ``plans`` (a state had another form than the one
            before), ``copied_at_once``, ``uploader_restarts``.
        monitor: Times of ``call``, ``stall``, ``stage`` and ``save``.

    Raises:
        InvalidInput: An argument is not valid.
    """

    def __init__(
        self,
        target: str | Target | None = None,
        *,
        run: str | None = None,
        max_queue_size: int = 3,
        when_full: WhenFull = "block",
        compress: Profile | bool = "small",
        rebase_every: int | None = None,
        retry_s: float = RETRY_S,
        drain_s: float = 60.0,
        tokens: WriterTokens | None = None,
        debug: bool = False,
    ) -> None:
        self._run = check_target(target, run)
        check_queue(max_queue_size, when_full)
        profile = profile_of(compress)
        self._max_queue_size, self._when_full = max_queue_size, when_full
        self._drain_s = drain_s
        self.counts: Counter[str] = Counter()
        self.monitor = PerformanceMonitor()
        self._changed = threading.Condition()
        self._barrier = Barrier(self._note_stall, self._check_writers)
        self._snapshots = Snapshots(
            max_queue_size + 1, self._barrier, self.counts, self.monitor, debug=debug
        )
        self._waiting: deque[Job] = deque()
        self._reserved = 0
        self._current: Job | None = None
        self._ends: dict[str, list[int | Path]] = {"saved": [], "dropped": [], "failed": []}
        self._errors: list[BaseException] = []
        self._closing = False
        self._given_up = False
        self._newest: CheckpointInfo | None = None
        self._uploader = Uploader(
            None if target is None else resolve_target(target),
            self._run,
            compress=profile,
            rebase_every=check_rebase(rebase_every, profile),
            retry_s=retry_s,
            tokens=tokens or PROCESS_TOKENS,
            counts=self.counts,
        )
        self._snapshots.on_discard = self._uploader.forget
        # A daemon, so that a program that forgot shutdown() still ends; atexit drains first.
        self._thread = threading.Thread(target=self._work, name="checkpoint-saver", daemon=True)
        self._thread.start()
        self._barrier.watch_optimizers()
        soften_termination()
        atexit.register(self._drain)

    @property
    def newest(self) -> CheckpointInfo | None:
        """The checkpoint that was stored last, None before the first."""
        with self._changed:
            return self._newest

    def save_async(
        self,
        checkpoint: Any,
        path_or_step: int | str | Path,
        tags: Sequence[str] = (),
        metrics: Mapping[str, float] | None = None,
    ) -> None:
        """Take a snapshot of a state and hand it over; it is saved later.

        Args:
            checkpoint: Dicts, lists, numbers, strings, tensors, arrays.
            path_or_step: Step of the run; or a file whose name ends in ``.pstk``, ``.pt``, ``.pth``
                or ``.pt.lz4``.
            tags: Names that will point at this step.
            metrics: Numbers kept beside it.

        Raises:
            InvalidInput: The state holds a type that cannot be kept, named with its path.
            LimitExceeded: The queue is full and ``when_full`` is ``raise``.
            TornSnapshot: With ``debug``, something wrote to the state saved before.
            PenstockError: An earlier save failed; this state was not taken.
        """
        begun_s = time.perf_counter()
        where = self._check_where(path_or_step)
        for tag in tags:
            check_tag(tag)
        self._barrier.watch_optimizers()
        # One snapshot is completed at a time; who saves twice between two steps waits here.
        self._barrier.wait()
        self._reserve(where)
        taken = False
        try:
            self._snapshots.take(
                checkpoint, where, tuple(tags), dict(metrics or {}), self._hand_over
            )
            taken = True
        finally:
            if not taken:
                self._release()
        self.monitor.record("call", time.perf_counter() - begun_s)

    @contextmanager
    def guard(self) -> Generator[None]:
        """Write to saved tensors inside this block, other than by the step of an optimizer.

        Waits until no snapshot needs them any more: for ``p.data``, weights that are averaged or
        loaded by hand, buffers of modules of more than 16 KiB.
        """
        with self._barrier.guard():
            yield

    def wait(self, timeout_s: float | None = None) -> None:
        """Wait until everything that was handed over is durable.

        Raises:
            TimedOut: It took longer than ``timeout_s``; saving goes on.
            PenstockError: A save failed.
        """
        with self._changed:
            if not self._changed.wait_for(self._is_idle, timeout_s):
                raise TimedOut(
                    f"checkpoints {_names(self._unfinished())} of run {self._run!r} are not stored "
                    f"after {timeout_s} s"
                )
            self._raise_errors()
        self._check_writers()

    def shutdown(self, timeout_s: float | None = None) -> SaverReport:
        """Save what is waiting, stop, and say what became of everything. May be called twice.

        Args:
            timeout_s: How long to go on saving; what is not stored then is in ``unfinished``.

        Raises:
            PenstockError: A save failed.
        """
        with self._changed:
            first = not self._closing
            self._closing = True
            self._changed.notify_all()
            done = self._changed.wait_for(self._is_idle, timeout_s)
            unfinished = self._unfinished()
            if not done:
                log.warning("run %r: checkpoints %s were not stored", self._run, _names(unfinished))
                self._given_up = True
                self._waiting.clear()
                self._changed.notify_all()
        if first:
            atexit.unregister(self._drain)
            leave_termination()
            self._barrier.close()
            self._snapshots.close()
        self._uploader.close()
        if done:
            self._thread.join()
        with self._changed:
            self._raise_errors()
            ends = self._ends
            saved, dropped, failed = (tuple(ends[end]) for end in ("saved", "dropped", "failed"))
            return SaverReport(saved, dropped, failed, unfinished)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        ended = kind is not None and not issubclass(kind, Exception)
        try:
            self.shutdown(self._drain_s if ended else None)
        except PenstockError as error:
            if kind is None:
                raise
            # The block's own exception goes on; it must not be hidden by this one.
            log.exception("run %r: a background save failed", self._run, exc_info=error)

    def _drain(self) -> None:
        """The program ends: save what can be saved in time."""
        waiting = self._unfinished()
        if waiting:
            log.warning("run %r: saving %s before the end", self._run, _names(waiting))
        try:
            self.shutdown(self._drain_s)
        except PenstockError as error:
            log.exception("run %r: a background save failed", self._run, exc_info=error)

    def _check_where(self, path_or_step: int | str | Path) -> int | Path:
        if isinstance(path_or_step, int):
            if not self._run:
                raise InvalidInput(
                    f"step {path_or_step}: this saver has no target: give a file, or a target and "
                    "a run to the saver",
                    field="path_or_step",
                )
            return check_step(path_or_step)
        path = Path(path_or_step).absolute()
        if not path.name.endswith(_FILE_KINDS):
            raise InvalidInput(
                f"{path}: the name must end in one of {', '.join(_FILE_KINDS)}",
                field="path_or_step",
            )
        if not path.parent.is_dir():
            raise InvalidInput(
                f"{path}: there is no directory {path.parent}: make it first", field="path_or_step"
            )
        return path

    def _reserve(self, where: int | Path) -> None:
        """Wait for room before anything is copied, so that memory stays bounded."""
        with self._changed:
            self._raise_errors()
            if self._closing:
                raise InvalidInput(f"{where}: this saver was shut down", field="saver")
            if self._is_full() and self._when_full == "raise":
                raise LimitExceeded(
                    f"{where}: {self._max_queue_size} checkpoints of run {self._run!r} wait "
                    "already: save less often, or use when_full='block'",
                    reason="QUEUE_FULL",
                )
            while self._is_full() and self._when_full == "drop-oldest" and self._waiting:
                dropped = self._waiting.popleft()
                self._snapshots.give_back(dropped.buffer)
                self._end("dropped", dropped.where)
                log.warning("run %r: checkpoint %s dropped, queue full", self._run, dropped.where)
            self._changed.wait_for(lambda: not self._is_full())
            self._reserved += 1

    def _release(self) -> None:
        with self._changed:
            self._reserved -= 1
            self._changed.notify_all()

    def _hand_over(self, where: int | Path, result: Job | Exception) -> None:
        """A snapshot is complete, or could not be completed."""
        with self._changed:
            self._reserved -= 1
            if isinstance(result, Job):
                self._waiting.append(result)
            else:
                self._fail(where, result)
            self._changed.notify_all()

    def _is_full(self) -> bool:
        return len(self._waiting) + self._reserved >= self._max_queue_size

    def _is_idle(self) -> bool:
        return not self._waiting and not self._reserved and self._current is None

    def _unfinished(self) -> tuple[int | Path, ...]:
        current = () if self._current is None else (self._current.where,)
        return (*current, *(job.where for job in self._waiting), *self._snapshots.under_way())

    def _end(self, how: str, where: int | Path) -> None:
        self._ends[how].append(where)
        self.counts[how] += 1

    def _fail(self, where: int | Path, error: BaseException) -> None:
        error.add_note(f"while saving {self._run}/{where} in the background")
        self._errors.append(error)
        self._end("failed", where)
        log.warning("run %r: saving %s failed: %s", self._run, where, error)

    def _raise_errors(self) -> None:
        if not self._errors:
            return
        first, *others = self._errors
        self._errors.clear()
        for other in others:
            first.add_note(f"also: {other}")
        raise first

    def _note_stall(self, waited_s: float) -> None:
        self.monitor.record("stall", waited_s)

    def _check_writers(self) -> None:
        self._snapshots.check_writers()

    def _work(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._waiting or (self._closing and self._is_idle()))
                if not self._waiting:
                    return
                self._current = job = self._waiting.popleft()
                self._changed.notify_all()
            error: BaseException | None = None
            begun_s = time.perf_counter()
            try:
                info = self._uploader.save(job)
            except BaseException as caught:  # noqa: BLE001 - handed to the caller's next call
                error, info = caught, None
            self.monitor.record("save", time.perf_counter() - begun_s)
            with self._changed:
                self._current = None
                if self._given_up:
                    return
                if error is None:
                    self._newest = info or self._newest
                    self._end("saved", job.where)
                else:
                    self._fail(job.where, error)
                self._snapshots.give_back(job.buffer)
                self._changed.notify_all()


def _names(where: Sequence[int | Path]) -> str:
    return f"({', '.join(map(str, where))}{',' if len(where) == 1 else ''})"
