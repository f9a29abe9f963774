"""The bytes of one segment."""

from __future__ import annotations

import sys
from typing import Any

import lz4.block
import numpy as np
from numpy.typing import NDArray

from penstock.errors import Corrupt

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

Rows = NDArray[np.unsignedinteger[Any]]


def encode_segment(rows: Rows, codec: str, level: int | None) -> bytes:
    if codec == "raw":
        return rows.tobytes()
    item = rows.dtype.itemsize
    diff = rows.copy()
    diff[:, 1:] -= rows[:, :-1]
    signed = diff.view(f"i{item}")
    diff = ((signed << 1) ^ (signed >> (8 * item - 1))).view(diff.dtype)
    planes = np.ascontiguousarray(diff.transpose(2, 0, 1)).reshape(-1).view(np.uint8)
    planes = np.ascontiguousarray(planes.reshape(-1, item).T)
    if codec == "lz4":
        return lz4.block.compress(planes, store_size=False)
    return zstd.compress(planes.tobytes(), level or 1)


def decode_segment(
    data: bytes | memoryview, shape: tuple[int, int, int], item: int, codec: str
) -> Rows:
    envs, steps, elements = shape
    size = envs * steps * elements * item
    dtype = np.dtype(f"u{item}")
    if codec == "raw":
        if len(data) != size:
            raise Corrupt(f"a segment of {size} bytes has {len(data)}", reason="SEGMENT")
        return np.frombuffer(data, dtype).reshape(shape)
    try:
        if codec == "lz4":
            raw = lz4.block.decompress(data, uncompressed_size=size)
        else:
            raw = zstd.ZstdDecompressor().decompress(data, size + 1)
    except (lz4.block.LZ4BlockError, zstd.ZstdError) as error:
        raise Corrupt(f"a segment does not decode: {error}", reason="SEGMENT") from error
    if len(raw) != size:
        raise Corrupt(f"a segment of {size} bytes decodes to {len(raw)}", reason="SEGMENT")
    planes = np.frombuffer(raw, np.uint8).reshape(item, -1)
    zigzag = np.ascontiguousarray(planes.T).view(dtype).reshape(elements, envs, steps)
    diff = (zigzag >> 1) ^ (0 - (zigzag & 1))
    return np.cumsum(diff.transpose(1, 2, 0), axis=1, dtype=dtype)


def differing(rows: Rows, base: Rows) -> NDArray[np.bool_]:
    found = np.ones(rows.shape[:2], bool)
    if rows.shape[1] > 1:
        found[:, :-1] = (rows[:, :-1] != base[:, 1:]).any(2)
    return found


def encode_next(rows: Rows, base: Rows, codec: str, level: int | None) -> bytes:
    differs = differing(rows, base)
    bits = np.packbits(differs, bitorder="little").tobytes()
    kept = rows[differs] - (base[differs] if codec != "raw" else 0)
    return bits + encode_segment(kept[None], codec, level)


def decode_next(data: bytes | memoryview, base: Rows, codec: str) -> Rows:
    envs, steps, elements = base.shape
    mask_bytes = -(-envs * steps // 8)
    if len(data) < mask_bytes:
        raise Corrupt(f"a segment of {len(data)} bytes ends early", reason="SEGMENT")
    mask = np.frombuffer(data[:mask_bytes], np.uint8)
    bits = np.unpackbits(mask, bitorder="little")
    differs = bits[: envs * steps].reshape(envs, steps).astype(bool)
    if bits[envs * steps :].any() or not differs[:, -1].all():
        raise Corrupt("a segment says of wrong rows that they differ", reason="SEGMENT")
    item = base.dtype.itemsize
    kept = decode_segment(data[mask_bytes:], (1, int(differs.sum()), elements), item, codec)
    rows = np.empty_like(base)
    rows[:, :-1] = base[:, 1:]
    rows[differs] = kept[0] + (base[differs] if codec != "raw" else 0)
    return rows
