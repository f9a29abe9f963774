"""Counter-based random draws: the numbers of any step at once, without the steps before it.

Numbers come from Philox (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011),
permutations from a Feistel network with cycle walking (Black and Rogaway, "Ciphers with arbitrary
finite domains", CT-RSA 2002): exact, any size, no memory.
"""

from __future__ import annotations

from enum import IntEnum

import numpy as np
from numpy.typing import NDArray

__all__ = ["Stream", "permute", "raw_words", "scale", "unit"]

_ROUNDS = 6
_U64 = np.uint64
_LOW32 = _U64(0xFFFFFFFF)


class Stream(IntEnum):
    """Independent sequences of one seed; runs resume on them, so a number never changes."""

    PLACE = 0
    """Where in the dataset, or in its weights, a draw falls."""
    PERMUTATION = 1
    """Round keys of an epoch."""
    PART = 2
    """The part of a mixture."""
    WITHIN = 3
    """Where in a segment of weighted transitions a draw falls."""


def raw_words(seed: int, stream: Stream, block: int, count: int) -> NDArray[np.uint64]:
    """``(count,) uint64`` uniform words of one block; no two blocks or streams overlap."""
    # Philox counts in the first word, so a block has 2**64 counters of its own.
    counter = [0, 0, block, stream] if stream is Stream.PERMUTATION else [0, block, 0, stream]
    return np.random.Philox(key=seed, counter=counter).random_raw(count)


def unit(raw: NDArray[np.uint64]) -> NDArray[np.float64]:
    """The top 53 bits of each word as a number in [0, 1), exact in float64."""
    return (raw >> _U64(11)).astype(np.float64) / 2.0**53


def scale(raw: NDArray[np.uint64], total: int | NDArray[np.int64]) -> NDArray[np.int64]:
    """High 64 bits of ``raw * total``: uniform in [0, total), bias below total / 2**64."""
    high, low = raw >> _U64(32), raw & _LOW32
    factor = np.asarray(total, _U64)
    factor_high, factor_low = factor >> _U64(32), factor & _LOW32
    middle = high * factor_low + ((low * factor_low) >> _U64(32))
    carry = (low * factor_high + (middle & _LOW32)) >> _U64(32)
    return (high * factor_high + (middle >> _U64(32)) + carry).astype(np.int64)


def permute(places: NDArray[np.int64], total: int, seed: int, epoch: int) -> NDArray[np.int64]:
    """Where the permutation of [0, total) of one seed and epoch sends each place."""
    half_bits = max(1, -(-max(total - 1, 1).bit_length() // 2))
    half, mask = _U64(half_bits), _U64((1 << half_bits) - 1)
    keys = raw_words(seed, Stream.PERMUTATION, epoch, _ROUNDS)
    values = places.astype(_U64)
    outside = np.ones(len(values), np.bool_)
    while outside.any():
        left, right = values[outside] >> half, values[outside] & mask
        for round_key in keys:
            left, right = right, left ^ (_mix(right ^ round_key) & mask)
        values[outside] = (left << half) | right
        outside = values >= _U64(total)
    return values.astype(np.int64)


def _mix(value: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """The finaliser of SplitMix64 (Steele, Lea and Flood, OOPSLA 2014)."""
    value = (value ^ (value >> _U64(30))) * _U64(0xBF58476D1CE4E5B9)
    value = (value ^ (value >> _U64(27))) * _U64(0x94D049BB133111EB)
    return value ^ (value >> _U64(31))
