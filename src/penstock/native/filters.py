"""What is done to the numbers of a checkpoint before encoding; NumPy does the same alone."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from penstock.native.library import kernels

__all__ = ["add_difference", "round_bfloat16", "subtract"]

Bytes = NDArray[np.uint8]


def subtract(raw: Bytes, base: Bytes, item_size_bytes: int, out: Bytes) -> None:
    """Elements minus those of a base, as unsigned integers in zigzag order: small ones stay small.

    Args:
        raw: ``(n,) uint8``, C-contiguous.
        base: The same.
        item_size_bytes: Bytes of an element: 2, 4 or 8.
        out: The same, filled.

    Raises:
        ValueError: The sizes do not fit.
    """
    _check(raw.size, base.size, out.size, item_size_bytes)
    native = kernels()
    if native is not None:
        native.subtract(raw, base, item_size_bytes, out)
        return
    unsigned, signed = np.dtype(f"u{item_size_bytes}"), np.dtype(f"i{item_size_bytes}")
    found = out.view(unsigned)
    np.subtract(raw.view(unsigned), base.view(unsigned), out=found)
    sign = (found.view(signed) >> (8 * item_size_bytes - 1)).view(unsigned)
    found <<= unsigned.type(1)
    found ^= sign


def add_difference(base: Bytes, item_size_bytes: int, out: Bytes) -> None:
    """Undo ``subtract`` in ``out``.

    Args:
        base: ``(n,) uint8``, C-contiguous.
        item_size_bytes: Bytes of an element: 2, 4 or 8.
        out: The difference, ``(n,) uint8``, C-contiguous; becomes what it was made of.

    Raises:
        ValueError: The sizes do not fit.
    """
    _check(base.size, base.size, out.size, item_size_bytes)
    native = kernels()
    if native is not None:
        native.add_difference(base, item_size_bytes, out)
        return
    unsigned = np.dtype(f"u{item_size_bytes}")
    zigzag = out.view(unsigned)
    sign = -(zigzag & unsigned.type(1))
    np.add((zigzag >> unsigned.type(1)) ^ sign, base.view(unsigned), out=zigzag)


def round_bfloat16(floats: Bytes, out: Bytes) -> None:
    """The upper halves of float32 numbers, rounded to nearest, ties to even.

    Args:
        floats: ``(4 * n,) uint8``, C-contiguous.
        out: ``(2 * n,) uint8``, C-contiguous, filled.

    Raises:
        ValueError: The sizes do not fit.
    """
    _check(floats.size, floats.size, 2 * out.size, 4)
    native = kernels()
    if native is not None:
        native.round_bfloat16(floats, out)
        return
    bits = floats.view(np.uint32)
    upper = bits >> np.uint32(16)
    rounded = (bits + (np.uint32(0x7FFF) + (upper & np.uint32(1)))) >> np.uint32(16)
    # A NaN must stay one: its payload may lie in the half that goes, and rounding may overflow.
    is_nan = (bits & np.uint32(0x7FFFFFFF)) > np.uint32(0x7F800000)
    out.view(np.uint16)[...] = np.where(is_nan, upper | np.uint32(0x40), rounded)


def _check(first: int, second: int, third: int, item_size_bytes: int) -> None:
    if first != second or first != third or first % item_size_bytes:
        sizes = f"{first}, {second} and {third} bytes"
        raise ValueError(f"{sizes} of elements of {item_size_bytes} do not fit together")
    if item_size_bytes not in (2, 4, 8):
        raise ValueError(f"elements of {item_size_bytes} bytes, expected 2, 4 or 8")
