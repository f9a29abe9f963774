"""RGB pixels into what encoders of video take: brightness, and colour at half the resolution."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

__all__ = ["to_yuv420"]

_CHROMA_RANGE = 224 / 255
"""Of BT.601 as videos have it, of that of JPEG."""

_CR, _CB = 1, 2


def to_yuv420(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Planes of (H, W, 3) uint8 RGB pixels, even sides, as (H * 3 / 2, W) uint8: Y, then U, then V.

    BT.601 in the range of videos, 16 to 235. Each colour is the mean of four pixels. Values are
    within 2 levels of the exact ones.
    """
    height, width = pixels.shape[:2]
    planes = np.asarray(cv2.cvtColor(pixels, cv2.COLOR_RGB2YUV_I420), np.uint8)
    # That takes the colour of one pixel in four, which makes edges jagged: of all four instead.
    half = cv2.resize(pixels, (width // 2, height // 2), interpolation=cv2.INTER_AREA)
    below = planes[height:]
    u, v = below.reshape(2, height // 2, width // 2)
    cv2.mixChannels([cv2.cvtColor(half, cv2.COLOR_RGB2YCrCb)], [u, v], [_CB, 0, _CR, 1])
    cv2.convertScaleAbs(below, dst=below, alpha=_CHROMA_RANGE, beta=128 * (1 - _CHROMA_RANGE))
    return planes
