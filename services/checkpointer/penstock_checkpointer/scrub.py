"""The scrub: a thread that checks every stored byte again once the last check is old enough."""

from __future__ import annotations

import io
import threading
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from types import TracebackType
from typing import TYPE_CHECKING, BinaryIO, Protocol, Self

import structlog

from penstock.checkpoints import CheckpointInfo
from penstock.errors import Corrupt, InvalidInput, LimitExceeded, NotFound, PenstockError

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

__all__ = ["ScrubbedStore", "Scrubber"]

log = structlog.get_logger(__name__)

_READ_BYTES = 1 << 20
_LOOK_EVERY_S = 60.0
"""Other processes may delete and add checkpoints meanwhile."""

_AFTER_FAILURE_S = 60.0


class ScrubbedStore(Protocol):
    """What the scrub needs of a store."""

    counts: Counter[str]

    def least_recently_verified(self) -> CheckpointInfo | None:
        """The checkpoint whose bytes were not checked for the longest time."""
        ...

    def check(
        self, info: CheckpointInfo, through: Callable[[BinaryIO], BinaryIO] | None = None
    ) -> None:
        """Check every byte, read ``through`` what wraps the file, and mark what was found."""
        ...


class Scrubber:
    """Checks one checkpoint at a time, the one that was checked longest ago first.

    Leaving the ``with`` block, or ``close``, stops it within one read.

    Args:
        store: Whose checkpoints.
        interval_s: Age of the last check at which the next is due.
        bytes_per_s: How fast files are read at most.
    """

    def __init__(self, store: ScrubbedStore, interval_s: float, bytes_per_s: float) -> None:
        self._store, self._interval_s, self._bytes_per_s = store, interval_s, bytes_per_s
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="scrub", daemon=True)

    def start(self) -> None:
        """Begin to check."""
        self._thread.start()

    def close(self) -> None:
        """Stop and wait for the thread; a check that is under way is given up."""
        self._stopping.set()
        if self._thread.is_alive():
            self._thread.join()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _run(self) -> None:
        pause_s = 0.0
        while not self._stopping.wait(pause_s):
            try:
                pause_s = self._check_next()
            except _Stopped:
                return
            except Exception as error:  # noqa: BLE001 - a thread that ends would check nothing
                self._store.counts["scrub_failures"] += 1
                log.warning("scrub failed, tries again", error=str(error), after_s=_AFTER_FAILURE_S)
                pause_s = _AFTER_FAILURE_S

    def _check_next(self) -> float:
        """Check what is due; returns for how long there is nothing to do."""
        info = self._store.least_recently_verified()
        if info is None:
            return min(self._interval_s, _LOOK_EVERY_S)
        age_s = time.time() - info.verified_unix_ms / 1000
        # A check from the future was made before the clock was put right.
        if 0 <= age_s < self._interval_s:
            return min(self._interval_s - age_s, _LOOK_EVERY_S)
        # Damage was marked and logged by the check; what is not found was deleted meanwhile.
        with suppress(Corrupt, InvalidInput, LimitExceeded, NotFound):
            self._store.check(info, self._paced)
        self._store.counts["checkpoints_scrubbed"] += 1
        return 0.0

    def _paced(self, file: BinaryIO) -> BinaryIO:
        return io.BufferedReader(_Paced(file, self._bytes_per_s, self._stopping), _READ_BYTES)


class _Stopped(PenstockError):
    """The scrub is stopping: raised out of a read."""


class _Paced(io.RawIOBase):
    """A file that is read no faster than it may be, and no more once ``stopping`` is set."""

    def __init__(self, file: BinaryIO, bytes_per_s: float, stopping: threading.Event) -> None:
        super().__init__()
        self._file, self._bytes_per_s, self._stopping = file, bytes_per_s, stopping
        self._free_at_s = time.monotonic()
        self.name = str(getattr(file, "name", "checkpoint"))

    def readable(self) -> bool:
        """It is."""
        return True

    def seekable(self) -> bool:
        """It is."""
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET, /) -> int:
        """Move to a place."""
        return self._file.seek(offset, whence)

    def readinto(self, buffer: WriteableBuffer, /) -> int:
        """Read when it is time to."""
        if self._stopping.wait(max(0.0, self._free_at_s - time.monotonic())):
            raise _Stopped("the scrub was stopped")
        out = memoryview(buffer).cast("B")
        data = self._file.read(len(out))
        out[: len(data)] = data
        self._free_at_s = max(self._free_at_s, time.monotonic()) + len(data) / self._bytes_per_s
        return len(data)
