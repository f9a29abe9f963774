"""The folder of cached files: finding them, keeping it below its limit, dropping what is damaged.

Several processes share a folder. A file appears under its name when it is whole, so nobody sees
half of one; a file that is removed stays readable for those who have it open.
"""

from __future__ import annotations

import logging
import math
import resource
import shutil
import tempfile
import threading
import time
from collections import OrderedDict
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from penstock.errors import Corrupt, NotFound
from penstock.frame_file import FrameFile, remove_unfinished
from penstock_sampler import metrics
from penstock_sampler.cache.key import SUFFIX, FrameKey
from penstock_sampler.cache.room import Room, entries_of
from penstock_sampler.forking import reset_after_fork

__all__ = ["FrameStore"]

log = logging.getLogger(__name__)

_TOUCH_S = 60.0
_LOOK_AGAIN_S = 2.0
_IN_USE_S = 600.0
_MOST_OPEN = 2048
_MOST_ABSENT = 1 << 16


@dataclass
class _Open:
    file: FrameFile
    touched_s: float


class FrameStore:
    """Cached files of one folder; safe to use from several threads.

    A file that was used in the last ten minutes, by whichever process, is not evicted (see
    :class:`Room`). What finds no room is read on the fly.

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
        with tempfile.TemporaryFile(dir=folder):
            pass
        self.size_bytes = sum(entry.size_bytes for entry in entries_of(folder))
        self.limit_bytes = limit_bytes or self.size_bytes + shutil.disk_usage(folder).free // 2
        self.rebuilds, self.evictions = 0, 0
        self._most_open = min(_MOST_OPEN, resource.getrlimit(resource.RLIMIT_NOFILE)[0] // 2)
        self.reset()
        reset_after_fork(self)
        with self._lock:
            self._room.shrink()
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
        self._room = Room(self.folder, self.limit_bytes, self._in_use_s, self._evict)

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
            if file is None or file.is_at(path):
                source = key.recording.identity.path
                self._drop(path, f"{why}; frames are read from {source} until it is built again")

    def drop_stale(self, key: FrameKey) -> None:
        """Remove what was built, in any size, from another state of the recording of ``key``.

        To be called when the recording is known to be as ``key`` says now.
        """
        now = key.recording.source
        for path in self.folder.glob(f"{key.place}-*{SUFFIX}"):
            try:
                source = FrameFile.open(path).header.source
            except NotFound:
                continue
            except Corrupt as error:
                why = error.message
            else:
                if (source.size_bytes, source.modified_ns) == (now.size_bytes, now.modified_ns):
                    continue  # this one, or of another image size or other settings
                why = f"{now.path} has changed since it was built"
            with self._lock:
                self._open.pop(path.name, None)
                self._drop(path, why)

    @contextmanager
    def room(self, key: FrameKey, size_bytes: int) -> Generator[bool]:
        """Make and keep room for a file while it is written; gives whether there is any.

        What was not used for longest is evicted for it.
        """
        try:
            yield self.enlarge(key, size_bytes)
        finally:
            with self._lock:
                self._room.release(key.name)

    def enlarge(self, key: FrameKey, size_bytes: int) -> bool:
        """Make room for a file that grows beyond what was expected; gives whether there is any."""
        with self._lock:
            return self._room.reserve(key.name, size_bytes)

    def measure(self) -> int:
        """Count the recordings whose frames are here; ``size_bytes`` is their size from now on."""
        entries = entries_of(self.folder)
        self.size_bytes = sum(entry.size_bytes for entry in entries)
        with self._lock:
            self._close_unused(time.monotonic(), self._most_open)
        return len({entry.path.name.partition("-")[0] for entry in entries if entry.finished})

    def close(self) -> None:
        """Let go of all files."""
        with self._lock:
            self._open.clear()

    def _find_on_disk(self, key: FrameKey, now_s: float) -> FrameFile | None:
        try:
            file = FrameFile.open(self.folder / key.name)
        except NotFound:
            with self._lock:
                if len(self._absent) >= _MOST_ABSENT:
                    self._absent.clear()
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
            self._close_unused(now_s, self._most_open - 1)
            self._open[key.name] = _Open(file, now_s)
        return file

    def _close_unused(self, now_s: float, most: int) -> None:
        """Let go of files that were not used for long, or of the oldest if there are too many.

        Whoever still reads from one keeps it open. One that is open keeps its space on the disk
        even if another process evicts it.
        """
        while self._open:
            name, oldest = next(iter(self._open.items()))
            if len(self._open) <= most and now_s - oldest.touched_s < self._in_use_s + _TOUCH_S:
                break
            del self._open[name]

    def _drop(self, path: Path, why: str) -> None:
        """Remove what must not be served; whoever removes it counts it."""
        why = why.removeprefix(f"{path}: ")
        try:
            path.unlink()
        except FileNotFoundError:
            return
        except OSError as error:
            # Said once, as it is not opened again; it may be of another user.
            self._absent[path.name] = math.inf
            log.warning("%s: not used, cannot be removed (%s): %s", path, error.strerror, why)
            return
        self.rebuilds += 1
        metrics.CACHE_REBUILDS.inc()
        log.warning("%s: dropped, %s", path, why)

    def _evict(self, path: Path) -> None:
        self._open.pop(path.name, None)
        try:
            path.unlink(missing_ok=True)
        except OSError as error:
            log.warning("%s: cannot be evicted (%s)", path, error.strerror)
            return
        self.evictions += 1
        metrics.CACHE_EVICTIONS.inc()
        log.info("%s: evicted to make room", path)
