"""How many cores this process may use, and how many threads that asks for."""

from __future__ import annotations

import os

__all__ = ["default_io_threads", "usable_cores"]


def default_io_threads() -> int:
    """Reads in flight that use all cores and keep a disk busy: two for each core, at most 8."""
    return min(8, 2 * usable_cores())


def usable_cores() -> int:
    """Cores that this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
