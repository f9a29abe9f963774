"""Opening an HDF5 file, and saying what is wrong with one that does not open."""

from __future__ import annotations

import errno
import importlib
import stat
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import h5py
import h5py.h5o
import numpy as np
from numpy.typing import NDArray

from penstock.errors import DataFault

__all__ = ["HDF5_ERRORS", "Hdf5File", "dataset_at", "open_hdf5", "read_rows"]

# Registers the LZ4, Zstandard, bitshuffle and Blosc filters with the HDF5 library.
importlib.import_module("hdf5plugin")

HDF5_ERRORS = (OSError, RuntimeError, KeyError, ValueError, TypeError, OverflowError)
"""What h5py raises over a damaged file, depending on the byte that is wrong."""

_CHUNK_CACHE_BYTES = 256 << 10
"""Of each open dataset: rows are drawn at random, so decoded chunks are not worth their memory."""


def read_rows(dataset: h5py.Dataset, start: int, stop: int) -> NDArray[Any]:
    """Rows ``start`` to before ``stop``, in the dataset's own type.

    The low-level call: what h5py prepares for its own indexing pays off only when a dataset is read
    many times.

    Raises:
        OSError: They cannot be read; other kinds of ``HDF5_ERRORS`` likewise.
    """
    shape = (stop - start, *dataset.shape[1:])
    rows = np.empty(shape, dataset.dtype)
    if rows.size:
        space = dataset.id.get_space()
        space.select_hyperslab((start, *(0 for _ in shape[1:])), shape)
        dataset.id.read(h5py.h5s.create_simple(shape), space, rows)
    return rows


def open_hdf5(path: Path) -> h5py.File:
    """Open a regular file for reading.

    Raises:
        DataFault: Reason ``MISSING``, ``NOT_A_FILE``, ``EMPTY``, ``NOT_PERMITTED``, ``BUSY``,
            ``TRUNCATED``, ``NOT_HDF5`` or ``UNREADABLE``.
    """
    try:
        status = path.stat()
    except OSError as error:
        raise _fault(
            path, "MISSING", f"cannot be found ({error.strerror})", "check the path"
        ) from (error)
    if not stat.S_ISREG(status.st_mode):
        raise _fault(path, "NOT_A_FILE", "is not a regular file", "name HDF5 files")
    if status.st_size == 0:
        raise _fault(path, "EMPTY", "has 0 bytes", "record or copy it again")
    try:
        # Best effort: a read-only or network file system may know no locks.
        return h5py.File(path, "r", locking="best-effort", rdcc_nbytes=_CHUNK_CACHE_BYTES)
    except HDF5_ERRORS as error:
        raise _explain(path, status.st_size, error) from error


def dataset_at(file: h5py.File, path: str) -> h5py.Dataset:
    """The dataset of that path.

    Raises:
        KeyError: There is none.
    """
    found = file[path]
    if not isinstance(found, h5py.Dataset):
        raise KeyError(f"{path} is no dataset")
    return found


class Hdf5File:
    """An open file whose groups are listed once and whose datasets are opened once.

    Finding a dataset costs as much as reading a small one, and an index finds each of them often.

    Args:
        path: The file.

    Raises:
        DataFault: It does not open, see :func:`open_hdf5`.
    """

    def __init__(self, path: Path) -> None:
        self.handle = open_hdf5(path)
        self._names: dict[str, frozenset[str]] = {}
        self._datasets: dict[str, h5py.Dataset] = {}

    def names(self, group: str = "") -> frozenset[str]:
        """Names in a group, of links that lead nowhere too; none where there is no such group."""
        found = self._names.get(group)
        if found is None:
            holder = self.handle.get(group) if group else self.handle
            found = frozenset(map(str, holder)) if isinstance(holder, h5py.Group) else frozenset()
            self._names[group] = found
        return found

    def is_group(self, path: str) -> bool:
        """Whether a group goes by that path."""
        return self.has(path) and isinstance(self.handle.get(path), h5py.Group)

    def has(self, path: str) -> bool:
        """Whether something goes by that path."""
        group, _, name = path.rpartition("/")
        return name in self.names(group)

    def node(self, path: str) -> h5py.HLObject:
        """The group or dataset of that path.

        Raises:
            KeyError: There is none, or its link leads nowhere.
        """
        found: h5py.HLObject | None = self._datasets.get(path)
        if found is None:
            # What handle[path] does, without asking the file again how it was opened.
            opened = h5py.h5o.open(self.handle.id, path.encode())
            if not isinstance(opened, h5py.h5d.DatasetID):
                return self.handle[path]
            found = self._datasets[path] = h5py.Dataset(opened, readonly=True)
        return found

    def dataset(self, path: str) -> h5py.Dataset:
        """The dataset of that path.

        Raises:
            KeyError: There is none.
        """
        found = self.node(path)
        if not isinstance(found, h5py.Dataset):
            raise KeyError(f"{path} is no dataset")
        return found

    def is_self_contained(self) -> bool:
        """Whether no dataset that was opened takes its data from another file."""
        name = h5py.h5f.get_name(self.handle.id)
        return not any(
            h5py.h5f.get_name(dataset.id) != name
            or dataset.is_virtual
            or dataset.external is not None
            for dataset in self._datasets.values()
        )

    def close(self) -> None:
        """Close the file."""
        self._datasets.clear()
        self.handle.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()


def _explain(path: Path, size_bytes: int, error: Exception) -> DataFault:
    text = str(error)
    if "truncated file" in text:
        return _fault(
            path,
            "TRUNCATED",
            f"is a truncated HDF5 file: {size_bytes} bytes are there ({text})",
            "copy or record it again",
        )
    if "signature not found" in text:
        return _fault(
            path,
            "NOT_HDF5",
            "is not an HDF5 file (no signature)",
            "convert it, or keep it out of the dataset's pattern",
        )
    number = error.errno if isinstance(error, OSError) else None
    if number == errno.EACCES:
        return _fault(path, "NOT_PERMITTED", f"may not be read ({text})", "change its permissions")
    if number in (errno.EAGAIN, errno.EWOULDBLOCK):
        return _fault(path, "BUSY", "is being written by another process", "close it there first")
    return _fault(path, "UNREADABLE", f"does not open ({text})", "copy or record it again")


def _fault(path: Path, reason: str, what: str, remedy: str) -> DataFault:
    return DataFault(f"{path}: {what}: {remedy}", reason=reason, metadata={"file": str(path)})
