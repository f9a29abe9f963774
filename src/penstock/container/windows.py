"""Windows on the memory of tensors, as a plan keeps them: where each begins, and copying them."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from penstock.native import gather

__all__ = ["Windows"]

_FEW = 16
"""So many windows that moved are compared with all others one by one, which is quicker."""


class Windows:
    """Memory of CPU tensors that storages are copied from.

    Attributes:
        followed: Indices of the tensors that lie in one.
        later: Those of them that are not copied at once.

    Args:
        numbers: Of the storages, ``n`` of them.
        urgent_count: So many of them, the first ones, are copied at once.
        addresses: ``(n,) uint64``.
        sizes: ``(n,) uint64``, in bytes.
        offsets: ``(n,) uint64``; where each goes in a buffer.
        members: ``(m, 2) int64``; index of a tensor that has bytes, and of the window it lies in.
        pointers: ``uint64``; where the data of each tensor begins.
        spans: ``(k, 2) int64``; index and extent in bytes of each tensor with holes, which is no
            window, but must not come to lie in one.
    """

    def __init__(
        self,
        numbers: Sequence[int],
        urgent_count: int,
        addresses: npt.NDArray[np.uint64],
        sizes: npt.NDArray[np.uint64],
        offsets: npt.NDArray[np.uint64],
        members: npt.NDArray[np.int64],
        pointers: npt.NDArray[np.uint64],
        spans: npt.NDArray[np.int64],
    ) -> None:
        self._spans = spans
        self.followed = frozenset(members[:, 0].tolist())
        self.later = frozenset(members[members[:, 1] >= urgent_count, 0].tolist())
        self._numbers, self._urgent_count = numbers, urgent_count
        self._addresses, self._sizes, self._offsets = addresses, sizes, offsets
        self._tensor, self._window = members[:, 0], members[:, 1]
        self._place = pointers[self._tensor] - addresses[self._window]
        # One tensor of each window tells where it is now.
        self._anchors = np.unique(self._window, return_index=True)[1]
        first = np.full(len(addresses), np.iinfo(np.uint64).max, np.uint64)
        np.minimum.at(first, self._window, self._place)
        self._padded = np.flatnonzero(first != 0)

    def move(self, pointers: npt.NDArray[np.uint64]) -> bool:
        """Follow tensors that lie elsewhere now.

        Returns:
            False if they no longer share memory as they did; the windows are then of no use.
        """
        if np.any(pointers[self._tensor] == 0):
            return False  # the memory was given back
        places = pointers[self._tensor] - self._place
        addresses = self._addresses.copy()
        addresses[self._window[self._anchors]] = places[self._anchors]
        if not np.array_equal(addresses[self._window], places):
            return False
        # A window begins up to 15 bytes before its first tensor, which it need not do elsewhere.
        moved = np.flatnonzero(addresses != self._addresses)
        if len(self._padded) and np.any(np.isin(moved, self._padded)):
            return False
        begins, ends = addresses, addresses + self._sizes
        if len(self._spans):
            places = pointers[self._spans[:, 0]]
            begins = np.concatenate([begins, places])
            ends = np.concatenate([ends, places + self._spans[:, 1].astype(np.uint64)])
        if len(self._spans) or len(moved) > _FEW:
            order = np.argsort(begins)
            overlap = bool(np.any(ends[order][:-1] > begins[order][1:]))
        else:
            # The states of random number generators are new tensors each time, and only they.
            overlap = any(
                np.count_nonzero((begins < ends[index]) & (ends > begins[index])) > 1
                for index in moved.tolist()
            )
        if overlap:
            return False
        self._addresses = addresses
        return True

    def copy_urgent(self, out: npt.NDArray[np.uint8]) -> None:
        """Copy those that may not wait into a buffer."""
        self._copy(slice(self._urgent_count), out)

    def copy_rest(self, out: npt.NDArray[np.uint8]) -> None:
        """Copy the others into a buffer."""
        self._copy(slice(self._urgent_count, None), out)

    def rest(self) -> list[tuple[int, npt.NDArray[np.uint8]]]:
        """Number and live memory of each of the others."""
        return [
            (self._numbers[index], _memory(int(self._addresses[index]), int(self._sizes[index])))
            for index in range(self._urgent_count, len(self._numbers))
        ]

    def _copy(self, which: slice, out: npt.NDArray[np.uint8]) -> None:
        gather(self._addresses[which], self._sizes[which], self._offsets[which], out)


def _memory(address: int, size_bytes: int) -> npt.NDArray[np.uint8]:
    memory = (ctypes.c_uint8 * size_bytes).from_address(address)
    return np.ctypeslib.as_array(memory)
