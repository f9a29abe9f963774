"""Depth images into whole millimetres, with every size checked before anything is allocated.

Compressed ones are those of ROS's compressed_depth_image_transport: 12 bytes of header, then a PNG
or RVL (Wilson, "Fast Lossless Depth Image Compression", 2017). Metres are kept there as
``value = A / metres + B``, with A and B in the header.
"""

from __future__ import annotations

import functools
import struct
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from penstock.errors import DataFault
from penstock_converter.messages.images import (
    DEPTH_ENCODINGS,
    EncodedImage,
    broken_image,
    check_size,
    open_image,
    raw_rows,
)

__all__ = ["Depth", "FarPixels", "decode_depth", "depth_file", "is_depth"]

Depth = NDArray[np.uint16]
"""(H, W) uint16, millimetres; 0 where nothing was measured."""

MOST_MM = 65_535
_SIGNED_MOST_MM = 32_767
_HEADER = struct.Struct("<iff")
_RVL_HEADER = struct.Struct("<II")
_METRES = "32FC1"
_RVL_BYTES = 4
"""A pixel takes at most 3 bytes of RVL, and the lengths of runs less than one."""

_VALUE_NIBBLES = 10
"""Longest number in RVL: 30 bits, three in each nibble."""


def is_depth(message: Any) -> bool:
    """Whether an Image or a CompressedImage says that it holds distances rather than colours."""
    if hasattr(message, "encoding"):
        return str(message.encoding) in DEPTH_ENCODINGS
    return "compressedDepth" in message.format or _is_deep_png(bytes(message.data[:26]))


def decode_depth(message: Any) -> Depth:
    """Distances of a CompressedImage (compressedDepth or 16-bit PNG) or an Image (16UC1, 32FC1).

    Metres are rounded; those beyond 65.535 become that, and what is not a finite distance 0.

    Raises:
        DataFault: It does not decode, is truncated, too large, or of an encoding that is not read.
    """
    if hasattr(message, "encoding"):
        return _decode_raw(message)
    file = depth_file(message)
    if file is not None:
        return _decode_png(file)
    encoding, _, compression = _described(message)
    data = bytes(message.data)
    if len(data) <= _HEADER.size:
        raise broken_image("compressedDepth", len(data), "its header is incomplete")
    _, scale, shift = _HEADER.unpack_from(data)
    inside = data[_HEADER.size :]
    if compression == "rvl":
        values = _decode_rvl(inside)
    else:
        values = _decode_png(open_image(inside, f"{encoding} png"))
    if encoding != _METRES:
        return values
    if not np.isfinite([scale, shift]).all():
        raise broken_image("compressedDepth", len(data), f"its scale is {scale} and {shift}")
    return _inverse(scale, shift)[values]


def depth_file(message: Any) -> EncodedImage | None:
    """The PNG of whole millimetres inside a CompressedImage; None where there is none.

    Raises:
        DataFault: It is cut off, too large, or no image of distances.
    """
    if hasattr(message, "encoding"):
        return None
    encoding, transport, compression = _described(message)
    data = message.data
    if transport:
        if encoding == _METRES or compression == "rvl":
            return None
        data = data[_HEADER.size :]
    return open_image(bytes(data), f"{encoding} png")


class FarPixels:
    """Counts distances that do not fit into 16 bits, or not everywhere.

    Attributes:
        clamped: Pixels at 65.535 m, the most that there is.
        beyond_signed: Pixels beyond 32.767 m.
    """

    def __init__(self) -> None:
        self.clamped = self.beyond_signed = 0

    def add(self, depth: Depth) -> None:
        """Count those of an image."""
        if depth.max() > _SIGNED_MOST_MM:
            self.clamped += int(np.count_nonzero(depth == MOST_MM))
            self.beyond_signed += int(np.count_nonzero(depth > _SIGNED_MOST_MM))

    def warnings(self, feature: str) -> list[str]:
        """What a person should know."""
        told: list[str] = []
        if self.clamped:
            told.append(
                f"{self.clamped} depth pixels of {feature} are 65.535 m, the most that is kept: "
                "they lie there, or beyond and were clamped"
            )
        if self.beyond_signed:
            told.append(
                f"{self.beyond_signed} depth pixels of {feature} lie beyond 32.767 m: lerobot "
                "gives them as 65.536 m less, as its tensors have 16 bits with a sign"
            )
        return told


def _described(message: Any) -> tuple[str, bool, str]:
    """Encoding, whether it is of compressed_depth_image_transport, and png or rvl."""
    form = str(message.format)
    encoding, _, rest = form.partition(";")
    encoding = encoding.strip()
    transport = "compressedDepth" in form
    compression = rest.replace("compressedDepth", "").strip() or "png"
    known = encoding in DEPTH_ENCODINGS and compression in ("png", "rvl")
    # A PNG of metres says how they were stored in the header of the transport alone.
    if not known if transport else encoding == _METRES:
        raise DataFault(
            f"a CompressedImage has format {form!r}: read are {', '.join(DEPTH_ENCODINGS)} as "
            "compressedDepth png or rvl",
            reason="IMAGE_ENCODING",
        )
    return encoding, transport, compression


def _decode_raw(message: Any) -> Depth:
    encoding = str(message.encoding)
    if encoding not in DEPTH_ENCODINGS:
        raise _no_distances(f"an Image of encoding {encoding}")
    order = ">" if message.is_bigendian else "<"
    dtype = np.dtype(f"{order}f4" if encoding == _METRES else f"{order}u2")
    rows = raw_rows(message, dtype.itemsize)
    values = np.ascontiguousarray(rows).view(dtype)
    return _millimetres(values) if encoding == _METRES else values.astype(np.uint16)


def _decode_png(file: EncodedImage) -> Depth:
    if not _is_deep_png(file.data):
        raise _no_distances(f"a {file.extension} of {file.bits} bits a channel")
    try:
        decoded = cv2.imdecode(np.frombuffer(file.data, np.uint8), cv2.IMREAD_UNCHANGED)
    except cv2.error as error:
        raise broken_image("png", len(file.data), str(error)) from error
    if decoded is None or decoded.shape != (file.height, file.width):
        raise broken_image("png", len(file.data), "the decoder gives up")
    return np.asarray(decoded, np.uint16)


def _is_deep_png(data: bytes | memoryview) -> bool:
    """Whether the header is that of a PNG of one channel of 16 bits."""
    return data[1:4] == b"PNG" and data[24:26] == b"\x10\x00"


def _no_distances(what: str) -> DataFault:
    return DataFault(
        f"{what} holds no distances: read are {', '.join(DEPTH_ENCODINGS)}, compressedDepth, and "
        "PNG of one channel of 16 bits; set dtype: video or image for colours",
        reason="IMAGE_ENCODING",
    )


def _decode_rvl(data: bytes) -> Depth:
    if len(data) < _RVL_HEADER.size:
        raise broken_image("rvl", len(data), "its header is incomplete")
    width, height = _RVL_HEADER.unpack_from(data)
    check_size(width, height)
    pixels = width * height
    end = _RVL_HEADER.size + min((len(data) - _RVL_HEADER.size) // 4 * 4, _RVL_BYTES * pixels + 8)
    numbers = _rvl_numbers(np.frombuffer(data[_RVL_HEADER.size : end], "<u4"))
    # Runs: how many pixels are 0, how many are not, and a step from the last one for each of those.
    runs: list[int] = []
    is_step = np.ones(len(numbers), np.bool_)
    left, position = pixels, 0
    while left > 0 and position + 1 < len(numbers):
        zeros, others = int(numbers[position]), int(numbers[position + 1])
        runs += (zeros, others)
        left -= zeros + others
        is_step[position : position + 2] = False
        position += 2 + others
    if left or position > len(numbers):
        raise broken_image("rvl", len(data), "its runs do not fill the image")
    zigzag = numbers[:position][is_step[:position]]
    steps = (zigzag >> 1) ^ -(zigzag & 1)
    depth = np.zeros(pixels, np.uint16)
    measured = np.repeat(np.arange(len(runs)) % 2 == 1, runs)
    depth[measured] = np.cumsum(steps).astype(np.uint16)
    return depth.reshape(height, width)


def _rvl_numbers(words: NDArray[np.uint32]) -> NDArray[np.int64]:
    """Numbers of nibbles, the first nibble of a word on top, three bits in each, lowest first."""
    nibbles = (words[:, None] >> np.arange(28, -1, -4, dtype=np.uint32)).astype(
        np.uint8
    ).ravel() & 0xF
    last = np.flatnonzero(nibbles < 8)  # noqa: PLR2004 - the fourth bit says that more come
    if not len(last):
        return np.empty(0, np.int64)
    first = np.concatenate([[0], last[:-1] + 1])
    place = np.arange(last[-1] + 1) - np.repeat(first, last - first + 1)
    if place.max() >= _VALUE_NIBBLES:
        raise broken_image("rvl", words.nbytes, "a number has more than 30 bits")
    shifted = (nibbles[: last[-1] + 1].astype(np.int64) & 7) << (3 * place)
    return np.add.reduceat(shifted, first)


@functools.lru_cache(maxsize=16)
def _inverse(scale: float, shift: float) -> Depth:
    """Millimetres of each of the 65 536 values; cameras keep their scale."""
    values = np.arange(1 << 16, dtype=np.float64)
    with np.errstate(divide="ignore", invalid="ignore"):
        metres = scale / (values - shift)
    metres[0] = np.nan
    table = _millimetres(metres)
    table.setflags(write=False)
    return table


def _millimetres(metres: NDArray[np.floating[Any]]) -> Depth:
    measured = (metres > 0) & (metres < np.inf)
    within = np.where(measured, np.minimum(metres, MOST_MM / 1000), 0)
    return np.rint(within * 1000).astype(np.uint16)
