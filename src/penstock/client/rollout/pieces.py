"""Pieces of a rollout's file on the wire, without the copies that messages would make.

A message that holds a ``bytes`` field copies it when it is set, when it is serialised, and when it
is read again. A rollout is nothing but such fields, so the few tags around them are written and
read here. What is written is the protobuf encoding of the same message, with the data last. What is
read is that form; any other form is left to protobuf.

``PushRolloutRequest`` and ``PullRolloutResponse`` have their ``RolloutPiece`` in the same field.
"""

from __future__ import annotations

from dataclasses import dataclass

from penstock.v1 import rollout_pb2 as pb

__all__ = ["Piece", "piece_head", "piece_message", "read_piece"]

_PIECE_TAG = pb.PullRolloutResponse.PIECE_FIELD_NUMBER << 3 | 2
_OFFSET_TAG = pb.RolloutPiece.OFFSET_BYTES_FIELD_NUMBER << 3
_DATA_TAG = pb.RolloutPiece.DATA_FIELD_NUMBER << 3 | 2
_HASH_TAG = pb.RolloutPiece.XXH3_64_FIELD_NUMBER << 3 | 1
_HASH_BYTES = 8
_SEVEN_BITS, _MORE = 0x7F, 0x80
_MAX_VARINT_BYTES = 10


@dataclass(frozen=True, slots=True)
class Piece:
    """A piece as it arrived.

    Attributes:
        offset_bytes: Where in the file it lies.
        data: Its bytes, in the message.
        xxh3_64: Their hash; None if there was none.
    """

    offset_bytes: int
    data: memoryview
    xxh3_64: int | None


def piece_head(offset_bytes: int, size_bytes: int, xxh3_64: int | None = None) -> bytes:
    """What goes before the data of a piece in its message."""
    inner = bytes([_OFFSET_TAG]) + _varint(offset_bytes) if offset_bytes else b""
    if xxh3_64 is not None:
        inner += bytes([_HASH_TAG]) + xxh3_64.to_bytes(_HASH_BYTES, "little")
    inner += bytes([_DATA_TAG]) + _varint(size_bytes)
    return bytes([_PIECE_TAG]) + _varint(len(inner) + size_bytes) + inner


def piece_message(offset_bytes: int, data: bytes | memoryview, xxh3_64: int | None = None) -> bytes:
    """The serialised message of a piece."""
    return b"".join((piece_head(offset_bytes, len(data), xxh3_64), data))


def read_piece(message: bytes) -> Piece | None:
    """The piece in a serialised message; None if it is of another form, or no piece at all."""
    view = memoryview(message)
    try:
        if view[0] != _PIECE_TAG:
            return None
        size, at = _read_varint(view, 1)
        if at + size != len(view):
            return None
        offset, xxh3_64 = 0, None
        if view[at] == _OFFSET_TAG:
            offset, at = _read_varint(view, at + 1)
        if view[at] == _HASH_TAG:
            xxh3_64 = int.from_bytes(view[at + 1 : at + 1 + _HASH_BYTES], "little")
            at += 1 + _HASH_BYTES
        if view[at] != _DATA_TAG:
            return None
        size, at = _read_varint(view, at + 1)
    except (IndexError, OverflowError):
        return None
    return Piece(offset, view[at:], xxh3_64) if at + size == len(view) else None


def _varint(value: int) -> bytes:
    encoded = bytearray()
    while value > _SEVEN_BITS:
        encoded.append(value & _SEVEN_BITS | _MORE)
        value >>= 7
    encoded.append(value)
    return bytes(encoded)


def _read_varint(view: memoryview, at: int) -> tuple[int, int]:
    value = 0
    for place in range(_MAX_VARINT_BYTES):
        byte = view[at + place]
        value |= (byte & _SEVEN_BITS) << 7 * place
        if byte < _MORE:
            if value >= 1 << 64:
                raise OverflowError
            return value, at + place + 1
    raise OverflowError
