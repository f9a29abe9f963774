"""Recordings as tasks of a job: what each is, where it stands, and how many go on at a time."""

from __future__ import annotations

import resource
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from penstock.cores import usable_cores
from penstock.memory import memory_limit_bytes

__all__ = ["Followed", "Task", "peak_rss_bytes", "worker_count"]

_WORKER_BYTES = 512 << 20
"""Memory that a process gets at least, when nobody says how many there are."""

_CORES_EACH = 2
"""Cores that a process keeps busy: cameras have a thread each."""


@dataclass(frozen=True)
class Task:
    """A recording that is to be staged: its number in the job, its stage, where and what it is."""

    index: int
    key: str
    bag: Path
    name: str


class Followed(NamedTuple):
    """Where the conversion of a recording stands: frames done, frames in all, images done."""

    done: int
    total: int
    images: int


def worker_count(recordings: int, asked: int | None) -> int:
    """How many processes convert ``recordings``: as asked for, or as cores and memory allow."""
    most = asked
    if most is None:
        most = min(usable_cores() // _CORES_EACH, memory_limit_bytes() // _WORKER_BYTES)
    return max(min(most, recordings), 1)


def peak_rss_bytes() -> int:
    """Largest memory of this process so far."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
