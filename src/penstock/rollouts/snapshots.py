"""Copies of rollouts in memory that is used again and again."""

from __future__ import annotations

import weakref
from collections import deque
from collections.abc import Collection, Mapping
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

__all__ = ["Snapshots"]

_ALIGNMENT = 64


class Snapshots:
    """Takes copies of rollouts.

    The memory of a copy is used for another one as soon as nothing looks at it any more: no array,
    no tensor over an array, no view of one. Whoever keeps a copy therefore keeps its content, and
    pays with memory.

    Args:
        spare: Pieces of memory that are kept while nobody uses them.

    Attributes:
        made: Pieces of memory that were asked of the system.
    """

    def __init__(self, spare: int) -> None:
        # Appending and popping are atomic: what gives memory back runs in any thread, even in the
        # middle of another call, and may wait for no lock.
        self._free: deque[NDArray[np.uint8]] = deque(maxlen=spare)
        self.made = 0

    def take(
        self, leaves: Mapping[str, NDArray[Any]], already: Collection[str] = ()
    ) -> dict[str, NDArray[Any]]:
        """Copy the leaves of a rollout, each to contiguous memory.

        Args:
            leaves: By path.
            already: Paths of those that are copies already.
        """
        offsets: dict[str, int] = {}
        size_bytes = 0
        copied = {path: leaf for path, leaf in leaves.items() if path not in already}
        for path, leaf in copied.items():
            offsets[path] = size_bytes
            size_bytes += -(-leaf.nbytes // _ALIGNMENT) * _ALIGNMENT
        memory = self._memory(size_bytes)
        copies = dict(leaves)
        for path, leaf in copied.items():
            place = memory[offsets[path] : offsets[path] + leaf.nbytes]
            copies[path] = place.view(leaf.dtype).reshape(leaf.shape)
            np.copyto(copies[path], leaf)
        return copies

    def _memory(self, size_bytes: int) -> NDArray[np.uint8]:
        while True:
            try:
                memory = self._free.pop()
            except IndexError:
                memory = np.empty(max(1, size_bytes), np.uint8)
                self.made += 1
                break
            if memory.nbytes >= size_bytes:
                break
        lease = _Lease(memory)
        end = weakref.finalize(lease, self._free.append, memory)
        end.atexit = False
        return cast("NDArray[np.uint8]", np.asarray(lease))


class _Lease:
    """What every array over a piece of memory refers to in the end."""

    def __init__(self, memory: NDArray[np.uint8]) -> None:
        self.__array_interface__ = memory.__array_interface__
