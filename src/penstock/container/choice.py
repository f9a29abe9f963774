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
    Codec,
    Filter,
    Method,
    Profile,
    encode_chunk,
)
from penstock.container.tensors import Storage

__all__ = ["WITHOUT_BASE", "Kind", "choose_methods", "kind_of"]

BasePiece = Callable[[int, int, int], npt.NDArray[np.uint8] | None]
"""Bytes of the base for a storage, from and to which byte; None where it has none."""

_LZ4 = Method(Filter.NONE, Codec.BLOSC2)
_SHUFFLE_LZ4 = Method(Filter.SHUFFLE, Codec.BLOSC2)
_BITSHUFFLE_LZ4 = Method(Filter.BITSHUFFLE, Codec.BLOSC2)
_ZSTD = Method(Filter.NONE, Codec.BLOSC2, zstd=True)
_SHUFFLE_ZSTD = Method(Filter.SHUFFLE, Codec.BLOSC2, zstd=True)
_BITSHUFFLE_ZSTD = Method(Filter.BITSHUFFLE, Codec.BLOSC2, zstd=True)
WITHOUT_BASE = _SHUFFLE_ZSTD
"""For chunks of a section of differences that the base has nothing for."""

_DELTA = Method(Filter.DELTA, Codec.BLOSC2, zstd=True)
_BF16 = Method(Filter.BF16, Codec.BLOSC2, zstd=True)

_SAMPLES = 8
_SAMPLE_BYTES = 1 << 16
_MIN_SAMPLE_BYTES = 1 << 12
"""Below this a storage tells little about its section, unless nothing else is there."""

_WORTH = 0.98
"""A method must come to less than this share of the raw bytes, or they are stored as they are."""


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
    if profile == "policy-bf16" and kind.floating:
        return _BF16
    samples = _samples(numbers, storages)
    raw_bytes = sum(stop - start for _, start, stop in samples)
    best, best_bytes = STORED, raw_bytes * _WORTH
    for method in _candidates(kind, profile, with_base=base_piece is not None):
        stored_bytes = 0
        for number, start, stop in samples:
            piece = storages[number].data[start:stop]
            base = None
            if method.filter == Filter.DELTA and base_piece is not None:
                base = base_piece(number, start, stop)
            if method.filter == Filter.DELTA and base is None:
                stored_bytes += len(piece)
            else:
                stored_bytes += len(encode_chunk(piece.data, kind.item_size_bytes, method, base)[2])
        if stored_bytes < best_bytes:
            best, best_bytes = method, stored_bytes
    return best


def _candidates(kind: Kind, profile: Profile, *, with_base: bool) -> tuple[Method, ...]:
    if profile == "fast":
        several = (_BITSHUFFLE_LZ4, _SHUFFLE_LZ4, _LZ4)
        return several if kind.item_size_bytes > 1 else (_LZ4,)
    methods = (_SHUFFLE_ZSTD, _BITSHUFFLE_ZSTD, _ZSTD) if kind.item_size_bytes > 1 else (_ZSTD,)
    if profile == "delta" and with_base and kind.item_size_bytes in DELTA_ITEM_BYTES:
        return (*methods, _DELTA)
    return methods


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
        size, item = storages[number].data.nbytes, storages[number].item_size_bytes
        offset = position - int(ends[which]) + size
        start = max(0, min(offset, size - _SAMPLE_BYTES)) // item * item
        piece = (number, start, min(size, start + _SAMPLE_BYTES // item * item))
        if piece not in result:
            result.append(piece)
    return result
