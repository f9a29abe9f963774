"""What a disk or the catalogue refuses, as callers see it."""

from __future__ import annotations

import errno
import sqlite3
from pathlib import Path
from shutil import disk_usage

from penstock.errors import Corrupt, Internal, LimitExceeded, PenstockError

__all__ = ["catalog_fault", "disk_fault"]

_DISK_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_ROOM_BYTES = 1 << 16


def disk_fault(error: OSError, doing: str) -> PenstockError:
    """The error that callers see when the disk refuses.

    Args:
        error: From the operating system.
        doing: What was tried, e.g. ``"receiving rollout-stream/main/100"``.
    """
    if error.errno in _DISK_FULL:
        return LimitExceeded(
            f"{doing}: the disk of the rollout store is full ({error.strerror}): free space or "
            "delete rollouts, then push again; nothing that was acknowledged is lost",
            reason="DISK_FULL",
        )
    return Internal(f"{doing}: {error.strerror or error}", reason="DISK_ERROR")


def catalog_fault(error: sqlite3.Error, path: Path) -> PenstockError:
    """The error that callers see when the catalogue fails."""
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF
    # Without room for its shared memory SQLite reports a mere I/O error.
    no_room = code == sqlite3.SQLITE_IOERR and disk_usage(path.parent).free < _ROOM_BYTES
    if code == sqlite3.SQLITE_FULL or no_room:
        return LimitExceeded(
            f"the disk of the rollout store {path.parent} is full: free space there or delete "
            "rollouts",
            reason="DISK_FULL",
        )
    if code in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB):
        return Corrupt(
            f"the catalogue {path} of the rollout store is damaged: {error}: restart the service, "
            "which rebuilds it from the files",
            reason="CATALOG_DAMAGED",
        )
    return Internal(f"the catalogue {path} of the rollout store fails: {error}", reason="CATALOG")
