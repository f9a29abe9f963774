"""Bringing stored frames to the shape a batch wants; :mod:`penstock.resize` says how exactly."""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import NDArray

from penstock.resize import resize_into

__all__ = ["place_frame"]


def place_frame(
    frame: NDArray[np.uint8], order: Literal["hwc", "chw"], out: NDArray[np.uint8]
) -> None:
    """Write ``frame`` into ``out``, resized bilinearly where sizes differ.

    Args:
        frame: ``(h, w, 3)`` for ``hwc``, ``(3, h, w)`` for ``chw``, contiguous.
        order: Layout of ``frame``.
        out: ``(H, W, 3)``, contiguous.
    """
    if order == "chw":
        frame = np.moveaxis(frame, 0, 2)
    if frame.shape == out.shape:
        np.copyto(out, frame)
    else:
        resize_into(np.ascontiguousarray(frame), out)
