"""Image messages into RGB pixels, with every size checked before anything is allocated."""

from __future__ import annotations

import struct
from typing import Any, NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from penstock.errors import DataFault

__all__ = [
    "DEPTH_ENCODINGS",
    "EncodedImage",
    "Pixels",
    "broken_image",
    "check_size",
    "decode_image",
    "encode_png",
    "image_source",
    "open_image",
    "raw_rows",
]

Pixels = NDArray[np.uint8]
"""(H, W, 3) uint8, RGB."""

MAX_PIXELS = 1 << 24
_PNG = b"\x89PNG\r\n\x1a\n"
_CHUNK, _CHECKSUM_BYTES = struct.Struct(">I4s"), 4
_JPEG = b"\xff\xd8"
_END_OF_JPEG = b"\xff\xd9"
_TAIL_BYTES = 1024
_MOST_DEFLATED = 1032
"""Bytes that deflate makes of one, at most."""

_latest_jpeg: tuple[bytes, tuple[int, int, int]] = (b"no JPEG", (0, 0, 0))
"""What the last one begins with, up to its size, and what that says: a camera writes the same."""

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


DEPTH_ENCODINGS = ("16UC1", "mono16", "32FC1")
"""Encodings of sensor_msgs/Image that hold one distance a pixel."""


class EncodedImage(NamedTuple):
    """A JPEG or PNG file in memory, and what its header says.

    Attributes:
        data: The file.
        extension: ``jpg`` or ``png``.
        height: In pixels, checked.
        width: In pixels, checked.
        bits: Of a channel.
    """

    data: bytes | memoryview
    extension: str
    height: int
    width: int
    bits: int = 8


def image_source(message: Any) -> EncodedImage | None:
    """The file inside a CompressedImage, complete and of 8 bits a channel; None for an Image.

    Raises:
        DataFault: It is neither JPEG nor PNG, cut off, too large, or holds distances.
    """
    if hasattr(message, "encoding"):
        return None
    file = open_image(memoryview(message.data), message.format)
    if file.bits > 8:  # noqa: PLR2004 - bits of uint8; fewer are stretched to that
        raise DataFault(
            f"a CompressedImage of format {message.format!r} has {file.bits} bits a channel, and "
            "colours have 8: if it holds distances, set dtype: depth for the feature",
            reason="IMAGE_ENCODING",
        )
    return file


def open_image(data: bytes | memoryview, form: str) -> EncodedImage:
    """A JPEG or PNG file whose header and end are there; nothing is decoded.

    Args:
        data: The file.
        form: What the message calls it.

    Raises:
        DataFault: It is neither JPEG nor PNG, cut off, or too large.
    """
    if data[: len(_JPEG)] == _JPEG:
        height, width, bits = _jpeg_header(data)
        extension = "jpg"
    elif data[: len(_PNG)] == _PNG:
        height, width, bits = _png_header(data)
        extension = "png"
    elif "compressedDepth" in form:
        raise DataFault(
            f"a CompressedImage of format {form!r} holds distances, which are no colours: set "
            "dtype: depth for the feature",
            reason="IMAGE_ENCODING",
        )
    else:
        raise DataFault(
            f"a CompressedImage of format {form!r} begins with "
            f"{data[:8].hex(' ') or 'nothing'}: JPEG and PNG are read",
            reason="IMAGE_FORMAT",
        )
    check_size(width, height)
    if extension == "png" and width * height * bits > 8 * _MOST_DEFLATED * len(data):
        raise broken_image(extension, len(data), f"that is too little for {height}x{width} pixels")
    return EncodedImage(data, extension, height, width, bits)


def decode_image(message: Any) -> Pixels:
    """Pixels of a CompressedImage or an Image.

    Raises:
        DataFault: It does not decode, is truncated, too large, or of an encoding that is not read.
    """
    source = image_source(message)
    return _decode_raw(message) if source is None else _decode_file(source)


def encode_png(pixels: NDArray[Any]) -> EncodedImage:
    """Lossless file of (H, W, 3) uint8 RGB pixels, or of (H, W) uint16."""
    depth = pixels.dtype == np.uint16
    # Level 1: camera noise gains little from more.
    done, data = cv2.imencode(
        ".png",
        pixels if depth else cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR),
        [cv2.IMWRITE_PNG_COMPRESSION, 1],
    )
    if not done:
        raise DataFault(f"an image of shape {pixels.shape} cannot be written as PNG")
    height, width = pixels.shape[:2]
    return EncodedImage(data.tobytes(), "png", height, width, 16 if depth else 8)


def raw_rows(message: Any, pixel_bytes: int) -> NDArray[np.uint8]:
    """Bytes of an Image without what pads its rows, (H, W * pixel_bytes) uint8, a view.

    Raises:
        DataFault: It is too large, or has fewer bytes than it says.
    """
    height, width, step = int(message.height), int(message.width), int(message.step)
    check_size(width, height)
    data = np.asarray(message.data).view(np.uint8)
    if step < width * pixel_bytes or data.size < height * step:
        raise DataFault(
            f"an Image of {height}x{width} {message.encoding} with step {step} needs "
            f"{height * step} bytes and steps of {width * pixel_bytes} at least, it has "
            f"{data.size} bytes",
            reason="IMAGE_SIZE",
        )
    return data[: height * step].reshape(height, step)[:, : width * pixel_bytes]


def check_size(width: int, height: int) -> None:
    """Refuse images without pixels, and those that would take too much memory.

    Raises:
        DataFault: It is one of them.
    """
    if not 0 < width * height <= MAX_PIXELS:
        raise DataFault(
            f"an image says it is {height}x{width}: from 1 to {MAX_PIXELS} pixels are read",
            reason="IMAGE_SIZE",
        )


def broken_image(kind: str, size_bytes: int, why: str) -> DataFault:
    """What is said of an image that does not decode."""
    return DataFault(
        f"a {kind} of {size_bytes} bytes does not decode: {why}", reason="IMAGE_BROKEN"
    )


def _decode_file(source: EncodedImage) -> Pixels:
    try:
        # Orientation tags are for viewers; a robot's pixels stay where the camera saw them.
        decoded = cv2.imdecode(
            np.frombuffer(source.data, np.uint8),
            cv2.IMREAD_COLOR_RGB | cv2.IMREAD_IGNORE_ORIENTATION,
        )
    except cv2.error as error:
        raise broken_image(source.extension, len(source.data), str(error)) from error
    if decoded is None:
        raise broken_image(source.extension, len(source.data), "the decoder gives up")
    return np.asarray(decoded, np.uint8)


def _decode_raw(message: Any) -> Pixels:
    encoding = str(message.encoding)
    if encoding not in _RAW:
        advice = ": set dtype: depth for the feature" if encoding in DEPTH_ENCODINGS else ""
        raise DataFault(
            f"an Image has encoding {encoding!r}{advice or ': read are ' + ', '.join(_RAW)}",
            reason="IMAGE_ENCODING",
        )
    conversion, channels = _RAW[encoding]
    rows = raw_rows(message, channels)
    pixels = np.ascontiguousarray(rows.reshape(len(rows), -1, channels))
    if conversion is None:
        return pixels
    return np.asarray(cv2.cvtColor(pixels, conversion), np.uint8)


def _png_header(data: bytes | memoryview) -> tuple[int, int, int]:
    """Height, width and bits a channel."""
    if len(data) < 33 or data[12:16] != b"IHDR":  # noqa: PLR2004 - signature and first chunk
        raise broken_image("png", len(data), "its header is incomplete")
    # Decoders make room for a chunk before they look whether it is there.
    position, kind = len(_PNG), b""
    while kind != b"IEND":
        if position + _CHUNK.size > len(data):
            raise broken_image("png", len(data), "its end is missing")
        size, kind = _CHUNK.unpack_from(data, position)
        position += _CHUNK.size + size + _CHECKSUM_BYTES
    if position > len(data):
        raise broken_image("png", len(data), "its end is missing")
    width, height, bits = struct.unpack_from(">IIB", data, 16)
    return height, width, bits


def _jpeg_header(data: bytes | memoryview) -> tuple[int, int, int]:
    """Height, width and bits a channel."""
    # Decoders fill what is cut off with grey, and say nothing.
    if data[-2:] != _END_OF_JPEG and _END_OF_JPEG not in bytes(data[-_TAIL_BYTES:]):
        raise broken_image("jpg", len(data), "its end is missing")
    global _latest_jpeg  # noqa: PLW0603 - a cache of one
    beginning, told = _latest_jpeg
    if bytes(data[: len(beginning)]) == beginning:  # of bytes, as views take longer to compare
        return told
    position = 2
    while position + 9 <= len(data) and data[position] == _MARKER:
        marker = data[position + 1]
        if marker == _MARKER:  # fill byte
            position += 1
            continue
        if marker in _START_OF_FRAME:
            bits, height, width = struct.unpack_from(">BHH", data, position + 4)
            _latest_jpeg = bytes(data[: position + 9]), (height, width, bits)
            return height, width, bits
        position += 2 + int.from_bytes(data[position + 2 : position + 4], "big")
    raise broken_image("jpg", len(data), "it has no start of frame")
