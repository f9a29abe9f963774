"""Codecs for what goes over a wire or into a cache.

Tensors travel as ``raw`` or ``lz4`` (LZ4 block). Images follow one another, each encoded alone so
that each can be read alone: as ``raw``, ``lz4``, ``bitplanes`` (see ``penstock.bitplanes``: sensor
noise defeats LZ4, not bit planes) or ``bitplanes_lz4`` (an LZ4 block of the bit planes).

A decoder is told how much to expect, checks that number before it allocates, and refuses the rest.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import lz4.block
import numpy as np
from numpy.typing import NDArray

from penstock import bitplanes, native
from penstock.errors import Corrupt, InvalidInput

__all__ = [
    "CODECS",
    "IMAGE_CODECS",
    "Codec",
    "CodecChoice",
    "check_image_codec",
    "choose_codec",
    "codec_named",
    "decode_images",
    "decode_into_places",
    "encode_images",
    "encode_smallest",
    "fast_image_codecs",
    "probe_codecs",
]

_MIN_GAIN = 0.02
"""A codec must save this share of the bytes to be worth its decoding."""


# Time to move a byte at 10 Gb/s, and to decode one on one core at 3 GHz with AVX2 (rounded up from
# ``benchmarks/kernels.py``).
_LINK_NS_PER_BYTE = 0.8
_DECODE_NS_PER_BYTE = {"raw": 0.03, "lz4": 0.1, "bitplanes": 0.13, "bitplanes_lz4": 0.27}


@dataclass(frozen=True)
class CodecChoice:
    """Which codec suits some images, and why.

    Attributes:
        codec: The one to use.
        shares: Encoded size as a share of the raw one, for each codec that was tried.
        ns_per_byte: Estimated nanoseconds to move and decode a raw byte, for each of them.
    """

    codec: str
    shares: dict[str, float]
    ns_per_byte: dict[str, float]

    def __str__(self) -> str:
        tried = ", ".join(
            f"{codec} {share:.0%} of the bytes, {self.ns_per_byte[codec]:.2f} ns a byte"
            for codec, share in self.shares.items()
        )
        return f"{self.codec} ({tried})"


class Codec(Protocol):
    """Turns bytes into fewer bytes and back."""

    name: str

    def encode(self, data: memoryview) -> bytes:
        """Encode all of ``data``."""
        ...

    def decode_into(self, data: bytes | memoryview, out: NDArray[np.uint8]) -> None:
        """Decode into ``out`` (contiguous, one-dimensional).

        Raises:
            Corrupt: ``data`` does not decode to exactly ``out.nbytes`` bytes.
        """
        ...


class _Raw:
    name = "raw"

    def encode(self, data: memoryview) -> bytes:
        return bytes(data)

    def decode_into(self, data: bytes | memoryview, out: NDArray[np.uint8]) -> None:
        if len(data) != out.nbytes:
            raise Corrupt(f"raw part has {len(data)} bytes, {out.nbytes} were announced")
        out[:] = np.frombuffer(data, np.uint8)


class _Lz4:
    name = "lz4"

    def encode(self, data: memoryview) -> bytes:
        return lz4.block.compress(data, store_size=False)

    def decode_into(self, data: bytes | memoryview, out: NDArray[np.uint8]) -> None:
        try:
            # The size bounds what the decoder may write; a bomb fails instead of growing.
            decoded = lz4.block.decompress(data, uncompressed_size=out.nbytes)
        except lz4.block.LZ4BlockError as error:
            raise Corrupt(f"lz4 part of {len(data)} bytes does not decode: {error}") from error
        if len(decoded) != out.nbytes:
            raise Corrupt(f"lz4 part holds {len(decoded)} bytes, {out.nbytes} were announced")
        out[:] = np.frombuffer(decoded, np.uint8)


CODECS: dict[str, Codec] = {codec.name: codec for codec in (_Raw(), _Lz4())}


def codec_named(name: str) -> Codec:
    """The codec of that name.

    Raises:
        InvalidInput: There is none.
    """
    try:
        return CODECS[name]
    except KeyError:
        raise InvalidInput(
            f"codec {name!r} is not known: use one of {sorted(CODECS)}", field="codec"
        ) from None


def encode_smallest(data: memoryview, accepted: tuple[str, ...]) -> tuple[str, bytes]:
    """Encode with ``lz4`` where accepted and worth it, else ``raw``; returns name and bytes."""
    if "lz4" in accepted:
        encoded = CODECS["lz4"].encode(data)
        if len(encoded) <= data.nbytes * (1 - _MIN_GAIN) or "raw" not in accepted:
            return "lz4", encoded
    return "raw", bytes(data)


IMAGE_CODECS = ("raw", "lz4", "bitplanes", "bitplanes_lz4")


def encode_images(codec: str, images: NDArray[np.uint8]) -> tuple[bytes, NDArray[np.uint32]]:
    """Encode images one by one, back to back.

    Args:
        codec: One of ``IMAGE_CODECS``.
        images: ``(n, H, W, 3)`` uint8, C-contiguous.

    Returns:
        The bytes, and how many of them each image takes, ``(n,)`` uint32.

    Raises:
        InvalidInput: The codec is not known, or ``images`` is of another shape, dtype or order.
    """
    rows = _image_rows("images", images)
    check_image_codec(codec)
    if codec == "raw":
        return images.tobytes(), np.full(len(rows), rows[0].size if len(rows) else 0, np.uint32)
    if codec == "lz4":
        parts = [CODECS["lz4"].encode(image.reshape(-1).data) for image in rows]
    else:
        data, sizes = _encode_bitplanes(rows)
        if codec == "bitplanes":
            return data.tobytes(), sizes
        ends = np.cumsum(sizes, dtype=np.int64)
        parts = [
            CODECS["lz4"].encode(data[start:end].data)
            for start, end in zip(ends - sizes, ends, strict=True)
        ]
    return b"".join(parts), np.array([len(part) for part in parts], np.uint32)


def decode_images(
    codec: str,
    data: bytes | memoryview,
    image_bytes: NDArray[np.uint32],
    out: NDArray[np.uint8],
) -> None:
    """Decode what ``encode_images`` gave.

    Args:
        codec: One of ``IMAGE_CODECS``.
        data: The encoded images, back to back.
        image_bytes: How many bytes each image takes, ``(n,)`` uint32.
        out: ``(n, H, W, 3)`` uint8, C-contiguous; filled. After an error it may hold anything.

    Raises:
        Corrupt: The bytes are not ``n`` images of that size.
        InvalidInput: The codec is not known, or ``out`` is of another shape, dtype or order.
    """
    rows = _image_rows("out", out)
    check_image_codec(codec)
    view = memoryview(data).cast("B")
    if image_bytes.shape != (len(rows),) or int(image_bytes.sum(dtype=np.uint64)) != len(view):
        raise Corrupt(
            f"{codec} images have {len(view)} bytes for {len(rows)} images, "
            f"{int(image_bytes.sum(dtype=np.uint64))} for {image_bytes.size} were announced"
        )
    kernels = native.kernels()
    if kernels is not None:
        source = np.frombuffer(view, np.uint8)
        sizes = np.ascontiguousarray(image_bytes, np.uint32)
        done = kernels.decode_images(IMAGE_CODECS.index(codec), source, sizes, rows)
        if done < len(rows):
            raise Corrupt(
                f"image {done} of {len(rows)}: {codec} part of {image_bytes[done]} bytes does not "
                f"decode to {rows[done].size} bytes"
            )
        return
    native.say_fallback()
    start = 0
    for index, (size, image) in enumerate(zip(image_bytes.tolist(), rows, strict=True)):
        try:
            _decode_image(codec, view[start : start + size], image)
        except Corrupt as error:
            raise Corrupt(f"image {index} of {len(rows)}: {error}") from error
        start += size


def decode_into_places(
    codec: str,
    data: bytes | memoryview,
    image_bytes: NDArray[np.uint32],
    firsts: NDArray[np.int64],
    places: NDArray[np.int64],
    out: NDArray[np.uint8],
) -> None:
    """Decode observations of several images, each once, and put them where they are shown.

    Args:
        codec: One of ``IMAGE_CODECS``.
        data: The encoded images, back to back.
        image_bytes: ``(n, C)`` uint32: how many bytes each image takes; add up to those of
            ``data``.
        firsts: ``(n + 1,)``: observation ``i`` goes to ``places[firsts[i] : firsts[i + 1]]``.
        places: ``(m,)``: which of the ``N`` observations of ``out``, none twice.
        out: ``(N, C, H, W, 3)`` uint8, C-contiguous. After an error it may hold anything.

    Raises:
        Corrupt: An image does not decode.
        InvalidInput: The codec is not known, or ``out`` is of another shape, dtype or order.
    """
    if not out.flags.c_contiguous:
        raise InvalidInput("out must be C-contiguous", field="out")
    count, cameras = image_bytes.shape
    images = _image_rows("out", out.reshape(-1, *out.shape[2:]))
    check_image_codec(codec)
    kernels = native.kernels()
    if kernels is not None:
        done = kernels.decode_observations(
            IMAGE_CODECS.index(codec),
            np.frombuffer(data, np.uint8),
            np.ascontiguousarray(image_bytes, np.uint32),
            firsts,
            np.ascontiguousarray(places, np.int64),
            images.reshape(len(out), cameras, *images.shape[1:]),
        )
        if done < count:
            raise Corrupt(
                f"observation {done} of {count}: {codec} images of {image_bytes[done].tolist()} "
                f"bytes do not decode to {images[0].size} bytes each"
            )
        return
    view, ends = memoryview(data), np.cumsum(image_bytes.sum(axis=1, dtype=np.int64)).tolist()
    for number, (begin, end) in enumerate(zip([0, *ends[:-1]], ends, strict=True)):
        shown = places[firsts[number] : firsts[number + 1]].tolist()
        if not shown:
            continue
        try:
            decode_images(codec, view[begin:end], image_bytes[number], out[shown[0]])
        except Corrupt as error:
            raise Corrupt(f"observation {number} of {count}: {error}") from error
        out[shown[1:]] = out[shown[0]]


def check_image_codec(name: str) -> None:
    """Raise unless that codec of images exists.

    Raises:
        InvalidInput: There is none of that name.
    """
    if name not in IMAGE_CODECS:
        raise InvalidInput(
            f"codec {name!r} is not known: use one of {list(IMAGE_CODECS)}", field="codec"
        )


def _image_rows(name: str, images: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The images as ``(n, H, 3 W)``, the same memory."""
    if images.dtype != np.uint8 or images.shape[3:] != (3,):
        raise InvalidInput(
            f"{name} has shape {images.shape} and dtype {images.dtype}: "
            "expected (n, H, W, 3) uint8",
            field=name,
        )
    if not images.flags.c_contiguous:
        raise InvalidInput(f"{name} must be C-contiguous", field=name)
    count, height, width, channels = images.shape
    return images.reshape(count, height, width * channels)


def _encode_bitplanes(rows: NDArray[np.uint8]) -> tuple[NDArray[np.uint8], NDArray[np.uint32]]:
    kernels = native.kernels()
    if kernels is None:
        native.say_fallback()
        parts = [bitplanes.encode(image) for image in rows]
        sizes = np.array([len(part) for part in parts], np.uint32)
        return np.frombuffer(b"".join(parts), np.uint8), sizes
    count, height, row_bytes = rows.shape
    data = np.empty(count * bitplanes.max_encoded_bytes(height * row_bytes), np.uint8)
    sizes = np.empty(count, np.uint32)
    return data[: kernels.encode_bitplanes(rows, data, sizes)], sizes


def _decode_image(codec: str, data: memoryview, out: NDArray[np.uint8]) -> None:
    if codec in CODECS:
        CODECS[codec].decode_into(data, out.reshape(-1))
    elif codec == "bitplanes":
        bitplanes.decode(data, out)
    else:
        try:
            planes = lz4.block.decompress(
                data, uncompressed_size=bitplanes.max_encoded_bytes(out.size)
            )
        except lz4.block.LZ4BlockError as error:
            raise Corrupt(f"lz4 part of {len(data)} bytes does not decode: {error}") from error
        bitplanes.decode(memoryview(planes), out)


def fast_image_codecs() -> tuple[str, ...]:
    """What can be encoded and decoded at speed here: bit planes need the native kernels."""
    return IMAGE_CODECS if native.available() else ("raw", "lz4")


def choose_codec(images: NDArray[np.uint8], accepted: tuple[str, ...]) -> str:
    """The codec that brings such images over soonest; see ``probe_codecs``."""
    return probe_codecs(images, accepted).codec


def probe_codecs(images: NDArray[np.uint8], accepted: tuple[str, ...]) -> CodecChoice:
    """Encode sample images with each codec and compare the time to move and decode them.

    The time is that of the encoded bytes on a 10 Gb/s link plus that of decoding on one core, so
    the smallest codec wins only where it is worth its decoding. Sizes decide, not a clock: equal
    samples give equal choices.

    Args:
        images: A few frames of one source, ``(n, H, W, 3)`` uint8, C-contiguous.
        accepted: Codecs that the receiver decodes; names that are not known here are passed over.

    Raises:
        InvalidInput: No codec of ``accepted`` is known, or ``images`` is of another shape.
    """
    known = [codec for codec in IMAGE_CODECS if codec in accepted]
    if not known:
        raise InvalidInput(
            f"none of the codecs {list(accepted)} is known: accept one of {list(IMAGE_CODECS)}",
            field="codecs",
        )
    # Without the kernels here, bit planes are for a receiver that accepts nothing else.
    candidates = [codec for codec in known if codec in fast_image_codecs()] or known
    raw_bytes = max(images.nbytes, 1)
    shares = {codec: len(encode_images(codec, images)[0]) / raw_bytes for codec in candidates}
    times = {
        codec: _LINK_NS_PER_BYTE * share + _DECODE_NS_PER_BYTE[codec]
        for codec, share in shares.items()
    }
    return CodecChoice(min(times, key=times.__getitem__), shares, times)
