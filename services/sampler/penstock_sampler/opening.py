"""Opening an HDF5 file, and saying what is wrong with one that does not open."""

from __future__ import annotations

import errno
import importlib
import stat
from pathlib import Path

import h5py

from penstock.errors import DataFault

__all__ = ["HDF5_ERRORS", "dataset_at", "open_hdf5"]

# Registers the LZ4, Zstandard, bitshuffle and Blosc filters with the HDF5 library.
importlib.import_module("hdf5plugin")

HDF5_ERRORS = (OSError, RuntimeError, KeyError, ValueError, TypeError, OverflowError)
"""What h5py raises over a damaged file, depending on the byte that is wrong."""

_CHUNK_CACHE_BYTES = 256 << 10
"""Of each open dataset: rows are drawn at random, so decoded chunks are not worth their memory."""


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
