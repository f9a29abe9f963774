"""How many cores this process may use, and how many threads that asks for."""

from __future__ import annotations

import os

__all__ = ["default_io_threads"]


def default_io_threads() -> int:
    """Reads in flight that use all cores and keep a disk busy: two for each core, at most 8."""
    return min(8, 2 * len(os.sched_getaffinity(0)))
