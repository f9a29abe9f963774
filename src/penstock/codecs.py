"""Codecs for what goes over a wire: ``raw`` and ``lz4`` (LZ4 block).

A decoder is told how much to expect, checks that number before it allocates, and refuses the rest.
"""

from __future__ import annotations

from typing import Protocol

import lz4.block
import numpy as np
from numpy.typing import NDArray

from penstock.errors import Corrupt, InvalidInput

__all__ = ["CODECS", "Codec", "codec_named", "encode_smallest"]

_MIN_GAIN = 0.02
"""A codec must save this share of the bytes to be worth its decoding."""


class Codec(Protocol):
    """Turns bytes into fewer bytes and back."""

    name: str

    def encode(self, data: memoryview) -> bytes:
        """Encode all of ``data``."""
        ...

    def decode_into(self, data: bytes, out: NDArray[np.uint8]) -> None:
        """Decode into ``out`` (contiguous, one-dimensional).

        Raises:
            Corrupt: ``data`` does not decode to exactly ``out.nbytes`` bytes.
        """
        ...


class _Raw:
    name = "raw"

    def encode(self, data: memoryview) -> bytes:
        return bytes(data)

    def decode_into(self, data: bytes, out: NDArray[np.uint8]) -> None:
        if len(data) != out.nbytes:
            raise Corrupt(f"raw part has {len(data)} bytes, {out.nbytes} were announced")
        out[:] = np.frombuffer(data, np.uint8)


class _Lz4:
    name = "lz4"

    def encode(self, data: memoryview) -> bytes:
        return lz4.block.compress(data, store_size=False)

    def decode_into(self, data: bytes, out: NDArray[np.uint8]) -> None:
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
