"""The checkpointer inside another process, for ``file`` targets."""

from __future__ import annotations

from pathlib import Path

from penstock.errors import InvalidInput
from penstock.targets import Target
from penstock_checkpointer.store import Store

__all__ = ["open_backend"]


def open_backend(target: Target) -> Store:
    """Open the store that a ``file:///directory`` target names; it is created if missing.

    Raises:
        InvalidInput: The target names several places.
    """
    if len(target.locations) != 1:
        raise InvalidInput(
            f"{target} names {len(target.locations)} places: a checkpoint store is one directory",
            field="target",
        )
    return Store(Path(target.locations[0]))
