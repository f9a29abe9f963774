"""A chunk as byte planes, each of them coded by itself.

Byte plane p holds byte p of every element. Of trained float32 weights only the last plane, sign and
exponent, can be made smaller; the others are noise and are left alone. An encoded chunk is

    u8               number of planes: the element size, or 1 for bytes in their order
    u8, u32 each     coder and stored size of each plane
    stored bytes     of each plane, back to back

with little-endian numbers. All planes decode to the same size. What a coder does not make smaller
is stored as it is.
"""

from __future__ import annotations

import struct
import sys
from collections.abc import Sequence
from enum import Enum, IntEnum, auto

import lz4.block
import numpy as np
import numpy.typing as npt

from penstock.container.limits import CHUNK_SIZE_BYTES
from penstock.errors import Corrupt
from penstock.native import (
    join_bits,
    join_planes,
    pack,
    packed_room,
    split_bits,
    split_planes,
    unpack,
)

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

__all__ = [
    "HEAD_BYTES",
    "Coder",
    "Packing",
    "Piece",
    "PlaneEncoder",
    "coders_of",
    "decode_planes",
    "lz4_decode",
    "plane_count",
    "whole_of",
]

Bytes = npt.NDArray[np.uint8]
Piece = bytes | bytearray | memoryview

_SPLIT_ITEM_BYTES = (2, 4, 8, 16)
_COUNT = struct.Struct("<B")
_PLANE = struct.Struct("<BI")
HEAD_BYTES = _COUNT.size + max(_SPLIT_ITEM_BYTES) * _PLANE.size
"""What an encoded chunk has before its planes, at most."""
_HEADS = {count: struct.Struct("<B" + count * "BI") for count in (1, *_SPLIT_ITEM_BYTES)}

_WINDOW_LOG = CHUNK_SIZE_BYTES.bit_length() - 1
_LINE_BYTES = 64
"""Of a cache: writing whole ones is twice as fast."""

_PROBE_BYTES = 16
_FEW = 9
"""16 bytes of noise have more distinct ones, but for one time in a thousand million."""


class Coder(IntEnum):
    """How a plane is stored; the numbers are those in the file."""

    RAW = 0
    ZSTD = 1
    """One zstd frame."""
    LZ4 = 2
    """One LZ4 block without its size."""
    BITS_ZSTD = 3
    """Bit planes (see ``penstock.native.split_bits``), then zstd."""
    PACKED = 4
    """Blocks in as many bits as they need, see ``penstock.native.pack``."""


class Packing(Enum):
    """How a plane is encoded: a coder and, where it has several, an effort."""

    RAW = auto()
    ENTROPY = auto()
    """Zstd, but codes of the bytes alone. Searching for strings that repeat takes twice as long
    and, where there are none, costs bytes as well: it finds chance matches of three."""
    ZSTD = auto()
    BITS_ZSTD = auto()
    LZ4 = auto()
    PACKED = auto()


_CODERS = {
    Packing.ENTROPY: Coder.ZSTD,
    Packing.ZSTD: Coder.ZSTD,
    Packing.BITS_ZSTD: Coder.BITS_ZSTD,
    Packing.LZ4: Coder.LZ4,
    Packing.PACKED: Coder.PACKED,
}
_FAST_PACKINGS = frozenset({Packing.LZ4, Packing.PACKED})


def whole_of(packings: Sequence[Packing]) -> Packing:
    """For bytes in their order, what resembles how planes are packed."""
    return Packing.ZSTD if _FAST_PACKINGS.isdisjoint(packings) else Packing.LZ4


def plane_count(item_size_bytes: int, size_bytes: int) -> int:
    """Into how many planes a chunk can be split; 1 where it cannot."""
    fits = item_size_bytes in _SPLIT_ITEM_BYTES and size_bytes % item_size_bytes == 0
    return item_size_bytes if fits else 1


class PlaneEncoder:
    """Encodes one chunk at a time; keeps its memory from one to the next."""

    def __init__(self) -> None:
        memory = np.empty(CHUNK_SIZE_BYTES + _LINE_BYTES, np.uint8)
        self._planes = memory[-memory.ctypes.data % _LINE_BYTES :][:CHUNK_SIZE_BYTES]
        self._packed = np.empty(packed_room(CHUNK_SIZE_BYTES), np.uint8)
        self._used = 0
        parameter = zstd.CompressionParameter
        searching: dict[int, int] = {
            parameter.compression_level: 1,
            parameter.window_log: _WINDOW_LOG,
        }
        # A tiny table of matches of seven bytes finds none; zstd then codes the bytes alone.
        plain = searching | {
            parameter.strategy: zstd.Strategy.fast,
            parameter.min_match: 7,
            parameter.hash_log: 6,
        }
        self._zstd = zstd.ZstdCompressor(options=searching)
        self._entropy = zstd.ZstdCompressor(options=plain)

    def encode(self, raw: Bytes, packings: Sequence[Packing]) -> list[Piece]:
        """Encode a chunk.

        Args:
            raw: ``(n,) uint8``, C-contiguous; at most ``CHUNK_SIZE_BYTES``.
            packings: One for bytes in their order, or one for each byte of an element.

        Returns:
            What is stored, in pieces; some are memory of the encoder or of ``raw`` and hold until
            the next call.
        """
        count = len(packings)
        planes = raw
        if count > 1:
            planes = self._planes[: raw.size]
            split_planes(raw, count, planes)
        size = raw.size // count
        self._used = 0
        head = [count]
        pieces: list[Piece] = [b""]
        kept = 0
        content = planes.data
        for place, wanted in enumerate(packings):
            start = place * size
            packing, packed = wanted, None
            if wanted is Packing.RAW and len(set(content[start : start + _PROBE_BYTES])) < _FEW:
                # What is noise in most of a section may be zeros in a part of it.
                packing = whole_of(packings)
            if packing is not Packing.RAW:
                packed = self.pack(planes[start : start + size], packing)
            if packed is None:
                head += (Coder.RAW, size)
                continue
            # Planes that are stored as they are follow one another in memory too.
            if kept < start:
                pieces.append(content[kept:start])
            kept = start + size
            head += (_CODERS[packing], len(packed))
            pieces.append(packed)
            if packing is Packing.PACKED:
                self._used += len(packed)
        if kept < raw.size:
            pieces.append(content[kept:])
        pieces[0] = _HEADS[count].pack(*head)
        return pieces

    def pack(self, plane: Bytes, packing: Packing) -> Piece | None:
        """The bytes of one plane, ``(n,) uint8``; None if there are no fewer of them."""
        if packing is Packing.RAW:
            return None
        if packing is Packing.PACKED:
            room = self._packed[self._used :]
            packed = room[: pack(plane, room)].data
        elif packing is Packing.LZ4:
            packed = lz4.block.compress(plane.data, store_size=False)
        elif packing is Packing.ENTROPY:
            packed = self._entropy.compress(plane.data, self._entropy.FLUSH_FRAME)
        else:
            if packing is Packing.BITS_ZSTD:
                bits = self._packed[self._used :][: plane.size]
                split_bits(plane, bits)
                plane = bits
            packed = self._zstd.compress(plane.data, self._zstd.FLUSH_FRAME)
        return packed if len(packed) < plane.size else None


def coders_of(head: bytes) -> list[Coder]:
    """The coder of each plane, as far as the first ``HEAD_BYTES`` of an encoded chunk tell."""
    named = head[_COUNT.size : _COUNT.size + head[0] * _PLANE.size : _PLANE.size] if head else b""
    return [Coder(code) for code in named if code in set(Coder)]


def decode_planes(stored: bytes, out: Bytes, item_size_bytes: int) -> None:
    """Decode a chunk.

    Args:
        stored: As encoded; distrusted.
        out: ``(n,) uint8``, C-contiguous, filled.
        item_size_bytes: Bytes per element.

    Raises:
        Corrupt: It does not decode to exactly ``n`` bytes.
    """
    content = memoryview(stored)
    planes = content[0] if content else 0
    if planes == 0 or planes not in (1, plane_count(item_size_bytes, out.size)):
        message = f"a chunk of {out.size} bytes, elements of {item_size_bytes}, has {planes} planes"
        raise Corrupt(message, reason="CHUNK_CODEC")
    offset = _COUNT.size + planes * _PLANE.size
    if len(content) < offset:
        message = f"a chunk of {len(content)} bytes ends within the heads of {planes} planes"
        raise Corrupt(message, reason="CHUNK_SIZE")
    heads = list(_PLANE.iter_unpack(content[_COUNT.size : offset]))
    if offset + sum(size for _, size in heads) != len(content):
        message = f"a chunk of {len(content)} bytes has planes of {[size for _, size in heads]}"
        raise Corrupt(message, reason="CHUNK_SIZE")
    found: list[Bytes] = []
    for coder, size in heads:
        found.append(_decode_plane(content[offset : offset + size], coder, out.size // planes))
        offset += size
    if planes == 1:
        out[...] = found[0]
    else:
        join_planes(found, out)


def _decode_plane(stored: memoryview, coder: int, size_bytes: int) -> Bytes:
    # What a coder makes no smaller is stored as it is, so nothing intact is larger.
    if len(stored) > size_bytes or (coder == Coder.RAW and len(stored) != size_bytes):
        message = f"a plane of {size_bytes} bytes is stored in {len(stored)} with the coder {coder}"
        raise Corrupt(message, reason="CHUNK_SIZE")
    if coder == Coder.RAW:
        return np.frombuffer(stored, np.uint8)
    if coder == Coder.PACKED:
        decoded = np.empty(size_bytes, np.uint8)
        if not unpack(np.frombuffer(stored, np.uint8), decoded):
            raise Corrupt("a packed plane contradicts its size", reason="CHUNK_CODEC")
        return decoded
    if coder in (Coder.ZSTD, Coder.BITS_ZSTD):
        plane = _zstd_decode(stored, size_bytes)
    elif coder == Coder.LZ4:
        plane = lz4_decode(stored, size_bytes)
    else:
        raise Corrupt(f"a plane has the unknown coder {coder}", reason="CHUNK_CODEC")
    if len(plane) != size_bytes:
        message = f"a plane of {size_bytes} bytes decodes to {len(plane)}"
        raise Corrupt(message, reason="CHUNK_SIZE")
    decoded = np.frombuffer(plane, np.uint8)
    if coder == Coder.BITS_ZSTD:
        bits, decoded = decoded, np.empty(size_bytes, np.uint8)
        join_bits(bits, decoded)
    return decoded


def _zstd_decode(stored: memoryview, size_bytes: int) -> bytes:
    try:
        claimed = zstd.get_frame_info(stored).decompressed_size
        if claimed != size_bytes:
            message = f"a plane of {size_bytes} bytes claims to decode to {claimed}"
            raise Corrupt(message, reason="CHUNK_SIZE")
        # Neither its window nor what it decodes to can take more memory than a chunk.
        decoder = zstd.ZstdDecompressor(
            options={zstd.DecompressionParameter.window_log_max: _WINDOW_LOG}
        )
        plane = decoder.decompress(stored, size_bytes + 1)
    except zstd.ZstdError as error:
        raise Corrupt(f"a zstd plane does not decode: {error}", reason="CHUNK_CODEC") from error
    if not decoder.eof or decoder.unused_data:
        raise Corrupt("a zstd plane does not end where its frame does", reason="CHUNK_CODEC")
    return plane


def lz4_decode(stored: bytes | memoryview, size_bytes: int) -> bytes:
    """Decode an LZ4 block to at most ``size_bytes``.

    Raises:
        Corrupt: It does not decode.
    """
    try:
        return lz4.block.decompress(stored, uncompressed_size=size_bytes)
    except lz4.block.LZ4BlockError as error:
        raise Corrupt(f"LZ4 does not decode: {error}", reason="CHUNK_CODEC") from error
