"""What Penstock means by resizing an image: bilinear, in integers, the same on every machine.

Pixels sit at the centres of their squares ("half-pixel centres"), as in OpenCV's ``INTER_LINEAR``:
output column ``x`` of ``W`` lies at ``s = (2 x + 1) w / (2 W) - 1/2`` of the ``w`` input columns,
held within ``0 .. w - 1``. With ``x0 = floor(s)`` and the fraction ``f`` rounded to 15 bits
(``f = 2^15`` counts as the next column with ``f = 0``), and the same for rows, an output value is::

    mix(a, b, f) = a + ((b - a) f + 2^14 >> 15)
    t(x)         = mix(128 image[y0, x], 128 image[y0 + 1, x], fy)     rows first, 1/128 of a level
    out[y, x]    = mix(t(x0), t(x0 + 1), fx) + 64 >> 7

All shifts round towards minus infinity, and every term fits 16 bits (the product 32), which is what
makes it fast. The result is the exact bilinear value rounded, but for ties within 0.012 of a level;
beside OpenCV the difference is at most one level (``tests/unit/native/test_resize.py``).

The native library and the NumPy code here give equal bytes; reads, caches and every replica rely
on that.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from penstock import native
from penstock.errors import InvalidInput

__all__ = ["resize_images", "resize_into"]

_FRACTION_BITS = 15
_ONE = 1 << _FRACTION_BITS
_MAX_SIDE_PX = 1 << 15


def resize_into(image: NDArray[np.uint8], out: NDArray[np.uint8]) -> None:
    """Resize one image.

    Args:
        image: ``(h, w, 3)`` uint8, any strides.
        out: ``(H, W, 3)`` uint8, C-contiguous; filled.

    Raises:
        InvalidInput: Shapes or dtypes are others, or a side is 0 or above 32768.
    """
    resize_images(image[None], out[None])


def resize_images(images: NDArray[np.uint8], out: NDArray[np.uint8]) -> None:
    """Resize images of one size to another, without holding the interpreter lock.

    Args:
        images: ``(n, h, w, 3)`` uint8, any strides.
        out: ``(n, H, W, 3)`` uint8, C-contiguous; filled.

    Raises:
        InvalidInput: Shapes or dtypes are others, or a side is 0 or above 32768.
    """
    _check(images, out)
    if images.shape == out.shape:
        out[...] = images
        return
    kernels = native.kernels()
    if kernels is not None:
        rows = taps(images.shape[1], out.shape[1])
        columns = taps(images.shape[2], out.shape[2])
        kernels.resize(np.ascontiguousarray(images), out, rows, columns)
        return
    native.say_fallback()
    for image, target in zip(images, out, strict=True):
        _resize_numpy(image, target)


def _check(images: NDArray[np.uint8], out: NDArray[np.uint8]) -> None:
    for name, array in (("images", images), ("out", out)):
        if array.dtype != np.uint8 or array.shape[3:] != (3,):
            raise InvalidInput(
                f"{name} has shape {array.shape} and dtype {array.dtype}: expected (n, h, w, 3) "
                "uint8",
                field=name,
            )
        if not 0 < min(array.shape[1:3]) <= max(array.shape[1:3]) <= _MAX_SIDE_PX:
            raise InvalidInput(
                f"{name} is {array.shape[1]} x {array.shape[2]} pixels: a side must be 1 to "
                f"{_MAX_SIDE_PX}",
                field=name,
            )
    if len(images) != len(out):
        raise InvalidInput(f"{len(images)} images do not fit {len(out)} outputs", field="out")
    if not (out.flags.c_contiguous and out.flags.writeable):
        raise InvalidInput("out must be C-contiguous and writable", field="out")


def _resize_numpy(image: NDArray[np.uint8], out: NDArray[np.uint8]) -> None:
    top, row_fraction = taps(image.shape[0], out.shape[0])
    left, column_fraction = taps(image.shape[1], out.shape[1])
    right = np.minimum(left + 1, image.shape[1] - 1)
    scaled = image.astype(np.int32) << 7
    rows = _mix(
        scaled[top],
        scaled[np.minimum(top + 1, image.shape[0] - 1)],
        row_fraction[:, None, None],
    )
    out[...] = (_mix(rows[:, left], rows[:, right], column_fraction[None, :, None]) + 64) >> 7


def _mix(
    first: NDArray[np.int32], second: NDArray[np.int32], fraction: NDArray[np.int32]
) -> NDArray[np.int32]:
    return first + (((second - first) * fraction + (_ONE >> 1)) >> _FRACTION_BITS)


@lru_cache(maxsize=64)
def taps(size: int, out_size: int) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """The first input pixel and the 15-bit weight of the one after it, for each output pixel.

    Returns:
        Two ``(out_size,)`` int32 arrays. Weights are 0 to 32767; at the last pixel the weight is 0.
    """
    numerator = (2 * np.arange(out_size, dtype=np.int64) + 1) * size - out_size
    numerator = np.clip(numerator, 0, 2 * out_size * (size - 1))
    first, rest = np.divmod(numerator, 2 * out_size)
    fraction = (rest * _ONE + out_size) // (2 * out_size)
    first += fraction == _ONE
    fraction[fraction == _ONE] = 0
    return first.astype(np.int32), fraction.astype(np.int32)
