"""ROS 1 bags: messages by the index that the recorder wrote, or by a walk where there is none.

Format: http://wiki.ros.org/Bags/Format/2.0
"""

from __future__ import annotations

import struct
from collections.abc import Collection
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from rosbags import rosbag1
from rosbags.interfaces import MessageDefinition, MessageDefinitionFormat

from penstock_converter.recordings.storage import (
    Channel,
    ChunkedFile,
    Entries,
    Place,
    channel_of,
)
from penstock_converter.recordings.views import (
    CHUNK_LIMIT_BYTES,
    Incomplete,
    MemoryView,
    View,
    decompressed,
)
from penstock_converter.recordings.walk import Walk

__all__ = ["Ros1File"]

_MAGIC = b"#ROSBAG V2.0\n"
_MESSAGE, _BAG, _INDEX, _CHUNK, _CHUNK_INFO, _CONNECTION = 2, 3, 4, 5, 6, 7
_HEADER_LIMIT_BYTES = 1_000_000
_TEXT_LIMIT_BYTES = 16_000_000
_MESSAGE_RECORD_BYTES = 46
"""Of a message's record, what is not its payload; newer recorders write no other fields."""


class Ros1File(ChunkedFile):
    """A ROS 1 bag.

    Args:
        path: The file.
        reader: Of rosbags, open; none if it cannot open the file. Its index is taken over.
    """

    def __init__(self, path: Path, reader: rosbag1.Reader | None) -> None:
        super().__init__(path)
        self._cut = False
        self._landmarks: list[int] = []
        self.expected: int | None = None
        self.channels: tuple[Channel, ...] = ()
        self._entries: dict[int, Entries] = {}
        if reader is not None:
            self._landmarks = [info.pos for info in reader.chunk_infos]
            self.channels = tuple(channel_of(each) for each in reader.connections)
            ends = {
                at: _number(_record(self.view, at, whole=False).fields, "size", "<I")
                for at in self._landmarks
            }
            self._entries = _by_index(reader, ends)
            self.expected = sum(len(each.time_ns) for each in self._entries.values())

    def index(self, channels: Collection[int]) -> dict[int, Entries]:
        """See ``Storage``."""
        return {number: self._entries.pop(number) for number in channels}

    def salvage(self) -> int:
        """See ``Storage``."""
        self._cut = True
        walk = _Ros1Walk(self.view, self.open_chunk, self.channels, self._landmarks)
        walk.run(self.expected)
        self.channels = tuple(walk.channels.values())
        self._entries = {number: each.entries() for number, each in walk.entries.items()}
        self.warnings = walk.warnings(self.path.name, self.expected)
        return walk.messages

    def read(self, channel: int, place: Place, limit_bytes: int | None = None) -> bytes:
        """See ``Storage``."""
        view = self.block(place.block)
        record = _record(view, place.offset)
        # Some recorders let an index entry begin at the connection that a message needs.
        while record.op == _CONNECTION:
            record = _record(view, record.end)
        if record.op != _MESSAGE or _message(record) != (channel, place.time_ns):
            raise Incomplete(f"the message at {place.offset} is not the one of the index")
        size = record.end - record.data_at
        return view.take(record.data_at, size if limit_bytes is None else min(size, limit_bytes))

    def open_chunk(self, at: int) -> View:
        """See ``ChunkedFile``; an uncompressed one stays in the file."""
        record = _record(self.view, at, whole=False)
        size = _number(record.fields, "size", "<I")
        compression = record.fields.get("compression", b"").decode(errors="replace")
        begin, end = record.data_at, record.end
        if self._cut and not size and begin == end and compression != "none":
            # The sizes of the chunk that it was at are what a killed recorder did not write.
            size, end = CHUNK_LIMIT_BYTES, self.size_bytes + 1
        there = min(end, self.size_bytes) - begin
        cut = begin + there < end
        if record.op != _CHUNK or there > CHUNK_LIMIT_BYTES or (cut and not self._cut):
            raise Incomplete(f"the chunk at {at} is cut off or damaged")
        if compression == "none":
            return self.view.part(begin, there)
        data = decompressed(self.view.take(begin, there), compression, size, cut=cut)
        if not cut and len(data) != size:
            raise Incomplete(f"a chunk has {len(data)} bytes, not {size}")
        return MemoryView(data)


class _Ros1Walk(Walk):
    _indexed = False

    def first_record(self) -> int:
        if self.view.take(0, len(_MAGIC)) != _MAGIC:
            raise Incomplete("File magic is invalid")
        record = _record(self.view, len(_MAGIC))
        if record.op != _BAG or record.fields.get("encryptor"):
            raise Incomplete("it does not begin as a bag, or is encrypted")
        self._indexed = _number(record.fields, "index_pos", "<Q") > 0
        self._look_for_end(record.end)
        return record.end

    def step(self, at: int) -> int:
        record = _record(self.view, at, whole=False)
        if record.op == _CHUNK:
            size = _number(record.fields, "size", "<I")
            open_end = not size and record.data_at == record.end < self.view.size_bytes
            if open_end and record.fields.get("compression") != b"none":
                self.chunk(at, self.view.size_bytes + 1)
                return self.view.size_bytes
            self.chunk(at, record.end)
            following = record.end
        else:
            following = self.record(self.view, 0, at)
        self._look_for_end(following)
        return following

    def record(self, view: View, block: int, offset: int) -> int:
        record = _record(view, offset)
        if record.op == _MESSAGE:
            channel, time_ns = _message(record)
            self.found(channel, Place(time_ns, block, offset), record.end - record.data_at)
        elif record.op == _CONNECTION:
            self._describe(view, record)
        elif record.op not in (_BAG, _INDEX, _CHUNK_INFO):
            raise Incomplete(f"the record at {offset} is damaged")
        return record.end

    def _look_for_end(self, at: int) -> None:
        """The index is the end of a bag, and its place is written last."""
        self.losses.ended = self._indexed and at == self.view.size_bytes

    def _describe(self, view: View, record: _Record) -> None:
        size = record.end - record.data_at
        if size > _TEXT_LIMIT_BYTES:
            raise Incomplete(f"a definition of {size} bytes is claimed")
        fields = _fields(view.take(record.data_at, size))
        parts = [_text(record.fields, "topic"), _text(fields, "type")]
        definition = MessageDefinition(
            MessageDefinitionFormat.MSG, _text(fields, "message_definition")
        )
        topic = "/" * parts[0].startswith("/") + "/".join(p for p in parts[0].split("/") if p)
        number = _number(record.fields, "conn", "<I")
        self.know(Channel(number, topic, parts[1], definition))


class _Record(NamedTuple):
    op: int
    fields: dict[str, bytes]
    data_at: int
    end: int


def _record(view: View, at: int, *, whole: bool = True) -> _Record:
    """The record at ``at``; ``whole``: its data must be there too."""
    (size,) = struct.unpack("<I", view.take(at, 4))
    if not 0 < size <= _HEADER_LIMIT_BYTES:
        raise Incomplete(f"the record at {at} is damaged")
    fields = _fields(view.take(at + 4, size))
    data_at = at + size + 8
    (data_size,) = struct.unpack("<I", view.take(data_at - 4, 4))
    if whole and data_at + data_size > view.size_bytes:
        raise Incomplete(f"the record at {at} is cut off")
    return _Record(_number(fields, "op", "<B"), fields, data_at, data_at + data_size)


def _fields(data: bytes) -> dict[str, bytes]:
    found: dict[str, bytes] = {}
    at = 0
    while at < len(data):
        if at + 4 > len(data):
            raise Incomplete("a header is cut off")
        size = int.from_bytes(data[at : at + 4], "little")
        name, equals, value = data[at + 4 : at + 4 + size].partition(b"=")
        at += 4 + size
        if at > len(data) or not equals:
            raise Incomplete("a header is damaged")
        found[name.decode(errors="replace")] = value
    return found


def _number(fields: dict[str, bytes], name: str, form: str) -> int:
    try:
        (value,) = struct.unpack(form, fields.get(name, b""))
    except struct.error as error:
        raise Incomplete(f"a record has no {name}") from error
    return value


def _text(fields: dict[str, bytes], name: str) -> str:
    if name not in fields:
        raise Incomplete(f"a connection has no {name}")
    return fields[name].decode(errors="replace")


def _message(record: _Record) -> tuple[int, int]:
    """Number of the channel, and time of receipt in ns."""
    time = _number(record.fields, "time", "<Q")
    seconds, nanoseconds = time & 0xFFFFFFFF, time >> 32
    return _number(record.fields, "conn", "<I"), seconds * 1_000_000_000 + nanoseconds


def _by_index(reader: rosbag1.Reader, chunk_bytes: dict[int, int]) -> dict[int, Entries]:
    """Entries of all connections; what rosbags holds of them, 140 bytes a message, is let go."""
    columns: dict[int, NDArray[np.int64]] = {}
    for number in list(reader.indexes):
        found = reader.indexes.pop(number)
        flat = (value for entry in found for value in entry)
        columns[number] = np.fromiter(flat, np.int64, 3 * len(found)).reshape(-1, 3)
    if not columns:
        return {}
    every = np.concatenate(list(columns.values()))
    order = np.lexsort((every[:, 2], every[:, 1]))
    block, offset = every[order, 1], every[order, 2]
    ends = np.append(offset[1:], 0)
    last = np.append(block[1:] != block[:-1], True)
    ends[last] = [chunk_bytes[at] for at in block[last].tolist()]
    sizes = np.empty(len(order), np.int64)
    sizes[order] = np.maximum(ends - offset - _MESSAGE_RECORD_BYTES, 0)
    entries: dict[int, Entries] = {}
    at = 0
    for number, column in columns.items():
        size_bytes = int(sizes[at : at + len(column)].sum())
        entries[number] = Entries.ordered(*column.T, size_bytes=size_bytes)
        at += len(column)
    return entries
