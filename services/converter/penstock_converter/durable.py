"""Files and folders that appear complete or not at all."""

from __future__ import annotations

import errno
import os
from pathlib import Path

__all__ = ["is_disk_full", "replace_synced", "sync_folder", "sync_tree"]


def replace_synced(temporary: Path, final: Path) -> None:
    """Sync ``temporary`` and give it its final name."""
    _sync(temporary)
    temporary.replace(final)


def sync_folder(folder: Path) -> None:
    """Make names in ``folder`` durable."""
    _sync(folder)


def sync_tree(folder: Path) -> None:
    """Make everything below ``folder``, and itself, durable."""
    for parent, _, names in os.walk(folder):
        for name in names:
            _sync(Path(parent) / name)
        _sync(Path(parent))


def is_disk_full(error: BaseException) -> bool:
    """Whether ``error`` comes from a full disk or quota, whichever library raised it."""
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return True
    # HDF5 keeps the number inside its message.
    text = str(error)
    return f"errno = {errno.ENOSPC}," in text or os.strerror(errno.ENOSPC) in text


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
