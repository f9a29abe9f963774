"""Depth images into whole millimetres, with every size checked before anything is allocated."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["Depth", "decode_depth"]

Depth = NDArray[np.uint16]
"""(H, W) uint16, millimetres; 0 where nothing was measured."""


def decode_depth(message: Any) -> Depth:
    """Distances of a CompressedImage (compressedDepth or 16-bit PNG) or an Image (16UC1, 32FC1).

    Raises:
        DataFault: It does not decode, is truncated, too large, or of an encoding that is not read.
    """
    raise NotImplementedError
