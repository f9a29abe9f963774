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
from penstock_sampler.opening import HDF5_ERRORS, dataset_at, open_hdf5

__all__ = ["FileIdentity", "OpenFile", "OpenFiles"]

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


class OpenFile:
    """A file that is open, with the datasets that were used; finding one costs as much as a read.

    Args:
        path: The file.

    Raises:
        DataFault: It does not open.
    """

    def __init__(self, path: Path) -> None:
        self._file = open_hdf5(path)
        self._datasets: dict[str, h5py.Dataset] = {}

    def dataset(self, path: str) -> h5py.Dataset:
        """The dataset of that path.

        Raises:
            KeyError: There is none.
        """
        if path not in self._datasets:
            self._datasets[path] = dataset_at(self._file, path)
        return self._datasets[path]

    def close(self) -> None:
        """Close the file."""
        self._datasets.clear()
        self._file.close()


class OpenFiles:
    """Hands out open files, one caller at a time: the HDF5 library has one lock for all.

    Handles are not carried over a fork; the child opens its own.

    Args:
        limit: Most files that are open at a time.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._open: OrderedDict[Path, OpenFile] = OrderedDict()
        self._lock = threading.Lock()
        self._process = os.getpid()

    def read(self, identity: FileIdentity, action: Callable[[OpenFile], T]) -> T:
        """Run ``action`` with the open file and return what it returns.

        Raises:
            DataFault: The file is gone, was replaced since it was indexed, or cannot be read.
        """
        if os.getpid() != self._process:
            self._process, self._lock, self._open = os.getpid(), threading.Lock(), OrderedDict()
        with self._lock:
            try:
                return action(self._get(identity))
            except HDF5_ERRORS as error:
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

    def _get(self, identity: FileIdentity) -> OpenFile:
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
        self._open[path] = OpenFile(path)
        return self._open[path]

    def _drop(self, path: Path) -> None:
        handle = self._open.pop(path, None)
        if handle is not None:
            handle.close()
