"""Choosing how each section of a state is encoded, by trying it on samples.

A *section* is a part of a state whose tensors resemble one another: a key of the state (``model``,
``ema``), and for optimizers each of their moments (``optimizer.exp_avg``). Adam's first moment
gains nothing from a difference to an older one, its weights and second moment do: only trying
tells.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from penstock.container.codecs import (
    DELTA_ITEM_BYTES,
    STORED,
    Filter,
    Method,
    Profile,
)
from penstock.container.planes import Packing, PlaneEncoder, plane_count, whole_of
from penstock.container.tensors import Storage
from penstock.native import round_bfloat16, split_planes, subtract

__all__ = ["Kind", "choose_methods", "kind_of"]

BasePiece = Callable[[int, int, int], npt.NDArray[np.uint8] | None]
"""Bytes of the base for a storage, from and to which byte; None where it has none."""

_FAST = (Packing.PACKED, Packing.LZ4)
_SMALL = (Packing.ENTROPY, Packing.ZSTD, Packing.BITS_ZSTD)
"""What may be tried, the fastest first."""

_SAMPLES = 8
_SAMPLE_BYTES = 1 << 16
_MIN_SAMPLE_BYTES = 1 << 12
"""Below this a storage tells little about its section, unless nothing else is there."""

_WORTH = 0.98
"""A method must come to less than this share of the raw bytes, or they are stored as they are."""

_GAIN = 0.01
"""Share of the bytes that something slower must save beyond what something faster does."""


class Kind(NamedTuple):
    """What one method is chosen for."""

    section: str
    item_size_bytes: int
    floating: bool


def kind_of(storage: Storage) -> Kind:
    """What the method of a storage is chosen by."""
    return Kind(storage.section, storage.item_size_bytes, storage.floating)


def choose_methods(
    storages: Sequence[Storage], profile: Profile, base_piece: BasePiece | None = None
) -> Mapping[Kind, Method]:
    """Choose a method for each kind of storage.

    Args:
        storages: All of a state.
        profile: Which methods may be tried.
        base_piece: Gives pieces of the base; None without one.
    """
    members: dict[Kind, list[int]] = {}
    for number, storage in enumerate(storages):
        members.setdefault(kind_of(storage), []).append(number)
    return {
        kind: _choose(kind, numbers, storages, profile, base_piece)
        for kind, numbers in members.items()
    }


def _choose(
    kind: Kind,
    numbers: Sequence[int],
    storages: Sequence[Storage],
    profile: Profile,
    base_piece: BasePiece | None,
) -> Method:
    if profile == "none":
        return STORED
    samples = _samples(numbers, storages)
    pieces = [storages[number].data[start:stop] for number, start, stop in samples]
    item = kind.item_size_bytes
    trial = _Trial(_FAST if profile == "fast" else _SMALL)
    if profile == "policy-bf16" and kind.floating:
        halves = [np.empty(len(piece) // 2, np.uint8) for piece in pieces]
        for piece, half in zip(pieces, halves, strict=True):
            round_bfloat16(piece, half)
        return Method(Filter.BF16, trial.best(halves, 2)[0])
    raw_bytes = sum(len(piece) for piece in pieces)
    packings, best_bytes = trial.best(pieces, item)
    best = STORED
    if best_bytes < raw_bytes * _WORTH:
        best = Method(Filter.NONE, packings)
    else:
        best_bytes = raw_bytes * _WORTH
    if profile == "delta" and base_piece is not None and item in DELTA_ITEM_BYTES:
        known: list[npt.NDArray[np.uint8]] = []
        unknown_bytes = 0
        for piece, sample in zip(pieces, samples, strict=True):
            base = base_piece(*sample)
            if base is None:
                unknown_bytes += len(piece)
            else:
                known.append(np.empty_like(piece))
                subtract(piece, base, item, known[-1])
        packings, known_bytes = trial.best(known, item)
        if known_bytes + unknown_bytes < best_bytes:
            return Method(Filter.DELTA, packings, best.planes)
    return best


class _Trial:
    """Finds out how samples are packed best, with the packings that a profile allows."""

    def __init__(self, packings: Sequence[Packing]) -> None:
        self._packings = packings
        self._encoder = PlaneEncoder()

    def best(
        self, pieces: Sequence[npt.NDArray[np.uint8]], item_size_bytes: int
    ) -> tuple[tuple[Packing, ...], int]:
        """How, and how many bytes that takes; the pieces are whole elements."""
        count = plane_count(item_size_bytes, 0)
        if count == 1:
            packing, size = self._packing(pieces, self._packings)
            return (packing,), size
        split: list[npt.NDArray[np.uint8]] = []
        for piece in pieces:
            split.append(np.empty((count, len(piece) // count), np.uint8))
            split_planes(piece, count, split[-1].reshape(-1))
        found = [
            self._packing([planes[place] for planes in split], self._packings)
            for place in range(count)
        ]
        size = sum(size for _, size in found)
        whole, whole_size = self._packing(pieces, [whole_of(self._packings)])
        if whole_size < size - _GAIN * sum(len(piece) for piece in pieces):
            return (whole,), whole_size
        return tuple(packing for packing, _ in found), size

    def _packing(
        self, pieces: Sequence[npt.NDArray[np.uint8]], packings: Sequence[Packing]
    ) -> tuple[Packing, int]:
        raw_bytes = sum(len(piece) for piece in pieces)
        best, best_bytes = Packing.RAW, raw_bytes
        for packing in packings:
            size = 0
            for piece in pieces:
                packed = self._encoder.pack(piece, packing)
                size += len(piece) if packed is None else len(packed)
            if size < best_bytes - _GAIN * raw_bytes:
                best, best_bytes = packing, size
        return best, best_bytes


def _samples(numbers: Sequence[int], storages: Sequence[Storage]) -> list[tuple[int, int, int]]:
    """Storage, start and stop of pieces spread over a section's bytes."""
    telling = [number for number in numbers if storages[number].data.nbytes >= _MIN_SAMPLE_BYTES]
    telling = telling or list(numbers)
    ends = np.cumsum([storages[number].data.nbytes for number in telling])
    total = int(ends[-1])
    result: list[tuple[int, int, int]] = []
    for sample in range(_SAMPLES):
        position = total * (2 * sample + 1) // (2 * _SAMPLES)
        which = int(np.searchsorted(ends, position, side="right"))
        if which == len(telling):
            continue
        number = telling[which]
        size, item = storages[number].data.nbytes, plane_count(storages[number].item_size_bytes, 0)
        offset = position - int(ends[which]) + size
        start = max(0, min(offset, size - _SAMPLE_BYTES)) // item * item
        piece = (number, start, min(size // item * item, start + _SAMPLE_BYTES))
        if start < piece[-1] and piece not in result:
            result.append(piece)
    return result
