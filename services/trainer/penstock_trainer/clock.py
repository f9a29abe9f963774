"""Time spent in training, and how much of it in waiting for data."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Generator

__all__ = ["Clock"]


class Clock:
    """Measures a run's seconds and the rates between two reports.

    Args:
        seconds: What earlier processes of the run have spent.
        step: Step that the run starts from.
        wait_s: Seconds the sampler's client has waited so far.
    """

    def __init__(self, seconds: float, step: int, wait_s: float) -> None:
        self._before, self._begun = seconds, time.perf_counter()
        self._mark(step, wait_s)

    def _mark(self, step: int, wait_s: float) -> None:
        self._marked, self._step, self._wait_s = time.perf_counter(), step, wait_s
        self._paused_s = 0.0

    @property
    def seconds(self) -> float:
        """Seconds of all processes of the run so far."""
        return self._before + time.perf_counter() - self._begun

    @contextlib.contextmanager
    def paused(self) -> Generator[None]:
        """Leave what happens inside, an evaluation, out of the rates."""
        begun = time.perf_counter()
        yield
        self._paused_s += time.perf_counter() - begun

    def rates(self, step: int, wait_s: float) -> dict[str, float]:
        """Batches a second and share of the time spent waiting for them, since the last call."""
        seconds = max(time.perf_counter() - self._marked - self._paused_s, 1e-9)
        rates = {
            "batches_per_s": (step - self._step) / seconds,
            "data_wait_share": min(1.0, (wait_s - self._wait_s) / seconds),
        }
        self._mark(step, wait_s)
        return rates
