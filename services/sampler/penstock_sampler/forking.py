"""Starting afresh in a forked child: locks may be held and threads are gone there."""

from __future__ import annotations

import os
from typing import Protocol
from weakref import WeakSet

__all__ = ["Forkable", "reset_after_fork"]


class Forkable(Protocol):
    """Holds locks, threads or handles that a forked child must not use."""

    def reset(self) -> None:
        """Replace them by new ones; the old ones belong to the parent."""
        ...


_known: WeakSet[Forkable] = WeakSet()


def reset_after_fork(found: Forkable) -> None:
    """Have ``found`` reset in every child that is forked while it lives."""
    _known.add(found)


def _reset_all() -> None:
    for found in tuple(_known):
        found.reset()


os.register_at_fork(after_in_child=_reset_all)
