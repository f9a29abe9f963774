"""Loops that are timed: calls and stalls of every way in turn, and training with and without saves.

Calls are timed close to one another, for there must be many: every second step, or as soon as a way
is ready for the next. A full forward and backward lies between any two. Throughput is measured with
a save every 20 steps, as in use.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import torch
from training import Training, tensors_of
from ways import PenstockSave, Way

__all__ = [
    "SAVE_EVERY",
    "STEPS_BETWEEN_CALLS",
    "Calls",
    "Throughput",
    "copy_ms",
    "memory_mb",
    "time_calls",
    "time_throughput",
]

SAVE_EVERY, STEPS_BETWEEN_CALLS = 20, 2


@dataclass
class Calls:
    """Milliseconds of each save of one way, those of warming up left out.

    Attributes:
        first_ms: The very first call.
        call_ms: What the call took.
        stall_ms: What the next step of the optimizer waited for.
        stage_ms: Copying in the background.
    """

    first_ms: float | None = None
    call_ms: list[float] = field(default_factory=list)
    stall_ms: list[float] = field(default_factory=list)
    stage_ms: list[float] = field(default_factory=list)


def time_calls(
    training: Training,
    ways: Mapping[str, Way],
    counts: Mapping[str, int],
    *,
    turns: int,
    warm_up: Mapping[str, int],
    watch: Callable[[], None],
) -> tuple[dict[str, Calls], float]:
    """Time calls of every way, one way after the other in each turn.

    Args:
        training: What is saved.
        ways: By name.
        counts: Calls of each in one turn.
        turns: How often each way comes.
        warm_up: Calls of each before the first turn that are not counted.
        watch: Called after each step.

    Returns:
        The calls of each way, and the median of milliseconds that making the state dicts took,
        which every way needs and which is in none of them.
    """
    found = {name: Calls() for name in ways}
    state_ms: list[float] = []
    for turn in range(turns):
        for name, way in ways.items():
            warming = 0 if turn else warm_up[name]
            training.step()
            for number in range(counts[name] + warming):
                begun_s = time.perf_counter()
                state = training.state()
                state_ms.append(1e3 * (time.perf_counter() - begun_s))
                _one_call(training, way, state, found[name], counts_it=number >= warming)
                steps = 1
                while steps < STEPS_BETWEEN_CALLS or not way.is_ready():
                    training.step(way.before_optimizer)
                    watch()
                    steps += 1
            way.finish()
    return found, float(np.median(state_ms))


def _one_call(
    training: Training, way: Way, state: dict[str, Any], calls: Calls, *, counts_it: bool
) -> None:
    """Save once, and do the step after it."""
    ours = way if isinstance(way, PenstockSave) else None
    before = {timer: ours.total_ms(timer) for timer in ("stall", "stage")} if ours else {}
    begun_s = time.perf_counter()
    way.save(state, training.steps)
    call_ms = 1e3 * (time.perf_counter() - begun_s)
    waited_ms = 0.0

    def wait() -> None:
        nonlocal waited_ms
        begun_s = time.perf_counter()
        way.before_optimizer()
        waited_ms = 1e3 * (time.perf_counter() - begun_s)

    training.step(wait)
    if calls.first_ms is None:
        calls.first_ms = call_ms
    if not counts_it:
        return
    calls.call_ms.append(call_ms)
    calls.stall_ms.append(ours.total_ms("stall") - before["stall"] if ours else waited_ms)
    if ours:
        # The step has waited for the copy, so that its time is there.
        calls.stage_ms.append(ours.total_ms("stage") - before["stage"])


@dataclass
class Throughput:
    """Training with and without saves.

    Attributes:
        plain_s: Seconds of each turn without a save.
        saving_s: Of each turn with one.
        durable_s: From each call until its checkpoint was durable.
        uploader_cpu_s: CPU of the uploader for each.
        late: Turns that ended before their checkpoint was durable.
    """

    plain_s: list[float] = field(default_factory=list)
    saving_s: list[float] = field(default_factory=list)
    durable_s: list[float] = field(default_factory=list)
    uploader_cpu_s: list[float] = field(default_factory=list)
    late: int = 0

    @property
    def ratio(self) -> float:
        """Throughput with saves to that without: the median of pairs of turns."""
        return float(np.median(np.array(self.plain_s) / np.array(self.saving_s)))

    @property
    def plain_step_ms(self) -> float:
        """A step without saves, median."""
        return 1e3 * float(np.median(self.plain_s)) / SAVE_EVERY


def time_throughput(
    training: Training, ours: PenstockSave, *, pairs: int, threads: int
) -> Throughput:
    """Train 20 steps with a save before them, 20 without, and so on; the first pair warms up.

    Args:
        training: What is saved.
        ours: Saves it.
        pairs: Turns of each kind that count.
        threads: Of torch.
    """
    torch.set_num_threads(threads)
    training.step()
    found = Throughput()
    with ThreadPoolExecutor(1) as waiter:
        for pair in range(-1, pairs):
            cpu_s = _cpu_s(ours.uploader)
            begun_s = time.perf_counter()
            ours.save(training.state(), training.steps)
            durable: Future[float] = waiter.submit(_durable_at_s, ours)
            training.run(SAVE_EVERY)
            saving_s = time.perf_counter() - begun_s
            late = not durable.done()
            durable_s = durable.result() - begun_s
            cpu_s = _cpu_s(ours.uploader) - cpu_s
            ours.finish()
            plain_s = training.run(SAVE_EVERY)
            if pair < 0:
                continue
            found.saving_s.append(saving_s)
            found.plain_s.append(plain_s)
            found.durable_s.append(durable_s)
            found.uploader_cpu_s.append(cpu_s)
            found.late += late
    torch.set_num_threads(1)
    return found


def copy_ms(training: Training, turns: int) -> tuple[float, float]:
    """Milliseconds to copy the bytes of a state to memory that is there.

    Returns:
        From one piece of memory; and tensor by tensor from where they lie.
    """
    sources = [tensor.numpy().reshape(-1).view(np.uint8) for tensor in tensors_of(training.state())]
    whole = np.ones(sum(source.nbytes for source in sources), np.uint8)
    target = np.ones_like(whole)
    ends = np.cumsum([source.nbytes for source in sources]).tolist()
    pieces = [target[end - source.nbytes : end] for end, source in zip(ends, sources, strict=True)]
    times: list[tuple[float, float]] = []
    for _ in range(turns):
        begun_s = time.perf_counter()
        np.copyto(target, whole)
        copied_s = time.perf_counter()
        for piece, source in zip(pieces, sources, strict=True):
            np.copyto(piece, source)
        times.append((copied_s - begun_s, time.perf_counter() - copied_s))
    in_one, by_tensor = 1e3 * np.median(times, axis=0)
    return float(in_one), float(by_tensor)


def memory_mb(process: psutil.Process, name: str) -> float:
    """Memory of a process as Linux counts it: ``VmRSS``, ``VmHWM``, ``RssAnon``, ``RssShmem``."""
    status = Path(f"/proc/{process.pid}/status").read_text()
    sizes = dict(line.split(":", 1) for line in status.splitlines() if ":" in line)
    return 1024 * int(sizes[name].split()[0]) / 1e6


def _durable_at_s(ours: PenstockSave) -> float:
    ours.saver.wait()
    return time.perf_counter()


def _cpu_s(process: psutil.Process) -> float:
    times = process.cpu_times()
    return times.user + times.system
