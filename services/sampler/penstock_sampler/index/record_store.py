"""Scanning files into records on disk, and reading the records back."""

from __future__ import annotations

import logging
import threading
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from penstock.errors import DataFault, Internal
from penstock_sampler.forking import reset_after_fork
from penstock_sampler.index.entry_store import IndexStore
from penstock_sampler.index.scalars import (
    DamagedRecords,
    RecordPlace,
    RecordReader,
    RecordShape,
    RecordWriter,
)
from penstock_sampler.index.scan import FileScan, scan_file
from penstock_sampler.index.spool import Spool
from penstock_sampler.options import DataOptions
from penstock_sampler.sources.files import OpenFiles

__all__ = ["RecordStore", "scan_into_entry"]

log = logging.getLogger(__name__)

_MOST_OPEN = 64
_MOST_REPAIRS = 2
"""In one read: an entry that another process has written since may be damaged in its turn."""


class _HeldElsewhere(Exception):
    """The data lies in other files too, which may change while this one stays as it is."""


class RecordStore:
    """Keeps the records of the files of one dataset: in index entries, else in a temporary file.

    First :meth:`scan` all files, then :meth:`serve` those that stay, then :meth:`read`, which is
    safe from several threads and after a fork.

    Args:
        options: How files are read.
        spool_dir: Folder of the temporary file; None for the system's.
        entries: Where what was found out stays; None forgets it with the process.
        max_open: Entries that are open at a time, at most 64.
    """

    def __init__(
        self,
        options: DataOptions,
        spool_dir: Path | None = None,
        entries: IndexStore | None = None,
        max_open: int = _MOST_OPEN,
    ) -> None:
        self._options, self._spool_dir, self._entries = options, spool_dir, entries
        self._spools: list[Spool] = []
        self._spool: Spool | None = None
        self._files = OpenFiles(min(max_open, _MOST_OPEN))
        self._places: dict[Path, RecordPlace] = {}
        self._served: list[tuple[Path, bytes]] = []
        self._reader: RecordReader | None = None
        self.repaired = 0
        self.reset()
        reset_after_fork(self)

    def reset(self) -> None:
        """Start afresh in a forked child: the temporary file is the parent's to append to."""
        self._repairing = threading.Lock()
        self._spool = None

    def scan(self, path: Path) -> FileScan:
        """Find out about a file, or take what is known of it, and keep its records.

        Raises:
            DataFault: It cannot be served; names dataset, value and what to do.
            LimitExceeded: There is no room for its records.
        """
        known = self._entries.load(path) if self._entries else None
        scan, place = known or self._scan(path)
        self._places[path] = place
        return scan

    def serve(self, shape: RecordShape, scans: Sequence[FileScan]) -> None:
        """Get ready to read the records of these files, which are numbered from 0 on."""
        self._served = [(scan.identity.path, scan.digest) for scan in scans]
        places = [self._places[path] for path, _ in self._served]
        self._places.clear()
        self._reader = RecordReader(shape, places, self._files)

    def read(
        self, file: NDArray[np.int32], rows: NDArray[np.int64], next_rows: NDArray[np.int64]
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Records of ``rows`` and of ``next_rows`` in files, both ``(n, J + A + 1) float32``.

        Records that are damaged are made again from their file.

        Raises:
            DataFault: That file cannot be read any more, or was changed; names it.
        """
        if self._reader is None:
            raise Internal("records are read before they are served")
        repairs = Counter[int]()
        while True:
            try:
                return self._reader.read(file, rows, next_rows)
            except DamagedRecords as damage:
                repairs[damage.file] += 1
                if repairs[damage.file] > _MOST_REPAIRS:
                    raise
                self._repair(damage, self._reader)

    def close(self) -> None:
        """Release all files."""
        self._files.close()
        for spool in self._spools:
            spool.close()

    def _repair(self, damage: DamagedRecords, reader: RecordReader) -> None:
        path, digest = self._served[damage.file]
        with self._repairing:
            if reader.place(damage.file) != damage.place:
                return  # another thread was faster
            known = None
            if self._entries and damage.place.identity is not None:
                # Another process may have written it again, which is no damage.
                known = self._entries.load(path)
                if known is not None and known[1] == damage.place:
                    self._entries.drop(path, damage.message)
                    known = None
            else:
                log.warning("records of %s are made again: %s", path, damage.message)
            scan, place = known or self._scan(path)
            self.repaired += known is None
            if scan.digest != digest:
                raise DataFault(
                    f"{path}: was changed since it was indexed: open the dataset again, or restart "
                    "the sampler",
                    reason="CHANGED",
                    metadata={"file": str(path)},
                )
            reader.replace(damage.file, place)

    def _scan(self, path: Path) -> tuple[FileScan, RecordPlace]:
        if self._entries:
            try:
                found = scan_into_entry(path, self._options, self._entries)
            except OSError as error:
                log.warning(
                    "%s cannot be written (%s): the next start reads the data again",
                    self._entries.folder,
                    error.strerror,
                )
                self._entries = None
            else:
                if found is not None:
                    return found
        return self._into_spool(path)

    def _into_spool(self, path: Path) -> tuple[FileScan, RecordPlace]:
        if self._spool is None:
            self._spool = Spool(self._spool_dir)
            self._spools.append(self._spool)
        spool, writers = self._spool, list[RecordWriter]()

        def start(shape: RecordShape, *, self_contained: bool) -> RecordWriter:
            del self_contained
            writers.append(spool.writer(shape))
            return writers[0]

        try:
            scan = scan_file(path, self._options, start)
        except OSError as error:
            raise spool.full(error) from error
        place = RecordPlace(None, spool.descriptor, spool.end, writers[0].rows)
        spool.keep(writers[0])
        return scan, place


def scan_into_entry(
    path: Path, options: DataOptions, entries: IndexStore
) -> tuple[FileScan, RecordPlace] | None:
    """Scan a file into an entry; None when there is no room, or an entry could not last.

    Raises:
        DataFault: It cannot be served; names dataset, value and what to do.
        OSError: The entry cannot be written.
    """
    with entries.writer(path) as entry:

        def start(shape: RecordShape, *, self_contained: bool) -> RecordWriter:
            if not self_contained:
                raise _HeldElsewhere
            return entry.records(shape)

        try:
            scan = scan_file(path, options, start)
        except _HeldElsewhere:
            return None
        place = entry.commit(scan)
    return None if place is None else (scan, place)
