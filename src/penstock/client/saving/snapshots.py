"""Taking snapshots: what cannot wait in the call, the rest in a thread of its own."""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from penstock.client.saving.barrier import Barrier
from penstock.client.saving.buffers import Buffer
from penstock.client.saving.torn import Witness
from penstock.client.saving.uploader import Job
from penstock.container import Plan
from penstock.errors import Conflict, Internal, PenstockError
from penstock.monitor import PerformanceMonitor

__all__ = ["HandOver", "Snapshots"]

log = logging.getLogger(__name__)

HandOver = Callable[[int | Path, Job | Exception], None]
"""Told what became of a snapshot: complete, or why not."""


@dataclass(slots=True)
class _Started:
    """A snapshot of which the rest is still to be copied."""

    job: Job
    leaves: list[Any]
    witness: Witness | None
    hand_over: HandOver


class Snapshots:
    """Plans, buffers and the thread that completes snapshots.

    Args:
        max_buffers: Snapshots that exist at a time.
        barrier: Raised while a snapshot is being completed.
        counts: Counts ``plans`` and ``copied_at_once``.
        monitor: Times ``stage``.
        debug: Look whether anything writes to the state meanwhile.

    Attributes:
        on_discard: Told of a buffer that is no longer used.
    """

    def __init__(
        self,
        max_buffers: int,
        barrier: Barrier,
        counts: Counter[str],
        monitor: PerformanceMonitor,
        *,
        debug: bool,
    ) -> None:
        self._max_buffers, self._barrier, self._debug = max_buffers, barrier, debug
        self._counts, self._monitor = counts, monitor
        self.on_discard: Callable[[Buffer], None] = lambda _: None
        self._plan: Plan | None = None
        self._plan_number = 0
        self._steps_seen = 0
        self._lock = threading.Condition()
        self._free: list[Buffer] = []
        self._made = 0
        self._closed = False
        self._witness: Witness | None = None
        self._under_way: _Started | None = None
        self._started: queue.SimpleQueue[_Started | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._work, name="checkpoint-stager", daemon=True)
        self._thread.start()

    def take(
        self,
        state: Any,
        where: int | Path,
        tags: tuple[str, ...],
        metrics: Mapping[str, float],
        hand_over: HandOver,
    ) -> None:
        """Take a snapshot; ``hand_over`` is called, here or in the thread, when it is complete.

        Raises:
            InvalidInput: The state holds what a checkpoint cannot.
            LimitExceeded: There is no memory for it.
        """
        plan, leaves = self._planned(state)
        buffer = self._acquire(plan.size_bytes)
        try:
            witness = Witness(plan, leaves, str(where)) if self._debug else None
            plan.take(leaves, buffer.array)
        except BaseException:
            self.give_back(buffer)
            raise
        job = Job(plan, self._plan_number, buffer, "", where, tags, metrics)
        started = _Started(job, leaves, witness, hand_over)
        stepped = self._barrier.steps != self._steps_seen
        self._steps_seen = self._barrier.steps
        self._barrier.begin()
        self._under_way = started
        self._started.put(started)
        if stepped:
            self._witness = witness
        else:
            # No optimizer has stepped since the last snapshot: nobody may come to the barrier.
            self._counts["copied_at_once"] += 1
            self._barrier.wait_for_copy()

    def under_way(self) -> tuple[int | Path, ...]:
        """What is being completed."""
        started = self._under_way
        return () if started is None else (started.job.where,)

    def check_writers(self) -> None:
        """With ``debug``: find out whether anything wrote to the state since the last snapshot.

        Raises:
            TornSnapshot: It did.
        """
        witness, self._witness = self._witness, None
        if witness is not None:
            witness.check_source()

    def give_back(self, buffer: Buffer) -> None:
        """A buffer may be used again."""
        with self._lock:
            if not self._closed:
                self._free.append(buffer)
                self._lock.notify_all()
                return
        buffer.close()

    def close(self) -> None:
        """Stop, after what is under way, and give memory back."""
        self._started.put(None)
        with self._lock:
            self._closed = True
            free, self._free = self._free, []
        for buffer in free:
            buffer.close()
        self._plan = None

    def _planned(self, state: Any) -> tuple[Plan, list[Any]]:
        plan = self._plan
        leaves = None if plan is None else self._matched(plan, state)
        if plan is None or leaves is None:
            plan = Plan(state, stepped=self._barrier.stepped())
            leaves = plan.match(state)
            if leaves is None:
                raise Internal("a state does not match the plan that was just made for it")
            self._plan, self._plan_number = plan, self._plan_number + 1
            self._counts["plans"] += 1
        return plan, leaves

    def _matched(self, plan: Plan, state: Any) -> list[Any] | None:
        leaves = plan.match(state)
        if leaves is not None and self._debug:
            # The witness looks at memory that else is looked at later.
            try:
                plan.settle(leaves)
            except Conflict:
                return None
        return leaves

    def _acquire(self, size_bytes: int) -> Buffer:
        with self._lock:
            # The spare may just be being made.
            self._lock.wait_for(lambda: self._free or self._made < self._max_buffers)
            fitting = [buffer for buffer in self._free if buffer.size_bytes >= size_bytes]
            if fitting:
                self._free.remove(fitting[0])
                return fitting[0]
            # Of another state: too small, so of no use.
            discarded, self._free = self._free, []
            self._made += 1 - len(discarded)
        for buffer in discarded:
            self.on_discard(buffer)
            buffer.close()
        try:
            return Buffer(size_bytes)
        except PenstockError:
            with self._lock:
                self._made -= 1
            raise

    def _keep_spare(self, size_bytes: int) -> None:
        """Make the next buffer now, for fresh memory is slow to come by."""
        with self._lock:
            if self._free or self._closed or self._made >= self._max_buffers:
                return
            self._made += 1
        try:
            spare = Buffer(size_bytes)
        except PenstockError as error:
            log.warning("no second buffer for snapshots: %s", error)
            with self._lock:
                self._made -= 1
                self._lock.notify_all()
            return
        self.give_back(spare)

    def _complete(self, started: _Started) -> None:
        job, begun_s = started.job, time.perf_counter()
        events: list[Any] = []
        result: Job | Exception = job
        try:
            if job.plan.on_device:
                job.buffer.lock_pages()
            events = job.plan.stage(started.leaves, job.buffer.array)
            if started.witness is not None:
                started.witness.check_copy(job.buffer.array)
        except Exception as error:  # noqa: BLE001 - handed to the caller's next call
            result = error
        finally:
            self._barrier.end(events)
        try:
            for event in events:
                event.synchronize()
            self._monitor.record("stage", time.perf_counter() - begun_s)
            job.tree = job.plan.tree_of(started.leaves)
        except Exception as error:  # noqa: BLE001 - same
            result = error
        if isinstance(result, Exception):
            self._plan = None
            self.give_back(job.buffer)
        started.hand_over(job.where, result)
        self._under_way = None

    def _work(self) -> None:
        while (started := self._started.get()) is not None:
            self._complete(started)
            self._keep_spare(started.job.plan.size_bytes)
            del started
