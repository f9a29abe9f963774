"""Open files: a bounded number of them, the least recently used one closed first.

A file is open in up to two ways: as a plain descriptor, from which any number of threads read at a
time, and as an HDF5 file, which one thread at a time uses because the HDF5 library has one lock for
all. Both count towards the same limit.
"""

from __future__ import annotations

import os
import threading
from collections import OrderedDict
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, TypeVar

from penstock.errors import DataFault
from penstock_sampler.forking import reset_after_fork
from penstock_sampler.sources.opening import HDF5_ERRORS, Hdf5File

__all__ = ["FileIdentity", "OpenFile", "OpenFiles", "unreadable"]

T = TypeVar("T")


@dataclass(frozen=True)
class FileIdentity:
    """A file as it was when it was indexed."""

    path: Path
    size_bytes: int
    modified_ns: int

    @classmethod
    def of(cls, path: Path) -> FileIdentity:
        """The file as it is now.

        Raises:
            DataFault: It cannot be found.
        """
        status = _status(path)
        return cls(path, status.st_size, status.st_mtime_ns)

    def check(self, status: os.stat_result) -> None:
        """Compare with the file as it is now.

        Raises:
            DataFault: Reason ``CHANGED``: size or time of change are others.
        """
        if (status.st_size, status.st_mtime_ns) != (self.size_bytes, self.modified_ns):
            raise DataFault(
                f"{self.path}: was changed since it was indexed ({self.size_bytes} bytes then): "
                "open the dataset again, or restart the sampler",
                reason="CHANGED",
                metadata={"file": str(self.path)},
            )


def unreadable(identity: FileIdentity, what: object, dataset: str = "") -> DataFault:
    """The fault of a file that was served and cannot be read any more.

    Args:
        identity: The file.
        what: What is wrong.
        dataset: Where, if it is known.
    """
    place = f"{dataset}: " if dataset else ""
    return DataFault(
        f"{identity.path}: cannot be read any more ({place}{what}): restore the file, then open "
        "the dataset again",
        reason="UNREADABLE",
        metadata={"file": str(identity.path)} | ({"dataset": dataset} if dataset else {}),
    )


class OpenFile(Hdf5File):
    """An HDF5 file that is open, with the datasets that were used; finding one costs a read.

    Args:
        identity: The file.

    Raises:
        DataFault: It does not open, or is another one by now.
    """

    def __init__(self, identity: FileIdentity) -> None:
        identity.check(_status(identity.path))
        self.path = identity.path
        super().__init__(identity.path)
        self.users = 0


class _Descriptor:
    """A file that is open for reads at any place of it."""

    def __init__(self, identity: FileIdentity) -> None:
        try:
            self.number = os.open(identity.path, os.O_RDONLY | os.O_CLOEXEC)
        except OSError as error:
            # Says how it is gone.
            identity.check(_status(identity.path))
            raise unreadable(identity, error.strerror) from error
        try:
            identity.check(os.fstat(self.number))
        except DataFault:
            os.close(self.number)
            raise
        # Rows are drawn at random: what the kernel would read ahead is read in vain.
        os.posix_fadvise(self.number, 0, 0, os.POSIX_FADV_RANDOM)
        self.users = 0

    def close(self) -> None:
        os.close(self.number)


class _Handle(Protocol):
    users: int

    def close(self) -> None: ...


_Key = tuple[FileIdentity, type[OpenFile] | type[_Descriptor]]
H = TypeVar("H", OpenFile, _Descriptor)


class OpenFiles:
    """Hands out open files; safe to use from several threads.

    A caller that holds one must not ask for another: with ``limit`` callers doing so, all would
    wait. Handles are not carried over a fork; the child opens its own.

    Args:
        limit: Most files that are open at a time.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self.reset()
        reset_after_fork(self)

    def reset(self) -> None:
        """Forget all handles without closing them."""
        self._hdf5 = threading.Lock()
        self._changed = threading.Condition()
        self._open: OrderedDict[_Key, _Handle] = OrderedDict()
        self._opening = 0

    def read(self, identity: FileIdentity, action: Callable[[OpenFile], T]) -> T:
        """Run ``action`` with the HDF5 file, no other one running, and return what it returns.

        Raises:
            DataFault: The file is gone, was replaced since it was indexed, or cannot be read.
        """
        with self._hdf5:
            file = self._acquire(identity, OpenFile)
            try:
                return action(file)
            except HDF5_ERRORS as error:
                # A damaged handle must not serve the next call.
                self._forget((identity, OpenFile))
                raise unreadable(identity, error) from error
            finally:
                self._release((identity, OpenFile), file)

    @contextmanager
    def descriptor(self, identity: FileIdentity) -> Generator[int]:
        """A descriptor to read from by ``preadv`` while in the context.

        Raises:
            DataFault: The file is gone, or was changed or replaced since it was indexed.
        """
        key = (identity, _Descriptor)
        file = self._acquire(identity, _Descriptor)
        try:
            # A file that is written to in place keeps its descriptor, not its time of change.
            identity.check(os.fstat(file.number))
            yield file.number
        except OSError as error:
            self._forget(key)
            raise unreadable(identity, error.strerror) from error
        except DataFault:
            self._forget(key)
            raise
        finally:
            self._release(key, file)

    def close_hdf5(self, identity: FileIdentity) -> None:
        """Close the HDF5 file, which nobody is expected to need soon."""
        with self._hdf5:
            self._forget((identity, OpenFile))

    def close(self) -> None:
        """Close all files; one that is in use, as soon as it is not."""
        with self._changed:
            for key in tuple(self._open):
                self._forget(key)

    def _acquire(self, identity: FileIdentity, kind: type[H]) -> H:
        key = (identity, kind)
        with self._changed:
            while True:
                handle = self._open.get(key)
                if isinstance(handle, kind):
                    self._open.move_to_end(key)
                    handle.users += 1
                    return handle
                if len(self._open) + self._opening < self._limit or self._close_idle():
                    break
                self._changed.wait()
            self._opening += 1
        # Outside the lock: opening may take long, and others can read meanwhile.
        opened: list[H] = []
        try:
            opened.append(kind(identity))
        finally:
            with self._changed:
                self._opening -= 1
                for handle in opened:
                    other = self._open.get(key)
                    if isinstance(other, kind):  # another thread was faster
                        handle.close()
                        opened = [other]
                    self._open[key] = opened[0]
                    opened[0].users += 1
                self._changed.notify_all()
        return opened[0]

    def _release(self, key: _Key, handle: _Handle) -> None:
        with self._changed:
            handle.users -= 1
            if not handle.users:
                if self._open.get(key) is not handle:  # forgotten while it was in use
                    handle.close()
                self._changed.notify_all()

    def _forget(self, key: _Key) -> None:
        with self._changed:
            handle = self._open.pop(key, None)
            if handle is not None and not handle.users:
                handle.close()
            self._changed.notify_all()

    def _close_idle(self) -> bool:
        for key, handle in self._open.items():
            if not handle.users:
                del self._open[key]
                handle.close()
                return True
        return False


def _status(path: Path) -> os.stat_result:
    try:
        return path.stat()
    except OSError as error:
        raise DataFault(
            f"{path}: cannot be found ({error.strerror}): check the path",
            reason="MISSING",
            metadata={"file": str(path)},
        ) from error
