"""Files and folders that appear complete or not at all."""

from __future__ import annotations

import os
from pathlib import Path

__all__ = ["replace_synced", "sync_folder", "sync_tree"]


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


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
