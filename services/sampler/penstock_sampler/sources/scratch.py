"""Working memory of a reading thread, kept from one read to the next."""

from __future__ import annotations

import threading

import numpy as np
from numpy.typing import NDArray

__all__ = ["Scratch"]

_KEPT_BYTES = 4 << 20
"""A larger buffer is given back after its use."""


class Scratch(threading.local):
    """Buffers by name, each thread its own; what fresh memory costs in page faults is paid once."""

    def __init__(self) -> None:
        self._kept: dict[str, NDArray[np.uint8]] = {}

    def take(self, name: str, size_bytes: int) -> NDArray[np.uint8]:
        """A ``(size_bytes,) uint8`` array of any content, valid until ``name`` is taken again."""
        kept = self._kept.get(name)
        if kept is None or kept.size < size_bytes:
            kept = np.empty(size_bytes, np.uint8)
            if size_bytes <= _KEPT_BYTES:
                self._kept[name] = kept
        return kept[:size_bytes]
