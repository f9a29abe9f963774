"""How the storages of a state lie in a buffer, and a buffer as a state again."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from penstock.container.tensors import SMALL_BYTES, Storage, TensorEntry
from penstock.container.writer import Flattened

__all__ = ["PlannedStorage", "lay_out", "restored"]

_ALIGNMENT_BYTES = 64


class PlannedStorage(NamedTuple):
    """Where a storage goes in the buffer, and what the writer must know of it."""

    offset_bytes: int
    size_bytes: int
    item_size_bytes: int
    section: str
    floating: bool


def lay_out(storages: Sequence[Storage]) -> list[PlannedStorage]:
    """Put storages one behind the other, aligned; the small ones first.

    They are copied while the caller waits, which is quicker to memory that lies together.
    """
    sizes = [storage.data.nbytes for storage in storages]
    offsets, offset = [0] * len(sizes), 0
    for number in sorted(range(len(sizes)), key=lambda number: sizes[number] > SMALL_BYTES):
        offsets[number] = offset
        offset += -(-sizes[number] // _ALIGNMENT_BYTES) * _ALIGNMENT_BYTES
    return [
        PlannedStorage(offset, size, storage.item_size_bytes, storage.section, storage.floating)
        for offset, size, storage in zip(offsets, sizes, storages, strict=True)
    ]


def restored(
    tree: Any,
    entries: Sequence[TensorEntry],
    storages: Sequence[PlannedStorage],
    buffer: npt.NDArray[np.uint8],
) -> Flattened:
    """A state in a buffer, as the writer takes it; its storages look at the buffer.

    Args:
        tree: As ``Plan.stage`` gave it, parsed.
        entries: Of the plan.
        storages: Of the plan.
        buffer: ``(size_bytes,) uint8``.
    """
    return Flattened(
        tree,
        list(entries),
        [
            Storage(
                storage.item_size_bytes,
                buffer[storage.offset_bytes : storage.offset_bytes + storage.size_bytes],
                storage.section,
                storage.floating,
            )
            for storage in storages
        ],
    )
