"""Bringing stored frames to the shape a batch wants, exactly as a plain ``cv2.resize`` would."""

from __future__ import annotations

from typing import Literal

import cv2
import numpy as np
from numpy.typing import NDArray

__all__ = ["limit_threads", "place_frame"]


def limit_threads() -> None:
    """Keep OpenCV to the calling thread; a server has enough threads of its own."""
    cv2.setNumThreads(1)


def place_frame(
    frame: NDArray[np.uint8], order: Literal["hwc", "chw"], out: NDArray[np.uint8]
) -> None:
    """Write ``frame`` into ``out``, resized bilinearly (``cv2.INTER_LINEAR``) where sizes differ.

    Args:
        frame: ``(h, w, 3)`` for ``hwc``, ``(3, h, w)`` for ``chw``, contiguous.
        order: Layout of ``frame``.
        out: ``(H, W, 3)``, contiguous.
    """
    if order == "chw":
        frame = np.moveaxis(frame, 0, 2)
    if frame.shape == out.shape:
        np.copyto(out, frame)
        return
    # OpenCV writes into dst only if it is contiguous and has the right size, which it has here.
    cv2.resize(
        np.ascontiguousarray(frame),
        (out.shape[1], out.shape[0]),
        dst=out,
        interpolation=cv2.INTER_LINEAR,
    )
