"""Calling the kernels for the numbers of checkpoints: their byte planes, differences, rounding."""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["PlaneKernels", "address"]


_Nothing = ctypes.c_char * 0


class PlaneKernels:
    """A part of ``Kernels``; the functions of ``penstock.native`` check the arguments.

    Args:
        library: The shared library.
        level: Which instructions to use, as a number.
    """

    def __init__(self, library: ctypes.CDLL, level: int) -> None:
        self._level = level
        pointer, size = ctypes.c_void_p, ctypes.c_int64
        numbers, plane = [pointer, size, size, pointer], [pointer, size, pointer]
        self._split_planes = _function(library.ps_split_planes, [ctypes.c_int, *numbers])
        self._join_planes = _function(library.ps_join_planes, [ctypes.c_int, *numbers])
        self._split_bits = _function(library.ps_split_bits, [ctypes.c_int, *plane])
        self._join_bits = _function(library.ps_join_bits, [ctypes.c_int, *plane])
        self._pack = _function(library.ps_pack, [ctypes.c_int, *plane], size)
        self._unpack = _function(library.ps_unpack, [ctypes.c_int, *numbers], size)
        self._subtract = _function(library.ps_subtract, [pointer, *numbers])
        self._add = _function(library.ps_add, numbers)
        self._round_bfloat16 = _function(library.ps_round_bfloat16, plane)

    def split_planes(
        self, raw: NDArray[np.uint8], item_size_bytes: int, out: NDArray[np.uint8]
    ) -> None:
        """Byte planes of numbers; see ``penstock.native.split_planes``."""
        count = raw.size // item_size_bytes
        self._split_planes(self._level, address(raw), count, item_size_bytes, address(out))

    def join_planes(self, planes: Sequence[NDArray[np.uint8]], out: NDArray[np.uint8]) -> None:
        """Numbers of their byte planes; see ``penstock.native.join_planes``."""
        addresses = np.array([address(plane) for plane in planes], np.uint64)
        count, at = planes[0].size, address(addresses)
        self._join_planes(self._level, at, count, len(planes), address(out))

    def split_bits(self, plane: NDArray[np.uint8], out: NDArray[np.uint8]) -> None:
        """Bit planes of bytes; see ``penstock.native.split_bits``."""
        self._split_bits(self._level, address(plane), plane.size, address(out))

    def join_bits(self, bits: NDArray[np.uint8], out: NDArray[np.uint8]) -> None:
        """Bytes of their bit planes; see ``penstock.native.join_bits``."""
        self._join_bits(self._level, address(bits), bits.size, address(out))

    def pack(self, plane: NDArray[np.uint8], out: NDArray[np.uint8]) -> int:
        """How many bytes of ``out`` a plane takes; see ``penstock.native.pack``."""
        return self._pack(self._level, address(plane), plane.size, address(out))

    def unpack(self, data: NDArray[np.uint8], out: NDArray[np.uint8]) -> bool:
        """Undo ``pack``; whether ``data`` is that of just as many bytes as ``out`` has."""
        size = data.size, out.size
        return self._unpack(self._level, address(data), *size, address(out)) == 0

    def subtract(
        self,
        raw: NDArray[np.uint8],
        base: NDArray[np.uint8],
        item_size_bytes: int,
        out: NDArray[np.uint8],
    ) -> None:
        """Differences to a base; see ``penstock.native.subtract``."""
        numbers = raw.size // item_size_bytes, item_size_bytes
        self._subtract(address(raw), address(base), *numbers, address(out))

    def add_difference(
        self, base: NDArray[np.uint8], item_size_bytes: int, out: NDArray[np.uint8]
    ) -> None:
        """Undo ``subtract``; see ``penstock.native.add_difference``."""
        self._add(address(base), base.size // item_size_bytes, item_size_bytes, address(out))

    def round_bfloat16(self, floats: NDArray[np.uint8], out: NDArray[np.uint8]) -> None:
        """Halves of float32; see ``penstock.native.round_bfloat16``."""
        self._round_bfloat16(address(floats), floats.size // 4, address(out))


def address(array: NDArray[np.generic]) -> int:
    """Where the content of an array begins."""
    try:
        return ctypes.addressof(_Nothing.from_buffer(array.data))
    except TypeError:  # only for reading, or with gaps: three times slower
        return array.__array_interface__["data"][0]


def _function(found: Any, arguments: Sequence[Any], result: Any = None) -> Callable[..., Any]:
    found.argtypes, found.restype = arguments, result
    return found
