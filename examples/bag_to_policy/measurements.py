"""What the demo measures beside policies: how fast batches come, how small things get."""

from __future__ import annotations

import csv
import time
from dataclasses import dataclass
from pathlib import Path

from bag_to_policy.pictures import Curve
from penstock import Plan, SamplerClient

__all__ = ["Throughput", "logged_curve", "measure_throughput", "size_mb"]

_WARM_UP_BATCHES = 8


@dataclass(frozen=True)
class Throughput:
    """Batches a second of one client, and raw bytes to bytes on the wire."""

    batches_per_s: float
    compression: float


def measure_throughput(sampler: SamplerClient, plan: Plan, seconds: float = 4.0) -> Throughput:
    """Fetch batches as fast as they come.

    Args:
        sampler: A client of a service.
        plan: What to fetch.
        seconds: How long to measure, after a few batches that fill caches.
    """
    transfer = sampler.transfer
    count, begun = 0, time.perf_counter()
    raw_bytes = wire_bytes = 0
    for step, _ in enumerate(sampler.batches(plan)):
        if step < _WARM_UP_BATCHES:
            begun = time.perf_counter()
            raw_bytes, wire_bytes = transfer.raw_bytes, transfer.wire_bytes
            continue
        count += 1
        if time.perf_counter() - begun > seconds:
            break
    elapsed = time.perf_counter() - begun
    sent = transfer.wire_bytes - wire_bytes
    return Throughput(count / elapsed, (transfer.raw_bytes - raw_bytes) / max(1, sent))


def size_mb(path: Path) -> float:
    """Megabytes of all files below a folder."""
    return sum(file.stat().st_size for file in path.rglob("*") if file.is_file()) / 1e6


def logged_curve(progress_csv: Path, column: str) -> Curve:
    """A quantity of a training over its steps, where it was reported.

    Args:
        progress_csv: The log that the trainer wrote.
        column: Name of the quantity, e.g. ``val_action_error``.
    """
    with progress_csv.open(newline="", encoding="utf-8") as file:
        rows = [row for row in csv.DictReader(file) if row[column]]
    return [float(row["step"]) for row in rows], [float(row[column]) for row in rows]
