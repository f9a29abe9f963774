"""Timing several ways in turn, so that whatever else the machine does falls on all of them."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import psutil
from serving import cpu_s

__all__ = ["Timing", "Way", "median_ms", "take_turns"]


@dataclass(frozen=True)
class Way:
    """One way to do the work.

    Attributes:
        run: Does so many batches, the first of them with that number; every turn gets others.
        server: Processes beside this one whose CPU time counts.
        before: Called before each turn, not timed.
    """

    run: Callable[[int, int], None]
    server: Sequence[psutil.Process] = ()
    before: Callable[[], None] = lambda: None


@dataclass
class Timing:
    """Milliseconds a batch: one value per turn.

    Attributes:
        wall: Time that passed.
        cpu: CPU time of this process.
        server_cpu: CPU time of the server.
    """

    wall: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)
    server_cpu: list[float] = field(default_factory=list)


def take_turns(
    ways: Mapping[str, Way], *, turns: int, batches: int, first: int = 0
) -> dict[str, Timing]:
    """Run every way once per turn: A B C A B C ...

    Args:
        ways: By name.
        turns: How often each runs, besides once to warm up.
        batches: Batches of a turn.
        first: Number of the first batch.
    """
    timings = {name: Timing() for name in ways}
    own = [psutil.Process()]
    for turn in range(-1, turns):
        for name, way in ways.items():
            way.before()
            server, cpu = cpu_s(way.server), cpu_s(own)
            begun = time.perf_counter()
            way.run(first + (turn + 1) * batches, batches)
            wall = time.perf_counter() - begun
            if turn < 0:
                continue
            timing = timings[name]
            timing.wall.append(wall / batches * 1e3)
            timing.cpu.append((cpu_s(own) - cpu) / batches * 1e3)
            timing.server_cpu.append((cpu_s(way.server) - server) / batches * 1e3)
    return timings


def median_ms(values: Iterable[float]) -> float:
    """Median of milliseconds."""
    return statistics.median(values)
