"""Files and folders that appear complete or not at all."""

from __future__ import annotations

import os
import threading
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

__all__ = ["replace_synced", "sync_folder", "sync_tree", "writing_out"]

_LOOK_S = 0.3
_GROWN_BYTES = 32 << 20
"""Less is not worth the wait for the disk, of which each sync causes some."""


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


@contextmanager
def writing_out(folder: Path) -> Generator[None]:
    """Let the disk write what grows below ``folder`` meanwhile, so that to sync it takes no time.

    The system keeps what is written for seconds, as it might change; and whoever syncs it then
    waits for all of it. This promises nothing: :func:`sync_tree` must follow.

    Raises:
        OSError: The disk failed. The system says so once, and not again to those who sync later.
    """
    done = threading.Event()
    written: dict[Path, int] = {}
    failed: list[OSError] = []

    def write() -> None:
        while not failed and not done.wait(_LOOK_S):
            for parent, _, names in os.walk(folder):
                for path in (Path(parent) / name for name in names):
                    try:
                        size = path.stat().st_size
                        if size - written.get(path, 0) >= _GROWN_BYTES:
                            _sync(path)
                            written[path] = size
                    except FileNotFoundError:
                        continue
                    except OSError as error:
                        failed.append(error)

    thread = threading.Thread(target=write, name="write-out", daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()
    if failed:
        raise failed[0]


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
