"""Byte planes of numbers and bit planes of bytes; NumPy does the same without the library.

A *packed* plane is cut into blocks of 64 bytes. In each byte the highest bit, the sign of a number
whose first byte this is, moves below the others. Of a block are kept the lowest value and, of what
the values are above it, those bit planes that are not all zero. This is the order:

    lowest values        a byte per block
    which bit planes     a byte per block, bit b for bit plane b
    bit planes           8 bytes each, block by block; the first byte of the block is the lowest bit
    rest                 the bytes after the last whole block, as they are

It is what databases call a frame of reference: neighbours in a tensor of weights differ little in
their exponents.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from penstock.native.library import kernels

__all__ = [
    "join_bits",
    "join_planes",
    "pack",
    "packed_room",
    "split_bits",
    "split_planes",
    "unpack",
]

Bytes = NDArray[np.uint8]

_BLOCK = 64


def split_planes(raw: Bytes, item_size_bytes: int, out: Bytes) -> None:
    """Put the first bytes of all numbers together, then the second ones, and so on.

    Args:
        raw: ``(n * item_size_bytes,) uint8``, C-contiguous.
        item_size_bytes: Bytes per number.
        out: ``(n * item_size_bytes,) uint8``, C-contiguous, filled: ``item_size_bytes`` planes of
            ``n`` bytes, back to back.

    Raises:
        ValueError: The sizes do not fit.
    """
    if raw.size % item_size_bytes or out.size != raw.size:
        message = f"{raw.size} bytes of numbers of {item_size_bytes} to {out.size} bytes of planes"
        raise ValueError(message)
    native = kernels()
    if native is None:
        out.reshape(item_size_bytes, -1)[...] = raw.reshape(-1, item_size_bytes).T
    else:
        native.split_planes(raw, item_size_bytes, out)


def join_planes(planes: Sequence[Bytes], out: Bytes) -> None:
    """Undo ``split_planes``.

    Args:
        planes: Byte by byte of the numbers, ``(n,) uint8`` each, C-contiguous.
        out: ``(n * len(planes),) uint8``, C-contiguous, filled.

    Raises:
        ValueError: The sizes do not fit.
    """
    sizes = {plane.size for plane in planes}
    if sizes != {out.size // len(planes)} or out.size % len(planes):
        message = f"{len(planes)} planes of {sorted(sizes)} bytes to {out.size} bytes of numbers"
        raise ValueError(message)
    native = kernels()
    if native is None:
        numbers = out.reshape(-1, len(planes))
        for place, plane in enumerate(planes):
            numbers[:, place] = plane
    else:
        native.join_planes(planes, out)


def split_bits(plane: Bytes, out: Bytes) -> None:
    """Put the lowest bits of all bytes together, then the second ones, and so on.

    Args:
        plane: ``(n,) uint8``, C-contiguous.
        out: ``(n,) uint8``, C-contiguous, filled: 8 bit planes of ``n // 8`` bytes, the first byte
            in the lowest bit, then the last ``n % 8`` bytes as they are.

    Raises:
        ValueError: The sizes differ.
    """
    _check_equal(plane, out)
    native = kernels()
    if native is not None:
        native.split_bits(plane, out)
        return
    whole = plane.size // 8 * 8
    bits = np.unpackbits(plane[:whole].reshape(-1, 1), axis=1, bitorder="little").T
    out[:whole] = np.packbits(bits, axis=1, bitorder="little").reshape(-1)
    out[whole:] = plane[whole:]


def join_bits(bits: Bytes, out: Bytes) -> None:
    """Undo ``split_bits``; both are ``(n,) uint8``, C-contiguous.

    Raises:
        ValueError: The sizes differ.
    """
    _check_equal(bits, out)
    native = kernels()
    if native is not None:
        native.join_bits(bits, out)
        return
    whole = bits.size // 8 * 8
    each = np.unpackbits(bits[:whole].reshape(8, -1), axis=1, bitorder="little").T
    out[:whole] = np.packbits(each, axis=1, bitorder="little").reshape(-1)
    out[whole:] = bits[whole:]


def packed_room(size_bytes: int) -> int:
    """Bytes that ``pack`` may write for a plane of ``size_bytes``: a few more than it takes."""
    return size_bytes + size_bytes // _BLOCK * 2 + 8


def pack(plane: Bytes, out: Bytes) -> int:
    """Keep of each block of a plane the bits that differ.

    Args:
        plane: ``(n,) uint8``, C-contiguous.
        out: At least ``(packed_room(n),) uint8``, C-contiguous; the packed plane comes first.

    Returns:
        The size of the packed plane.

    Raises:
        ValueError: ``out`` is too small.
    """
    if out.size < packed_room(plane.size):
        raise ValueError(f"{out.size} bytes of room to pack {plane.size} bytes")
    native = kernels()
    if native is not None:
        return native.pack(plane, out)
    whole = plane.size // _BLOCK * _BLOCK
    blocks = plane[:whole].reshape(-1, _BLOCK)
    values = blocks << np.uint8(1) | blocks >> np.uint8(7)
    lows = values.min(axis=1) if whole else np.empty(0, np.uint8)
    values -= lows[:, None]
    bits = np.unpackbits(values[:, :, None], axis=2, bitorder="little").transpose(0, 2, 1)
    planes = np.packbits(bits, axis=2, bitorder="little")
    there = planes.any(axis=2)
    which = np.packbits(there, axis=1, bitorder="little")
    packed = np.concatenate([lows, which.reshape(-1), planes[there].reshape(-1), plane[whole:]])
    out[: packed.size] = packed
    return packed.size


def unpack(data: Bytes, out: Bytes) -> bool:
    """Undo ``pack``.

    Args:
        data: ``(m,) uint8``, C-contiguous; distrusted.
        out: ``(n,) uint8``, C-contiguous, filled.

    Returns:
        Whether ``data`` is a packed plane of just ``n`` bytes; else ``out`` may hold anything.
    """
    native = kernels()
    if native is not None:
        return native.unpack(data, out)
    count, rest = divmod(out.size, _BLOCK)
    if data.size < 2 * count:
        return False
    there = np.unpackbits(data[count : 2 * count], bitorder="little").reshape(-1, 8) > 0
    end = 2 * count + 8 * int(there.sum())
    if data.size != end + rest:
        return False
    planes = np.zeros((count, 8, 8), np.uint8)
    planes[there] = data[2 * count : end].reshape(-1, 8)
    bits = np.unpackbits(planes, axis=2, bitorder="little").transpose(0, 2, 1)
    values = np.packbits(bits, axis=2, bitorder="little")[:, :, 0] + data[:count, None]
    values = values >> np.uint8(1) | values << np.uint8(7)
    out[: count * _BLOCK] = values.reshape(-1)
    out[count * _BLOCK :] = data[end:]
    return True


def _check_equal(plane: Bytes, out: Bytes) -> None:
    if plane.size != out.size:
        raise ValueError(f"{plane.size} bytes of a plane to {out.size} bytes")
