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
from itertools import chain
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from rosbags.interfaces import MessageDefinition, MessageDefinitionFormat
from rosbags.typesys.msg import normalize_msgtype
from rosbags.typesys.store import Typestore

from penstock.errors import DataFault, NotFound
from penstock_converter.messages.compressed import COMPRESSED_IMAGE, read_compressed
from penstock_converter.messages.joint_state import JOINT_STATE, JointState, JointStateReader
from penstock_converter.messages.standard import is_standard
from penstock_converter.recordings.definitions import Undefined, type_store
from penstock_converter.recordings.opening import (
    STORAGE_SUFFIXES,
    Opened,
    open_storages,
    short,
    storage_files,
)
from penstock_converter.recordings.order import SetBack
from penstock_converter.recordings.reading import MessageReader, NumberedMessage
from penstock_converter.recordings.storage import Channel

__all__ = [
    "STORAGE_SUFFIXES",
    "Bag",
    "NumberedMessage",
    "Received",
    "open_bag",
    "storage_files",
]

_HEADER_BYTES = 16
_UNDEFINED = MessageDefinition(MessageDefinitionFormat.NONE, "")


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

    Attributes:
        path: What was opened.
        files: How many storage files it is made of.
        warnings: What was lost of it, for people.
    """

    def __init__(self, path: Path, opened: Opened, definitions: MappingOf[str, str]) -> None:
        self.path = path
        self.files = len(opened.storages)
        self.warnings: tuple[str, ...] = tuple(
            warning for storage in opened.storages for warning in storage.warnings
        )
        self._definitions = tuple(sorted(definitions.items()))
        self._reader = MessageReader(path, opened.storages)
        self._ros1 = self._reader.ros1
        self._channels: dict[str, list[Channel]] = {}
        recorded = chain.from_iterable(storage.channels for storage in opened.storages)
        for channel in chain(opened.announced, recorded):
            self._channels.setdefault(channel.topic, []).append(channel)
        self._topics: dict[str, _Topic] = {}

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
        reader = self._reader
        reader.find(topics)
        stamps = {topic: np.zeros(0, np.int64) for topic in topics}
        for topic in stamped:
            stamps[topic] = np.zeros(len(reader.times_ns(topic)), np.int64)
        for wanted in reader.stretches(stamped):
            for topic, number, data in reader.read(wanted, _HEADER_BYTES):
                stamps[topic][number] = self.header_ns(topic, data)
        return {
            topic: Received(reader.times_ns(topic), stamps[topic], reader.size_bytes(topic))
            for topic in topics
        }

    def pick(
        self, numbers: MappingOf[str, Sequence[int] | NDArray[np.int64]]
    ) -> Generator[NumberedMessage, None, None]:
        """Messages by their numbers in their topics, in order of receipt; others are not read.

        Raises:
            DataFault: The recording is damaged, or was changed since it was opened.
        """
        self._reader.find(numbers)
        wanted = {topic: np.unique(np.array(which, np.int64)) for topic, which in numbers.items()}
        yield from self._reader.read(wanted)

    def set_back(self, topic: str) -> SetBack | None:
        """Whether messages of ``topic``, used before, tell that the recorder's clock was set back.

        Raises:
            DataFault: The recording is damaged.
        """
        self._reader.find([topic])
        return self._reader.set_back(topic)

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
        with self._reader.guard(f"a {msgtype} of topic {topic}"):
            if self._ros1:
                return store.deserialize_ros1(data, msgtype)
            return store.deserialize_cdr(data, msgtype)

    def decode_alike(self, topic: str, messages: Sequence[bytes]) -> JointState | None:
        """Messages of ``topic``, used before, all at once; None where that is not possible.

        It is where they are of type JointState and differ in nothing but stamps and numbers.
        """
        reader = self._topics[topic].joints
        return None if reader is None else reader.read_alike(messages)

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
        with self._reader.guard(f"the header of a message of topic {topic}"):
            if self._ros1:
                seconds, nanoseconds = struct.unpack_from("<II", data, 4)
            else:
                order = "<" if data[1] & 1 else ">"
                seconds, nanoseconds = struct.unpack_from(f"{order}iI", data, 4)
            return seconds * 1_000_000_000 + nanoseconds


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
