"""Copying many pieces of memory into one buffer."""

from __future__ import annotations

import ctypes

import numpy as np
from numpy.typing import NDArray

from penstock.native.library import kernels

__all__ = ["gather"]


def gather(
    addresses: NDArray[np.uint64],
    sizes: NDArray[np.uint64],
    offsets: NDArray[np.uint64],
    out: NDArray[np.uint8],
) -> None:
    """Copy pieces of memory into ``out``, while other Python threads run.

    Args:
        addresses: ``(n,)``; where each piece begins. The caller keeps that memory alive.
        sizes: ``(n,)``, in bytes.
        offsets: ``(n,)``; where each piece goes in ``out``.
        out: ``(m,) uint8``.

    Raises:
        ValueError: A piece would go beyond ``out``.
    """
    if len(addresses) and int((offsets + sizes).max()) > out.size:
        message = f"pieces up to byte {int((offsets + sizes).max())} for {out.size} bytes"
        raise ValueError(message)
    native = kernels()
    if native is not None:
        native.gather(addresses, sizes, offsets, out)
        return
    to = out.__array_interface__["data"][0]
    for address, size, offset in zip(
        addresses.tolist(), sizes.tolist(), offsets.tolist(), strict=True
    ):
        ctypes.memmove(to + offset, address, size)
