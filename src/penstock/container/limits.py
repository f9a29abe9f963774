"""What a checkpoint may demand of its reader's memory, checked before anything is allocated."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["CHUNK_SIZE_BYTES", "Limits"]

CHUNK_SIZE_BYTES = 1 << 20
"""Raw bytes of a chunk at most: what reading needs at a time, whatever the size of the model."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Bounds of one checkpoint, for writing and for reading alike.

    Attributes:
        index_size_bytes: JSON index, which is parsed in memory.
        node_count: Values of the tree that are no plain JSON, which cost memory and time each.
        tensor_count: Tensors and arrays.
        nesting_depth: Containers inside containers.
        raw_size_bytes: All tensors together once decoded; a small file may hold large zeros.
    """

    index_size_bytes: int = 32 << 20
    node_count: int = 1_000_000
    tensor_count: int = 1_000_000
    nesting_depth: int = 64
    raw_size_bytes: int = 256 << 30
