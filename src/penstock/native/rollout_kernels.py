"""Calling the kernels for the segments of rollouts."""

from __future__ import annotations

import ctypes

import numpy as np
from numpy.typing import NDArray

from penstock.native.plane_kernels import address

__all__ = ["Libraries", "RolloutKernels"]


class Libraries(ctypes.Structure):
    """``ps_libraries``: functions that Python packages bring, and what they work with."""

    _fields_ = tuple(
        (name, ctypes.c_void_p)
        for name in (
            *("hash", "lz4_compress", "zstd_compress", "zstd_decompress"),
            *("compressor", "decompressor"),
        )
    )


class RolloutKernels:
    """A part of ``Kernels``; ``penstock.native.rollouts`` fills the tables.

    Args:
        library: The shared library.
        level: Which instructions to use, as a number.
    """

    def __init__(self, library: ctypes.CDLL, level: int) -> None:
        self._level = level
        pointer, size = ctypes.c_void_p, ctypes.c_int64
        self._memory, self._room = library.ps_rollout_memory, library.ps_rollout_room
        for call in (self._memory, self._room):
            call.argtypes, call.restype = [pointer, size], size
        begin = [ctypes.c_int, pointer, pointer, size, pointer]
        self._encode_rollout = library.ps_encode_rollout
        self._encode_rollout.argtypes = [*begin, *3 * [pointer]]
        self._encode_rollout.restype = size
        self._decode_rollout = library.ps_decode_rollout
        self._decode_rollout.argtypes, self._decode_rollout.restype = begin, size

    def rollout_memory(self, rows: NDArray[np.int64]) -> int:
        """Bytes that encoding or decoding segments needs to work with; ``(n, 12)``."""
        return self._memory(address(rows), len(rows))

    def rollout_room(self, rows: NDArray[np.int64]) -> int:
        """Bytes that encoding segments may write; ``(n, 12)``."""
        return self._room(address(rows), len(rows))

    def encode_rollout(
        self,
        libraries: Libraries,
        rows: NDArray[np.int64],
        memory: NDArray[np.uint8],
        out: NDArray[np.uint8],
        sizes: NDArray[np.int64],
        hashes: NDArray[np.uint64],
    ) -> int:
        """Encode segments; returns the size of all, negative where a library failed."""
        arrays = address(memory), address(out), address(sizes), address(hashes)
        begin = self._level, ctypes.byref(libraries), address(rows), len(rows)
        return self._encode_rollout(*begin, *arrays)

    def decode_rollout(
        self, libraries: Libraries, rows: NDArray[np.int64], memory: NDArray[np.uint8]
    ) -> int:
        """Decode segments; returns how many, or which one is damaged."""
        begin = self._level, ctypes.byref(libraries), address(rows), len(rows)
        return self._decode_rollout(*begin, address(memory))
