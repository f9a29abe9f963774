"""The bit-plane codec for camera frames, in NumPy: the definition that the native code equals.

Sensor noise leaves nothing for LZ4 to find, but it fills only the low bits of the difference to the
pixel above. So an image of ``H`` rows of ``3 W`` bytes is written as

1. ``r[i] = p[i] - p[i - 3 W]`` modulo 256, the pixel above (0 above the first row);
2. ``v[i] = (r[i] << 1) ^ (0xFF if r[i] >= 128 else 0)``, zigzag: small differences, small numbers;
3. blocks of 64 values, the last one filled with zeros. A block's width is the number of low bits
   that hold all of its values, 0 to 8;
4. one byte per block with its width, then for each block, for each bit from the lowest up to the
   width, 8 bytes: bit ``j`` of byte ``k`` is that bit of value ``8 k + j``.

Sizes: ``b = ceil(3 H W / 64)`` blocks take ``b`` to ``65 b`` bytes.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from penstock.errors import Corrupt

__all__ = ["BLOCK_BYTES", "MAX_WIDTH", "decode", "encode", "max_encoded_bytes"]

BLOCK_BYTES = 64
MAX_WIDTH = 8
_PLANE_BYTES = BLOCK_BYTES // 8

_WIDTHS = np.array([value.bit_length() for value in range(256)], np.uint8)


def max_encoded_bytes(image_bytes: int) -> int:
    """The most bytes that an image of ``image_bytes`` bytes can take."""
    return -(-image_bytes // BLOCK_BYTES) * (1 + BLOCK_BYTES)


def encode(image: NDArray[np.uint8]) -> bytes:
    """Encode one image, ``(H, row_bytes)`` uint8."""
    above = np.zeros_like(image)
    above[1:] = image[:-1]
    difference = image - above
    values = (difference << 1) ^ (difference >> 7) * np.uint8(0xFF)
    blocks = np.zeros((-(-image.size // BLOCK_BYTES), BLOCK_BYTES), np.uint8)
    blocks.reshape(-1)[: image.size] = values.reshape(-1)
    widths = _WIDTHS[np.bitwise_or.reduce(blocks, axis=1)]
    bits = np.unpackbits(blocks[:, :, None], axis=2, bitorder="little")
    planes = np.packbits(bits.transpose(0, 2, 1), axis=2, bitorder="little")
    kept = np.arange(MAX_WIDTH) < widths[:, None]
    return widths.tobytes() + planes[kept].tobytes()


def decode(data: memoryview, out: NDArray[np.uint8]) -> None:
    """Decode one image into ``out``, ``(H, row_bytes)`` uint8.

    Raises:
        Corrupt: The widths do not fit the number of bytes.
    """
    block_count = -(-out.size // BLOCK_BYTES)
    if len(data) < block_count:
        raise Corrupt(f"bit planes have {len(data)} bytes, their widths alone take {block_count}")
    widths = np.frombuffer(data, np.uint8, block_count)
    expected = block_count + _PLANE_BYTES * int(widths.sum(dtype=np.int64))
    if (widths > MAX_WIDTH).any() or len(data) != expected:
        raise Corrupt(f"bit planes have {len(data)} bytes, their widths ask for {expected}")
    planes = np.zeros((block_count, MAX_WIDTH, _PLANE_BYTES), np.uint8)
    kept = np.arange(MAX_WIDTH) < widths[:, None]
    planes[kept] = np.frombuffer(data, np.uint8, offset=block_count).reshape(-1, _PLANE_BYTES)
    bits = np.unpackbits(planes, axis=2, bitorder="little")
    values = np.packbits(bits.transpose(0, 2, 1), axis=2, bitorder="little").reshape(-1)
    values = values[: out.size].reshape(out.shape)
    difference = (values >> 1) ^ (values & 1) * np.uint8(0xFF)
    np.cumsum(difference, axis=0, dtype=np.uint8, out=out)
