"""Opening an HDF5 file, and saying what is wrong with one that does not open."""

from __future__ import annotations

import errno
import importlib
import os
import stat
from functools import lru_cache
from pathlib import Path
from types import TracebackType
from typing import Self

import h5py
import h5py.h5i
import h5py.h5o

from penstock.errors import DataFault
from penstock_sampler.sources.column import Column

__all__ = ["HDF5_ERRORS", "Hdf5File"]

# Registers the LZ4, Zstandard, bitshuffle and Blosc filters with the HDF5 library.
importlib.import_module("hdf5plugin")

HDF5_ERRORS = (OSError, RuntimeError, KeyError, ValueError, TypeError, OverflowError)
"""What h5py raises over a damaged file, depending on the byte that is wrong."""

_CHUNK_CACHE_BYTES = 256 << 10
"""Of each open dataset: rows are drawn at random, so decoded chunks are not worth their memory."""


class Hdf5File:
    """An open file whose groups are listed once and whose datasets are opened once.

    Finding a dataset costs as much as reading a small one, and an index finds each of them often.

    Args:
        path: A regular file.

    Raises:
        DataFault: Reason ``MISSING``, ``NOT_A_FILE``, ``EMPTY``, ``NOT_PERMITTED``, ``BUSY``,
            ``TRUNCATED``, ``NOT_HDF5`` or ``UNREADABLE``.
    """

    def __init__(self, path: Path) -> None:
        self._handle = _open(path)
        self._names: dict[str, frozenset[str] | None] = {}
        self._columns: dict[str, Column] = {}

    def names(self, group: str = "") -> frozenset[str]:
        """Names in a group, of links that lead nowhere too; none where there is no such group."""
        return self._listed(group) or frozenset()

    def is_group(self, path: str) -> bool:
        """Whether a group goes by that path."""
        return self._listed(path) is not None

    def has(self, path: str) -> bool:
        """Whether something goes by that path."""
        group, _, name = path.rpartition("/")
        return name in self.names(group)

    def find(self, path: str) -> Column | None:
        """The dataset of that path; None when something else is there.

        Raises:
            KeyError: Nothing is there, or its link leads nowhere.
        """
        found = self._columns.get(path)
        if found is None:
            try:
                opened = h5py.h5d.open(self._handle, _encoded(path))
            except HDF5_ERRORS:
                # A group, which this does not complain of, or what cannot be opened.
                if isinstance(h5py.h5o.open(self._handle, _encoded(path)), h5py.h5d.DatasetID):
                    raise
                return None
            found = self._columns[path] = Column(path, opened)
        return found

    def column(self, path: str) -> Column:
        """The dataset of that path.

        Raises:
            KeyError: There is none.
        """
        found = self.find(path)
        if found is None:
            raise KeyError(f"{path} is no dataset")
        return found

    def is_self_contained(self) -> bool:
        """Whether no dataset that was opened takes its data from another file."""
        name = h5py.h5f.get_name(self._handle)
        return not any(
            column.file_name != name or column.is_virtual or column.is_external
            for column in self._columns.values()
        )

    def full(self) -> h5py.File:
        """With all that h5py offers."""
        return h5py.File(self._handle)

    def close(self) -> None:
        """Close the file; a second time does nothing."""
        self._columns.clear()
        if not self._handle.valid:
            return
        if h5py.h5f.get_obj_count(self._handle, h5py.h5f.OBJ_LOCAL | h5py.h5f.OBJ_ALL) > 1:
            # Somebody still has a dataset, and HDF5 keeps the file open for it.
            self.full().close()
        else:
            # Not its method, which looks at all that h5py has open for what belongs to this file.
            h5py.h5i.dec_ref(self._handle)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def _group(self, path: str) -> h5py.h5g.GroupID | None:
        try:
            found = h5py.h5o.open(self._handle, _encoded(path))
        except KeyError:  # a link that leads nowhere
            return None
        return found if isinstance(found, h5py.h5g.GroupID) else None

    def _listed(self, path: str) -> frozenset[str] | None:
        """Names in a group; None where there is no such group."""
        if path not in self._names:
            group = self._group(path or "/") if not path or self.has(path) else None
            names: list[bytes] = []
            if group is not None:
                # In one go: h5py's own iteration asks for each name by its number.
                h5py.h5g.iterate(group, names.append)
            known = frozenset(name.decode("utf-8", "surrogateescape") for name in names)
            self._names[path] = None if group is None else known
        return self._names[path]


def _open(path: Path) -> h5py.h5f.FileID:
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
        return h5py.h5f.open(os.fsencode(path), h5py.h5f.ACC_RDONLY, fapl=_access())
    except HDF5_ERRORS as error:
        raise _explain(path, status.st_size, error) from error


@lru_cache(1)
def _access() -> h5py.h5p.PropFAID:
    access = h5py.h5p.create(h5py.h5p.FILE_ACCESS)
    # Best effort: a read-only or network file system may know no locks.
    access.set_file_locking(use_file_locking=True, ignore_when_disabled=True)
    settings = list(access.get_cache())
    settings[2] = _CHUNK_CACHE_BYTES
    access.set_cache(*settings)
    return access


def _encoded(path: str) -> bytes:
    return path.encode("utf-8", "surrogateescape")


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
