"""Memory of batches: taken once from the system and lent out again and again.

Fresh pages cost a client two to three times the time of writing to them, so frames are decoded into
memory that earlier batches had. A user cannot be hurt by that: an array is lent with its memory,
and the memory comes back when the last array, view or tensor over it is gone.
"""

from __future__ import annotations

import ctypes
import math
import weakref
from collections import deque
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

__all__ = ["Allocate", "FrameBuffers"]

Allocate = Callable[[int], NDArray[np.uint8]]
"""Gives so many bytes, ``(n,) uint8``, contiguous and writable; page-locked memory for instance."""

MAX_IDLE = 8
_ALIGN_BYTES = 64
"""A cache line: the native library then writes large batches past the caches."""


class FrameBuffers:
    """Lends arrays over memory that is used again.

    Args:
        allocate: Where memory comes from; None for ordinary memory.
        max_idle: Pieces of memory that are kept while nobody uses them.
    """

    def __init__(self, allocate: Allocate | None = None, max_idle: int = MAX_IDLE) -> None:
        self._allocate = allocate or _ordinary
        # Memory comes back from finalizers, which may run at any point of any thread, inside take()
        # too. A deque's own operations are atomic, so there is no lock to wait for.
        self._idle: deque[NDArray[np.uint8]] = deque(maxlen=max_idle)

    def take(self, shape: tuple[int, ...]) -> NDArray[np.uint8]:
        """An array of that shape with unset contents, contiguous."""
        size_bytes = math.prod(shape)
        if not size_bytes:
            return np.empty(shape, np.uint8)
        memory = self._idle_memory(size_bytes)
        if memory is None:
            memory = self._allocate(size_bytes)
        # Every view keeps the object that it was made from alive: first this one, then the array
        # below. NumPy would pass over an array as a base, but not over this one.
        lease = (ctypes.c_ubyte * size_bytes).from_buffer(memory.data)
        weakref.finalize(lease, self._idle.append, memory).atexit = False
        return np.frombuffer(memoryview(lease), np.uint8).reshape(shape)

    @property
    def idle(self) -> int:
        """Pieces of memory that nobody uses now."""
        return len(self._idle)

    def _idle_memory(self, size_bytes: int) -> NDArray[np.uint8] | None:
        for _ in range(len(self._idle)):
            try:
                memory = self._idle.popleft()
            except IndexError:
                return None
            if memory.nbytes == size_bytes:
                return memory
            # Of another size: the batches have changed, it is given back to the system.
        return None


def _ordinary(size_bytes: int) -> NDArray[np.uint8]:
    memory = np.empty(size_bytes + _ALIGN_BYTES - 1, np.uint8)
    start = -memory.__array_interface__["data"][0] % _ALIGN_BYTES
    return memory[start : start + size_bytes]
