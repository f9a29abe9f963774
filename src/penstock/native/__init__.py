"""Kernels in C, built when the package is installed (``hatch_build.py``), loaded at the first use.

For every frame reading, resizing, bit planes, LZ4, LZF; for checkpoints copies of many tensors and
planes of their bytes; for rollouts whole segments (``rollouts``). Without them NumPy and
python-lz4 give the same bytes, slower, and say so once. ``PENSTOCK_NATIVE=0`` leaves them out;
``portable`` or ``avx2`` hold them below what the CPU has.
"""

from penstock.native.filters import add_difference, round_bfloat16, subtract
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
from penstock.native.planes import (
    join_bits,
    join_planes,
    pack,
    packed_room,
    split_bits,
    split_planes,
    unpack,
)

__all__ = [
    "LEVELS",
    "Kernels",
    "add_difference",
    "available",
    "describe",
    "gather",
    "join_bits",
    "join_planes",
    "kernels",
    "lzf_decompress_into",
    "pack",
    "packed_room",
    "round_bfloat16",
    "say_fallback",
    "split_bits",
    "split_planes",
    "subtract",
    "unpack",
    "xxh3_address",
]
