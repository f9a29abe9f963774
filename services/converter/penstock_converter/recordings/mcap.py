"""MCAP files: messages by the message indexes of their chunks, or by a walk where there are none.

Format: https://mcap.dev/spec
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Collection
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from rosbags.interfaces import MessageDefinition, MessageDefinitionFormat
from rosbags.rosbag2.storage_mcap import ChunkInfo, McapReader

from penstock_converter.recordings.storage import (
    Channel,
    ChunkedFile,
    Entries,
    EntryList,
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

__all__ = ["McapFile"]

_MAGIC = b"\x89MCAP0\r\n"
_FOOTER, _SCHEMA, _CHANNEL, _MESSAGE, _CHUNK, _MESSAGE_INDEX, _DATA_END = 2, 3, 4, 5, 6, 7, 15
_END_BYTES = {_FOOTER: 20, _DATA_END: 4}
_RECORD = struct.Struct("<BQ")
_MESSAGE_HEAD = struct.Struct("<BQHIQQ")
_CHUNK_HEAD = struct.Struct("<QQQII")
_INDEX_HEAD = struct.Struct("<BQHI")
_NAME_LIMIT_BYTES = 64
_TEXT_LIMIT_BYTES = 16_000_000
"""Schemas are texts; nobody writes one that long."""

_FORMS = {
    "ros2msg": MessageDefinitionFormat.MSG,
    "ros2idl": MessageDefinitionFormat.IDL,
    "omgidl": MessageDefinitionFormat.IDL,
}


class McapFile(ChunkedFile):
    """An MCAP file.

    Args:
        path: The file.
        reader: Of rosbags, open; none if it cannot open the file.
    """

    def __init__(self, path: Path, reader: McapReader | None) -> None:
        super().__init__(path)
        self._chunk_infos: list[ChunkInfo] = []
        self._landmarks: list[int] = []
        self.expected: int | None = None
        self._counts: dict[int, int] = {}
        self.channels: tuple[Channel, ...] = ()
        self._walked: dict[int, EntryList] | None = None
        self._cut = False
        if reader is not None:
            self._chunk_infos = sorted(reader.chunks, key=lambda info: info.chunk_start_offset)
            self._landmarks = [info.chunk_start_offset for info in self._chunk_infos]
            self._landmarks.append(reader.data_end)
            self._counts = {each.id: each.msgcount for each in reader.connections}
            self.expected = sum(self._counts.values())
            self.channels = tuple(channel_of(each) for each in reader.connections)

    def index(self, channels: Collection[int]) -> dict[int, Entries]:
        """See ``Storage``.

        Raises:
            Incomplete: There is no index, and the file is damaged.
        """
        if self._walked is None:
            found = self._by_index(set(channels))
            if found is not None:
                return found
            walk = self._walk()
            if walk.losses:
                raise Incomplete("messages of it are missing or damaged")
            self._walked = walk.entries
        walked = self._walked
        return {number: walked.pop(number).entries() for number in channels}

    def salvage(self) -> int:
        """See ``Storage``."""
        self._cut = True
        walk = self._walk()
        self._walked, self.channels = walk.entries, tuple(walk.channels.values())
        self.warnings = walk.warnings(self.path.name, self.expected)
        return walk.messages

    def read(self, channel: int, place: Place, limit_bytes: int | None = None) -> bytes:
        """See ``Storage``."""
        view = self.block(place.block)
        op, length, number, _, log_ns, _ = _MESSAGE_HEAD.unpack(
            view.take(place.offset, _MESSAGE_HEAD.size)
        )
        if (op, number, log_ns) != (_MESSAGE, channel, place.time_ns):
            raise Incomplete(f"the message at {place.offset} is not the one of the index")
        size = length - (_MESSAGE_HEAD.size - _RECORD.size)
        if size > CHUNK_LIMIT_BYTES:
            raise Incomplete(f"a message of {size} bytes is claimed")
        wanted = size if limit_bytes is None else min(size, limit_bytes)
        return view.take(place.offset + _MESSAGE_HEAD.size, wanted)

    def open_chunk(self, at: int) -> View:
        """See ``ChunkedFile``; without a checksum an uncompressed one stays in the file."""
        head = _chunk_head(self.view, at)
        there = min(head.stored_bytes, self.size_bytes - head.data_at)
        cut = there < head.stored_bytes
        if cut and not self._cut:
            raise Incomplete("a chunk is cut off")
        if not head.compression:
            whole = self.view.part(head.data_at, there)
            if cut or (not head.crc and head.stored_bytes == head.size_bytes):
                return whole
            data = whole.take(0, there)
        else:
            stored = self.view.take(head.data_at, there)
            data = decompressed(stored, head.compression, head.size_bytes, cut=cut)
        if not cut:
            if len(data) != head.size_bytes:
                raise Incomplete(f"a chunk has {len(data)} bytes, not {head.size_bytes}")
            if head.crc and zlib.crc32(data) != head.crc:
                raise Incomplete("a chunk does not fit its checksum")
        return MemoryView(data)

    def _walk(self) -> _McapWalk:
        walk = _McapWalk(self.view, self.open_chunk, self.channels, self._landmarks)
        walk.run(self.expected)
        return walk

    def _by_index(self, channels: set[int]) -> dict[int, Entries] | None:
        """Entries by message indexes; None unless every message has one."""
        infos = self._chunk_infos
        if not infos or any(not info.message_index_offsets for info in infos):
            return None
        found: dict[int, list[tuple[NDArray[np.int64], ...]]] = {each: [] for each in channels}
        for info in infos:
            if channels.isdisjoint(info.message_index_offsets):
                continue
            at = info.chunk_start_offset + info.chunk_length
            section = self.view.take(at, min(info.message_index_length, CHUNK_LIMIT_BYTES))
            parts = _message_indexes(section)
            if parts is None:
                return None
            starts = np.sort(np.concatenate([part[:, 1] for part in parts.values()]))
            ends = np.append(starts[1:], info.uncompressed_size)
            for number, part in parts.items():
                if number not in channels:
                    continue
                following = ends[np.searchsorted(starts, part[:, 1], side="right") - 1]
                sizes = np.maximum(following - part[:, 1] - _MESSAGE_HEAD.size, 0)
                block = np.full(len(part), info.chunk_start_offset, np.int64)
                found[number].append((part[:, 0], block, part[:, 1], sizes))
        entries: dict[int, Entries] = {}
        for number, parts in found.items():
            columns = [
                np.concatenate(column) if column else np.zeros(0, np.int64)
                for column in (list(zip(*parts, strict=True)) or [()] * 4)
            ]
            if len(columns[0]) != self._counts.get(number):
                return None
            entries[number] = Entries.ordered(*columns[:3], size_bytes=int(columns[3].sum()))
        return entries


class _McapWalk(Walk):
    _schemas: dict[int, tuple[str, MessageDefinition]]

    def first_record(self) -> int:
        if self.view.take(0, len(_MAGIC)) != _MAGIC:
            raise Incomplete("File magic is invalid")
        self._schemas = {}
        return len(_MAGIC)

    def step(self, at: int) -> int:
        op, length = _RECORD.unpack(self.view.take(at, _RECORD.size))
        end = at + _RECORD.size + length
        if op == _CHUNK:
            _chunk_head(self.view, at)
            self.chunk(at, end)
            return end
        if op in (_FOOTER, _DATA_END) and length == _END_BYTES[op]:
            size = self.view.size_bytes
            self.losses.ended = self.view.take(size - len(_MAGIC), len(_MAGIC)) == _MAGIC
            return end
        return self.record(self.view, 0, at)

    def record(self, view: View, block: int, offset: int) -> int:
        op, length = _RECORD.unpack(view.take(offset, _RECORD.size))
        begin = offset + _RECORD.size
        # A disk that filled up, or a crash of the machine, leaves zeros.
        if op in (0, _CHUNK) or begin + length > view.size_bytes:
            raise Incomplete(f"the record at {offset} is damaged")
        if op == _MESSAGE:
            _, length, channel, _, log_ns, _ = _MESSAGE_HEAD.unpack(
                view.take(offset, _MESSAGE_HEAD.size)
            )
            size = length - (_MESSAGE_HEAD.size - _RECORD.size)
            if size < 0:
                raise Incomplete(f"the message at {offset} is damaged")
            self.found(channel, Place(log_ns, block, offset), size)
        elif op in (_SCHEMA, _CHANNEL):
            if length > _TEXT_LIMIT_BYTES:
                raise Incomplete(f"a schema of {length} bytes is claimed")
            self._describe(op, _Fields(view.take(begin, length)))
        return begin + length

    def _describe(self, op: int, fields: _Fields) -> None:
        number = fields.number("<H")
        if op == _SCHEMA:
            name, encoding = fields.text(), fields.text()
            form = _FORMS.get(encoding, MessageDefinitionFormat.NONE)
            text = fields.text() if form is not MessageDefinitionFormat.NONE else ""
            self._schemas[number] = (name, MessageDefinition(form, text))
            return
        schema = self._schemas.get(fields.number("<H"))
        topic, encoding = fields.text(), fields.text()
        if schema is not None and encoding == "cdr":
            self.know(Channel(number, topic, *schema))


class _ChunkHead(NamedTuple):
    size_bytes: int
    crc: int
    compression: str
    data_at: int
    stored_bytes: int


def _chunk_head(view: View, at: int) -> _ChunkHead:
    op, length = _RECORD.unpack(view.take(at, _RECORD.size))
    begin = at + _RECORD.size
    _, _, size, crc, name_size = _CHUNK_HEAD.unpack(view.take(begin, _CHUNK_HEAD.size))
    if op != _CHUNK or name_size > _NAME_LIMIT_BYTES or size > CHUNK_LIMIT_BYTES:
        raise Incomplete(f"the chunk at {at} is damaged")
    name = view.take(begin + _CHUNK_HEAD.size, name_size)
    data_at = begin + _CHUNK_HEAD.size + name_size + 8
    (stored,) = struct.unpack("<Q", view.take(data_at - 8, 8))
    if stored > CHUNK_LIMIT_BYTES or data_at + stored > begin + length:
        raise Incomplete(f"the chunk at {at} is damaged")
    return _ChunkHead(size, crc, name.decode(errors="replace"), data_at, stored)


def _message_indexes(section: bytes) -> dict[int, NDArray[np.int64]] | None:
    """Times and offsets by channel, (M, 2) each; None if it is no row of message indexes."""
    found: dict[int, NDArray[np.int64]] = {}
    at = 0
    while at < len(section):
        if at + _INDEX_HEAD.size > len(section):
            return None
        op, length, channel, size = _INDEX_HEAD.unpack_from(section, at)
        if op != _MESSAGE_INDEX or length != size + 6 or size % 16 or channel in found:
            return None
        if at + _RECORD.size + length > len(section):
            return None
        values = np.frombuffer(section, "<i8", size // 8, at + _INDEX_HEAD.size)
        if (values < 0).any():
            return None
        found[channel] = values.reshape(-1, 2).astype(np.int64)
        at += _RECORD.size + length
    return found


class _Fields:
    def __init__(self, data: bytes) -> None:
        self._data, self._at = data, 0

    def number(self, form: str) -> int:
        try:
            (value,) = struct.unpack_from(form, self._data, self._at)
        except struct.error as error:
            raise Incomplete("a record is too short") from error
        self._at += struct.calcsize(form)
        return value

    def text(self) -> str:
        size = self.number("<I")
        if self._at + size > len(self._data):
            raise Incomplete("a record is too short")
        self._at += size
        return self._data[self._at - size : self._at].decode(errors="replace")
