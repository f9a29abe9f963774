"""Image messages into RGB pixels, with every size checked before anything is allocated."""

from __future__ import annotations

import struct
from typing import Any, NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from penstock.errors import DataFault

__all__ = ["EncodedImage", "Pixels", "decode_image", "encode_png", "image_size", "image_source"]

Pixels = NDArray[np.uint8]
"""(H, W, 3) uint8, RGB."""

MAX_PIXELS = 1 << 24
_PNG = b"\x89PNG\r\n\x1a\n"
_JPEG = b"\xff\xd8"
_END_OF_JPEG = b"\xff\xd9"
_TAIL_BYTES = 1024
_MARKER = 0xFF
# Start of frame, of any process; the three left out are other segments.
_START_OF_FRAME = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
# Conversion to RGB and channels of the encodings of sensor_msgs/Image.
_RAW: dict[str, tuple[int | None, int]] = {
    "rgb8": (None, 3),
    "bgr8": (cv2.COLOR_BGR2RGB, 3),
    "mono8": (cv2.COLOR_GRAY2RGB, 1),
    "8UC1": (cv2.COLOR_GRAY2RGB, 1),
    "8UC3": (cv2.COLOR_BGR2RGB, 3),
    "rgba8": (cv2.COLOR_RGBA2RGB, 4),
    "bgra8": (cv2.COLOR_BGRA2RGB, 4),
}


class EncodedImage(NamedTuple):
    """A JPEG or PNG file in memory."""

    data: bytes
    extension: str


def image_source(message: Any) -> EncodedImage | None:
    """The file inside a CompressedImage; None for an Image.

    Raises:
        DataFault: It is neither JPEG nor PNG.
    """
    if hasattr(message, "encoding"):
        return None
    data = bytes(message.data)
    if data.startswith(_JPEG):
        return EncodedImage(data, "jpg")
    if data.startswith(_PNG):
        return EncodedImage(data, "png")
    raise DataFault(
        f"a CompressedImage of format {message.format!r} begins with "
        f"{data[:8].hex(' ') or 'nothing'}: JPEG and PNG are read",
        reason="IMAGE_FORMAT",
    )


def decode_image(message: Any) -> Pixels:
    """Pixels of a CompressedImage or an Image.

    Raises:
        DataFault: It does not decode, is truncated, too large, or of an encoding that is not read.
    """
    source = image_source(message)
    return _decode_raw(message) if source is None else _decode_file(source)


def image_size(message: Any) -> tuple[int, int]:
    """Height and width that a CompressedImage or an Image states; nothing is decoded.

    Raises:
        DataFault: It is truncated, too large, or neither JPEG nor PNG.
    """
    source = image_source(message)
    if source is None:
        width, height = int(message.width), int(message.height)
    else:
        read = _png_size if source.extension == "png" else _jpeg_size
        width, height = read(source.data)
    _check_size(width, height)
    return height, width


def encode_png(pixels: Pixels) -> EncodedImage:
    """Lossless file of the pixels."""
    # Level 1: camera noise gains little from more.
    done, data = cv2.imencode(
        ".png", cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_PNG_COMPRESSION, 1]
    )
    if not done:
        raise DataFault(f"an image of shape {pixels.shape} cannot be written as PNG")
    return EncodedImage(data.tobytes(), "png")


def _decode_file(source: EncodedImage) -> Pixels:
    width, height = _png_size(source.data) if source.extension == "png" else _jpeg_size(source.data)
    _check_size(width, height)
    try:
        # Orientation tags are for viewers; a robot's pixels stay where the camera saw them.
        decoded = cv2.imdecode(
            np.frombuffer(source.data, np.uint8),
            cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION,
        )
    except cv2.error as error:
        raise _broken(source, str(error)) from error
    if decoded is None:
        raise _broken(source, "the decoder gives up")
    return np.asarray(cv2.cvtColor(decoded, cv2.COLOR_BGR2RGB), np.uint8)


def _decode_raw(message: Any) -> Pixels:
    height, width, step = int(message.height), int(message.width), int(message.step)
    encoding = str(message.encoding)
    if encoding not in _RAW:
        raise DataFault(
            f"an Image has encoding {encoding!r}: read are {', '.join(_RAW)}",
            reason="IMAGE_ENCODING",
        )
    conversion, channels = _RAW[encoding]
    _check_size(width, height)
    data = np.asarray(message.data).view(np.uint8)
    if step < width * channels or data.size < height * step:
        raise DataFault(
            f"an Image of {height}x{width} {encoding} with step {step} needs {height * step} "
            f"bytes and steps of {width * channels} at least, it has {data.size} bytes",
            reason="IMAGE_SIZE",
        )
    rows = data[: height * step].reshape(height, step)[:, : width * channels]
    pixels = np.ascontiguousarray(rows.reshape(height, width, channels))
    if conversion is None:
        return pixels
    return np.asarray(cv2.cvtColor(pixels, conversion), np.uint8)


def _check_size(width: int, height: int) -> None:
    if not 0 < width * height <= MAX_PIXELS:
        raise DataFault(
            f"an image says it is {height}x{width}: from 1 to {MAX_PIXELS} pixels are read",
            reason="IMAGE_SIZE",
        )


def _png_size(data: bytes) -> tuple[int, int]:
    source = EncodedImage(data, "png")
    if len(data) < 33 or data[12:16] != b"IHDR":  # noqa: PLR2004 - signature and first chunk
        raise _broken(source, "its header is incomplete")
    width, height, bits = struct.unpack_from(">IIB", data, 16)
    if bits > 8:  # noqa: PLR2004 - bits of uint8
        raise DataFault(
            f"a PNG has {bits} bits a channel: images of 8 bits are read (depth is not)",
            reason="IMAGE_ENCODING",
        )
    if b"IEND" not in data[-_TAIL_BYTES:]:
        raise _broken(source, "its end is missing")
    return width, height


def _jpeg_size(data: bytes) -> tuple[int, int]:
    source = EncodedImage(data, "jpg")
    # Decoders fill what is cut off with grey, and say nothing.
    if _END_OF_JPEG not in data[-_TAIL_BYTES:]:
        raise _broken(source, "its end is missing")
    position = 2
    while position + 9 <= len(data) and data[position] == _MARKER:
        marker = data[position + 1]
        if marker == _MARKER:  # fill byte
            position += 1
            continue
        if marker in _START_OF_FRAME:
            height, width = struct.unpack_from(">HH", data, position + 5)
            return width, height
        position += 2 + int.from_bytes(data[position + 2 : position + 4], "big")
    raise _broken(source, "it has no start of frame")


def _broken(source: EncodedImage, why: str) -> DataFault:
    return DataFault(
        f"a {source.extension} of {len(source.data)} bytes does not decode: {why}",
        reason="IMAGE_BROKEN",
    )
