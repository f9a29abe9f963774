"""What Penstock means by resizing an image: the bytes that OpenCV's ``INTER_LINEAR`` gives.

Models are trained on, and deployed with, ``cv2.resize(image, (W, H), interpolation=INTER_LINEAR)``
of uint8 images, so batches hold its bytes; every machine and every replica gives the same.

Pixels sit at the centres of their squares ("half-pixel centres"): output column ``x`` of ``W`` lies
at ``s = (x + 1/2) d - 1/2`` of the ``w`` input columns, where ``d = 1 / (W / w)``. That is computed
in float64 and rounded to float32, whose digits run short in wide images: what follows depends on
it. With ``x0 = floor(s)`` and ``f = s - x0``, the two pixels weigh::

    far = round(2048 f)    near = round(2048 (1 - f))    float32, halves to even

Columns first, exactly in integers; then rows, which drop four bits before and sixteen after::

    t(y, x)   = near image[y, x0] + far image[y, x0 + 1]
    out[y, x] = ((near (t(y0, x) >> 4) >> 16) + (far (t(y0 + 1, x) >> 4) >> 16) + 2) >> 2

Over an edge, the pixel at the edge stands for the missing one. A column there takes all the weight,
``near = 2048``; of rows the same one is taken twice, each time with its weight, and cut twice.

All shifts round towards minus infinity. A result is within a level of the exact bilinear value,
more often below than above, and what is flat stays flat. OpenCV copies equal sizes and halves by
the mean of 2 x 2 pixels; the formula gives the same. OpenCV's bytes do not depend on its vector
code, its threads or IPP, but may on the processor: x86-64 is meant.

The native library and the NumPy code here give equal bytes; reads, caches and every replica rely
on that. ``tests/unit/native/test_resize.py`` holds both against OpenCV.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from penstock import native
from penstock.errors import InvalidInput

__all__ = ["resize_images", "resize_into"]

_ONE = 2048
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
        rows = row_taps(images.shape[1], out.shape[1])
        columns = column_taps(images.shape[2], out.shape[2])
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
    height, width = image.shape[:2]
    left, across = column_taps(width, out.shape[1])
    top, down = row_taps(height, out.shape[0])
    pixels = image.astype(np.int32)
    near, far = across.astype(np.int32).T[:, None, :, None]
    stretched = near * pixels[:, left] + far * pixels[:, np.minimum(left + 1, width - 1)] >> 4
    near, far = down.astype(np.int32).T[:, :, None, None]
    first = near * stretched[np.maximum(top, 0)] >> 16
    second = far * stretched[np.minimum(top + 1, height - 1)] >> 16
    out[...] = first + second + 2 >> 2


@lru_cache(maxsize=64)
def row_taps(size: int, out_size: int) -> tuple[NDArray[np.int32], NDArray[np.int16]]:
    """The first of two input rows for each output row, and the weights of both.

    Returns:
        ``(out_size,)`` int32: -1 to ``size - 1``; rows outside of the image repeat its edge.
        ``(out_size, 2)`` int16: 0 to 2048, which add up to 2048 (2047 to 2049 above 8192 rows).
    """
    step = 1 / (out_size / size)
    place = ((np.arange(out_size) + 0.5) * step - 0.5).astype(np.float32)
    first = np.floor(place)
    far = place - first
    weights = np.stack([1 - far, far], axis=1) * np.float32(_ONE)
    return first.astype(np.int32), np.rint(weights).astype(np.int16)


@lru_cache(maxsize=64)
def column_taps(size: int, out_size: int) -> tuple[NDArray[np.int32], NDArray[np.int16]]:
    """The same for columns, where one pixel has all the weight at the edges.

    Returns:
        ``(out_size,)`` int32: 0 to ``size - 1``. ``(out_size, 2)`` int16: as for rows; the last
        column's next one weighs 0.
    """
    first, weights = row_taps(size, out_size)
    outside = (first < 0) | (first >= size - 1)
    weights = np.where(outside[:, None], np.array([_ONE, 0], np.int16), weights)
    return first.clip(0), weights
