"""Reads ROS 1 and ROS 2 recordings, and says clearly when one cannot be read.

Messages come in the order of their receipt. What is where is learnt from the index of a recording,
so that payloads are read only of messages that somebody needs. Only types that are asked for are
parsed, so a schema that nobody needs (service events, for one) cannot spoil a recording.
"""

from __future__ import annotations

import struct
from collections.abc import Collection, Generator, Sequence
from collections.abc import Mapping as MappingOf
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from rosbags.interfaces import MessageDefinition, MessageDefinitionFormat
from rosbags.typesys.msg import normalize_msgtype
from rosbags.typesys.store import Typestore

from penstock.errors import DataFault, NotFound, PenstockError
from penstock_converter.messages.compressed import COMPRESSED_IMAGE, read_compressed
from penstock_converter.messages.joint_state import JOINT_STATE, JointStateReader
from penstock_converter.messages.standard import is_standard
from penstock_converter.recordings.definitions import Undefined, type_store
from penstock_converter.recordings.opening import (
    STORAGE_SUFFIXES,
    Opened,
    open_storages,
    short,
    storage_files,
)
from penstock_converter.recordings.order import SetBack, find_set_back
from penstock_converter.recordings.ros1 import Ros1File
from penstock_converter.recordings.storage import Channel, Entries, Place
from penstock_converter.recordings.topic_index import TopicIndex
from penstock_converter.recordings.views import CHUNK_LIMIT_BYTES, decompressed

__all__ = [
    "STORAGE_SUFFIXES",
    "Bag",
    "NumberedMessage",
    "RawMessage",
    "Received",
    "open_bag",
    "storage_files",
]

_ZSTD_MAGIC = b"\x28\xb5\x2f\xfd"
"""Begins a message that was compressed by itself; others begin with a zero byte."""

_HEADER_BYTES = 16
_BATCH = 4096
"""Messages whose places are unpacked together."""

_STRETCH = 16384
"""Messages of the densest topic whose headers are read together."""

_UNDEFINED = MessageDefinition(MessageDefinitionFormat.NONE, "")


class RawMessage(NamedTuple):
    """A message as it was recorded."""

    topic: str
    receive_ns: int
    data: bytes


class NumberedMessage(NamedTuple):
    """A message and its number in its topic, from 0, in the order of receipt."""

    topic: str
    number: int
    data: bytes


class Received(NamedTuple):
    """When the messages of a topic were received.

    Attributes:
        receive_ns: (M,) int64, in the order in which they are read.
        header_ns: (M,) int64, their header stamps; empty if they were not asked for.
        size_bytes: Of all messages together; an estimate where the index does not say.
    """

    receive_ns: NDArray[np.int64]
    header_ns: NDArray[np.int64]
    size_bytes: int


@dataclass(frozen=True)
class _Topic:
    msgtype: str
    store: Typestore
    compressed: bool
    """Whether messages are CompressedImage as ROS defines it."""
    joints: JointStateReader | None
    """For messages that are JointState as ROS defines it."""


class Bag:
    """An open recording.

    Memory: 17 bytes a message of the topics that are read, in most recordings.

    Attributes:
        path: What was opened.
        files: How many storage files it is made of.
        warnings: What was lost of it, for people.
    """

    def __init__(self, path: Path, opened: Opened, definitions: MappingOf[str, str]) -> None:
        self.path, self._storages = path, opened.storages
        self.files = len(opened.storages)
        self.warnings: tuple[str, ...] = tuple(
            warning for storage in opened.storages for warning in storage.warnings
        )
        self._definitions = tuple(sorted(definitions.items()))
        self._ros1 = isinstance(opened.storages[0], Ros1File) if opened.storages else False
        self._streams: list[tuple[int, Channel]] = []
        """Each with the number of its file; those of a file follow each other."""
        self._channels: dict[str, list[Channel]] = {}
        for channel in opened.announced:
            self._channels.setdefault(channel.topic, []).append(channel)
        for number, storage in enumerate(opened.storages):
            for channel in storage.channels:
                self._streams.append((number, channel))
                self._channels.setdefault(channel.topic, []).append(channel)
        self._owners = np.array([owner for owner, _ in self._streams], np.int64)
        self._stamps = {file: _stamp(file) for file in (each.path for each in opened.storages)}
        self._reading_from = 0
        self._topics: dict[str, _Topic] = {}
        self._indexes: dict[str, TopicIndex] = {}

    @property
    def topics(self) -> list[str]:
        """Names of all topics, sorted."""
        return sorted(self._channels)

    def use(self, topic: str) -> str:
        """Learn the type of ``topic``, which makes it readable; returns the type's name.

        Raises:
            DataFault: The topic is missing, has several types, or a type nobody defines.
        """
        if topic in self._topics:
            return self._topics[topic].msgtype
        channels = self._channels.get(topic)
        if channels is None:
            known = ", ".join(self.topics) or "none"
            raise DataFault(
                f"{self.path}: there is no topic {topic}: the topics are {known}",
                reason="NO_SUCH_TOPIC",
                metadata={"topic": topic},
            )
        kinds = sorted({normalize_msgtype(channel.msgtype) for channel in channels})
        if len(kinds) > 1:
            raise DataFault(
                f"{self.path}: topic {topic} carries {' and '.join(kinds)}: one type is needed",
                reason="MIXED_TYPES",
                metadata={"topic": topic},
            )
        defined = (c.definition for c in channels if c.definition.format is not _UNDEFINED.format)
        definition = next(defined, _UNDEFINED)
        try:
            store = type_store(kinds[0], definition, self._definitions, ros1=self._ros1)
        except Undefined as error:
            missing = error.args[0]
            inside = "" if missing == kinds[0] else f"{missing} in "
            raise DataFault(
                f"{self.path}: type {inside}{kinds[0]} of topic {topic} is not defined in the "
                "recording and not part of ROS: give the folder of its .msg files with "
                "--definitions FOLDER, or record to mcap, which keeps definitions",
                reason="UNKNOWN_TYPE",
            ) from error
        except Exception as error:  # whatever the parser of definitions stumbles over
            raise DataFault(
                f"{self.path}: the definition of type {kinds[0]} of topic {topic} cannot be "
                f"parsed ({type(error).__name__}: {short(error)}): other topics can be used",
                reason="UNKNOWN_TYPE",
            ) from error
        standard = is_standard(kinds[0], store)
        self._topics[topic] = _Topic(
            kinds[0],
            store,
            kinds[0] == COMPRESSED_IMAGE and standard,
            JointStateReader(ros1=self._ros1) if kinds[0] == JOINT_STATE and standard else None,
        )
        return kinds[0]

    def scan(self, topics: Collection[str], stamped: Collection[str] = ()) -> dict[str, Received]:
        """When messages were received, from the index alone.

        Args:
            topics: Used before.
            stamped: Those of them whose header stamps are wanted too, which takes the first bytes
                of each message (all of it if it is compressed).

        Raises:
            DataFault: The recording is damaged.
        """
        self._find(topics)
        stamps = {topic: np.zeros(0, np.int64) for topic in topics}
        for topic in stamped:
            stamps[topic] = np.zeros(len(self._indexes[topic].time_ns), np.int64)
        for wanted in self._stretches(stamped):
            for topic, number, data in self._read(wanted, _HEADER_BYTES):
                stamps[topic][number] = self.header_ns(topic, data)
        return {
            topic: Received(self._indexes[topic].time_ns, stamps[topic], self._size_bytes(topic))
            for topic in topics
        }

    def messages(
        self, topics: Collection[str], start_ns: int | None = None, stop_ns: int | None = None
    ) -> Generator[RawMessage, None, None]:
        """Messages of ``topics`` received in ``[start_ns, stop_ns)``, in order of receipt.

        Storage files of one recording follow each other, whatever the times at their borders.

        Raises:
            DataFault: The recording is damaged.
        """
        self._find(topics)
        wanted: dict[str, NDArray[np.int64]] = {}
        for topic in topics:
            time_ns = self._indexes[topic].time_ns
            inside = np.ones(len(time_ns), np.bool_)
            if start_ns is not None:
                inside &= time_ns >= start_ns
            if stop_ns is not None:
                inside &= time_ns < stop_ns
            wanted[topic] = np.flatnonzero(inside)
        for topic, number, data in self._read(wanted):
            yield RawMessage(topic, int(self._indexes[topic].time_ns[number]), data)

    def pick(
        self, numbers: MappingOf[str, Sequence[int] | NDArray[np.int64]]
    ) -> Generator[NumberedMessage, None, None]:
        """Messages by their numbers in their topics, in order of receipt; others are not read.

        Raises:
            DataFault: The recording is damaged, or was changed since it was opened.
        """
        self._find(numbers)
        wanted = {topic: np.unique(np.array(which, np.int64)) for topic, which in numbers.items()}
        yield from self._read(wanted)

    def set_back(self, topic: str) -> SetBack | None:
        """Whether messages of ``topic``, used before, tell that the recorder's clock was set back.

        Raises:
            DataFault: The recording is damaged.
        """
        self._find([topic])
        index = self._indexes[topic]
        files = np.array([owner for owner, _ in self._streams], np.int64)[index.stream]
        order = np.lexsort((index.offset, index.block))
        times, files = index.time_ns[order], files[order]
        return find_set_back(topic, (times[files == number] for number in range(self.files)))

    def decode(self, topic: str, data: bytes, *, header: bool = True) -> Any:
        """The message object that ``data`` of ``topic`` holds; a CompressedImage has no header.

        Args:
            topic: Used before.
            data: The message as it was recorded.
            header: Whether the header of a JointState is wanted, which takes its time.

        Raises:
            DataFault: The bytes do not fit the type.
        """
        used = self._topics[topic]
        if used.compressed:
            found = read_compressed(data, ros1=self._ros1)
            if found is not None:
                return found
        if used.joints is not None and not header:
            state = used.joints.read(data)
            if state is not None:
                return state
        msgtype, store = used.msgtype, used.store
        with self._reading(f"a {msgtype} of topic {topic}"):
            if self._ros1:
                return store.deserialize_ros1(data, msgtype)
            return store.deserialize_cdr(data, msgtype)

    def has_header(self, topic: str) -> bool:
        """Whether messages of ``topic`` begin with a header."""
        used = self._topics[topic]
        _, fields = used.store.fielddefs[used.msgtype]
        return bool(fields) and "std_msgs/msg/Header" in str(fields[0][1])

    def header_ns(self, topic: str, data: bytes) -> int:
        """Stamp of the header that ``data`` begins with, without decoding the rest.

        Raises:
            DataFault: The message is too short.
        """
        with self._reading(f"the header of a message of topic {topic}"):
            if self._ros1:
                seconds, nanoseconds = struct.unpack_from("<II", data, 4)
            else:
                order = "<" if data[1] & 1 else ">"
                seconds, nanoseconds = struct.unpack_from(f"{order}iI", data, 4)
            return seconds * 1_000_000_000 + nanoseconds

    def _find(self, topics: Collection[str]) -> None:
        """Look up in the index where the messages of ``topics`` are."""
        wanted = [topic for topic in topics if topic not in self._indexes]
        if not wanted:
            return
        found: dict[int, Entries] = {}
        with self._reading("its index"):
            for number, storage in enumerate(self._storages):
                streams = {
                    channel.number: stream
                    for stream, (owner, channel) in enumerate(self._streams)
                    if owner == number and channel.topic in wanted
                }
                if streams:
                    for channel, entries in storage.index(streams).items():
                        found[streams[channel]] = entries
        for topic in wanted:
            parts = [
                TopicIndex.of(stream, entries)
                for stream, entries in found.items()
                if self._streams[stream][1].topic == topic
            ]
            joined = TopicIndex.joined(parts)
            # Those of one channel are in order.
            several = len(parts) > 1
            self._indexes[topic] = joined.at(joined.order(self._owners)) if several else joined

    def _stretches(self, topics: Collection[str]) -> Generator[dict[str, NDArray[np.int64]]]:
        """Numbers of all messages, by stretches of time: to sort all at once takes memory."""
        times = {topic: self._indexes[topic].time_ns for topic in topics}
        densest = max(times.values(), key=len, default=np.zeros(0, np.int64))
        edges = np.sort(densest)[_STRETCH::_STRETCH].tolist()
        limits = np.iinfo(np.int64)
        for begin, end in pairwise([int(limits.min), *edges, int(limits.max) + 1]):
            yield {
                topic: np.flatnonzero((time_ns >= begin) & (time_ns <= end - 1))
                for topic, time_ns in times.items()
            }

    def _read(
        self, wanted: MappingOf[str, NDArray[np.int64]], limit_bytes: int | None = None
    ) -> Generator[NumberedMessage, None, None]:
        """Messages by their numbers, in order; no more than the first bytes if there is a limit."""
        topics = list(wanted)
        if not topics:
            return
        joined = TopicIndex.joined([self._indexes[topic].at(wanted[topic]) for topic in topics])
        order = joined.order(self._owners)
        owner = np.arange(len(topics), dtype=np.min_scalar_type(len(topics)))
        owners = np.repeat(owner, [len(wanted[topic]) for topic in topics])
        numbers = np.concatenate([wanted[topic] for topic in topics])
        with self._reading("its messages"):
            for start in range(0, len(order), _BATCH):
                batch = order[start : start + _BATCH]
                named = (owners[batch].tolist(), numbers[batch].tolist())
                for (stream, place), owner, number in zip(
                    joined.places(batch), *named, strict=True
                ):
                    data = self._payload(stream, place, limit_bytes)
                    yield NumberedMessage(topics[owner], number, data)

    def _payload(self, stream: int, place: Place, limit_bytes: int | None = None) -> bytes:
        owner, channel = self._streams[stream]
        if owner != self._reading_from:
            self._storages[self._reading_from].forget()
            self._reading_from = owner
        data = self._storages[owner].read(channel.number, place, limit_bytes)
        if self._ros1 or not data.startswith(_ZSTD_MAGIC):
            return data
        if limit_bytes is None:
            return decompressed(data, "zstd", CHUNK_LIMIT_BYTES)
        data = self._storages[owner].read(channel.number, place)
        return decompressed(data, "zstd", limit_bytes, cut=True)

    def _size_bytes(self, topic: str) -> int:
        """Of all messages; those that are compressed are taken to be like the first."""
        index = self._indexes[topic]
        if self._ros1 or not len(index.time_ns):
            return index.size_bytes
        with self._reading("its messages"):
            ((stream, place),) = index.places(np.array([0]))
            owner, channel = self._streams[stream]
            if not self._storages[owner].read(channel.number, place, 4).startswith(_ZSTD_MAGIC):
                return index.size_bytes
            stored = len(self._storages[owner].read(channel.number, place))
            return round(index.size_bytes * len(self._payload(stream, place)) / stored)

    @contextmanager
    def _reading(self, what: str) -> Generator[None]:
        try:
            yield
        except PenstockError:
            raise
        except Exception as error:  # the many ways in which damaged bytes make parsers fail
            changed = [file for file, stamp in self._stamps.items() if _stamp(file) != stamp]
            if changed:
                raise DataFault(
                    f"{self.path}: {changed[0].name} was written to while it was read: wait until "
                    "the recorder is done",
                    reason="BAG_CHANGED",
                    metadata={"bag": str(self.path)},
                ) from error
            raise DataFault(
                f"{self.path}: {what} cannot be read ({type(error).__name__}: {short(error)}): "
                "the recording is damaged: take what is left of it with rosbag.salvage=true",
                reason="BAG_DAMAGED",
                metadata={"bag": str(self.path)},
            ) from error


@contextmanager
def open_bag(
    path: Path, *, salvage: bool = False, definitions: MappingOf[str, str] = MappingProxyType({})
) -> Generator[Bag]:
    """Open a ``.bag``, ``.mcap``, ``.db3``, or a folder of a ROS 2 recording.

    Args:
        path: The recording.
        salvage: Take what is left of files that were cut off or damaged; ``Bag.warnings`` says
            what is lost. Whole recordings are the same with and without, only read once more.
        definitions: Texts of ``.msg`` or ``.idl`` by ``pkg/msg/Name`` (or ``pkg/Name``), for
            types that the recording does not define.

    Raises:
        NotFound: Nothing is there.
        DataFault: It is no recording, empty, truncated or damaged.
    """
    if not path.exists():
        raise NotFound(f"{path}: there is no such file or folder", metadata={"bag": str(path)})
    with ExitStack() as stack:
        yield Bag(path, open_storages(path, stack, salvage=salvage), definitions)


def _stamp(file: Path) -> tuple[int, int]:
    """Changes whenever something writes to the file, or removes it."""
    try:
        found = file.stat()
    except OSError:
        return -1, -1
    return found.st_size, found.st_mtime_ns
