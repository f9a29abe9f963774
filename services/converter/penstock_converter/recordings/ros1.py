"""ROS 1 bags: messages by the index that the recorder wrote, or by a walk where there is none.

Format: http://wiki.ros.org/Bags/Format/2.0
"""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

import numpy as np
from rosbags.interfaces import MessageDefinition, MessageDefinitionFormat

from penstock_converter.recordings.ros1_index import Column, Ros1Index
from penstock_converter.recordings.ros1_records import (
    BAG,
    CHUNK,
    CHUNK_INFO,
    CONNECTION,
    INDEX,
    MESSAGE,
    MessageHead,
    Record,
    message_of,
    number_of,
    read_fields,
    read_record,
    text_of,
)
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

__all__ = ["Ros1File"]

_MAGIC = b"#ROSBAG V2.0\n"
_TEXT_LIMIT_BYTES = 16_000_000


class Ros1File(ChunkedFile):
    """A ROS 1 bag.

    Args:
        path: The file.
        reader: Open; none if it cannot open the file. Its index is taken over.
    """

    def __init__(self, path: Path, reader: Ros1Index | None) -> None:
        super().__init__(path)
        self._cut = False
        self._landmarks = np.zeros(0, np.int64)
        self.expected: int | None = None
        self.channels: tuple[Channel, ...] = ()
        self._columns: dict[int, Column] = {}
        self._walked: dict[int, EntryList] | None = None
        self._head: MessageHead | None = None
        if reader is not None:
            self._landmarks = reader.chunks_at
            self.channels = tuple(channel_of(each) for each in reader.connections)
            self._columns = reader.take_columns()
            self.expected = sum(map(len, self._columns.values()))

    def index(self, channels: Collection[int]) -> dict[int, Entries]:
        """See ``Storage``."""
        if self._walked is not None:
            walked = self._walked
            return {number: walked.pop(number).entries() for number in channels}
        columns = self._columns
        return {number: columns.pop(number).entries(self._landmarks) for number in channels}

    def salvage(self) -> int:
        """See ``Storage``."""
        self._cut = True
        walk = _Ros1Walk(self.view, self.open_chunk, self.channels, self._landmarks.tolist())
        walk.run(self.expected)
        self.channels = tuple(walk.channels.values())
        self._walked = walk.entries
        self._columns.clear()
        self.warnings = walk.warnings(self.path.name, self.expected)
        return walk.messages

    def read(self, channel: int, place: Place, limit_bytes: int | None = None) -> bytes:
        """See ``Storage``."""
        view = self.block(place.block)
        data_at, size = self._data(view, channel, place)
        return view.take(data_at, size if limit_bytes is None else min(size, limit_bytes))

    def _data(self, view: View, channel: int, place: Place) -> tuple[int, int]:
        """Where the data of a message begin, and how many bytes they are."""
        if self._head is not None:
            # Most messages begin with the very bytes that are to be there.
            head = self._head.of(channel, place.time_ns)
            data_at = place.offset + len(head) + 4
            if data_at <= view.size_bytes:
                begin = view.take(place.offset, len(head) + 4)
                size = int.from_bytes(begin[-4:], "little")
                if begin.startswith(head) and data_at + size <= view.size_bytes:
                    return data_at, size
        begin = place.offset
        record = read_record(view, begin)
        # Some recorders let an index entry begin at the connection that a message needs.
        while record.op == CONNECTION:
            begin = record.end
            record = read_record(view, begin)
        if record.op != MESSAGE or message_of(record) != (channel, place.time_ns):
            raise Incomplete(f"the message at {place.offset} is not the one of the index")
        self._head = MessageHead(view.take(begin, record.data_at - begin - 4))
        return record.data_at, record.end - record.data_at

    def open_chunk(self, at: int) -> View:
        """See ``ChunkedFile``; an uncompressed one stays in the file."""
        record = read_record(self.view, at, whole=False)
        size = number_of(record.fields, "size", "<I")
        compression = record.fields.get("compression", b"").decode(errors="replace")
        begin, end = record.data_at, record.end
        if self._cut and not size and begin == end and compression != "none":
            # The sizes of the chunk that it was at are what a killed recorder did not write.
            size, end = CHUNK_LIMIT_BYTES, self.size_bytes + 1
        there = min(end, self.size_bytes) - begin
        cut = begin + there < end
        if record.op != CHUNK or there > CHUNK_LIMIT_BYTES or (cut and not self._cut):
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
        record = read_record(self.view, len(_MAGIC))
        if record.op != BAG or record.fields.get("encryptor"):
            raise Incomplete("it does not begin as a bag, or is encrypted")
        self._indexed = number_of(record.fields, "index_pos", "<Q") > 0
        self._look_for_end(record.end)
        return record.end

    def step(self, at: int) -> int:
        record = read_record(self.view, at, whole=False)
        if record.op == CHUNK:
            size = number_of(record.fields, "size", "<I")
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
        record = read_record(view, offset)
        if record.op == MESSAGE:
            channel, time_ns = message_of(record)
            self.found(channel, Place(time_ns, block, offset), record.end - record.data_at)
        elif record.op == CONNECTION:
            self._describe(view, record)
        elif record.op not in (BAG, INDEX, CHUNK_INFO):
            raise Incomplete(f"the record at {offset} is damaged")
        return record.end

    def _look_for_end(self, at: int) -> None:
        """The index is the end of a bag, and its place is written last."""
        self.losses.ended = self._indexed and at == self.view.size_bytes

    def _describe(self, view: View, record: Record) -> None:
        size = record.end - record.data_at
        if size > _TEXT_LIMIT_BYTES:
            raise Incomplete(f"a definition of {size} bytes is claimed")
        fields = read_fields(view.take(record.data_at, size))
        parts = [text_of(record.fields, "topic"), text_of(fields, "type")]
        definition = MessageDefinition(
            MessageDefinitionFormat.MSG, text_of(fields, "message_definition")
        )
        topic = "/" * parts[0].startswith("/") + "/".join(p for p in parts[0].split("/") if p)
        number = number_of(record.fields, "conn", "<I")
        self.know(Channel(number, topic, parts[1], definition))
