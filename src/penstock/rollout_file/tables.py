"""Segments as the kernels take them: one line each, many to a call."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from contextlib import contextmanager

import numpy as np
from numpy.typing import NDArray

from penstock.native.rollouts import DISTANCES, ROWS, RolloutCoder, RowCodec
from penstock.rollout_file.field import Field
from penstock.rollout_file.index import Segments

__all__ = ["BATCH_BYTES", "borrowed_coder", "distances", "lines_of"]

BATCH_BYTES = 1 << 20
"""Raw bytes of segments that one call takes: small beside a rollout, large beside what it costs."""

_CODECS = {"raw": RowCodec.RAW, "lz4": RowCodec.LZ4, "zstd": RowCodec.ZSTD}
_MOST_ELEMENTS = 4096
_MULTIPLES = (1, 2, 3)
_KEPT_CODERS = 32
_KEPT_BYTES = 32 << 20

_free: list[RolloutCoder] = []


def distances(shape: Sequence[int]) -> list[int]:
    """At which distances an element of a row may find its own number again; ``DISTANCES`` numbers.

    One, two and three steps along each of the last two axes that have more than one. 0 for none.
    """
    found: set[int] = set()
    stride, axes = 1, 0
    for extent in reversed(shape):
        if extent > 1 and axes < DISTANCES // len(_MULTIPLES):
            found |= {multiple * stride for multiple in _MULTIPLES if multiple < extent}
            axes += 1
        stride *= extent
    usable = sorted(found) if 0 < stride <= _MOST_ELEMENTS else []
    return usable + [0] * (DISTANCES - len(usable))


def lines_of(fields: Sequence[Field], found: Segments) -> NDArray[np.void]:
    """``(n,)`` of ``ROWS``, for all segments."""
    columns = [
        (
            *(field.stored_dtype.itemsize, field.elements, 0, 0, _CODECS[field.codec]),
            *(field.next_of is not None, distances(field.shape)),
        )
        for field in fields
    ]
    lines = np.array(columns, ROWS)[found.field]
    lines["envs"], lines["steps"] = found.envs, found.steps
    return lines


@contextmanager
def borrowed_coder() -> Generator[RolloutCoder]:
    """A coder that nobody else uses meanwhile; its memory is kept for the next one."""
    # No lock, which a fork might copy while it is held: each of these operations is whole.
    try:
        coder = _free.pop()
    except IndexError:
        coder = RolloutCoder()
    yield coder
    if coder.memory_bytes <= _KEPT_BYTES and len(_free) < _KEPT_CODERS:
        _free.append(coder)
