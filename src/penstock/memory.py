"""How much memory this process may use."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

__all__ = ["memory_limit_bytes"]


def memory_limit_bytes(root: Path = Path("/")) -> int:
    """The memory of the machine, or of this process's control groups where that is less.

    Args:
        root: Where ``proc`` and ``sys`` are.
    """
    machine = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return min([machine, *_group_limits(root)])


def _group_limits(root: Path) -> Iterator[int]:
    """Limits of the groups of both versions, from that of the process up to the outermost."""
    try:
        lines = (root / "proc/self/cgroup").read_text().splitlines()
    except OSError:
        return
    groups = root / "sys/fs/cgroup"
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if not controllers:
            yield from _limits(groups, path, "memory.max")
        elif "memory" in controllers.split(","):
            yield from _limits(groups / "memory", path, "memory.limit_in_bytes")


def _limits(top: Path, path: str, name: str) -> Iterator[int]:
    # In a container the path may be that of the host, which is not there: the top still is.
    place = Path(path.strip("/"))
    for group in (place, *place.parents):
        try:
            text = (top / group / name).read_text().strip()
        except OSError:
            continue
        if text.isdecimal():
            yield int(text)
