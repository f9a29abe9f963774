"""Encoding of one chunk: a filter that lines up equal bytes, then a codec.

A *method* is a filter and a codec. Which one a chunk gets follows from the profile and from what
sampling has shown (see ``choice``); a chunk that does not shrink is stored as it is.

    fast         bit shuffle and LZ4
    small        byte shuffle and zstd
    delta        difference to a base, then as small
    policy-bf16  float32 rounded to bfloat16, then as small: loses precision
    none         stored as it is

LZ4 alone saves nothing on trained float32 weights, for it looks for repeated strings of bytes and
there are none. What can be saved lies in the sign and exponent of neighbours, which resemble one
another; the filters bring these bits together.
"""

from __future__ import annotations

import importlib
from enum import IntEnum
from functools import cache
from importlib.util import find_spec
from typing import Any, Literal, NamedTuple, get_args

import lz4.block
import numpy as np
import numpy.typing as npt

from penstock.errors import Corrupt, InvalidInput, Unsupported

__all__ = [
    "DELTA_ITEM_BYTES",
    "STORED",
    "Codec",
    "Filter",
    "Method",
    "Profile",
    "check_profile",
    "decode_chunk",
    "encode_chunk",
]

Profile = Literal["small", "fast", "delta", "policy-bf16", "none"]

DELTA_ITEM_BYTES = (2, 4, 8)
"""Element sizes that can be subtracted."""

_MIN_COMPRESSED_BYTES = 256
_MAX_SHUFFLED_ITEM_BYTES = 16
_BLOCK_BYTES = 1 << 18
"""Blosc2's block: of several sizes tried on trained weights the fastest that loses nothing."""

_FLOAT32_BYTES = 4


class Codec(IntEnum):
    """How a chunk's bytes are compressed."""

    NONE = 0
    LZ4 = 1
    BLOSC2 = 2
    BASE = 3
    """Nothing is stored: the chunk equals that of the base."""


class Filter(IntEnum):
    """How a chunk's bytes are rearranged before compression (Blosc2 shuffles inside its chunk)."""

    NONE = 0
    SHUFFLE = 1
    BITSHUFFLE = 2
    DELTA = 3
    """Elements minus those of the base, as unsigned integers in zigzag order; then shuffled."""
    BF16 = 4
    """The upper half of each float32, rounded to nearest, ties to even; then shuffled."""


class Method(NamedTuple):
    """A filter and a codec; ``zstd`` chooses Blosc2's codec, which its chunk names itself."""

    filter: Filter
    codec: Codec
    zstd: bool = False


STORED = Method(Filter.NONE, Codec.NONE)


def check_profile(profile: str) -> Profile:
    """Return ``profile`` if this installation can encode it.

    Raises:
        InvalidInput: No such profile.
        Unsupported: The profile needs Blosc2, which is not installed.
    """
    for known in get_args(Profile):
        if profile == known:
            if known != "none" and find_spec("blosc2") is None:
                raise _no_blosc2()
            return known
    message = f"compress={profile!r} is unknown: choose one of {', '.join(get_args(Profile))}"
    raise InvalidInput(message, field="compress")


def encode_chunk(
    raw: memoryview,
    item_size_bytes: int,
    method: Method,
    base: npt.NDArray[np.uint8] | None = None,
) -> tuple[Filter, Codec, bytes | memoryview]:
    """Encode one chunk.

    Args:
        raw: At most ``CHUNK_SIZE_BYTES`` bytes.
        item_size_bytes: Bytes per element, which the filters separate.
        method: How.
        base: For ``Filter.DELTA``: ``(len(raw),) uint8``, the chunk to subtract.

    Returns:
        Filter, codec and the stored bytes; ``raw`` itself if compression gains nothing.
    """
    filter_ = method.filter
    if filter_ == Filter.BF16:
        halves = _round_to_bfloat16(np.frombuffer(raw, np.uint32))
        stored = _blosc2_encode(halves.data, 2, Filter.SHUFFLE, zstd=True)
        if len(stored) < len(raw):
            return Filter.BF16, Codec.BLOSC2, stored
        # Rounded even where that saves nothing: a file is lossy as a whole or not at all.
        return Filter.NONE, Codec.NONE, (halves.astype(np.uint32) << np.uint32(16)).tobytes()
    if method.codec == Codec.NONE or len(raw) < _MIN_COMPRESSED_BYTES:
        return Filter.NONE, Codec.NONE, raw
    if item_size_bytes > _MAX_SHUFFLED_ITEM_BYTES or len(raw) % item_size_bytes:
        filter_ = Filter.NONE
    if filter_ == Filter.DELTA:
        if base is None:
            message = "a difference was asked for without a base"
            raise ValueError(message)
        difference = _difference(raw, base, item_size_bytes)
        stored = _blosc2_encode(difference, item_size_bytes, Filter.SHUFFLE, zstd=True)
    else:
        stored = _blosc2_encode(raw, item_size_bytes, filter_, zstd=method.zstd)
    if len(stored) >= len(raw):
        return Filter.NONE, Codec.NONE, raw
    return filter_, Codec.BLOSC2, stored


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
    size = len(out) // 2 if filter_ == Filter.BF16 else len(out)
    if codec == Codec.NONE:
        raw: bytes = stored
    elif codec == Codec.LZ4:
        raw = _lz4_decode(stored, size)
    else:
        raw = _blosc2_decode(stored, size)
    if len(raw) != size:
        message = f"a chunk decodes to {len(raw)} bytes, its index says {size}"
        raise Corrupt(message, reason="CHUNK_SIZE")
    plain = np.frombuffer(raw, np.uint8)
    if filter_ == Filter.SHUFFLE and codec == Codec.LZ4:
        out.reshape(-1, item_size_bytes)[...] = plain.reshape(item_size_bytes, -1).T
    elif filter_ == Filter.DELTA and base is not None:
        _undo_difference(plain, base, out, item_size_bytes)
    elif filter_ == Filter.BF16:
        words = out.view(np.uint32)
        words[...] = plain.view(np.uint16)
        words <<= np.uint32(16)
    else:
        out[...] = plain


def _difference(raw: memoryview, base: npt.NDArray[np.uint8], item_size_bytes: int) -> memoryview:
    unsigned, signed = np.dtype(f"u{item_size_bytes}"), np.dtype(f"i{item_size_bytes}")
    difference = np.frombuffer(raw, unsigned) - base.view(unsigned)
    # Zigzag: small differences of either sign become small numbers.
    sign = (difference.view(signed) >> (8 * item_size_bytes - 1)).view(unsigned)
    difference <<= unsigned.type(1)
    difference ^= sign
    return difference.data


def _undo_difference(
    plain: npt.NDArray[np.uint8],
    base: npt.NDArray[np.uint8],
    out: npt.NDArray[np.uint8],
    item_size_bytes: int,
) -> None:
    unsigned = np.dtype(f"u{item_size_bytes}")
    zigzag = plain.view(unsigned)
    sign = -(zigzag & unsigned.type(1))
    np.add((zigzag >> unsigned.type(1)) ^ sign, base.view(unsigned), out=out.view(unsigned))


def _round_to_bfloat16(bits: npt.NDArray[np.uint32]) -> npt.NDArray[np.uint16]:
    upper = bits >> np.uint32(16)
    rounded = (bits + (np.uint32(0x7FFF) + (upper & np.uint32(1)))) >> np.uint32(16)
    # A NaN must stay one: its payload may lie in the half that goes, and rounding may overflow.
    is_nan = (bits & np.uint32(0x7FFFFFFF)) > np.uint32(0x7F800000)
    return np.where(is_nan, upper | np.uint32(0x40), rounded).astype(np.uint16)


def _lz4_decode(stored: bytes, raw_size_bytes: int) -> bytes:
    try:
        return lz4.block.decompress(stored, uncompressed_size=raw_size_bytes)
    except lz4.block.LZ4BlockError as error:
        raise Corrupt(f"an LZ4 chunk does not decode: {error}", reason="CHUNK_CODEC") from error


@cache
def _blosc2() -> Any:
    # Importing Blosc2 takes about a second: only those who read or write its chunks pay for it.
    try:
        return importlib.import_module("blosc2")
    except ImportError as error:
        raise _no_blosc2() from error


def _no_blosc2() -> Unsupported:
    return Unsupported(
        "compressed checkpoints need blosc2, which is not installed: "
        "pip install 'penstock[trainer]', or save with compress='none'",
        reason="BLOSC2_MISSING",
    )


@cache
def _blosc2_parameters(item_size_bytes: int, filter_: Filter, *, zstd: bool) -> dict[str, Any]:
    blosc2 = _blosc2()
    filters = {
        Filter.SHUFFLE: blosc2.Filter.SHUFFLE,
        Filter.BITSHUFFLE: blosc2.Filter.BITSHUFFLE,
    }
    shuffled = filter_ in filters and item_size_bytes > 1
    return {
        "codec": blosc2.Codec.ZSTD if zstd else blosc2.Codec.LZ4,
        "clevel": 1,
        "filters": [filters[filter_] if shuffled else blosc2.Filter.NOFILTER],
        "filters_meta": [0],
        "typesize": item_size_bytes if shuffled else 1,
        "nthreads": 1,
        # Each byte plane by itself: those of the mantissa are noise and are passed over quickly.
        "splitmode": blosc2.SplitMode.ALWAYS_SPLIT if zstd else blosc2.SplitMode.NEVER_SPLIT,
        "blocksize": _BLOCK_BYTES,
    }


def _blosc2_encode(raw: memoryview, item_size_bytes: int, filter_: Filter, *, zstd: bool) -> bytes:
    stored: bytes = _blosc2().compress2(
        raw, **_blosc2_parameters(item_size_bytes, filter_, zstd=zstd)
    )
    return stored


def _blosc2_decode(stored: bytes, raw_size_bytes: int) -> bytes:
    blosc2 = _blosc2()
    try:
        claimed_raw, claimed_stored, _ = blosc2.get_cbuffer_sizes(stored)
        if claimed_raw != raw_size_bytes or claimed_stored != len(stored):
            message = (
                f"a Blosc2 chunk of {len(stored)} bytes claims to be {claimed_stored} bytes that "
                f"decode to {claimed_raw}, its index says {raw_size_bytes}"
            )
            raise Corrupt(message, reason="CHUNK_SIZE")
        raw: bytes = blosc2.decompress2(stored, nthreads=1)
    except (RuntimeError, ValueError, TypeError) as error:
        raise Corrupt(f"a Blosc2 chunk does not decode: {error}", reason="CHUNK_CODEC") from error
    return raw
