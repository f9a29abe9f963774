"""Which files this process has open, whatever else it and its libraries keep open."""

from __future__ import annotations

import contextlib
from pathlib import Path

__all__ = ["open_below"]


def open_below(folder: Path) -> int:
    """Descriptors of files within a folder, those whose names are gone included."""
    count = 0
    for link in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):  # closed while we looked
            count += str(link.readlink()).startswith(f"{folder}/")
    return count
