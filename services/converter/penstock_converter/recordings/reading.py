"""Messages of the storage files of a recording, by their numbers, through one index."""

from __future__ import annotations

from collections.abc import Collection, Generator, Sequence
from collections.abc import Mapping as MappingOf
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from penstock.errors import DataFault, PenstockError
from penstock_converter.recordings.opening import short
from penstock_converter.recordings.order import SetBack, find_set_back
from penstock_converter.recordings.ros1 import Ros1File
from penstock_converter.recordings.storage import Channel, Entries, Place, Storage
from penstock_converter.recordings.topic_index import TopicIndex
from penstock_converter.recordings.views import CHUNK_LIMIT_BYTES, decompressed

__all__ = ["MessageReader", "NumberedMessage"]

_ZSTD_MAGIC = b"\x28\xb5\x2f\xfd"
"""Begins a message that was compressed by itself; others begin with a zero byte."""

_BATCH = 4096
"""Messages whose places are unpacked together."""

_STRETCH = 16384
"""Messages of the densest topic whose headers are read together."""


class NumberedMessage(NamedTuple):
    """A message and its number in its topic, from 0, in the order of receipt."""

    topic: str
    number: int
    data: bytes


class MessageReader:
    """Finds and reads messages.

    Memory: 17 bytes a message of the topics that are read, in most recordings.

    Args:
        path: The recording, for messages.
        storages: Its files, in their order.

    Attributes:
        ros1: Whether they are ROS 1 bags.
    """

    def __init__(self, path: Path, storages: Sequence[Storage]) -> None:
        self._path, self._storages = path, storages
        self.ros1 = isinstance(storages[0], Ros1File) if storages else False
        self._streams: list[tuple[int, Channel]] = [
            (number, channel)
            for number, storage in enumerate(storages)
            for channel in storage.channels
        ]
        """Each with the number of its file; those of a file follow each other."""
        self._owners = np.array([owner for owner, _ in self._streams], np.int64)
        self._stamps = {file: _stamp(file) for file in (each.path for each in storages)}
        self._reading_from = 0
        self._indexes: dict[str, TopicIndex] = {}

    def times_ns(self, topic: str) -> NDArray[np.int64]:
        """When the messages of a topic were received, (M,) int64, in the order of reading."""
        return self._indexes[topic].time_ns

    def find(self, topics: Collection[str]) -> None:
        """Look up in the index where the messages of ``topics`` are."""
        wanted = [topic for topic in topics if topic not in self._indexes]
        if not wanted:
            return
        found: dict[int, Entries] = {}
        with self.guard("its index"):
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

    def stretches(self, topics: Collection[str]) -> Generator[dict[str, NDArray[np.int64]]]:
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

    def read(
        self, wanted: MappingOf[str, NDArray[np.int64]], limit_bytes: int | None = None
    ) -> Generator[NumberedMessage, None, None]:
        """Messages by their numbers, in order; no more than the first bytes if there is a limit.

        Args:
            wanted: (N,) int64 numbers by topic; each was looked for with ``find``.
            limit_bytes: Of a message.

        Raises:
            DataFault: The recording is damaged, or was changed since it was opened.
        """
        topics = list(wanted)
        if not topics:
            return
        joined = TopicIndex.joined([self._indexes[topic].at(wanted[topic]) for topic in topics])
        order = joined.order(self._owners)
        owner = np.arange(len(topics), dtype=np.min_scalar_type(len(topics)))
        owners = np.repeat(owner, [len(wanted[topic]) for topic in topics])
        numbers = np.concatenate([wanted[topic] for topic in topics])
        fetch = self._stored if self.ros1 else self._payload
        with self.guard("its messages"):
            for start in range(0, len(order), _BATCH):
                batch = order[start : start + _BATCH]
                named = (owners[batch].tolist(), numbers[batch].tolist())
                for (stream, place), owner, number in zip(
                    joined.places(batch), *named, strict=True
                ):
                    data = fetch(stream, place, limit_bytes)
                    yield NumberedMessage(topics[owner], number, data)

    def size_bytes(self, topic: str) -> int:
        """Of all messages; those that are compressed are taken to be like the first."""
        index = self._indexes[topic]
        if self.ros1 or not len(index.time_ns):
            return index.size_bytes
        with self.guard("its messages"):
            ((stream, place),) = index.places(np.array([0]))
            if not self._stored(stream, place, 4).startswith(_ZSTD_MAGIC):
                return index.size_bytes
            stored = len(self._stored(stream, place))
            return round(index.size_bytes * len(self._payload(stream, place)) / stored)

    def set_back(self, topic: str) -> SetBack | None:
        """Whether messages of ``topic`` tell that the recorder's clock was set back.

        Raises:
            DataFault: The recording is damaged.
        """
        index = self._indexes[topic]
        files = self._owners[index.stream]
        order = np.lexsort((index.offset, index.block))
        times, files = index.time_ns[order], files[order]
        return find_set_back(
            topic, (times[files == number] for number in range(len(self._storages)))
        )

    def _payload(self, stream: int, place: Place, limit_bytes: int | None = None) -> bytes:
        data = self._stored(stream, place, limit_bytes)
        if self.ros1 or not data.startswith(_ZSTD_MAGIC):
            return data
        if limit_bytes is None:
            return decompressed(data, "zstd", CHUNK_LIMIT_BYTES)
        return decompressed(self._stored(stream, place), "zstd", limit_bytes, cut=True)

    def _stored(self, stream: int, place: Place, limit_bytes: int | None = None) -> bytes:
        """A message as it is in the file; chunks of the file before are let go."""
        owner, channel = self._streams[stream]
        if owner != self._reading_from:
            self._storages[self._reading_from].forget()
            self._reading_from = owner
        return self._storages[owner].read(channel.number, place, limit_bytes)

    @contextmanager
    def guard(self, what: str) -> Generator[None]:
        """Tell faults of damaged bytes, of files that are written to, and of our own apart."""
        try:
            yield
        except PenstockError:
            raise
        except Exception as error:  # the many ways in which damaged bytes make parsers fail
            changed = [file for file, stamp in self._stamps.items() if _stamp(file) != stamp]
            if changed:
                raise DataFault(
                    f"{self._path}: {changed[0].name} was written to while it was read: wait until "
                    "the recorder is done",
                    reason="BAG_CHANGED",
                    metadata={"bag": str(self._path)},
                ) from error
            raise DataFault(
                f"{self._path}: {what} cannot be read ({type(error).__name__}: {short(error)}): "
                "the recording is damaged: take what is left of it with rosbag.salvage=true",
                reason="BAG_DAMAGED",
                metadata={"bag": str(self._path)},
            ) from error


def _stamp(file: Path) -> tuple[int, int]:
    """Changes whenever something writes to the file, or removes it."""
    try:
        found = file.stat()
    except OSError:
        return -1, -1
    return found.st_size, found.st_mtime_ns
