"""Scanning files into records on disk, and reading the records back."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from penstock.errors import Internal
from penstock_sampler.files import FileIdentity, OpenFiles
from penstock_sampler.options import DataOptions
from penstock_sampler.scalars import RecordPlace, RecordReader, RecordShape, RecordWriter
from penstock_sampler.scan import FileScan, scan_file
from penstock_sampler.spool import Spool

__all__ = ["RecordStore"]

_OPEN_ENTRIES = 64


class RecordStore:
    """Keeps the records of the files of one dataset.

    First :meth:`scan` all files, then :meth:`serve` those that stay, then :meth:`read`.

    Args:
        options: How files are read.
        spool_dir: Folder of the temporary file; None for the system's.
    """

    def __init__(self, options: DataOptions, spool_dir: Path | None = None) -> None:
        self._options, self._spool_dir = options, spool_dir
        self._spool: Spool | None = None
        self._files = OpenFiles(_OPEN_ENTRIES)
        self._places: dict[Path, RecordPlace] = {}
        self._reader: RecordReader | None = None

    def scan(self, path: Path) -> FileScan:
        """Scan a file and keep its records.

        Raises:
            DataFault: It cannot be served; names dataset, value and what to do.
            LimitExceeded: There is no room for its records.
        """
        scan, place = self._into_spool(path)
        self._places[path] = place
        return scan

    def serve(self, shape: RecordShape, identities: Sequence[FileIdentity]) -> None:
        """Get ready to read the records of these files, which are numbered from 0 on."""
        places = [self._places[identity.path] for identity in identities]
        self._places.clear()
        shared = self._spool.descriptor if self._spool else -1
        self._reader = RecordReader(shape, places, self._files, shared)

    def read(
        self, file: NDArray[np.int32], rows: NDArray[np.int64], next_rows: NDArray[np.int64]
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Records of ``rows`` and of ``next_rows`` in files, both ``(n, J + A + 1) float32``."""
        if self._reader is None:
            raise Internal("records are read before they are served")
        return self._reader.read(file, rows, next_rows)

    def close(self) -> None:
        """Release all files."""
        self._files.close()
        if self._spool:
            self._spool.close()

    def _into_spool(self, path: Path) -> tuple[FileScan, RecordPlace]:
        if self._spool is None:
            self._spool = Spool(self._spool_dir)
        spool, writers = self._spool, list[RecordWriter]()

        def start(shape: RecordShape) -> RecordWriter:
            writers.append(spool.writer(shape))
            return writers[0]

        try:
            scan = scan_file(path, self._options, start)
        except OSError as error:
            raise spool.full(error) from error
        place = RecordPlace(None, spool.end, writers[0].rows)
        spool.keep(writers[0])
        return scan, place
