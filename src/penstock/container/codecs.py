"""Encoding of one chunk: a filter that leaves less to say, then a codec.

A *method* is a filter and how the byte planes are packed. Which one a chunk gets follows from the
profile and from what sampling has shown (see ``choice``); a chunk that does not shrink is stored as
it is.

    fast         byte planes, with LZ4 or as they are
    small        byte planes, with zstd or as they are
    delta        difference to a base, then as small
    policy-bf16  float32 rounded to bfloat16, then as small: loses precision
    none         stored as it is

LZ4 alone saves nothing on trained float32 weights, for it looks for repeated strings of bytes and
there are none. What can be saved lies in the sign and exponent of neighbours, which resemble one
another; ``planes`` brings these bits together.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import IntEnum
from typing import Literal, NamedTuple, get_args

import numpy as np
import numpy.typing as npt

from penstock.container.limits import CHUNK_SIZE_BYTES
from penstock.container.older import blosc2_decode
from penstock.container.planes import (
    Packing,
    Piece,
    PlaneEncoder,
    decode_planes,
    lz4_decode,
    plane_count,
    whole_of,
)
from penstock.errors import Corrupt, InvalidInput
from penstock.native import add_difference, round_bfloat16, subtract

__all__ = [
    "DELTA_ITEM_BYTES",
    "STORED",
    "Codec",
    "Encoded",
    "Encoder",
    "Filter",
    "Method",
    "Profile",
    "check_profile",
    "decode_chunk",
]

Profile = Literal["small", "fast", "delta", "policy-bf16", "none"]

DELTA_ITEM_BYTES = (2, 4, 8)
"""Element sizes that can be subtracted."""

_MIN_COMPRESSED_BYTES = 256


class Codec(IntEnum):
    """How a chunk's bytes are compressed."""

    NONE = 0
    LZ4 = 1
    """Of earlier versions, like ``BLOSC2``: they are read, never written."""
    BLOSC2 = 2
    BASE = 3
    """Nothing is stored: the chunk equals that of the base."""
    PLANES = 4
    """See ``planes``."""


class Filter(IntEnum):
    """What is done to a chunk's bytes before compression."""

    NONE = 0
    SHUFFLE = 1
    """Of earlier versions, like ``BITSHUFFLE``: what lines up bytes is now a part of the codec."""
    BITSHUFFLE = 2
    DELTA = 3
    """Elements minus those of the base, as unsigned integers in zigzag order."""
    BF16 = 4
    """The upper half of each float32, rounded to nearest, ties to even."""


class Method(NamedTuple):
    """How the chunks of a section are encoded.

    Attributes:
        filter: ``NONE``, ``DELTA`` or ``BF16``.
        planes: How each byte plane is packed, or one for bytes in their order.
        without_base: With ``DELTA`` the same for chunks that the base has nothing for.
    """

    filter: Filter
    planes: tuple[Packing, ...]
    without_base: tuple[Packing, ...] = ()


STORED = Method(Filter.NONE, (Packing.RAW,))


class Encoded(NamedTuple):
    """An encoded chunk.

    Attributes:
        filter: Undone last.
        codec: Undone first.
        pieces: The stored bytes; memory that may change with the next chunk.
        size_bytes: Of all pieces together.
    """

    filter: Filter
    codec: Codec
    pieces: Sequence[Piece]
    size_bytes: int


def check_profile(profile: str) -> Profile:
    """Return ``profile`` if there is one of that name.

    Raises:
        InvalidInput: No such profile.
    """
    for known in get_args(Profile):
        if profile == known:
            return known
    message = f"compress={profile!r} is unknown: choose one of {', '.join(get_args(Profile))}"
    raise InvalidInput(message, field="compress")


class Encoder:
    """Encodes one chunk at a time; keeps its memory from one to the next."""

    def __init__(self) -> None:
        self._planes = PlaneEncoder()
        self._filtered = np.empty(CHUNK_SIZE_BYTES, np.uint8)

    def encode(
        self,
        raw: memoryview,
        item_size_bytes: int,
        method: Method,
        base: npt.NDArray[np.uint8] | None = None,
    ) -> Encoded:
        """Encode one chunk.

        Args:
            raw: At most ``CHUNK_SIZE_BYTES`` bytes.
            item_size_bytes: Bytes per element.
            method: How.
            base: For ``Filter.DELTA``: ``(len(raw),) uint8``, the chunk to subtract; None if there
                is none.

        Returns:
            Filter, codec and the stored bytes; ``raw`` itself if compression gains nothing.
        """
        if method.filter == Filter.BF16:
            return self._rounded(raw, method)
        as_it_is = Encoded(Filter.NONE, Codec.NONE, [raw], len(raw))
        if method == STORED or len(raw) < _MIN_COMPRESSED_BYTES:
            return as_it_is
        filter_, planes = method.filter, method.planes
        plain = np.frombuffer(raw, np.uint8)
        count = plane_count(item_size_bytes, len(raw))
        if filter_ == Filter.DELTA and (base is None or count == 1):
            filter_, planes = Filter.NONE, method.without_base
        if filter_ == Filter.DELTA and base is not None:
            plain = self._filtered[: len(raw)]
            subtract(np.frombuffer(raw, np.uint8), base, item_size_bytes, plain)
        if len(planes) not in (1, count):
            planes = (whole_of(planes),)
        pieces = self._planes.encode(plain, planes)
        size = sum(map(len, pieces))
        return Encoded(filter_, Codec.PLANES, pieces, size) if size < len(raw) else as_it_is

    def _rounded(self, raw: memoryview, method: Method) -> Encoded:
        halves = self._filtered[: len(raw) // 2]
        round_bfloat16(np.frombuffer(raw, np.uint8), halves)
        pieces = self._planes.encode(halves, method.planes)
        size = sum(map(len, pieces))
        if size < len(raw):
            return Encoded(Filter.BF16, Codec.PLANES, pieces, size)
        # Rounded even where that saves nothing: a file is lossy as a whole or not at all.
        words = halves.view(np.uint16).astype(np.uint32) << np.uint32(16)
        return Encoded(Filter.NONE, Codec.NONE, [words.data.cast("B")], len(raw))


def decode_chunk(
    stored: bytes,
    out: npt.NDArray[np.uint8],
    item_size_bytes: int,
    filter_: int,
    codec: int,
    base: npt.NDArray[np.uint8] | None = None,
) -> None:
    """Decode one chunk into ``out`` and never beyond it.

    Args:
        stored: Bytes as they are in the file, hash already checked.
        out: ``(raw size,) uint8``, filled.
        item_size_bytes: Bytes per element, as encoded.
        filter_: A ``Filter``.
        codec: A ``Codec``, but for ``Codec.BASE``.
        base: For ``Filter.DELTA``: ``(raw size,) uint8``, the chunk that was subtracted.

    Raises:
        Corrupt: The bytes do not decode to exactly ``len(out)`` bytes.
        Unsupported: The chunk needs Blosc2, which is not installed.
    """
    if filter_ == Filter.BF16:
        halves = np.empty(len(out) // 2, np.uint8)
        _decompress(stored, halves, 2, filter_, codec)
        words = out.view(np.uint32)
        words[...] = halves.view(np.uint16)
        words <<= np.uint32(16)
        return
    _decompress(stored, out, item_size_bytes, filter_, codec)
    if filter_ == Filter.DELTA and base is not None:
        add_difference(base, item_size_bytes, out)


def _decompress(
    stored: bytes, out: npt.NDArray[np.uint8], item_size_bytes: int, filter_: int, codec: int
) -> None:
    if codec == Codec.PLANES:
        decode_planes(stored, out, item_size_bytes)
        return
    if codec == Codec.BLOSC2:
        plain = blosc2_decode(stored, len(out))
    elif codec == Codec.LZ4:
        plain = lz4_decode(stored, len(out))
    else:
        plain = stored
    if len(plain) != len(out):
        message = f"a chunk decodes to {len(plain)} bytes, its index says {len(out)}"
        raise Corrupt(message, reason="CHUNK_SIZE")
    found = np.frombuffer(plain, np.uint8)
    if codec == Codec.LZ4 and filter_ == Filter.SHUFFLE:
        out.reshape(-1, item_size_bytes)[...] = found.reshape(item_size_bytes, -1).T
    else:
        out[...] = found
