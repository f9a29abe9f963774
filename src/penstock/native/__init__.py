"""Kernels in C: for every frame reading, resizing, bit planes, LZ4, LZF; copies of many tensors.

Built when the package is installed (``hatch_build.py``), loaded at the first use, and never
required: without them NumPy and python-lz4 give the same bytes, slower, and say so once.
``PENSTOCK_NATIVE=0`` leaves them out; ``portable`` or ``avx2`` hold them below what the CPU has.
"""

from penstock.native.gather import gather
from penstock.native.hashing import xxh3_address
from penstock.native.library import (
    LEVELS,
    Kernels,
    available,
    describe,
    kernels,
    lzf_decompress_into,
    say_fallback,
)

__all__ = [
    "LEVELS",
    "Kernels",
    "available",
    "describe",
    "gather",
    "kernels",
    "lzf_decompress_into",
    "say_fallback",
    "xxh3_address",
]
