"""SQLite files of ROS 2: messages by their rows, also of files that were cut off."""

from __future__ import annotations

import functools
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import apsw
from rosbags.interfaces import MessageDefinition, MessageDefinitionFormat
from rosbags.rosbag2.storage_sqlite3 import Sqlite3Reader

from penstock_converter.recordings.losses import Losses
from penstock_converter.recordings.storage import (
    Channel,
    Entries,
    EntryList,
    Place,
    Storage,
    channel_of,
)
from penstock_converter.recordings.views import Incomplete

__all__ = ["Db3File"]

_FORMS = {"ros2msg": MessageDefinitionFormat.MSG, "ros2idl": MessageDefinitionFormat.IDL}
_LAST_ROW = 1 << 62
_ONE_BY_ONE = 128
"""Damaged rows in a row after which longer and longer stretches are left out."""

_HEADER_BYTES = 100
_PAGES = frozenset(1 << power for power in range(9, 17))
_MAGIC = b"SQLite format 3\0"


class Db3File(Storage):
    """A SQLite file.

    Args:
        path: The file.
        reader: Of rosbags, open; none if it cannot open the file.

    Raises:
        Incomplete: It is cut off, and yet there is a reader.
    """

    def __init__(self, path: Path, reader: Sqlite3Reader | None) -> None:
        self.path = path
        if reader is not None:
            # SQLite does not mind if no more than a part of the last page is missing.
            there, (_, declared_bytes) = path.stat().st_size, _sizes(path)
            if there < declared_bytes:
                raise Incomplete(f"it is cut off: {there} of {declared_bytes} bytes are there")
        self._database = _connect(path)
        self.expected = None if reader is None else reader.metadata.message_count
        self.channels: tuple[Channel, ...] = ()
        if reader is not None:
            self.channels = tuple(channel_of(each) for each in reader.connections)
        self._found: dict[int, EntryList] | None = None
        log = path.with_name(path.name + "-wal")
        if log.exists() and log.stat().st_size:
            told = (
                f"{log.name} holds messages that are not in {path.name} yet, and they are not "
                "read: let `sqlite3` open a copy of both and run `PRAGMA wal_checkpoint`"
            )
            self.warnings = (told,)

    def index(self, channels: Collection[int]) -> dict[int, Entries]:
        """See ``Storage``; rows are looked at, their payloads are not."""
        if self._found is not None:
            return {number: self._found.pop(number).entries() for number in channels}
        found = {number: EntryList() for number in channels}
        rows = self._database.execute(
            "SELECT topic_id, timestamp, rowid, length(data) FROM messages"
        )
        for number, time_ns, row, size_bytes in rows:
            if number in found:
                found[number].add(Place(time_ns, 0, row), size_bytes)
        return {number: each.entries() for number, each in found.items()}

    def salvage(self) -> int:
        """See ``Storage``."""
        page_bytes, declared_bytes = _sizes(self.path)
        self._database.close()
        self._database = _connect(self.path, _whole_pages(page_bytes).name)
        # Else SQLite refuses a file that is shorter than its header says.
        self._database.execute("PRAGMA writable_schema = ON")
        there = self.path.stat().st_size
        losses = Losses(max(declared_bytes, there), ended=True)
        losses.tail_bytes = losses.size_bytes - there
        channels = {channel.number: channel for channel in self.channels or self._topics()}
        found = {number: EntryList() for number in channels}
        for number, time_ns, row, data in self._rows(losses):
            if not (isinstance(time_ns, int) and isinstance(data, bytes)) or time_ns >> 63:
                losses.rows += 1
            elif number in found:
                found[number].add(Place(time_ns, 0, row), len(data))
            else:
                losses.orphans += 1
        kept = sum(len(each) for each in found.values())
        if self.expected is not None and not losses:
            losses.astray = max(self.expected - kept, 0)
        self._found, self.channels = found, tuple(channels.values())
        if losses or self.expected is None:
            told = losses.told(self.path.name, kept, self.expected)
            self.warnings = (*self.warnings, told)
        return kept

    def read(self, channel: int, place: Place, limit_bytes: int | None = None) -> bytes:
        """See ``Storage``."""
        found = self._database.execute(
            "SELECT topic_id, timestamp, data FROM messages WHERE rowid = ?", (place.offset,)
        ).fetchone()
        if found is None or found[:2] != (channel, place.time_ns):
            raise Incomplete(f"row {place.offset} is not the one of the first pass")
        data = found[2]
        if not isinstance(data, bytes):
            raise Incomplete(f"row {place.offset} holds no bytes")
        return data if limit_bytes is None else data[:limit_bytes]

    def close(self) -> None:
        """See ``Storage``."""
        self._database.close()

    def _rows(self, losses: Losses) -> Iterator[tuple[Any, Any, int, Any]]:
        """Rows that can be read; those that cannot are gone past and counted."""
        query = "SELECT topic_id, timestamp, rowid, data FROM messages WHERE rowid > ? ORDER BY 3"
        last, failures, asked = 0, 0, 0
        while asked < _LAST_ROW:
            try:
                for row in self._database.execute(query, (asked,)):
                    if row[2] <= last:
                        raise apsw.CorruptError("rows are not in order")
                    if failures:
                        losses.rows += row[2] - last - 1
                    last, failures = row[2], 0
                    yield row
                break
            except (apsw.Error, UnicodeDecodeError):
                failures += 1
                asked = max(asked, last) + (1 << min(max(failures - _ONE_BY_ONE, 0), 62))
        if failures and not losses.tail_bytes:
            losses.ended = False

    def _topics(self) -> Iterator[Channel]:
        definitions: dict[str, MessageDefinition] = {}
        try:
            for kind, encoding, text in self._database.execute(
                "SELECT topic_type, encoding, encoded_message_definition FROM message_definitions"
            ):
                form = _FORMS.get(encoding)
                if form is not None and isinstance(text, str):
                    definitions[kind] = MessageDefinition(form, text)
        except (apsw.Error, UnicodeDecodeError):
            # Recorders before ROS 2 Iron wrote none, and what is lost can be given from outside.
            pass
        nothing = MessageDefinition(MessageDefinitionFormat.NONE, "")
        for number, name, kind in self._database.execute("SELECT id, name, type FROM topics"):
            if isinstance(name, str) and isinstance(kind, str):
                yield Channel(number, name, kind, definitions.get(kind, nothing))


class _WholePages(apsw.VFS):
    """Files without their last page if it is cut: SQLite would fill it up with zeros."""

    def __init__(self, page_bytes: int) -> None:
        self.name = f"penstock-whole-pages-{page_bytes}"
        self._page_bytes = page_bytes
        super().__init__(self.name, "")

    def xOpen(  # noqa: N802 - SQLite's name
        self, name: str | apsw.URIFilename | None, flags: list[int]
    ) -> apsw.VFSFile:
        return _WholePagesFile(name, flags, self._page_bytes)


class _WholePagesFile(apsw.VFSFile):
    def __init__(
        self, name: str | apsw.URIFilename | None, flags: list[int], page_bytes: int
    ) -> None:
        super().__init__("", name, flags)
        self._page_bytes = page_bytes

    def xFileSize(self) -> int:  # noqa: N802 - SQLite's name
        size = super().xFileSize()
        return size - size % self._page_bytes


@functools.cache
def _whole_pages(page_bytes: int) -> _WholePages:
    """One for each size, of which there are eight; SQLite keeps it until the process ends."""
    return _WholePages(page_bytes)


def _connect(path: Path, vfs: str | None = None) -> apsw.Connection:
    # What is open elsewhere, or cut off, is read as it is: nothing is locked or repaired. Links are
    # followed here, because apsw takes SQLite's word that it followed one for an error.
    return apsw.Connection(
        f"file:{quote(str(path.resolve()))}?immutable=1",
        flags=apsw.SQLITE_OPEN_READONLY | apsw.SQLITE_OPEN_URI,
        vfs=vfs,
    )


def _sizes(path: Path) -> tuple[int, int]:
    """Size of a page, and the file's size as its header claims it; 0 where it does not."""
    with path.open("rb") as file:
        header = file.read(_HEADER_BYTES)
    page = int.from_bytes(header[16:18], "big")
    page_bytes = 65536 if page == 1 else page
    if len(header) < _HEADER_BYTES or not header.startswith(_MAGIC) or page_bytes not in _PAGES:
        raise Incomplete("it does not begin as a SQLite file")
    # Old versions of SQLite leave the number of pages as it was.
    up_to_date = header[24:28] == header[92:96]
    pages = int.from_bytes(header[28:32], "big") if up_to_date else 0
    return page_bytes, page_bytes * pages
