"""Segments of rollouts; NumPy does the same without the library.

Segments are described by tables of int64, one line each, so that one call does many of them. A
segment holds *rows*, a step of an environment each, of equal elements.
"""

from __future__ import annotations

import logging
import weakref
from enum import IntEnum
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from penstock.errors import Internal
from penstock.native.compressors import address_of, lz4_address, zstd_library
from penstock.native.hashing import xxh3_address
from penstock.native.library import Kernels, describe, kernels
from penstock.native.rollout_kernels import Libraries
from penstock.native.rollout_plain import decode_plainly, encode_plainly

__all__ = [
    "DISTANCES",
    "ROWS",
    "ROWS_IN",
    "ROWS_OUT",
    "RolloutCoder",
    "RowCodec",
    "table",
]

DISTANCES = 6
"""How many distances an element can choose from."""

_SHARED = ("item", "elements", "envs", "steps", "codec", "follows")
ROWS = np.dtype([(name, np.int64) for name in _SHARED] + [("distances", np.int64, DISTANCES)])
"""``ps_rows``: what every segment has; kernels.h describes it and the following."""
_IN = ("effort", "rows", "env_stride", "step_stride", "base", "base_env_stride", "base_step_stride")
ROWS_IN = np.dtype([("of", ROWS), *((name, np.int64) for name in _IN)])
"""``ps_rows_in``: a segment to encode."""
_OUT = ("out", "env_stride", "places", "first_step", "end_step")
ROWS_OUT = np.dtype(
    [("of", ROWS), ("data", np.int64), ("data_bytes", np.int64), ("hash", np.uint64)]
    + [(name, np.int64) for name in _OUT]
)
"""``ps_rows_out``: a segment to decode."""


_log = logging.getLogger(__name__)


class RowCodec(IntEnum):
    """What makes streams smaller; the numbers are those in a segment."""

    RAW = 0
    LZ4 = 1
    ZSTD = 2


class RolloutCoder:
    """Encodes and decodes segments; keeps its memory from one call to the next. For one thread.

    Args:
        native: The library to use; None for what there is, which may be none.
    """

    def __init__(self, native: Kernels | None = None) -> None:
        self._native = native or _usable()
        self._memory = np.empty(0, np.uint8)
        if self._native is None:
            _say_plain()
            return
        library = zstd_library()
        assert library is not None  # noqa: S101 - _usable() has seen it
        compressor, decompressor = library.ZSTD_createCCtx(), library.ZSTD_createDCtx()
        weakref.finalize(self, library.ZSTD_freeCCtx, compressor)
        weakref.finalize(self, library.ZSTD_freeDCtx, decompressor)
        self._libraries = Libraries(
            *(xxh3_address(), lz4_address()),
            *(address_of(library, "ZSTD_compressCCtx"), address_of(library, "ZSTD_decompressDCtx")),
            *(compressor, decompressor),
        )

    def encode(
        self, rows: NDArray[np.void]
    ) -> tuple[NDArray[np.uint8], NDArray[np.int64], NDArray[np.uint64]]:
        """Encode segments.

        Args:
            rows: ``(n,)`` of ``ROWS_IN``; whoever fills it keeps the arrays alive.

        Returns:
            The segments back to back, ``(size,) uint8``; the size of each and its XXH3-64.
        """
        if self._native is None:
            return encode_plainly(rows)
        of = np.ascontiguousarray(rows["of"])
        out = np.empty(self._native.rollout_room(_numbers(of)), np.uint8)
        sizes, hashes = np.empty(len(rows), np.int64), np.empty(len(rows), np.uint64)
        memory = self._room(self._native.rollout_memory(_numbers(of)))
        size = self._native.encode_rollout(
            self._libraries, _numbers(rows), memory, out, sizes, hashes
        )
        if size < 0:
            raise Internal("LZ4 or zstd could not compress a segment of a rollout")
        return out[:size], sizes, hashes

    def decode(self, rows: NDArray[np.void]) -> int:
        """Decode segments to where their lines tell.

        Args:
            rows: ``(n,)`` of ``ROWS_OUT``; whoever fills it keeps the arrays alive.

        Returns:
            How many were decoded: ``n``, or the index of the first one that is damaged.
        """
        if self._native is None:
            return decode_plainly(rows)
        of = np.ascontiguousarray(rows["of"])
        memory = self._room(self._native.rollout_memory(_numbers(of)))
        return self._native.decode_rollout(self._libraries, _numbers(rows), memory)

    @property
    def memory_bytes(self) -> int:
        """What it keeps."""
        return self._memory.size

    def _room(self, size: int) -> NDArray[np.uint8]:
        if self._memory.size < size:
            self._memory = np.empty(size, np.uint8)
        return self._memory


def table(kind: np.dtype[np.void], count: int) -> NDArray[np.void]:
    """Lines for ``count`` segments, all 0."""
    return np.zeros(count, kind)


def _numbers(rows: NDArray[np.void]) -> NDArray[np.int64]:
    return rows.view(np.int64).reshape(len(rows), -1)


@lru_cache(maxsize=1)
def _say_plain() -> None:
    """Say once in a process that NumPy does the work."""
    _log.warning(
        "Rollouts are encoded and decoded by NumPy, the same bytes, tens of times slower: "
        "the native kernels are %s.",
        describe(),
    )


def _usable() -> Kernels | None:
    """The native library where packages bring all that it needs."""
    found = kernels()
    if found is None or not xxh3_address() or not lz4_address() or zstd_library() is None:
        return None
    return found
