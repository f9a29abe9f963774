"""Encoded images of several files as one piece of data that is read only where it goes.

What is sent leaves the file for the message itself, without a copy on the way.
"""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Sequence

import numpy as np

from penstock import native
from penstock.errors import Corrupt
from penstock.frame_file.reader import FrameFile

__all__ = ["DamagedFile", "EncodedRecords"]

_AHEAD_BYTES = 8 << 20
"""What is asked of a disk before it is wanted: enough reads in flight to keep it busy."""

_SEND_AHEAD_BYTES = 32 << 20
"""The same where nothing else is done meanwhile: a socket takes what is there at once."""

_LOOKED_APART = 8
"""Records from one that is looked for in memory to the next: a look is a call of the system."""

_NO_WAIT: int = getattr(os, "RWF_NOWAIT", 0)
"""0 where Python was built without it: then what follows is always asked for."""

_NO_SENDFILE = (errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP)
_COPIED_BYTES = 1 << 20


class DamagedFile(Corrupt):
    """A file is not what was written.

    Attributes:
        file: Which.
    """

    def __init__(self, message: str, file: FrameFile) -> None:
        super().__init__(message)
        self.file = file


class EncodedRecords:
    """Observations of files of the same cameras and image size, back to back; at least one.

    Only their sizes are read now.

    Args:
        files: The files.
        wanted: For each observation the number of its file, and its row; neighbours that follow one
            another cost one read.

    Attributes:
        image_bytes: Encoded size of each camera's image, ``(n, C) uint32``.
        hashes: Hash of each observation and its seed, ``(n, 2) uint64``; None where records can
            only be read, not sent.

    Raises:
        DamagedFile: An index is damaged.
        InvalidInput: A row is out of range.
    """

    def __init__(self, files: Sequence[FrameFile], wanted: Sequence[tuple[int, int]]) -> None:
        self._files, self._wanted = files, wanted
        header = files[0].header
        height, width, channels = header.image_shape
        self._shape = (len(header.cameras), height, width * channels)
        self._kernels, self._hash_address = native.kernels(), native.xxh3_address()
        self._table = np.zeros((len(wanted), 4), np.int64)
        self._table[:, :2] = wanted
        self._fields = np.array([file.records.native_fields for file in files], np.int64)
        self.image_bytes = np.empty((len(wanted), self._shape[0]), np.uint32)
        self._spots = np.empty((len(wanted), 3), np.uint64)
        self._locate()
        self._ends = np.zeros(len(wanted) + 1, np.int64)
        np.cumsum(self.image_bytes.sum(axis=1, dtype=np.int64), out=self._ends[1:])
        self._advised = self._looked_from = 0

    @property
    def from_disk(self) -> bool:
        """Whether something that was read was not in memory."""
        return self._advised > 0

    def __len__(self) -> int:
        """Size of all records in bytes."""
        return int(self._ends[-1])

    def read_into(self, begin: int, into: memoryview) -> None:
        """Read whole records from byte ``begin`` on, as many as ``into`` has room for.

        Raises:
            DamagedFile: A file is damaged; ``into`` may hold anything.
        """
        first, last, ahead = np.searchsorted(
            self._ends, (begin, begin + len(into), begin + len(into) + _AHEAD_BYTES)
        ).tolist()
        done = first
        if self._kernels is not None and self._hash_address:
            # A hint: who reads elsewhere at the same time only makes it a worse one.
            advised = self._advised
            read, told = self._kernels.read_records(
                self._hash_address,
                self._fields,
                self._table[first : min(ahead, len(self._wanted))],
                self._shape,
                into,
                count=last - first,
                advised=max(advised - first, 1) if advised else 0,
            )
            done += read
            self._advised = told + first if told else 0
        if done < last:
            self._read_plainly(done, last, into[int(self._ends[done]) - begin :])

    def send(self, begin: int, end: int, to: int) -> None:
        """Send bytes of records, from ``begin`` to ``end``: nothing checks them here.

        They go from the system's cache to the socket without a copy; who receives them checks
        ``hashes``.

        Args:
            begin: First byte.
            end: Byte after the last one.
            to: Descriptor of a socket that blocks.

        Raises:
            DamagedFile: A file ends too soon; some of the bytes may have been sent.
            OSError: The socket fails.
        """
        first = int(self._ends.searchsorted(begin, "right")) - 1
        last = int(self._ends.searchsorted(end))
        ends = self._ends[first : last + 1].tolist()
        for number in range(first, last):
            file = self._files[self._wanted[number][0]]
            record_begin, record_end = ends[number - first], ends[number - first + 1]
            start, size = max(begin, record_begin), min(end, record_end) - max(begin, record_begin)
            at = int(self._spots[number, 0]) + start - record_begin
            self._hurry(number, file.records.descriptor, at + size - 1)
            while size:
                sent = _send_some(to, file.records.descriptor, at, size)
                if not sent:
                    raise DamagedFile(f"{file.records.name}: ends at {at}", file)
                at, size = at + sent, size - sent

    def _hurry(self, number: int, descriptor: int, at: int) -> None:
        """Once a record is not in memory, have the system read the ones that follow meanwhile."""
        if not self._advised:
            if number < self._looked_from:
                return
            self._looked_from = number + _LOOKED_APART
            try:
                if _NO_WAIT and os.preadv(descriptor, [bytearray(1)], at, _NO_WAIT):
                    return
            except OSError:  # it would block; or the file system cannot say
                pass
        until = int(np.searchsorted(self._ends, self._ends[number] + _SEND_AHEAD_BYTES))
        for ahead in range(max(number, self._advised), min(until, len(self._wanted))):
            size = int(self._ends[ahead + 1] - self._ends[ahead])
            with contextlib.suppress(OSError):
                os.posix_fadvise(
                    self._files[self._wanted[ahead][0]].records.descriptor,
                    int(self._spots[ahead, 0]),
                    size,
                    os.POSIX_FADV_WILLNEED,
                )
        self._advised = max(self._advised, until)

    def _locate(self) -> None:
        done = 0
        if self._kernels is not None:
            done = self._kernels.record_sizes(
                *(self._hash_address, self._fields, self._table, self._shape),
                *(self.image_bytes, self._spots),
            )
        whole = done == len(self._wanted) and self._hash_address != 0
        self.hashes = self._spots[:, 1:] if whole else None
        for number in range(done, len(self._wanted)):
            file, row = self._wanted[number]
            try:
                (run,) = self._files[file].records.locate([row])
            except Corrupt as error:
                raise DamagedFile(error.message, self._files[file]) from error
            self.image_bytes[number] = run.sizes[0]

    def _read_plainly(self, first: int, last: int, into: memoryview) -> None:
        """Read without the native library, or say in words what it found wrong."""
        at = 0
        for number in range(first, last):
            size = int(self._ends[number + 1] - self._ends[number])
            file, row = self._wanted[number]
            try:
                (run,) = self._files[file].records.locate([row])
                self._files[file].records.read_run(run, into[at : at + size])
            except Corrupt as error:
                raise DamagedFile(error.message, self._files[file]) from error
            at += size


def _send_some(to: int, descriptor: int, at: int, size: int) -> int:
    """Send some of a file's bytes; how many, 0 at its end."""
    try:
        return os.sendfile(to, descriptor, at, size)
    except OSError as error:
        if error.errno not in _NO_SENDFILE:
            raise
    # A file system that cannot do that can be read.
    return os.write(to, os.pread(descriptor, min(size, _COPIED_BYTES), at))
