"""Whether colours came out of a decoder of JPEG or camera formats, and in which order of channels.

JPEG, YUYV, NV12 and I420 keep a pixel as three integers Y, Cb, Cr, and only about one RGB value in
four (one in six in studio range) is what such a triple decodes to. So all colours of a decoded
frame are such values in the right order of channels, and about one in four in the wrong one.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

__all__ = ["decoded_share"]

_LEAST_DIFFERENCE = 8
"""Between red and blue; a pixel with less looks alike in both orders."""
_LEAST_COLOURS = 64
"""Different ones; a drawn scene with a few flat colours proves nothing."""

_Triple = tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]


def decoded_share(pixels: NDArray[np.uint8]) -> tuple[float, float]:
    """Share of different colours that a decoder gives: as stored, and with red and blue swapped.

    Args:
        pixels: ``(n, 3) uint8``, as they came from the decoder: not resized or filtered.

    Returns:
        Both shares for the decoder that explains most; zeros when there are too few colours.
    """
    red, green, blue = pixels.astype(np.int64).T
    # Clamped values are no decoder's own.
    kept = (pixels.min(axis=1) > 0) & (pixels.max(axis=1) < 255)  # noqa: PLR2004
    kept &= np.abs(red - blue) >= _LEAST_DIFFERENCE
    codes = np.unique((red << 16 | green << 8 | blue)[kept])
    if len(codes) < _LEAST_COLOURS:
        return 0.0, 0.0
    red, green, blue = codes >> 16, codes >> 8 & 255, codes & 255
    shares = [
        (_round_trip(red, green, blue, decode, scale), _round_trip(blue, green, red, decode, scale))
        for decode, scale in _DECODERS
    ]
    return max(shares, key=max)


def _round_trip(
    red: NDArray[np.int64],
    green: NDArray[np.int64],
    blue: NDArray[np.int64],
    decode: Callable[[_Triple], _Triple],
    scale: tuple[float, float, int],
) -> float:
    """Share of colours that come back from the nearest integers Y, Cb, Cr."""
    luma = 0.299 * red + 0.587 * green + 0.114 * blue
    y_scale, c_scale, y_offset = scale
    planes = (
        luma * y_scale + y_offset,
        (blue - luma) / 1.772 * c_scale,
        (red - luma) / 1.402 * c_scale,
    )
    y, cb, cr = (np.rint(plane).astype(np.int64) for plane in planes)
    given = decode((y, cb, cr))
    same = [found == wanted for found, wanted in zip(given, (red, green, blue), strict=True)]
    return float((same[0] & same[1] & same[2]).mean())


def _jfif(triple: _Triple) -> _Triple:
    """As libjpeg, and so nearly everyone, decodes JPEG (JFIF 1.02, section 7)."""
    y, cb, cr = triple
    half = 1 << 15
    return (
        y + ((91881 * cr + half) >> 16),
        y + ((-22554 * cb - 46802 * cr + half) >> 16),
        y + ((116130 * cb + half) >> 16),
    )


def _opencv(triple: _Triple) -> _Triple:
    """As OpenCV converts YUYV, NV12 and I420 (ITU-R BT.601, studio range, 20 binary places)."""
    y, cb, cr = triple
    luma, half = np.maximum(y - 16, 0) * 1220542, 1 << 19
    return (
        (luma + 1673527 * cr + half) >> 20,
        (luma - 852492 * cr - 409993 * cb + half) >> 20,
        (luma + 2116026 * cb + half) >> 20,
    )


def _eight_bits(triple: _Triple) -> _Triple:
    """The same standard with 8 binary places, as camera drivers convert YUYV."""
    y, cb, cr = triple
    luma = 298 * (y - 16)
    return (
        (luma + 409 * cr + 128) >> 8,
        (luma - 100 * cb - 208 * cr + 128) >> 8,
        (luma + 516 * cb + 128) >> 8,
    )


_FULL, _STUDIO = (1.0, 1.0, 0), (219 / 255, 224 / 255, 16)
_DECODERS = ((_jfif, _FULL), (_opencv, _STUDIO), (_eight_bits, _STUDIO))
