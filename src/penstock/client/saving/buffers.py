"""Memory that the training process fills and the uploading process reads."""

from __future__ import annotations

import itertools
import mmap
import os
import tempfile

import numpy as np
import numpy.typing as npt

from penstock.container.device import lock_pages, unlock_pages
from penstock.errors import LimitExceeded

__all__ = ["Buffer", "map_buffer"]

_ids = itertools.count(1)


class Buffer:
    """A piece of shared memory without a name: it is gone with the processes that hold it.

    Its pages are there from the start, so that the first copy into it is as fast as the next.

    Args:
        size_bytes: Of it.

    Raises:
        LimitExceeded: There is no memory for it.
    """

    def __init__(self, size_bytes: int) -> None:
        self.number = next(_ids)
        self._locked = False
        self.size_bytes = max(1, size_bytes)
        self.handle = _open()
        try:
            # Not /dev/shm, which a container has 64 MB of; and reserved, for a page that cannot be
            # had later kills the process.
            os.posix_fallocate(self.handle, 0, self.size_bytes)
            self._map = mmap.mmap(self.handle, self.size_bytes)
        except OSError as error:
            os.close(self.handle)
            raise LimitExceeded(
                f"no memory for a snapshot of {self.size_bytes} bytes ({error.strerror}): save "
                "less often, with a shorter queue, or less of the state",
                reason="NO_MEMORY",
            ) from error
        self.array: npt.NDArray[np.uint8] = np.frombuffer(self._map, np.uint8)
        # Mapped page by page here, where NumPy lets other threads run; mmap itself would not.
        self.array[:: mmap.PAGESIZE] = 0

    def lock_pages(self) -> None:
        """Keep the pages in memory for a CUDA device, which then copies by itself."""
        if not self._locked:
            self._locked = lock_pages(self.array)

    def close(self) -> None:
        """Give the memory back as soon as nothing looks at it any more."""
        if self._locked:
            unlock_pages(self.array)
        os.close(self.handle)
        del self.array, self._map


def map_buffer(handle: int, size_bytes: int) -> npt.NDArray[np.uint8]:
    """The buffer behind a handle, read-only; the handle is closed."""
    try:
        return np.frombuffer(mmap.mmap(handle, size_bytes, prot=mmap.PROT_READ), np.uint8)
    finally:
        os.close(handle)


def _open() -> int:
    if hasattr(os, "memfd_create"):
        return os.memfd_create("penstock-snapshot", os.MFD_CLOEXEC)
    with tempfile.TemporaryFile(prefix="penstock-snapshot-") as file:
        return os.dup(file.fileno())
