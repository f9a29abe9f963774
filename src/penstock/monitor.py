"""How long the parts of a training step take: timers, their statistics, and where those go."""

from __future__ import annotations

import re
import threading
import time
from collections import deque
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Protocol, TypedDict

import numpy as np

from penstock.errors import InvalidInput, NotFound

__all__ = ["PerformanceMonitor", "TimingStatistics", "format_checkpoint_name"]

_UNNAMEABLE = re.compile(r"[^A-Za-z0-9._-]+")
_LONGEST_NAME = 128


class TimingStatistics(TypedDict):
    """Statistics of one timer, in seconds; all but ``count`` and ``total`` are of the window."""

    count: int
    total: float
    mean: float
    std: float
    min: float
    max: float
    p50: float
    p95: float
    p99: float


class ScalarWriter(Protocol):
    """What takes a curve's next point: TensorBoard's ``SummaryWriter`` for one."""

    def add_scalar(self, tag: str, scalar_value: float, global_step: int) -> None:
        """Take one."""
        ...


@dataclass
class _Timer:
    """What one timer has measured: the window, and all of it."""

    recent: deque[float]
    count: int = 0
    total: float = 0.0


@dataclass
class PerformanceMonitor:
    """Times named parts of a program; safe to use from several threads.

    ::

        monitor = PerformanceMonitor()
        for batch in batches:
            with monitor.timer("step"):
                train(batch)
        print(monitor.get_stats("step")["p95"])

    Args:
        window: Measurements of each timer that its statistics are made of, the latest ones.
        synchronize: Called before a clock is read, for work that goes on after its call has
            returned: ``torch.cuda.synchronize``.

    Raises:
        InvalidInput: ``window`` is below 1.
    """

    window: int = 100
    synchronize: Callable[[], object] | None = None
    _timers: dict[str, _Timer] = field(default_factory=dict[str, _Timer], init=False, repr=False)
    _lock: threading.Lock = field(default_factory=threading.Lock, init=False, repr=False)

    def __post_init__(self) -> None:
        if self.window < 1:
            raise InvalidInput(f"window={self.window}: at least 1 is kept", field="window")

    @contextmanager
    def timer(self, name: str) -> Generator[None]:
        """Time a block, or as a decorator a function; what raises counts as well.

        Args:
            name: Of the timer; the first use makes it.
        """
        begun = self._now()
        try:
            yield
        finally:
            self.record(name, self._now() - begun)

    def record(self, name: str, seconds: float) -> None:
        """Take a time that was measured elsewhere.

        Raises:
            InvalidInput: It is negative, or no number.
        """
        if not 0 <= seconds < float("inf"):
            raise InvalidInput(
                f"timer {name!r}: {seconds} s is no time that passed", field="seconds"
            )
        with self._lock:
            timer = self._timers.get(name)
            if timer is None:
                timer = self._timers[name] = _Timer(deque(maxlen=self.window))
            timer.recent.append(seconds)
            timer.count += 1
            timer.total += seconds

    def get_stats(self, name: str) -> TimingStatistics:
        """Statistics of one timer.

        Raises:
            NotFound: It has measured nothing; names those that have.
        """
        with self._lock:
            timer = self._timers.get(name)
            if timer is None:
                known = ", ".join(self._timers) or "none"
                raise NotFound(
                    f"timer {name!r} has measured nothing: there are {known}",
                    metadata={"timer": name},
                )
            recent, count, total = list(timer.recent), timer.count, timer.total
        return _statistics(recent, count, total)

    def get_summary(self) -> dict[str, TimingStatistics]:
        """Statistics of all timers, in the order of their first use."""
        with self._lock:
            found = {name: (list(t.recent), t.count, t.total) for name, t in self._timers.items()}
        return {name: _statistics(*each) for name, each in found.items()}

    def reset(self) -> None:
        """Forget all that was measured."""
        with self._lock:
            self._timers.clear()

    def scalars(self, prefix: str = "time/") -> dict[str, float]:
        """Mean, p95 and p99 of all timers by names such as ``time/step/p95``: for ``wandb.log``."""
        return {
            f"{prefix}{name}/{kind}": float(found[kind])
            for name, found in self.get_summary().items()
            for kind in ("mean", "p95", "p99")
        }

    def write_scalars(self, writer: ScalarWriter, step: int, prefix: str = "time/") -> None:
        """Add a point to each curve of a TensorBoard ``SummaryWriter``.

        Args:
            writer: Takes it.
            step: Of the training.
            prefix: Of the names of the curves.
        """
        for name, value in self.scalars(prefix).items():
            writer.add_scalar(name, value, step)

    def __str__(self) -> str:
        """A table, in milliseconds."""
        rows = self.get_summary()
        width = max([len("timer"), *map(len, rows)])
        kinds = ("mean", "std", "min", "p50", "p95", "p99", "max")
        lines = [f"{'timer':{width}}  {'count':>8}" + "".join(f"{kind:>10}" for kind in kinds)]
        lines += [
            f"{name:{width}}  {found['count']:8d}"
            + "".join(f"{1e3 * float(found[kind]):10.3f}" for kind in kinds)
            for name, found in rows.items()
        ]
        return "\n".join([*lines, "all but count in milliseconds"])

    def _now(self) -> float:
        if self.synchronize is not None:
            self.synchronize()
        return time.perf_counter()


def format_checkpoint_name(
    prefix: str, step: int, *, metrics: Mapping[str, float] | None = None
) -> str:
    """A name such as ``lapo_step00001200_loss0.125`` that sorts by step and is a valid tag.

    Args:
        prefix: What it is of; what no tag may hold becomes ``-``.
        step: Of the training.
        metrics: Numbers to be seen in the name, in that order.

    Raises:
        InvalidInput: ``step`` is negative, or the name gets too long.
    """
    if step < 0:
        raise InvalidInput(f"step {step}: steps begin at 0", field="step")
    parts = [prefix, f"step{step:08d}", *(f"{n}{v:.4g}" for n, v in (metrics or {}).items())]
    name = _UNNAMEABLE.sub("-", "_".join(parts)).lstrip("._-")
    if len(name) > _LONGEST_NAME:
        raise InvalidInput(
            f"the name {name!r:.80} has {len(name)} characters, at most {_LONGEST_NAME} fit: give "
            "fewer metrics",
            field="metrics",
        )
    return name


def _statistics(recent: list[float], count: int, total: float) -> TimingStatistics:
    values = np.array(recent, np.float64)
    p50, p95, p99 = np.percentile(values, (50, 95, 99)).tolist()
    return TimingStatistics(
        count=count,
        total=total,
        mean=float(values.mean()),
        std=float(values.std()),
        min=float(values.min()),
        max=float(values.max()),
        p50=p50,
        p95=p95,
        p99=p99,
    )
