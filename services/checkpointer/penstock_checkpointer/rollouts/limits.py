"""What a store of rollouts takes."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["RolloutLimits"]


@dataclass(frozen=True, slots=True, kw_only=True)
class RolloutLimits:
    """What a store takes; what is beyond is refused with ``LIMIT``.

    Attributes:
        rollout_size_bytes: Largest file of a rollout.
        free_bytes: What must stay free on the disk.
        push_expiry_s: A push that nothing was added to for so long is removed.
        push_idle_s: A push that nothing was added to for so long keeps no place in the queue.
        pushes: How many may be under way.
        streams: How many there may be.
        names: Producers, and consumers, that one stream may have.
        remembered: Removed rollouts of each producer that a repeated push is still told apart by.
    """

    rollout_size_bytes: int = 16 << 30
    free_bytes: int = 256 << 20
    push_expiry_s: float = 3600.0
    push_idle_s: float = 30.0
    pushes: int = 1_000
    streams: int = 10_000
    names: int = 1_000
    remembered: int = 10_000
