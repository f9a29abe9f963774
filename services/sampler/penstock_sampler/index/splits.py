"""The place of episodes in splits: a name that depends on content alone."""

from __future__ import annotations

import numpy as np
import xxhash
from numpy.typing import NDArray

__all__ = ["split_keys"]

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)


def split_keys(file_id: str, numbers: NDArray[np.int64]) -> NDArray[np.uint64]:
    """A uniform hash of (file id, number of the episode in its file), ``(E,) uint64``.

    SplitMix64 (Steele, Lea and Flood, OOPSLA 2014) seeded with the hash of the id.
    """
    seed = np.uint64(xxhash.xxh3_64_intdigest(file_id.encode("utf-8", "surrogateescape")))
    value = seed + (numbers.astype(np.uint64) + np.uint64(1)) * _GOLDEN
    value = (value ^ (value >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    value = (value ^ (value >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return value ^ (value >> np.uint64(31))
