"""Recordings as recorders leave them (compressed, unsorted, unfinished, unindexed); reads all."""

from __future__ import annotations

import bz2
import struct
import zlib
from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import lz4.frame
from backports import zstd
from bag_recording import Message, _content
from rosbags import rosbag1, rosbag2
from rosbags.typesys import Stores, get_typestore

__all__ = [
    "Recorded",
    "all_messages",
    "killed_ros1",
    "serialized",
    "write_compressed",
    "write_mcap",
    "write_ros1",
]

_MAGIC = b"\x89MCAP0\r\n"
_STORES = {True: get_typestore(Stores.ROS1_NOETIC), False: get_typestore(Stores.ROS2_HUMBLE)}
_COMPRESS: dict[str, Any] = {
    "": bytes,
    "lz4": lz4.frame.compress,
    "zstd": zstd.compress,
    "bz2": bz2.compress,
}


class Recorded(NamedTuple):
    """A message as it was recorded."""

    topic: str
    receive_ns: int
    data: bytes


def all_messages(bag, topics) -> list[Recorded]:
    """Every message of ``topics`` of an open recording, in order of receipt."""
    times = {topic: found.receive_ns.tolist() for topic, found in bag.scan(topics).items()}
    picked = bag.pick({topic: range(len(found)) for topic, found in times.items()})
    return [Recorded(topic, times[topic][number], data) for topic, number, data in picked]


def serialized(message: Message, *, ros1: bool = False) -> bytes:
    """The bytes of a message as a recorder gets them."""
    store = _STORES[ros1]
    serialize = store.serialize_ros1 if ros1 else store.serialize_cdr
    return bytes(serialize(_content(store, message, ros1=ros1), message.kind))


def write_ros1(
    path: Path, messages: Iterable[Message], compression: str = "none", chunk_bytes: int = 3000
) -> Path:
    """A ROS 1 bag of small chunks; messages are written in the order given."""
    writer = rosbag1.Writer(path)
    writer.chunk_threshold = chunk_bytes
    if compression != "none":
        writer.set_compression(rosbag1.Writer.CompressionFormat[compression.upper()])
    connections: dict[str, Any] = {}
    with writer:
        for message in messages:
            if message.topic not in connections:
                connections[message.topic] = writer.add_connection(
                    message.topic, message.kind, typestore=_STORES[True]
                )
            data = serialized(message, ros1=True)
            writer.write(connections[message.topic], message.receive_ns, data)
    return path


def killed_ros1(
    path: Path, messages: Iterable[Message], compression: str = "none", open_from: int | None = None
) -> Path:
    """What a killed recorder leaves: no index, and the last chunk without its sizes.

    Args:
        path: To be written.
        messages: In one chunk of five each.
        compression: Of the chunks.
        open_from: Number of the message that begins the chunk without sizes; default: none.
    """

    def header(**fields: bytes) -> bytes:
        parts = [name.encode() + b"=" + value for name, value in fields.items()]
        data = b"".join(struct.pack("<I", len(part)) + part for part in parts)
        return struct.pack("<I", len(data)) + data

    def record(data: bytes, **fields: bytes) -> bytes:
        return header(**fields) + struct.pack("<I", len(data)) + data

    bag = header(op=b"\3", index_pos=bytes(8), conn_count=bytes(4), chunk_count=bytes(4))
    found = bytearray(b"#ROSBAG V2.0\n" + bag + struct.pack("<I", 100) + b" " * 100)
    known: dict[str, int] = {}
    every = list(messages)
    starts = [*range(0, len(every) if open_from is None else open_from, 5)]
    chunks = [(every[at : at + 5], False) for at in starts]
    if open_from is not None:
        chunks.append((every[open_from:], True))
    for part, unfinished in chunks:
        content = b""
        for message in part:
            conn = struct.pack("<I", known.setdefault(message.topic, len(known)))
            if conn == struct.pack("<I", len(known) - 1):
                text, md5 = _STORES[True].generate_msgdef(message.kind, ros_version=1)
                described = header(
                    topic=message.topic.encode(),
                    type=message.kind.replace("/msg/", "/").encode(),
                    md5sum=md5.encode(),
                    message_definition=text.encode(),
                )[4:]
                content += record(described, op=b"\7", conn=conn, topic=message.topic.encode())
            time = struct.pack("<II", *divmod(message.receive_ns, 10**9))
            data = serialized(message, ros1=True)
            content += record(data, op=b"\2", conn=conn, time=time)
        stored = content if compression == "none" else _COMPRESS[compression](content)
        size = struct.pack("<I", 0 if unfinished else len(content))
        found += header(op=b"\5", compression=compression.encode(), size=size)
        found += struct.pack("<I", 0 if unfinished else len(stored)) + stored
    path.write_bytes(bytes(found))
    return path


def write_mcap(
    path: Path,
    chunks: Sequence[Sequence[Message]],
    compression: str = "",
    *,
    crc: bool = True,
    chunked: bool = True,
    message_index: bool = True,
    summary: bool = True,
    short_kinds: bool = False,
) -> Path:
    """An MCAP file of chunks with given messages, in the order given.

    ``short_kinds``: types are spelled without ``/msg/``.
    """
    schemas: dict[str, int] = {}
    channels: dict[str, int] = {}
    descriptions = b""
    counts: dict[int, int] = defaultdict(int)
    file = bytearray(_MAGIC + _record(1, _text("ros2") + _text("shapes")))
    chunk_indexes: list[bytes] = []
    for part in chunks:
        content = bytearray()
        index: dict[int, list[tuple[int, int]]] = defaultdict(list)
        for message in part:
            if message.topic not in channels:
                new = _describe(message, schemas, channels, short_kinds=short_kinds)
                descriptions += new
                content += new
            channel = channels[message.topic]
            index[channel].append((message.receive_ns, len(content)))
            counts[channel] += 1
            stamps = struct.pack("<HIQQ", channel, 0, message.receive_ns, message.receive_ns)
            content += _record(5, stamps + serialized(message))
        if not chunked:
            file += content
            continue
        times = [message.receive_ns for message in part] or [0]
        stored = _COMPRESS[compression](bytes(content))
        span = struct.pack("<QQ", min(times), max(times))
        head = struct.pack("<QI", len(content), zlib.crc32(content) if crc else 0)
        start = len(file)
        body = span + head + _text(compression) + struct.pack("<Q", len(stored)) + stored
        file += _record(6, body)
        length, offsets = len(file) - start, b""
        for channel, entries in index.items() if message_index else ():
            offsets += struct.pack("<HQ", channel, len(file))
            pairs = b"".join(struct.pack("<QQ", *entry) for entry in entries)
            file += _record(7, struct.pack("<HI", channel, len(pairs)) + pairs)
        chunk_indexes.append(
            span
            + struct.pack("<QQI", start, length, len(offsets))
            + offsets
            + struct.pack("<Q", len(file) - start - length)
            + _text(compression)
            + struct.pack("<QQ", len(stored), len(content))
        )
    file += _record(15, bytes(4))
    start = len(file) if summary else 0
    if summary:
        file += descriptions + b"".join(_record(8, each) for each in chunk_indexes)
        every = [message.receive_ns for part in chunks for message in part] or [0]
        sums = b"".join(struct.pack("<HQ", *pair) for pair in counts.items())
        file += _record(
            11,
            struct.pack(
                "<QHIIII", sum(counts.values()), len(schemas), len(counts), 0, 0, len(chunks)
            )
            + struct.pack("<QQI", min(every), max(every), len(sums))
            + sums,
        )
    file += _record(2, struct.pack("<QQI", start, 0, 0)) + _MAGIC
    path.write_bytes(bytes(file))
    return path


def write_compressed(path: Path, messages: Iterable[Message], mode: str, kind: str) -> Path:
    """The folder of a ROS 2 recording, compressed by message or by file."""
    plugin = {"mcap": rosbag2.StoragePlugin.MCAP, "db3": rosbag2.StoragePlugin.SQLITE3}[kind]
    writer = rosbag2.Writer(path, version=8, storage_plugin=plugin)
    modes = rosbag2.CompressionMode
    writer.set_compression(modes[mode.upper()], rosbag2.CompressionFormat.ZSTD)
    connections: dict[str, Any] = {}
    with writer:
        for message in messages:
            if message.topic not in connections:
                connections[message.topic] = writer.add_connection(
                    message.topic, message.kind, typestore=_STORES[False]
                )
            writer.write(connections[message.topic], message.receive_ns, serialized(message))
    return path


def _describe(
    message: Message, schemas: dict[str, int], channels: dict[str, int], *, short_kinds: bool
) -> bytes:
    found = b""
    if message.kind not in schemas:
        number = schemas[message.kind] = len(schemas) + 1
        text, _ = _STORES[False].generate_msgdef(message.kind, ros_version=2)
        name = message.kind.replace("/msg/", "/") if short_kinds else message.kind
        found += _record(
            3, struct.pack("<H", number) + _text(name) + _text("ros2msg") + _text(text)
        )
    number = channels[message.topic] = len(channels)
    ends = struct.pack("<HH", number, schemas[message.kind])
    return found + _record(4, ends + _text(message.topic) + _text("cdr") + bytes(4))


def _record(op: int, body: bytes) -> bytes:
    return struct.pack("<BQ", op, len(body)) + body


def _text(text: str) -> bytes:
    return struct.pack("<I", len(text.encode())) + text.encode()
