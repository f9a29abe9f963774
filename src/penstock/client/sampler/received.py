"""Takes a message of ``Fetch`` apart without a copy of the data in it.

Parsed as a whole, the data would be copied into the message, and once more by whoever asks for it:
a third of what a batch costs a client. So the few tags around it are read here, and the data stays
where it arrived.
"""

from __future__ import annotations

from dataclasses import dataclass

from google.protobuf.message import DecodeError, Message

from penstock.v1 import sampler_pb2 as pb

__all__ = ["Received", "parse_fetched"]

_VARINT, _FIXED_64, _LENGTH_DELIMITED, _FIXED_32 = 0, 1, 2, 5
_FIXED_BYTES = {_FIXED_64: 8, _FIXED_32: 4}
_LONGEST_VARINT = 10


@dataclass(frozen=True)
class Received:
    """A part of a batch as it arrived.

    Attributes:
        part: All of it but the data of its observations.
        data: That data, within the message that arrived.
        direct: Whether it came over a direct port.
    """

    part: pb.BatchPart
    data: memoryview
    direct: bool = False


def parse_fetched(message: bytes | memoryview) -> Received:
    """Parse a ``FetchResponse``.

    Raises:
        DecodeError: It is none.
    """
    response, inner = _apart(memoryview(message), pb.FetchResponse.PART_FIELD_NUMBER)
    _parse(pb.FetchResponse(), response)
    rest, observations = _apart(inner, pb.BatchPart.OBSERVATIONS_FIELD_NUMBER)
    part = pb.BatchPart()
    _parse(part, rest)
    if observations is None:
        return Received(part, memoryview(b""))
    shown, data = _apart(observations, pb.Observations.DATA_FIELD_NUMBER)
    # Empty or not, they were sent.
    part.observations.SetInParent()
    _parse(part.observations, shown)
    return Received(part, memoryview(b"") if data is None else data)


def _parse(into: Message, pieces: list[memoryview]) -> None:
    into.MergeFromString(b"".join(pieces))


def _apart(message: memoryview | None, number: int) -> tuple[list[memoryview], memoryview | None]:
    """The fields of a message but one, and the bytes of that one; the last one, if it repeats."""
    others: list[memoryview] = []
    found: memoryview | None = None
    at = 0
    end = 0 if message is None else len(message)
    while message is not None and at < end:
        start = at
        tag, at = _varint(message, at)
        kind = tag & 7
        if kind == _LENGTH_DELIMITED:
            size, at = _varint(message, at)
        elif kind == _VARINT:
            _, at = _varint(message, at)
            size = 0
        elif kind in _FIXED_BYTES:
            size = _FIXED_BYTES[kind]
        else:
            raise DecodeError(f"a field of unknown kind {kind}")
        if size > end - at:
            raise DecodeError(f"a field of {size} bytes, {end - at} are left")
        if tag >> 3 == number and kind == _LENGTH_DELIMITED:
            found = message[at : at + size]
        else:
            others.append(message[start : at + size])
        at += size
    return others, found


def _varint(message: memoryview, at: int) -> tuple[int, int]:
    value = 0
    for place, byte in enumerate(message[at : at + _LONGEST_VARINT]):
        value |= (byte & 0x7F) << (7 * place)
        if byte < 0x80:  # noqa: PLR2004 - the mark of a last byte
            return value, at + place + 1
    raise DecodeError("a number without an end")
