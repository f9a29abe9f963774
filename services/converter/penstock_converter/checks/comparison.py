"""When a number or an image of a dataset counts as that of the recording."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from penstock_converter.checks.findings import Check
from penstock_converter.mapping.model import LeRobotOutput

__all__ = [
    "DEFAULT_CRF",
    "Verdict",
    "bound_told",
    "compare_images",
    "differing_numbers",
    "psnr_bound_db",
    "psnr_db",
]

DEFAULT_CRF = 23
_PSNR_DB, _DB_PER_CRF = 20.0, 0.15
"""Pure noise passes at any quality: 23.9 dB at crf 23, 19.3 at 35, 19.0 at 51, by H.264."""

_POOR_DB = 5.0
_SAME_DB = 99.0


class Verdict(NamedTuple):
    """What is wrong with an image; ``certain`` unless a codec may explain it."""

    problem: str = ""
    certain: bool = True


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
    return min(_SAME_DB, 10 * math.log10(255.0**2 / error)) if error else _SAME_DB


def compare_images(
    found: NDArray[Any], expected: NDArray[Any], bound_db: float | None, whose: str, check: Check
) -> Verdict:
    """Compare two images, exactly or by their PSNR.

    Args:
        found: (H, W, 3) uint8 or (H, W) uint16.
        expected: What it should be.
        bound_db: Least PSNR of what a codec has changed; None: nothing may differ.
        whose: Where ``expected`` comes from, in words.
        check: Takes the measurement.
    """
    if found.shape != expected.shape:
        return Verdict(f"is {found.shape}, {expected.shape} in {whose}")
    if bound_db is None:
        differ = int(np.count_nonzero(found != expected))
        if not differ:
            return Verdict()
        return Verdict(f"differs from {whose} in {differ} of {found.size} values")
    ratio = psnr_db(found, expected)
    check.least("least PSNR, dB", ratio)
    if ratio >= bound_db + _POOR_DB:
        return Verdict()
    return Verdict(f"has a PSNR of {ratio:.1f} dB to {whose}", certain=ratio < bound_db)


def bound_told(bound_db: float) -> str:
    """The bound in words."""
    return f"videos {bound_db:g} dB PSNR at half size (below {bound_db + _POOR_DB:g} dB a warning)"


def psnr_bound_db(output: LeRobotOutput | None) -> float:
    """Least ratio that a frame of a video has to the image it was made of, by the settings."""
    if output is None or output.codec == "copy":
        return _PSNR_DB
    return _PSNR_DB - _DB_PER_CRF * max(0, output.crf - DEFAULT_CRF)
