"""File operations that are on disk when they return."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

from penstock.disk import sync_directory

__all__ = [
    "locked_directory",
    "locked_file",
    "make_directories",
    "make_directory",
    "write_durably",
]


def make_directory(path: Path) -> None:
    """Create a directory durably; its parent must exist. Nothing happens if it is there."""
    if not path.is_dir():
        path.mkdir(exist_ok=True)
        sync_directory(path.parent)


def make_directories(path: Path) -> None:
    """Create a directory and all that is missing above it, durably."""
    for missing in reversed([above for above in (path, *path.parents) if not above.exists()]):
        make_directory(missing)


def write_durably(path: Path, data: bytes) -> None:
    """Replace a small file's content at once; the caller syncs the directory."""
    part = path.with_name(f".{path.name}.part")
    handle = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
    try:
        view = memoryview(data)
        while view:
            view = view[os.write(handle, view) :]
        os.fsync(handle)
    finally:
        os.close(handle)
    part.rename(path)


@contextmanager
def locked_file(path: Path) -> Generator[int]:
    """Open an existing file for reading and writing, alone among threads and processes.

    Raises:
        FileNotFoundError: It is not there.
    """
    handle = os.open(path, os.O_RDWR)
    try:
        # A description of one's own per call: the lock holds between threads as well.
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield handle
    finally:
        os.close(handle)


@contextmanager
def locked_directory(path: Path) -> Generator[None]:
    """Be alone in a directory among all that lock it too, threads and processes."""
    handle = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)
