"""The folder of index entries: a server that starts again does not read its data again."""

from __future__ import annotations

import json
import logging
import os
import secrets
import shutil
import tempfile
import time
from collections.abc import Generator, Iterable
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

import xxhash

from penstock.errors import Corrupt
from penstock_sampler.index.entry_file import HEADER_BYTES, SourceStamp, read_entry, write_entry
from penstock_sampler.index.scalars import RecordPlace, RecordShape, RecordWriter
from penstock_sampler.index.scan import FileScan
from penstock_sampler.options import DataOptions
from penstock_sampler.sources.files import FileIdentity

__all__ = ["EntryWriter", "IndexStore"]

log = logging.getLogger(__name__)

_SUFFIX = ".index"
_UNFINISHED = ".part"
_SHARE_OF_FREE = 8
_TOUCH_S = 3600.0
_ABANDONED_S = 86_400.0


class IndexStore:
    """Entries of one folder, which processes share; an entry appears when it is whole.

    Args:
        folder: Made if it is not there.
        options: How files are read; other options have other entries.
        limit_bytes: What all entries together may take; 0 takes an eighth of the space that is
            free now, besides what is there.

    Raises:
        OSError: The folder cannot be made or written to.
    """

    def __init__(self, folder: Path, options: DataOptions, limit_bytes: int = 0) -> None:
        self.folder = folder
        self._options = json.dumps(asdict(options), sort_keys=True)
        folder.mkdir(parents=True, exist_ok=True)
        self._used: set[str] = set()
        # Everything that is done for a file asks for its place.
        self._latest = Path(), folder
        self._size_bytes = sum(size for _, size, _ in self._entries())
        self._limit_bytes = (
            limit_bytes or self._size_bytes + shutil.disk_usage(folder).free // _SHARE_OF_FREE
        )
        self.loaded, self.written, self.rebuilt, self.evicted = 0, 0, 0, 0
        with tempfile.TemporaryFile(dir=folder):
            pass

    def stamp(self, path: Path) -> SourceStamp:
        """The source as it is now.

        Raises:
            DataFault: It cannot be found.
        """
        return SourceStamp.of(path, self._options)

    def load(self, path: Path) -> tuple[FileScan, RecordPlace] | None:
        """What is known of a file as it is now; None when that has to be found out.

        A damaged entry is said, counted and removed.

        Raises:
            DataFault: The file cannot be found.
        """
        entry, stamp = self.entry(path), self.stamp(path)
        try:
            found = read_entry(entry, stamp)
        except FileNotFoundError:
            return None
        except Corrupt as error:
            self.drop(path, error.message)
            return None
        except OSError as error:
            self.drop(path, f"it cannot be read ({error.strerror})")
            return None
        if found is not None:
            self.loaded += 1
            self._touch(entry)
        return found

    def drop(self, path: Path, why: str) -> None:
        """Remove the entry of a file because it is damaged."""
        entry = self.entry(path)
        log.warning("index entry %s of %s is made again: %s", entry, path, why)
        self.rebuilt += 1
        try:
            self._size_bytes -= entry.stat().st_size
            entry.unlink()
        except OSError as error:
            log.info("index entry %s was gone already (%s)", entry, error.strerror)

    @contextmanager
    def writer(self, path: Path) -> Generator[EntryWriter]:
        """Write the entry of a file; without :meth:`EntryWriter.commit` nothing stays behind.

        Raises:
            DataFault: The file cannot be found.
            OSError: The entry cannot be written.
        """
        stamp = self.stamp(path)
        unfinished = f"{self.entry(path)}.{secrets.token_hex(8)}{_UNFINISHED}"
        descriptor = os.open(unfinished, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        writer = EntryWriter(self, descriptor, unfinished, stamp)
        try:
            yield writer
        finally:
            os.close(descriptor)
            if not writer.committed:
                Path(unfinished).unlink(missing_ok=True)

    def entry(self, path: Path) -> Path:
        """Where what is known of a file lies; one place for each way of reading it."""
        known, entry = self._latest
        if path != known:
            entry = self.folder / self._name(path)
            self._latest = path, entry
        return entry

    def missing(self, paths: Iterable[Path]) -> list[Path]:
        """Those that have no entry, be it up to date or not; the folder is read once."""
        with os.scandir(self.folder) as found:
            there = {item.name for item in found}
        return [path for path in paths if self._name(path) not in there]

    def _name(self, path: Path) -> str:
        key = f"{path}\0{self._options}".encode("utf-8", "surrogateescape")
        return f"{xxhash.xxh3_128_hexdigest(key)}{_SUFFIX}"

    def make_room(self, size_bytes: int) -> bool:
        """Evict the entries that were not used for longest; whether there is room then.

        Entries that this process uses stay.
        """
        if self._size_bytes + size_bytes > self._limit_bytes:
            self._size_bytes = 0
            entries = sorted(self._entries())
            self._size_bytes = sum(size for _, size, _ in entries)
            for _, size, entry in entries:
                if self._size_bytes + size_bytes <= self._limit_bytes:
                    break
                if entry.name not in self._used:
                    entry.unlink(missing_ok=True)
                    self._size_bytes -= size
                    self.evicted += 1
        return self._size_bytes + size_bytes <= self._limit_bytes

    def added(self, entry: Path, size_bytes: int) -> None:
        """Count an entry that was written."""
        self.written += 1
        self._size_bytes += size_bytes
        self._used.add(entry.name)

    def _touch(self, entry: Path) -> None:
        self._used.add(entry.name)
        status = entry.stat()
        if time.time() - status.st_atime > _TOUCH_S:
            # The time of change stays: by it, other processes know the entry they opened.
            os.utime(entry, ns=(time.time_ns(), status.st_mtime_ns))

    def _entries(self) -> Generator[tuple[float, int, Path]]:
        """Last use, size and path of each entry; removes what a writer left behind long ago."""
        with os.scandir(self.folder) as found:
            for item in found:
                try:
                    status = item.stat()
                except FileNotFoundError:
                    continue
                if item.name.endswith(_SUFFIX):
                    yield status.st_atime, status.st_size, Path(item.path)
                elif item.name.endswith(_UNFINISHED) and (
                    time.time() - status.st_mtime > _ABANDONED_S
                ):
                    Path(item.path).unlink(missing_ok=True)


class EntryWriter:
    """Writes one entry.

    Args:
        store: Where it goes.
        descriptor: Of the unfinished file.
        unfinished: Its path.
        stamp: The source before it was read.
    """

    def __init__(
        self, store: IndexStore, descriptor: int, unfinished: str, stamp: SourceStamp
    ) -> None:
        self._store, self._descriptor = store, descriptor
        self._unfinished, self._stamp = unfinished, stamp
        self._records: RecordWriter | None = None
        self.committed = False

    def records(self, shape: RecordShape) -> RecordWriter:
        """The writer of its records."""
        self._records = RecordWriter(self._descriptor, HEADER_BYTES, shape)
        return self._records

    def commit(self, scan: FileScan) -> RecordPlace | None:
        """Finish it; None when there is no room for it in the folder.

        Raises:
            OSError: It cannot be written.
        """
        if self._records is None:
            return None
        write_entry(self._descriptor, self._stamp, scan, self._records.end)
        size_bytes = os.fstat(self._descriptor).st_size
        if not self._store.make_room(size_bytes):
            return None
        entry = self._store.entry(scan.identity.path)
        os.replace(self._unfinished, entry)  # noqa: PTH105 - for each of thousands of files
        self.committed = True
        status = os.fstat(self._descriptor)
        self._store.added(entry, size_bytes)
        identity = FileIdentity(entry, size_bytes, status.st_mtime_ns)
        return RecordPlace(identity, -1, HEADER_BYTES, self._records.rows)
