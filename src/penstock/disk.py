"""What files need of a disk: names that last, and a full disk told as such wherever it happens."""

from __future__ import annotations

import errno
import os
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from pathlib import Path

from penstock.errors import LimitExceeded

__all__ = ["full_disk_named", "is_disk_full", "sync_directory"]

_DISK_FULL = frozenset({errno.ENOSPC, errno.EDQUOT})


def is_disk_full(error: BaseException) -> bool:
    """Whether a full disk or quota is behind ``error``, however deep.

    Libraries that write by native code wrap what the system said, or only quote it.
    """
    return any(
        (isinstance(link, OSError) and link.errno in _DISK_FULL)
        or "No space left on device" in str(link)
        for link in _chain(error)
    )


@contextmanager
def full_disk_named(doing: str) -> Generator[None]:
    """Turn a full disk inside the block into an error that says what was being written.

    Args:
        doing: What the block writes and where, e.g. ``"writing out.pt"``.

    Raises:
        LimitExceeded: The disk is full (reason ``DISK_FULL``); every other error goes on as it is.
    """
    try:
        yield
    except LimitExceeded:
        raise
    except Exception as error:
        if not is_disk_full(error):
            raise
        raise LimitExceeded(
            f"{doing}: the disk is full: free space there, then do it again", reason="DISK_FULL"
        ) from error


def sync_directory(path: Path) -> None:
    """Make the names in a directory durable: renames, new files, deletions."""
    handle = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _chain(error: BaseException) -> Iterator[BaseException]:
    link: BaseException | None = error
    while link is not None:
        yield link
        link = link.__cause__ or link.__context__
