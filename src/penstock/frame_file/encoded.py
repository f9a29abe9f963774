"""Encoded images of several files as one piece of data that is read only where it goes.

What is sent leaves the file for the message itself, without a copy on the way.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from penstock.errors import Corrupt
from penstock.frame_file.reader import FrameFile
from penstock.frame_file.records import Run

__all__ = ["DamagedFile", "EncodedRecords"]


class DamagedFile(Corrupt):
    """A file is not what was written.

    Attributes:
        file: Which.
    """

    def __init__(self, message: str, file: FrameFile) -> None:
        super().__init__(message)
        self.file = file


class EncodedRecords:
    """Records back to back, in the order in which they are added."""

    def __init__(self) -> None:
        self._records: list[tuple[FrameFile, Run, int]] = []
        self._ends: list[int] = [0]
        self._image_bytes: list[tuple[int, ...]] = []

    def __len__(self) -> int:
        """Size of all records in bytes."""
        return self._ends[-1]

    @property
    def image_bytes(self) -> NDArray[np.uint32]:
        """Encoded size of each camera's image, ``(n, C) uint32``."""
        return np.array(self._image_bytes, np.uint32)

    def add(self, file: FrameFile, rows: Sequence[int]) -> None:
        """Add rows of a file; only its index is read.

        Raises:
            InvalidInput: A row is out of range.
            DamagedFile: The index is damaged; nothing is added.
        """
        try:
            runs = file.records.locate(rows)
        except Corrupt as error:
            raise DamagedFile(error.message, file) from error
        for run in runs:
            for number, sizes in enumerate(run.sizes):
                self._records.append((file, run, number))
                self._image_bytes.append(sizes)
                self._ends.append(self._ends[-1] + sum(sizes))

    def read_into(self, begin: int, into: memoryview) -> None:
        """Read whole records from byte ``begin`` on, as many as ``into`` has room for.

        Raises:
            DamagedFile: A file is damaged; ``into`` may hold anything.
        """
        at, stop = bisect_left(self._ends, begin), begin + len(into)
        while self._ends[at] < stop:
            file, run, first = self._records[at]
            after = at + 1
            while self._ends[after] < stop and self._records[after][1] is run:
                after += 1
            view = into[self._ends[at] - begin : self._ends[after] - begin]
            try:
                file.records.read_run(run, first, first + after - at, view)
            except Corrupt as error:
                raise DamagedFile(error.message, file) from error
            at = after
