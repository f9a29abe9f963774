"""Room in the folder of cached files: what is being written is reserved, what is idle makes way."""

from __future__ import annotations

import logging
import os
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from penstock_sampler.cache.key import SUFFIX

__all__ = ["Entry", "Room", "entries_of"]

log = logging.getLogger(__name__)

_UNFINISHED = ".part"
_SPARE_SHARE = 0.02


@dataclass(frozen=True)
class Entry:
    """A file of the folder.

    Attributes:
        path: Where.
        size_bytes: What it takes on the disk.
        used_s: When it was used last, in s since 1970.
        finished: Whether it is whole, or still being written.
    """

    path: Path
    size_bytes: int
    used_s: float
    finished: bool


class Room:
    """Keeps a folder below its limit; its caller holds a lock.

    A file that was used a short while ago, by whichever process, is not evicted: data that is
    larger than the limit would otherwise be built and evicted in turn for ever.

    Args:
        folder: Of the files.
        limit_bytes: What all of them together may take.
        in_use_s: How long a file counts as used.
        evict: Removes one.
    """

    def __init__(
        self, folder: Path, limit_bytes: int, in_use_s: float, evict: Callable[[Path], None]
    ) -> None:
        self._folder, self.limit_bytes = folder, limit_bytes
        self._in_use_s, self._evict = in_use_s, evict
        self._reserved: dict[str, int] = {}
        self._outgrew: dict[str, int] = {}

    def reserve(self, name: str, size_bytes: int) -> bool:
        """Make and keep room for a file that is to be written; gives whether there is any.

        What was not used for longest is evicted for it. A file that grows beyond what was expected
        is reserved again, by its new size; if that fails, its size is remembered for the next time.
        """
        grows = name in self._reserved
        size_bytes = max(size_bytes, self._outgrew.get(name, 0))
        there_is = self._make(name, size_bytes)
        if there_is:
            self._reserved[name] = size_bytes
            self._outgrew.pop(name, None)
        elif grows:
            self._outgrew[name] = size_bytes
        return there_is

    def release(self, name: str) -> None:
        """The file is finished, or given up."""
        self._reserved.pop(name, None)

    def shrink(self) -> None:
        """Get below a limit that is lower than it was before, as far as files are idle."""
        self._make("", 0)

    def _make(self, name: str, size_bytes: int) -> bool:
        others = sum(size for other, size in self._reserved.items() if other != name)
        ours = {each.removesuffix(SUFFIX) + _UNFINISHED for each in (name, *self._reserved)}
        total, written = others + size_bytes, 0
        idle_since_s = time.time() - self._in_use_s
        idle: list[Entry] = []
        for entry in entries_of(self._folder):
            # What this process writes counts with its whole size, not with what is there of it.
            if entry.path.name in ours:
                written += entry.size_bytes
                continue
            total += entry.size_bytes
            if entry.finished and entry.used_s <= idle_since_s:
                idle.append(entry)
        usage = shutil.disk_usage(self._folder)
        free = usage.free - int(usage.total * _SPARE_SHARE)
        excess = max(total - self.limit_bytes, others + size_bytes - written - free)
        victims: list[Entry] = []
        for entry in sorted(idle, key=lambda entry: entry.used_s):
            if excess <= 0:
                break
            victims.append(entry)
            excess -= entry.size_bytes
        if excess > 0:
            return False
        for entry in victims:
            self._evict(entry.path)
        return True


def entries_of(folder: Path) -> list[Entry]:
    """All files of a folder, finished or not; none, said, if it cannot be listed."""
    found: list[Entry] = []
    try:
        with os.scandir(folder) as listed:
            for item in listed:
                if item.name.endswith((SUFFIX, _UNFINISHED)):
                    status = _status(item)
                    if status is not None:
                        size_bytes, finished = status.st_blocks * 512, item.name.endswith(SUFFIX)
                        found.append(Entry(Path(item.path), size_bytes, status.st_mtime, finished))
    except OSError as error:
        log.warning("%s: cannot be listed (%s)", folder, error.strerror)
    return found


def _status(item: os.DirEntry[str]) -> os.stat_result | None:
    try:
        return item.stat()
    except FileNotFoundError:  # removed by another process meanwhile
        return None
