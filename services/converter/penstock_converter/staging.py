"""Folders that are made beside their place and appear complete or not at all."""

from __future__ import annotations

import fcntl
import os
import shutil
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

from penstock.disk import is_disk_full
from penstock.errors import Conflict, InvalidInput, LimitExceeded
from penstock_converter.durable import sync_folder, sync_tree

__all__ = ["publish", "staging_folder"]


@contextmanager
def staging_folder(final: Path) -> Generator[Path]:
    """An empty hidden folder beside ``final``, removed at the end unless it was published.

    Raises:
        Conflict: Another process is making the same folder.
        InvalidInput: The place cannot be written to.
    """
    if not final.name:
        raise InvalidInput(f"{final} cannot be an output: name a folder in it", field="out")
    partial = final.with_name(f".{final.name}.partial")
    try:
        final.parent.mkdir(parents=True, exist_ok=True)
        _restore(final)
        partial.mkdir(exist_ok=True)
        lock = _lock(partial)
    except OSError as error:
        if is_disk_full(error):
            raise LimitExceeded(
                f"{final}: the disk is full: free space there", reason="DISK_FULL"
            ) from error
        raise InvalidInput(f"{final}: cannot be written: {error}", field="out") from error
    try:
        # What an interrupted conversion left.
        for entry in partial.iterdir():
            if entry.is_dir() and not entry.is_symlink():
                shutil.rmtree(entry)
            else:
                entry.unlink()
        yield partial
    finally:
        shutil.rmtree(partial, ignore_errors=True)
        os.close(lock)


def publish(partial: Path, final: Path) -> None:
    """Give the staged folder its name, in the place of what is there, and make that durable."""
    sync_tree(partial)
    replaced = _replaced(final)
    if final.exists():
        final.rename(replaced)
    partial.rename(final)
    sync_folder(final.parent)
    shutil.rmtree(replaced, ignore_errors=True)


def _restore(final: Path) -> None:
    """Undo a replacement that was interrupted half-way, finish one that was nearly done."""
    replaced = _replaced(final)
    if not replaced.exists():
        return
    if final.exists():
        shutil.rmtree(replaced)
    else:
        replaced.rename(final)


def _replaced(final: Path) -> Path:
    return final.with_name(f".{final.name}.replaced")


def _lock(folder: Path) -> int:
    """Hold ``folder`` for this process until the descriptor is closed."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        held, named = os.fstat(descriptor), folder.stat()
    except (BlockingIOError, FileNotFoundError) as error:
        os.close(descriptor)
        raise Conflict(
            f"{folder}: another conversion is writing there: wait for it, or choose another output",
            reason="OUTPUT_BUSY",
        ) from error
    if (held.st_dev, held.st_ino) != (named.st_dev, named.st_ino):
        os.close(descriptor)
        raise Conflict(f"{folder}: another conversion has just finished", reason="OUTPUT_BUSY")
    return descriptor
