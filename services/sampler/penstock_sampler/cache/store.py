"""The folder of cached files: finding them, keeping it below its limit, dropping what is damaged.

Several processes share a folder. A file appears under its name when it is whole, so nobody sees
half of one; a file that is removed stays readable for those who have it open.
"""

from __future__ import annotations

import logging
import os
import resource
import shutil
import threading
import time
from collections import OrderedDict
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from penstock.errors import Corrupt, NotFound
from penstock.frame_file import FrameFile, remove_unfinished
from penstock_sampler.cache.key import SUFFIX, FrameKey
from penstock_sampler.forking import reset_after_fork

__all__ = ["FrameStore"]

log = logging.getLogger(__name__)

_TOUCH_S = 60.0
_LOOK_AGAIN_S = 2.0
_IN_USE_S = 600.0
_SPARE_SHARE = 0.02
_MOST_OPEN = 2048
_UNFINISHED = ".part"


@dataclass
class _Open:
    file: FrameFile
    touched_s: float


class FrameStore:
    """Cached files of one folder; safe to use from several threads.

    A file that was used in the last ten minutes, by whichever process, is not evicted: data that
    is larger than the limit would otherwise be built and evicted in turn for ever. What finds no
    room is read on the fly.

    Args:
        folder: Made if it is not there.
        limit_bytes: What all files together may take; 0 takes half of the space that is free now,
            besides what is cached.
        in_use_s: How long a file counts as used.

    Raises:
        OSError: The folder cannot be made or written to.
    """

    def __init__(self, folder: Path, limit_bytes: int = 0, in_use_s: float = _IN_USE_S) -> None:
        self.folder, self._in_use_s = folder, in_use_s
        folder.mkdir(parents=True, exist_ok=True)
        for unfinished in remove_unfinished(folder):
            log.info("%s: removed, its writer did not finish it", unfinished)
        _try_writing(folder)
        self.size_bytes = sum(entry.size_bytes for entry in self._entries())
        self.limit_bytes = limit_bytes or self.size_bytes + shutil.disk_usage(folder).free // 2
        self.rebuilds, self.evictions = 0, 0
        self._most_open = min(_MOST_OPEN, resource.getrlimit(resource.RLIMIT_NOFILE)[0] // 2)
        self.reset()
        reset_after_fork(self)
        log.info(
            "frame cache %s: %d MB are there, %d MB allowed%s",
            folder,
            self.size_bytes // 10**6,
            self.limit_bytes // 10**6,
            "" if limit_bytes else " (half of what is free; cache_bytes sets it)",
        )

    def reset(self) -> None:
        """Begin with a new lock; open files stay usable, reads have no position."""
        self._lock = threading.Lock()
        self._open: OrderedDict[str, _Open] = OrderedDict()
        self._absent: dict[str, float] = {}
        self._reserved: dict[str, int] = {}

    def find(self, key: FrameKey) -> FrameFile | None:
        """The cached frames, if they are there and sound."""
        name, now_s = key.name, time.monotonic()
        with self._lock:
            entry = self._open.get(name)
            if entry is not None:
                self._open.move_to_end(name)
                if now_s - entry.touched_s < _TOUCH_S:
                    return entry.file
                entry.touched_s = now_s
            elif self._absent.get(name, 0.0) > now_s:
                return None
        if entry is None:
            return self._find_on_disk(key, now_s)
        if entry.file.touch():
            return entry.file
        # Another process has evicted it: holding on to it would hold its space.
        with self._lock:
            self._open.pop(name, None)
        return None

    def expect(self, key: FrameKey) -> None:
        """Look for this file at the next :meth:`find`, not after a while: it was just built."""
        with self._lock:
            self._absent.pop(key.name, None)

    def drop(self, key: FrameKey, why: str, file: FrameFile | None = None) -> None:
        """Remove a file that is damaged or does not fit; it is to be built again.

        Args:
            key: Which.
            why: For the log.
            file: The one that was found wanting; another one that took its name meanwhile stays.
        """
        path = self.folder / key.name
        with self._lock:
            entry = self._open.get(key.name)
            if entry is not None and entry.file is file:
                del self._open[key.name]
            if file is not None and not file.is_at(path):
                return
            self._remove(path)
            self.rebuilds += 1
        log.warning(
            "%s: dropped (%s); frames are read from %s until it is built again",
            path,
            why,
            key.recording.identity.path,
        )

    def drop_stale(self, key: FrameKey) -> None:
        """Remove what was built from another state of the file that ``key`` is about.

        To be called when the recording is known to be as ``key`` says now.
        """
        for path in self.folder.glob(f"{key.place}-*{SUFFIX}"):
            if path.name == key.name:
                continue
            try:
                source = FrameFile.open(path).header.source
            except (Corrupt, NotFound):
                source = None
            now = key.recording.source
            if source is not None and (source.size_bytes, source.modified_ns) == (
                now.size_bytes,
                now.modified_ns,
            ):
                continue  # of other settings: not stale
            with self._lock:
                self._open.pop(path.name, None)
                self.rebuilds += 1
            log.warning("%s: dropped, %s has changed since it was built", path, now.path)
            self._remove(path)

    @contextmanager
    def room(self, key: FrameKey, size_bytes: int) -> Generator[bool]:
        """Make and keep room for a file while it is written; gives whether there is any.

        What was not used for longest is evicted for it.
        """
        with self._lock:
            there_is = self._make_room(size_bytes)
            if there_is:
                self._reserved[key.name] = size_bytes
        try:
            yield there_is
        finally:
            with self._lock:
                self._reserved.pop(key.name, None)

    def _make_room(self, size_bytes: int) -> bool:
        unfinished = {Path(name).with_suffix(_UNFINISHED).name for name in self._reserved}
        # What this process writes counts with its whole size, not with what is there of it.
        entries = [entry for entry in self._entries() if entry.path.name not in unfinished]
        entries.sort(key=lambda entry: entry.used_s)
        total = sum(entry.size_bytes for entry in entries) + sum(self._reserved.values())
        usage = shutil.disk_usage(self.folder)
        free = usage.free - int(usage.total * _SPARE_SHARE)
        idle_since_s = time.time() - self._in_use_s
        victims: list[Path] = []
        for entry in entries:
            if total + size_bytes <= self.limit_bytes and size_bytes <= free:
                break
            if entry.used_s <= idle_since_s and entry.path.suffix == SUFFIX:
                victims.append(entry.path)
                total -= entry.size_bytes
                free += entry.size_bytes
        if total + size_bytes > self.limit_bytes or size_bytes > free:
            return False
        for path in victims:
            self._open.pop(path.name, None)
            self.evictions += 1
            log.info("%s: evicted to make room", path)
            self._remove(path)
        return True

    def measure(self) -> int:
        """Count the files again; their size is ``size_bytes`` from now on."""
        entries = self._entries()
        self.size_bytes = sum(entry.size_bytes for entry in entries)
        return len({entry.path.name.partition("-")[0] for entry in entries})

    def close(self) -> None:
        """Let go of all files."""
        with self._lock:
            self._open.clear()

    def _find_on_disk(self, key: FrameKey, now_s: float) -> FrameFile | None:
        try:
            file = FrameFile.open(self.folder / key.name)
        except NotFound:
            with self._lock:
                self._absent[key.name] = now_s + _LOOK_AGAIN_S
            return None
        except Corrupt as error:
            self.drop(key, error.message)
            return None
        if not key.fits(file.header):
            self.drop(key, "it holds other frames than its name says", file)
            return None
        file.touch()
        with self._lock:
            # Whoever still reads from the one that falls out keeps it open.
            while len(self._open) >= max(1, self._most_open):
                self._open.popitem(last=False)
            self._open[key.name] = _Open(file, now_s)
        return file

    def _remove(self, path: Path) -> None:
        try:
            path.unlink(missing_ok=True)
        except OSError as error:
            log.warning("%s: cannot be removed (%s)", path, error.strerror)

    def _entries(self) -> list[_Entry]:
        found: list[_Entry] = []
        try:
            with os.scandir(self.folder) as folder:
                for entry in folder:
                    if entry.name.endswith((SUFFIX, _UNFINISHED)):
                        status = _status(entry)
                        if status is not None:
                            found.append(
                                _Entry(Path(entry.path), status.st_blocks * 512, status.st_mtime)
                            )
        except OSError as error:
            log.warning("%s: cannot be listed (%s)", self.folder, error.strerror)
        return found


@dataclass(frozen=True)
class _Entry:
    path: Path
    size_bytes: int
    used_s: float


def _status(entry: os.DirEntry[str]) -> os.stat_result | None:
    try:
        return entry.stat()
    except FileNotFoundError:  # removed by another process meanwhile
        return None


def _try_writing(folder: Path) -> None:
    probe = folder / f".write-{os.getpid()}-{threading.get_ident()}"
    try:
        probe.touch()
    finally:
        probe.unlink(missing_ok=True)
