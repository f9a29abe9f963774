"""Writing a file of cached frames: under a temporary name, locked, synced, then renamed."""

from __future__ import annotations

import fcntl
import os
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np
from numpy.typing import NDArray

from penstock.errors import Conflict, InvalidInput
from penstock.frame_file.header import FrameHeader, record_hash

__all__ = ["FrameFileWriter", "remove_unfinished"]

_TEMPORARY_SUFFIX = ".part"


class FrameFileWriter:
    """Writes one file, in row order; a context manager that leaves nothing unless committed.

    While it is open it holds a lock on the temporary file: of several processes one builds, and
    what a killed process left behind can be told from what is being written.

    Args:
        path: Of the finished file; ``path`` with another suffix is the temporary name.
        header: What it will hold; ``data_bytes`` is filled in.

    Raises:
        Conflict: Another process is writing this file.
        OSError: The folder cannot be written to.
    """

    def __init__(self, path: Path, header: FrameHeader) -> None:
        self.path, self._header = path, header
        self._temporary = path.with_suffix(_TEMPORARY_SUFFIX)
        self._descriptor = _open_locked(self._temporary)
        try:
            os.ftruncate(self._descriptor, 0)
        except OSError:
            self.abort()
            raise
        self._index_offset = header.reserve()
        self._data_offset = header.data_offset(self._index_offset)
        self._entry = header.entry
        self._rows, self._data_bytes = 0, 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.abort()

    @property
    def size_bytes(self) -> int:
        """Size of the file so far."""
        return self._data_offset + self._data_bytes

    def append(self, data: bytes, image_bytes: NDArray[np.uint32]) -> None:
        """Add the next observations.

        Args:
            data: Their encoded images back to back, ``[observation][camera]``.
            image_bytes: ``(n, C)`` uint32: encoded size of each image.

        Raises:
            InvalidInput: Sizes do not add up, or there are more rows than announced.
            OSError: The disk is full, or cannot be written to.
        """
        count, cameras = image_bytes.shape
        ends = np.cumsum(image_bytes.sum(axis=1, dtype=np.int64)).tolist()
        if cameras != len(self._header.cameras) or (ends[-1] if ends else 0) != len(data):
            raise InvalidInput(f"{len(data)} bytes are not the images that sizes announce")
        if self._rows + count > self._header.observations:
            raise InvalidInput(
                f"{self._rows + count} observations, {self._header.observations} were announced"
            )
        view, index = memoryview(data), bytearray()
        for start, end, sizes in zip((0, *ends), ends, image_bytes.tolist(), strict=False):
            row = self._rows + len(index) // self._header.entry_bytes
            entry = self._entry.pack(self._data_bytes + start, 0, *sizes)
            digest = record_hash(view[start:end], row, entry[16:])
            index += self._entry.pack(self._data_bytes + start, digest, *sizes)
        at = self._index_offset + self._rows * self._header.entry_bytes
        _write(self._descriptor, memoryview(index), at)
        _write(self._descriptor, view, self.size_bytes)
        self._rows += count
        self._data_bytes += len(data)

    def commit(self) -> None:
        """Make the file durable and give it its name.

        Raises:
            InvalidInput: Rows are missing.
            OSError: The disk is full, or cannot be written to.
        """
        if self._rows != self._header.observations:
            raise InvalidInput(
                f"{self._rows} observations, {self._header.observations} were announced"
            )
        header = replace(self._header, data_bytes=self._data_bytes)
        _write(self._descriptor, memoryview(header.pack(self._index_offset)), 0)
        os.fsync(self._descriptor)
        self._temporary.replace(self.path)
        os.close(self._descriptor)
        self._descriptor = -1
        folder = os.open(self.path.parent, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)

    def abort(self) -> None:
        """Remove what was written; does nothing after :meth:`commit`."""
        if self._descriptor >= 0:
            self._temporary.unlink(missing_ok=True)
            os.close(self._descriptor)
            self._descriptor = -1


def remove_unfinished(folder: Path) -> list[Path]:
    """Remove temporary files that nobody is writing; returns them.

    Raises:
        OSError: The folder cannot be read or written to.
    """
    removed: list[Path] = []
    for temporary in folder.glob(f"*{_TEMPORARY_SUFFIX}"):
        try:
            descriptor = _open_locked(temporary, os.O_RDWR)
        except (Conflict, FileNotFoundError, PermissionError):
            continue
        try:
            temporary.unlink(missing_ok=True)
            removed.append(temporary)
        finally:
            os.close(descriptor)
    return removed


def _open_locked(path: Path, flags: int = os.O_RDWR | os.O_CREAT) -> int:
    while True:
        descriptor = os.open(path, flags | os.O_CLOEXEC, 0o644)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # Who held the lock may have renamed or removed the file before giving it up.
            if path.exists() and os.path.samestat(path.stat(), os.fstat(descriptor)):
                return descriptor
        except BlockingIOError as error:
            os.close(descriptor)
            raise Conflict(f"{path}: another process is writing it") from error
        except FileNotFoundError:
            pass
        os.close(descriptor)


def _write(descriptor: int, data: memoryview, offset: int) -> None:
    while data:
        written = os.pwrite(descriptor, data, offset)
        data, offset = data[written:], offset + written
