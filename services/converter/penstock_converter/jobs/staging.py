"""Folders that are made beside their place and appear complete or not at all."""

from __future__ import annotations

import fcntl
import os
import shutil
from collections.abc import Generator
from contextlib import contextmanager, suppress
from pathlib import Path

from penstock.disk import is_disk_full
from penstock.errors import Conflict, InvalidInput, LimitExceeded
from penstock.failpoints import failpoint
from penstock_converter.jobs.durable import sync_folder, sync_tree

__all__ = ["has_leftovers", "new_folder", "publish", "restore", "staging_folder"]


@contextmanager
def staging_folder(final: Path, *, shared: bool = False) -> Generator[Path]:
    """A hidden folder beside ``final``, with what an interrupted conversion left there.

    Args:
        final: What will be published.
        shared: Whether others may work there at the same time.

    Raises:
        Conflict: Another process is making the same folder.
        InvalidInput: The place cannot be written to.
    """
    if not final.name:
        raise InvalidInput(f"{final} cannot be an output: name a folder in it", field="out")
    partial = _partial(final)
    lock = None
    try:
        final.parent.mkdir(parents=True, exist_ok=True)
        partial.mkdir(exist_ok=True)
        lock = _lock(partial, shared=shared)
        if not shared:
            _restore(final)
    except OSError as error:
        if lock is not None:
            os.close(lock)
        if is_disk_full(error):
            raise LimitExceeded(
                f"{final}: the disk is full: free space there", reason="DISK_FULL"
            ) from error
        raise InvalidInput(f"{final}: cannot be written: {error}", field="out") from error
    try:
        yield partial
    finally:
        os.close(lock)


def restore(final: Path) -> None:
    """Bring back what an interrupted replacement had set aside, unless somebody works there.

    Raises:
        InvalidInput: The place cannot be written to.
    """
    if _replaced(final).exists():
        # The folder goes only if it was made just now, and is empty.
        with suppress(Conflict), staging_folder(final) as folder, suppress(OSError):
            folder.rmdir()


def has_leftovers(final: Path) -> bool:
    """Whether a conversion to ``final`` was interrupted, or is at work."""
    return _partial(final).exists() or _replaced(final).exists()


def new_folder(folder: Path) -> Path:
    """``folder``, empty."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    return folder


def publish(partial: Path, final: Path) -> None:
    """Give the staged folder its name, in the place of what is there, and make that durable."""
    sync_tree(partial)
    failpoint("converter.publish.synced")
    replaced = _replaced(final)
    if final.exists():
        final.rename(replaced)
        failpoint("converter.publish.set_aside")
    partial.rename(final)
    failpoint("converter.publish.renamed")
    sync_folder(final.parent)
    failpoint("converter.publish.durable")
    shutil.rmtree(replaced, ignore_errors=True)
    failpoint("converter.publish.old_removed")


def _restore(final: Path) -> None:
    """Undo a replacement that was interrupted half-way, finish one that was nearly done."""
    replaced = _replaced(final)
    if not replaced.exists():
        return
    if final.exists():
        shutil.rmtree(replaced)
    else:
        replaced.rename(final)
        failpoint("converter.restored")


def _partial(final: Path) -> Path:
    return final.with_name(f".{final.name}.partial")


def _replaced(final: Path) -> Path:
    return final.with_name(f".{final.name}.replaced")


def _lock(folder: Path, *, shared: bool) -> int:
    """Hold ``folder`` for this process, or for those who share, until the descriptor is closed."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(descriptor, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
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
