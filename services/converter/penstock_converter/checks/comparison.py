"""When a number or an image of a dataset counts as that of the recording."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from penstock_converter.mapping.model import LeRobotOutput

__all__ = ["differing_numbers", "psnr_bound_db", "psnr_db"]

_PSNR_DB, _CRF, _DB_PER_CRF = 25.0, 23, 0.4
_SAME_DB = 99.0


def differing_numbers(
    found: NDArray[Any], vector: NDArray[np.float64], dtype: str
) -> NDArray[np.bool_]:
    """Elements of ``found`` (D,) that are not ``vector`` (D,) as ``dtype``.

    Floats may be off by one step of their type, as blends may be rounded another way.
    """
    expected = vector.astype(dtype)
    if expected.dtype.kind != "f":
        return found != expected
    step = np.spacing(np.abs(expected)).astype(np.float64)
    off = np.abs(found.astype(np.float64) - expected.astype(np.float64))
    return ~(off <= step)


def psnr_db(image: NDArray[np.uint8], other: NDArray[np.uint8]) -> float:
    """Peak signal to noise ratio in dB, 99 at most, of (H, W, 3) images at half their size.

    Videos keep colours at half the size, so that finer ones are lost by design.
    """
    height, width = image.shape[:2]
    size = max(width // 2, 1), max(height // 2, 1)
    halves = [
        cv2.resize(each, size, interpolation=cv2.INTER_AREA).astype(np.float32)
        for each in (image, other)
    ]
    error = float(np.mean((halves[0] - halves[1]) ** 2))
    return min(_SAME_DB, 10 * np.log10(255.0**2 / error)) if error else _SAME_DB


def psnr_bound_db(output: LeRobotOutput | None) -> float:
    """Least ratio that a frame of a video has to the image it was made of, by the settings."""
    if output is None or output.codec == "copy":
        return _PSNR_DB
    return _PSNR_DB - _DB_PER_CRF * max(0, output.crf - _CRF)
