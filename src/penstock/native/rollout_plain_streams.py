"""Streams of a segment without the native library; rollout_streams.c has the format."""

from __future__ import annotations

import struct
import sys

import lz4.block
import numpy as np
from numpy.typing import NDArray

from penstock.native.compressors import lz4_compress

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

__all__ = ["STREAM", "DamagedError", "get_stream", "put_stream"]

STREAM = struct.Struct("<BI")
"""How a stream is stored, and its size."""

_LZ4 = 1
_RAW, _CODED, _SPARSE, _SPARSE_CODED = range(4)
_PROBE_BYTES, _LEAST_SPARSE_BYTES = 512, 64
_LEAST_PROBE_BYTES = _PROBE_BYTES * 3 // 4
_SAMPLE_BYTES, _MOST_PAIRS = 1024, 2250


class DamagedError(Exception):
    """A segment does not decode."""


def put_stream(
    codec: int, effort: int, stream: bytes, *, may_be_sparse: bool = True
) -> tuple[int, bytes]:
    """Store a stream in the way that suits it; which, and its bytes."""
    size = len(stream)
    content = np.frombuffer(stream, np.uint8)
    zeros, repeats = int((content == 0).sum()), _repeats(content)
    strewn = zeros >= size * 3 // 16 and repeats < size - size // 16 and size >= _LEAST_SPARSE_BYTES
    if may_be_sparse and codec == _LZ4 and strewn:
        bits = np.packbits(content != 0, bitorder="little").tobytes()
        rest = content[content != 0]
        coded = _coded(codec, effort, rest)
        return (_SPARSE, bits + rest.tobytes()) if coded is None else (_SPARSE_CODED, bits + coded)
    coded = _coded(codec, effort, content)
    return (_RAW, stream) if coded is None else (_CODED, coded)


def get_stream(codec: int, way: int, stored: bytes, size: int) -> bytes:
    """A stream of just that size.

    Raises:
        DamagedError: It is none.
    """
    if way == _RAW:
        return _of_size(stored, size)
    if way == _CODED:
        return _decompressed(codec, stored, size)
    if way > _SPARSE_CODED or len(stored) < -(-size // 8):
        raise DamagedError
    packed = np.frombuffer(stored[: -(-size // 8)], np.uint8)
    bits = np.unpackbits(packed, bitorder="little").astype(bool)
    count = int(bits.sum())
    if bits[size:].any():
        raise DamagedError
    rest = stored[len(packed) :]
    rest = _of_size(rest, count) if way == _SPARSE else _decompressed(codec, rest, count)
    found = np.zeros(size, np.uint8)
    found[bits[:size]] = np.frombuffer(rest, np.uint8)
    return found.tobytes()


def _repeats(content: NDArray[np.uint8]) -> int:
    return int((content[1:] == content[:-1]).sum())


def _coded(codec: int, effort: int, content: NDArray[np.uint8]) -> bytes | None:
    """Compressed, where that is worth trying and smaller."""
    size = content.size
    if not size:
        return None
    stream = content.tobytes()
    if size >= 2 * _PROBE_BYTES and _repeats(content) < size // 8:
        begin = (size - _PROBE_BYTES) // 2
        if codec != _LZ4:
            if _is_noise(content):
                return None
        elif len(lz4_compress(stream[begin : begin + _PROBE_BYTES], effort)) >= _LEAST_PROBE_BYTES:
            return None
    if codec == _LZ4:
        coded = lz4_compress(stream, effort)
    else:
        compressor = zstd.ZstdCompressor(level=effort)
        coded = compressor.compress(stream, compressor.FLUSH_FRAME)
    return coded if len(coded) < size else None


def _is_noise(content: NDArray[np.uint8]) -> bool:
    begin = (content.size - _SAMPLE_BYTES) // 2
    counts = np.bincount(content[begin : begin + _SAMPLE_BYTES])
    return int((counts * (counts - 1)).sum()) // 2 < _MOST_PAIRS


def _of_size(stream: bytes, size: int) -> bytes:
    if len(stream) != size:
        raise DamagedError
    return stream


def _decompressed(codec: int, stored: bytes, size: int) -> bytes:
    try:
        if codec == _LZ4:
            return _of_size(lz4.block.decompress(stored, uncompressed_size=size), size)
        return _of_size(zstd.ZstdDecompressor().decompress(stored, size + 1), size)
    except (lz4.block.LZ4BlockError, zstd.ZstdError, ValueError) as error:
        raise DamagedError from error
