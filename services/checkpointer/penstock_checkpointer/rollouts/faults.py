"""What a disk refuses to a store of rollouts, as callers see it."""

from __future__ import annotations

from penstock.errors import PenstockError
from penstock_checkpointer import faults

__all__ = ["disk_fault"]


def disk_fault(error: OSError, doing: str) -> PenstockError:
    """The error that callers see when the disk refuses.

    Args:
        error: From the operating system.
        doing: What was tried, e.g. ``"receiving rollout-stream/main/100"``.
    """
    return faults.disk_fault(error, doing, faults.ROLLOUTS)
