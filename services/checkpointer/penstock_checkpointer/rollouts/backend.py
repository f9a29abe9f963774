"""The rollout store inside another process, for ``file`` targets."""

from __future__ import annotations

from pathlib import Path

from penstock.errors import InvalidInput
from penstock.targets import Target
from penstock_checkpointer.rollouts.limits import RolloutLimits
from penstock_checkpointer.rollouts.store import RolloutStore

__all__ = ["open_backend"]

_FREE_BYTES = 16 << 20
"""Shared memory, where embedded stores often lie, may be small."""


def open_backend(target: Target) -> RolloutStore:
    """Open the store that a ``file:///directory`` target names; it is created if missing.

    Raises:
        InvalidInput: The target names several places.
    """
    if len(target.locations) != 1:
        raise InvalidInput(
            f"{target} names {len(target.locations)} places: a rollout store is one directory",
            field="target",
        )
    return RolloutStore(Path(target.locations[0]), RolloutLimits(free_bytes=_FREE_BYTES))
