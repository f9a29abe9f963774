"""Opens ROS 1 and ROS 2 recordings through rosbags, and says clearly when one cannot be read.

Messages come in the order of their receipt. Only types that are asked for are parsed, so a schema
that nobody needs (service events, for one) cannot spoil a recording.
"""

from __future__ import annotations

import functools
import struct
from collections.abc import Collection, Generator
from collections.abc import Mapping as MappingOf
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

from rosbags import rosbag1, rosbag2
from rosbags.interfaces import Connection, MessageDefinitionFormat
from rosbags.interfaces.typing import Typesdict
from rosbags.typesys import Stores, get_types_from_idl, get_types_from_msg, get_typestore
from rosbags.typesys.msg import normalize_msgtype
from rosbags.typesys.store import Typestore

from penstock.errors import DataFault, NotFound, PenstockError
from penstock_converter.messages.compressed import COMPRESSED_IMAGE, read_compressed

__all__ = ["STORAGE_SUFFIXES", "Bag", "RawMessage", "open_bag", "storage_files"]

STORAGE_SUFFIXES = (".bag", ".mcap", ".db3")
_IDL_SEPARATOR = "=" * 80 + "\n"
_UNFINISHED = ("not indexed", "index looks damaged", "end magic", "Invalid argument")
"""What rosbags says of recordings whose recorder was stopped before it wrote their end."""


class RawMessage(NamedTuple):
    """A message as it was recorded."""

    topic: str
    receive_ns: int
    data: bytes


@dataclass(frozen=True)
class _Topic:
    msgtype: str
    store: Typestore
    compressed: bool
    """Whether messages are CompressedImage as ROS defines it."""
    connections: tuple[tuple[int, Connection], ...]
    """Connections with the number of the reader each belongs to."""


class Bag:
    """An open recording.

    Attributes:
        path: What was opened.
        files: How many storage files it is made of.
    """

    def __init__(self, path: Path, readers: list[rosbag1.Reader] | list[rosbag2.Reader]) -> None:
        self.path, self._readers = path, readers
        self._ros1 = isinstance(readers[0], rosbag1.Reader)
        found: dict[str, list[tuple[int, Connection]]] = {}
        for number, reader in enumerate(readers):
            for connection in reader.connections:
                found.setdefault(connection.topic, []).append((number, connection))
        self._connections = found
        self._topics: dict[str, _Topic] = {}
        self.warnings: tuple[str, ...] = ()

    @property
    def topics(self) -> list[str]:
        """Names of all topics, sorted."""
        return sorted(self._connections)

    def use(self, topic: str) -> str:
        """Learn the type of ``topic``, which makes it readable; returns the type's name.

        Raises:
            DataFault: The topic is missing, has several types, or a type nobody defines.
        """
        if topic in self._topics:
            return self._topics[topic].msgtype
        connections = self._connections.get(topic)
        if connections is None:
            known = ", ".join(self.topics) or "none"
            raise DataFault(
                f"{self.path}: there is no topic {topic}: the topics are {known}",
                reason="NO_SUCH_TOPIC",
                metadata={"topic": topic},
            )
        kinds = sorted({normalize_msgtype(connection.msgtype) for _, connection in connections})
        if len(kinds) > 1:
            raise DataFault(
                f"{self.path}: topic {topic} carries {' and '.join(kinds)}: one type is needed",
                reason="MIXED_TYPES",
                metadata={"topic": topic},
            )
        definition = connections[0][1].msgdef
        try:
            store = _store(kinds[0], definition.format, definition.data)
        except Exception as error:  # whatever the parser of definitions stumbles over
            raise DataFault(
                f"{self.path}: the definition of type {kinds[0]} of topic {topic} cannot be "
                f"parsed ({type(error).__name__}: {_short(error)}): other topics can be used",
                reason="UNKNOWN_TYPE",
            ) from error
        if store is None:
            raise DataFault(
                f"{self.path}: type {kinds[0]} of topic {topic} is not defined in the recording "
                "and not part of ROS: record again to mcap, which keeps definitions",
                reason="UNKNOWN_TYPE",
            )
        compressed = _is_compressed_image(kinds[0], store)
        self._topics[topic] = _Topic(kinds[0], store, compressed, tuple(connections))
        return kinds[0]

    def messages(
        self, topics: Collection[str], start_ns: int | None = None, stop_ns: int | None = None
    ) -> Generator[RawMessage, None, None]:
        """Messages of ``topics`` received in ``[start_ns, stop_ns)``, in order of receipt.

        Raises:
            DataFault: The recording is damaged.
        """
        streams = [
            reader.messages(connections, start=start_ns, stop=stop_ns)
            for number, reader in enumerate(self._readers)
            if (connections := self._connections_of(topics, number))
        ]
        with self._reading("its messages"):
            # Storage files of one recording follow each other; only their borders may overlap,
            # which `sorted_by_receipt` of the timeline notices.
            for stream in streams:
                for connection, receive_ns, data in stream:
                    yield RawMessage(connection.topic, receive_ns, bytes(data))

    def decode(self, topic: str, data: bytes) -> Any:
        """The message object that ``data`` of ``topic`` holds; a CompressedImage has no header.

        Raises:
            DataFault: The bytes do not fit the type.
        """
        used = self._topics[topic]
        if used.compressed:
            found = read_compressed(data, ros1=self._ros1)
            if found is not None:
                return found
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

    def _connections_of(self, topics: Collection[str], number: int) -> list[Connection]:
        return [
            connection
            for topic in topics
            for owner, connection in self._topics[topic].connections
            if owner == number
        ]

    @contextmanager
    def _reading(self, what: str) -> Generator[None]:
        try:
            yield
        except PenstockError:
            raise
        except Exception as error:  # the many ways in which damaged bytes make parsers fail
            raise DataFault(
                f"{self.path}: {what} cannot be read ({type(error).__name__}: {_short(error)}): "
                "the recording is damaged",
                reason="BAG_DAMAGED",
                metadata={"bag": str(self.path)},
            ) from error


@contextmanager
def open_bag(
    path: Path, *, salvage: bool = False, definitions: MappingOf[str, str] = MappingProxyType({})
) -> Generator[Bag]:
    """Open a ``.bag``, ``.mcap``, ``.db3``, or a folder of a ROS 2 recording.

    Raises:
        NotFound: Nothing is there.
        DataFault: It is no recording, empty, truncated or damaged.
    """
    if not path.exists():
        raise NotFound(f"{path}: there is no such file or folder", metadata={"bag": str(path)})
    readers: list[Any] = []
    try:
        try:
            for reader in _readers(path):
                reader.open()
                readers.append(reader)
        except PenstockError:
            raise
        except Exception as error:  # the many ways in which damaged bytes make parsers fail
            raise DataFault(
                f"{path}: cannot be opened as a recording: {_short(error)}.{_advice(path, error)}",
                reason="BAG_UNREADABLE",
                metadata={"bag": str(path)},
            ) from error
        yield Bag(path, readers)
    finally:
        for reader in readers:
            # Closing a damaged file must not hide what was wrong with it.
            with suppress(Exception):
                reader.close()


@functools.lru_cache(maxsize=256)
def _store(msgtype: str, form: MessageDefinitionFormat, text: str) -> Typestore | None:
    """Types that ``msgtype`` is made of; kept, because bags of one robot share them.

    Returns:
        None if the recording does not define the type and ROS does not ship it.
    """
    if form is MessageDefinitionFormat.NONE:
        shipped = get_typestore(Stores.LATEST)
        return shipped if msgtype in shipped.fielddefs else None
    store = get_typestore(Stores.EMPTY)
    if form is MessageDefinitionFormat.MSG:
        store.register(get_types_from_msg(text, msgtype))
        return store
    parts = text.split(_IDL_SEPARATOR)[1:] if text.startswith(_IDL_SEPARATOR) else [text]
    for part in parts:
        body = part.split("\n", 1)[1] if part.startswith("IDL: ") else part
        store.register(get_types_from_idl(body))
    return store


def _is_compressed_image(msgtype: str, store: Typestore) -> bool:
    """Whether messages are laid out as ROS 1 or ROS 2 lays them out."""
    if msgtype != COMPRESSED_IMAGE:
        return False
    return any(
        all(store.fielddefs.get(kind) == fields for kind, fields in known.items())
        for known in _compressed_images()
    )


@functools.cache
def _compressed_images() -> tuple[Typesdict, Typesdict]:
    image = get_types_from_msg(
        "std_msgs/Header header\nstring format\nuint8[] data", COMPRESSED_IMAGE
    )
    stamp = "builtin_interfaces/Time stamp\nstring frame_id"
    return (
        {**image, **get_types_from_msg(f"uint32 seq\n{stamp}", "std_msgs/msg/Header")},
        {**image, **get_types_from_msg(stamp, "std_msgs/msg/Header")},
    )


def _readers(path: Path) -> list[rosbag1.Reader] | list[rosbag2.Reader]:
    """Readers, not yet open, in the order of their files."""
    if path.suffix == ".bag" and path.is_file():
        return [rosbag1.Reader(path)]
    if path.is_file():
        if path.suffix not in STORAGE_SUFFIXES:
            raise DataFault(
                f"{path}: a recording ends in .bag, .mcap or .db3, or is the folder of one",
                reason="NOT_A_BAG",
            )
        return [rosbag2.Reader(path)]
    if (path / "metadata.yaml").is_file():
        return [rosbag2.Reader(path)]
    # A recorder that was killed leaves no metadata; the storage files are good without it.
    files = storage_files(path)
    if not files:
        raise DataFault(
            f"{path}: holds neither metadata.yaml nor .mcap or .db3 files: is it the folder of a "
            "recording?",
            reason="NOT_A_BAG",
        )
    return [rosbag2.Reader(file) for file in files]


def storage_files(folder: Path) -> list[Path]:
    """Storage files of a ROS 2 recording, ``name_2`` before ``name_10``."""
    found = [file for file in folder.iterdir() if file.suffix in (".mcap", ".db3")]
    return sorted(found, key=lambda file: (len(file.name), file.name))


def _advice(path: Path, error: Exception) -> str:
    text = str(error)
    if "seems to be empty" in text or (path.is_file() and path.stat().st_size == 0):
        return " Nothing was recorded."
    if any(words in text for words in _UNFINISHED):
        fix = "rosbag reindex" if path.suffix == ".bag" else "mcap recover"
        return f" The recorder did not finish it: repair a copy with `{fix}`."
    return " It is damaged, or no recording of that kind: copy or record it again."


def _short(error: Exception) -> str:
    """First line of an error, at most 200 characters, without its full stop."""
    # Some errors of rosbags hold a tuple where others hold a text.
    lines = str(error).replace("('", "").replace("',)", "").splitlines()
    return lines[0][:200].removesuffix(".") if lines else type(error).__name__
