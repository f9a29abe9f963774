"""Records of ROS 1 bags: a header of named fields, and data.

Format: http://wiki.ros.org/Bags/Format/2.0
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import NamedTuple

from penstock_converter.recordings.views import Incomplete, View

__all__ = [
    "BAG",
    "CHUNK",
    "CHUNK_INFO",
    "CONNECTION",
    "INDEX",
    "MESSAGE",
    "MessageHead",
    "Record",
    "message_of",
    "number_of",
    "read_fields",
    "read_record",
    "text_of",
]

MESSAGE, BAG, INDEX, CHUNK, CHUNK_INFO, CONNECTION = 2, 3, 4, 5, 6, 7
"""What the field ``op`` of a record says."""

_HEADER_LIMIT_BYTES = 1_000_000
_CHANNEL, _TIME = struct.Struct("<I"), struct.Struct("<II")


class Record(NamedTuple):
    """A record whose header was read.

    Attributes:
        op: Its kind.
        fields: Of the header.
        data_at: Where its data begin.
        end: Where they end, and the next record begins.
    """

    op: int
    fields: dict[str, bytes]
    data_at: int
    end: int


def read_record(view: View, at: int, *, whole: bool = True) -> Record:
    """The record at ``at``; ``whole``: its data must be there too.

    Raises:
        Incomplete: There is none.
    """
    (size,) = struct.unpack("<I", view.take(at, 4))
    if not 0 < size <= _HEADER_LIMIT_BYTES:
        raise Incomplete(f"the record at {at} is damaged")
    fields = read_fields(view.take(at + 4, size))
    data_at = at + size + 8
    (data_size,) = struct.unpack("<I", view.take(data_at - 4, 4))
    if whole and data_at + data_size > view.size_bytes:
        raise Incomplete(f"the record at {at} is cut off")
    return Record(number_of(fields, "op", "<B"), fields, data_at, data_at + data_size)


def read_fields(data: bytes) -> dict[str, bytes]:
    """Values by name.

    Raises:
        Incomplete: It is no row of fields.
    """
    return {name: data[begin:end] for name, begin, end in _fields(data)}


def _fields(data: bytes) -> Iterator[tuple[str, int, int]]:
    """Name of each field, and where its value begins and ends."""
    at = 0
    while at < len(data):
        if at + 4 > len(data):
            raise Incomplete("a header is cut off")
        begin = at + 4
        at = begin + int.from_bytes(data[at:begin], "little")
        equals = data.find(b"=", begin, at)
        if at > len(data) or equals < 0:
            raise Incomplete("a header is damaged")
        yield data[begin:equals].decode(errors="replace"), equals + 1, at


def number_of(fields: dict[str, bytes], name: str, form: str) -> int:
    """A field as ``struct`` unpacks it.

    Raises:
        Incomplete: It is missing, or has another size.
    """
    try:
        (value,) = struct.unpack(form, fields.get(name, b""))
    except struct.error as error:
        raise Incomplete(f"a record has no {name}") from error
    return value


def text_of(fields: dict[str, bytes], name: str) -> str:
    """A field that is text.

    Raises:
        Incomplete: It is missing.
    """
    if name not in fields:
        raise Incomplete(f"a connection has no {name}")
    return fields[name].decode(errors="replace")


def message_of(record: Record) -> tuple[int, int]:
    """Number of the channel, and time of receipt in ns."""
    time = number_of(record.fields, "time", "<Q")
    seconds, nanoseconds = time & 0xFFFFFFFF, time >> 32
    return number_of(record.fields, "conn", "<I"), seconds * 1_000_000_000 + nanoseconds


class MessageHead:
    """Header of the messages of one recorder: they differ by channel and time, and in no byte more.

    Args:
        header: Of a message that was read, from the size of the header on.
    """

    def __init__(self, header: bytes) -> None:
        places = {name: 4 + begin for name, begin, _ in _fields(header[4:])}
        self._bytes = bytearray(header)
        self._channel_at, self._time_at = places["conn"], places["time"]

    def of(self, channel: int, time_ns: int) -> bytes:
        """What a message begins with."""
        seconds, nanoseconds = divmod(time_ns, 1_000_000_000)
        _CHANNEL.pack_into(self._bytes, self._channel_at, channel)
        # Seconds beyond 32 bits fit no message; it is the one who reads that says so.
        _TIME.pack_into(self._bytes, self._time_at, seconds & 0xFFFFFFFF, nanoseconds)
        return bytes(self._bytes)
