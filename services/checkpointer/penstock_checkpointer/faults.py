"""What a disk or a catalogue refuses, as callers see it."""

from __future__ import annotations

import errno
import sqlite3
from dataclasses import dataclass
from pathlib import Path
from shutil import disk_usage

from penstock.errors import Corrupt, Internal, LimitExceeded, PenstockError

__all__ = ["CHECKPOINTS", "ROLLOUTS", "Kept", "catalog_fault", "disk_fault"]

_DISK_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_ROOM_BYTES = 1 << 16


@dataclass(frozen=True)
class Kept:
    """What a store keeps: ``name``, and how clients put it there."""

    name: str
    put: str


CHECKPOINTS = Kept("checkpoint", "save")
ROLLOUTS = Kept("rollout", "push")


def disk_fault(error: OSError, doing: str, kept: Kept = CHECKPOINTS) -> PenstockError:
    """The error that callers see when the disk refuses.

    Args:
        error: From the operating system.
        doing: What was tried, e.g. ``"storing chunks of run-a/100"``.
        kept: What the store keeps.
    """
    if error.errno in _DISK_FULL:
        return LimitExceeded(
            f"{doing}: the disk of the {kept.name} store is full ({error.strerror}): free space or "
            f"delete {kept.name}s, then {kept.put} again; nothing that was acknowledged is lost",
            reason="DISK_FULL",
        )
    return Internal(f"{doing}: {error.strerror or error}", reason="DISK_ERROR")


def catalog_fault(error: sqlite3.Error, path: Path, kept: Kept) -> PenstockError:
    """The error that callers see when a catalogue fails.

    Args:
        error: From the database.
        path: Of its file.
        kept: What the store keeps.
    """
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF
    # Without room for its shared memory SQLite reports a mere I/O error.
    no_room = code == sqlite3.SQLITE_IOERR and disk_usage(path.parent).free < _ROOM_BYTES
    if code == sqlite3.SQLITE_FULL or no_room:
        return LimitExceeded(
            f"the disk of the {kept.name} store {path.parent} is full: free space there or delete "
            f"{kept.name}s",
            reason="DISK_FULL",
        )
    if code in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB):
        return Corrupt(
            f"the catalogue {path} of the {kept.name} store is damaged: {error}: restart the "
            "service, which rebuilds it from the files",
            reason="CATALOG_DAMAGED",
        )
    return Internal(
        f"the catalogue {path} of the {kept.name} store fails: {error}", reason="CATALOG"
    )
