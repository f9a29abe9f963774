"""Open HDF5 files: a bounded number of them, the least recently used one closed first."""

from __future__ import annotations

import os
import threading
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import h5py

from penstock.errors import DataFault
from penstock_sampler.opening import open_hdf5

__all__ = ["FileIdentity", "OpenFiles"]

T = TypeVar("T")


@dataclass(frozen=True)
class FileIdentity:
    """A file as it was when it was indexed."""

    path: Path
    size_bytes: int
    modified_ns: int

    @classmethod
    def of(cls, path: Path) -> FileIdentity:
        """The file as it is now.

        Raises:
            DataFault: It cannot be found.
        """
        try:
            status = path.stat()
        except OSError as error:
            raise DataFault(
                f"{path}: cannot be found ({error.strerror}): check the path",
                reason="MISSING",
                metadata={"file": str(path)},
            ) from error
        return cls(path, status.st_size, status.st_mtime_ns)


class OpenFiles:
    """Hands out open files, one caller at a time: the HDF5 library has one lock for all.

    Handles are not carried over a fork; the child opens its own.

    Args:
        limit: Most files that are open at a time.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._open: OrderedDict[Path, h5py.File] = OrderedDict()
        self._lock = threading.Lock()
        self._process = os.getpid()

    def read(self, identity: FileIdentity, action: Callable[[h5py.File], T]) -> T:
        """Run ``action`` with the open file and return what it returns.

        Raises:
            DataFault: The file is gone, was replaced since it was indexed, or cannot be read.
        """
        if os.getpid() != self._process:
            self._process, self._lock, self._open = os.getpid(), threading.Lock(), OrderedDict()
        with self._lock:
            try:
                return action(self._get(identity))
            except (OSError, KeyError, ValueError) as error:
                # A damaged handle must not serve the next call.
                self._drop(identity.path)
                raise DataFault(
                    f"{identity.path}: cannot be read any more ({error}): restore the file, then "
                    "open the dataset again",
                    reason="UNREADABLE",
                    metadata={"file": str(identity.path)},
                ) from error

    def close(self) -> None:
        """Close all files."""
        with self._lock:
            while self._open:
                self._open.popitem()[1].close()

    def _get(self, identity: FileIdentity) -> h5py.File:
        path = identity.path
        if path in self._open:
            self._open.move_to_end(path)
            return self._open[path]
        if FileIdentity.of(path) != identity:
            raise DataFault(
                f"{path}: was changed since it was indexed ({identity.size_bytes} bytes then): "
                "open the dataset again, or restart the sampler",
                reason="CHANGED",
                metadata={"file": str(path)},
            )
        while len(self._open) >= self._limit:
            self._open.popitem(last=False)[1].close()
        self._open[path] = open_hdf5(path)
        return self._open[path]

    def _drop(self, path: Path) -> None:
        handle = self._open.pop(path, None)
        if handle is not None:
            handle.close()
