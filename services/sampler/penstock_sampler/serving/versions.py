"""The versions of a dataset that are served: none yet, the newest, and those still in use.

Files come, go and change while a sampler runs. Each change makes a new version of the dataset,
which is opened beside the old one; a run that began with the old one goes on with it.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Generator
from dataclasses import dataclass, field
from typing import Self

import structlog

from penstock.backends import ReplicaBackend
from penstock.errors import Conflict, DataFault, NotFound, PenstockError
from penstock_sampler import metrics

__all__ = ["ServedVersions"]

log = structlog.get_logger(__name__)

KEPT_VERSIONS = 2
"""Older versions that stay open, beside the newest."""


@dataclass(eq=False)
class _Opened:
    version: str
    backend: ReplicaBackend
    users: int = 0
    retired: bool = False


class ServedVersions:
    """Opens a dataset when there is one, and again when its files have changed.

    Args:
        open_backend: Opens the dataset as its files are now; raises NotFound or DataFault while
            there is nothing to serve.
    """

    def __init__(self, open_backend: Callable[[], ReplicaBackend]) -> None:
        self._open_backend = open_backend
        self._versions: list[_Opened] = []  # the newest one last
        self._lock = threading.Lock()
        self._opening = threading.Lock()

    @classmethod
    def of(cls, backend: ReplicaBackend) -> Self:
        """One dataset that is open already and stays as it is."""
        served = cls(lambda: backend)
        served.open()
        return served

    def open(self) -> None:
        """Open the dataset if that has not been done.

        Raises:
            NotFound: No file matches.
            DataFault: No file can be served.
        """
        with self._opening:
            if not self._versions:
                self._add(self._open_backend())

    def reopen(self) -> bool:
        """Open the dataset as its files are now; returns whether it is another one than before.

        Raises:
            NotFound: No file matches; what is open stays.
            DataFault: No file can be served; likewise.
        """
        with self._opening:
            known = {opened.version for opened in self._versions}
            backend = self._open_backend()
            self._add(backend)
            return backend.info().version not in known

    @contextlib.contextmanager
    def use(self, version: str = "") -> Generator[ReplicaBackend]:
        """Hold one version open.

        Args:
            version: Of the dataset; empty for the newest.

        Raises:
            Conflict: That version is not served, or no longer.
            DataFault: There is no dataset yet (reason ``NO_DATA_YET``); says what was looked for.
        """
        self._found()
        with self._lock:
            opened = self._named(version)
            opened.users += 1
        try:
            yield opened.backend
        finally:
            with self._lock:
                opened.users -= 1
                finished = opened.retired and not opened.users
            if finished:
                opened.backend.close()

    def close(self) -> None:
        """Close every version, at once or when its last user has gone."""
        with self._lock:
            retired, self._versions = self._versions, []
        self._retire(retired)

    def _found(self) -> None:
        if self._versions:
            return
        try:
            self.open()
        except (NotFound, DataFault) as error:
            raise DataFault(
                f"nothing to serve yet, the sampler looks again at the next call: {error.message}",
                reason="NO_DATA_YET",
                metadata=error.metadata,
            ) from error

    def _named(self, version: str) -> _Opened:
        for opened in reversed(self._versions):
            if version in ("", opened.version):
                return opened
        served = self._versions[-1].version if self._versions else ""
        raise Conflict(
            f"dataset version {version!r} is asked for, {served!r} is served: the files have "
            "changed, open the dataset again",
            reason="DATASET_VERSION",
            metadata={"asked": version, "served": served},
        )

    def _add(self, backend: ReplicaBackend) -> None:
        info = backend.info()
        with self._lock:
            # The same version again: its files were touched or copied, the new one reads them.
            same = [opened for opened in self._versions if opened.version == info.version]
            others = [opened for opened in self._versions if opened.version != info.version]
            outdated, kept = others[:-KEPT_VERSIONS], others[-KEPT_VERSIONS:]
            self._versions = [*kept, _Opened(info.version, backend)]
        metrics.FILES.set(len(info.files))
        metrics.REFUSED_FILES.set(len(info.refused))
        metrics.DROPPED_ROWS.set(info.dropped_rows)
        self._retire([*same, *outdated])

    def _retire(self, versions: list[_Opened]) -> None:
        for opened in versions:
            with self._lock:
                opened.retired = True
                unused = not opened.users
            if unused:
                opened.backend.close()


@dataclass
class Watch:
    """Looks at the files of a dataset from time to time, and opens it again when they differ.

    A set of files that still changes between two looks is left alone until it rests: a recording
    that is being written is not opened half-way.

    Args:
        served: What to open again.
        look: A value that differs when the files do; raises NotFound when there are none.
        every_s: Seconds between two looks.
    """

    served: ServedVersions
    look: Callable[[], object]
    every_s: float
    _end: threading.Event = field(default_factory=threading.Event)
    _thread: threading.Thread | None = None

    def start(self) -> None:
        """Begin; what is there now counts as known."""
        self._known = self._seen = self._looked()
        self._thread = threading.Thread(target=self._run, name="watch-files", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """End, and wait for a look that is under way."""
        self._end.set()
        if self._thread is not None:
            self._thread.join()

    def step(self) -> bool:
        """Look once; returns whether the dataset was opened again."""
        seen, self._seen = self._seen, self._looked()
        if self._seen == self._known or self._seen != seen:
            return False
        self._known = self._seen
        try:
            changed = self.served.reopen()
        except PenstockError as error:
            log.warning(
                "files have changed and cannot be served; what was served stays",
                reason=error.reason,
                error=error.message,
            )
            return False
        metrics.DATASET_CHANGES.inc()
        with self.served.use() as backend:
            info = backend.info()
        log.info(
            "files have changed" if changed else "files were touched, their content is the same",
            version=info.version,
            files=len(info.files),
            refused=len(info.refused),
            transitions=info.transitions,
        )
        return True

    def _looked(self) -> object:
        try:
            return self.look()
        except (NotFound, OSError) as error:
            # Not silent: opening it says the same in full, once, in step().
            return type(error)

    def _run(self) -> None:
        while not self._end.wait(self.every_s):
            self.step()
