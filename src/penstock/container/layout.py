"""How the storages of a state lie in a buffer, and a buffer as a state again."""

from __future__ import annotations

from collections.abc import Container, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from penstock.container.tensors import SMALL_BYTES, Storage, TensorEntry
from penstock.container.writer import Flattened

__all__ = ["PlannedStorage", "is_urgent", "lay_out", "restored"]

_ALIGNMENT_BYTES = 64


class PlannedStorage(NamedTuple):
    """Where a storage goes in the buffer, and what the writer must know of it."""

    offset_bytes: int
    size_bytes: int
    item_size_bytes: int
    section: str
    floating: bool


def is_urgent(storage: Storage, stepped: Mapping[int, int]) -> bool:
    """Whether a storage is copied while the caller waits, not later.

    Args:
        storage: Of the state.
        stepped: Address and bytes of tensors that only the steps of optimizers write, which wait.
    """
    if storage.data.nbytes > SMALL_BYTES:
        return False
    address = storage.data.__array_interface__["data"][0]
    return storage.entry is not None or stepped.get(address) != storage.data.nbytes


def lay_out(storages: Sequence[Storage], urgent: Container[int]) -> list[PlannedStorage]:
    """Put storages one behind the other, aligned; the urgent ones first.

    The caller waits for these, and memory that lies together is copied faster.
    """
    sizes = [storage.data.nbytes for storage in storages]
    offsets, offset = [0] * len(sizes), 0
    for number in sorted(range(len(sizes)), key=lambda number: number not in urgent):
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
