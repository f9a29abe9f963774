"""How many threads the cores of this process ask for."""

from __future__ import annotations

from penstock.cores import usable_cores

__all__ = ["default_io_threads"]


def default_io_threads() -> int:
    """Reads in flight that use all cores and keep a disk busy: two for each core, at most 8."""
    return min(8, 2 * usable_cores())
