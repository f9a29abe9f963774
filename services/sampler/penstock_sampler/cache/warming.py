"""Caching the frames of a whole dataset ahead of its use."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from queue import Empty, SimpleQueue

from penstock.errors import DataFault, PenstockError
from penstock_sampler.cache.building import Outcome
from penstock_sampler.cache.frames import FrameCache
from penstock_sampler.cache.key import FrameKey

__all__ = ["WarmReport", "Warming"]

_LOOK_S = 0.5


@dataclass
class WarmReport:
    """How it went.

    Attributes:
        outcomes: Number of files by outcome.
        faults: What was wrong with files that could not be cached.
    """

    outcomes: dict[Outcome, int] = field(default_factory=dict[Outcome, int])
    faults: list[str] = field(default_factory=list[str])

    @property
    def complete(self) -> bool:
        """Whether all files are cached, or being cached by another process."""
        missing = (Outcome.NO_ROOM, Outcome.STOPPED)
        return not self.faults and not any(self.outcomes.get(outcome) for outcome in missing)


class Warming:
    """Builds what is not cached yet, several files at a time; what is there is passed over.

    Args:
        cache: Where to.
        keys: Which frames.
        jobs: Files at a time.
    """

    def __init__(self, cache: FrameCache, keys: Sequence[FrameKey], jobs: int) -> None:
        self._cache, self._keys, self._jobs = cache, tuple(keys), jobs
        self._stop, self._counting = threading.Event(), threading.Lock()
        self._total_bytes = sum(_raw_bytes(key) for key in keys)

    @property
    def total_bytes(self) -> int:
        """Frames to be built, after resizing, before encoding; less for each file passed over."""
        return self._total_bytes

    def run(self, progress: Callable[[int], None]) -> WarmReport:
        """Build; may take long. Interrupted, it removes what is unfinished and can be run again.

        Args:
            progress: Told, from several threads, the bytes of frames that were added; 0 when
                ``total_bytes`` has changed.
        """
        report = WarmReport()
        ended: SimpleQueue[Future[Outcome]] = SimpleQueue()
        with ThreadPoolExecutor(self._jobs, "penstock-warm") as pool:
            try:
                tasks = {pool.submit(self._build, key, progress): key for key in self._keys}
                for task in tasks:
                    task.add_done_callback(ended.put)
                for _ in tasks:
                    task = _next(ended)
                    _note(report, task, tasks[task])
            except BaseException:
                self._stop.set()
                pool.shutdown(cancel_futures=True)
                raise
        return report

    def _build(self, key: FrameKey, progress: Callable[[int], None]) -> Outcome:
        done_bytes = 0

        def added(rows: int) -> None:
            nonlocal done_bytes
            size_bytes = rows * key.raw_record_bytes
            done_bytes += size_bytes
            progress(size_bytes)

        counts = False
        try:
            outcome = self._cache.build(key, self._stop, added)
            counts = outcome in (Outcome.BUILT, Outcome.STOPPED)
        finally:
            if not counts:
                with self._counting:
                    self._total_bytes -= _raw_bytes(key) - done_bytes
                progress(0)
        return outcome


def _next(ended: SimpleQueue[Future[Outcome]]) -> Future[Outcome]:
    while True:
        # Not one wait without an end: an interrupt just before it would only be seen after it.
        with contextlib.suppress(Empty):
            return ended.get(timeout=_LOOK_S)


def _note(report: WarmReport, task: Future[Outcome], key: FrameKey) -> None:
    try:
        outcome = task.result()
    except DataFault as error:
        report.faults.append(error.message)
    except (OSError, PenstockError) as error:
        report.faults.append(f"{key.recording.identity.path}: {error}")
    else:
        report.outcomes[outcome] = report.outcomes.get(outcome, 0) + 1


def _raw_bytes(key: FrameKey) -> int:
    return key.recording.observations * key.raw_record_bytes
