"""Finding out once how each dataset is read, and checking that against the HDF5 library."""

from __future__ import annotations

import logging
import threading
from collections import OrderedDict
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from penstock.errors import DataFault
from penstock_sampler.forking import reset_after_fork
from penstock_sampler.metrics import IMAGE_SOURCES, SOURCE_MISMATCHES
from penstock_sampler.sources.files import FileIdentity, OpenFile, OpenFiles, unreadable
from penstock_sampler.sources.filters import NeedsHdf5
from penstock_sampler.sources.images import ImageColumn
from penstock_sampler.sources.reading import FrameSource, Hdf5Source, direct_source
from penstock_sampler.sources.scratch import Scratch
from penstock_sampler.sources.storage import Storage, read_storage

__all__ = ["FrameSources"]

log = logging.getLogger(__name__)

_KEPT_BYTES = 32 << 20
_SOURCE_BYTES = 1500
"""A source without its tables, with its key."""


@dataclass(frozen=True)
class _Seen:
    """What the HDF5 library says about a dataset.

    Attributes:
        shape: Of the dataset.
        storage: Where its frames are; None if they are left to the library.
        why: The reason for that.
        user_block_bytes: Bytes that some versions of the library leave out of addresses.
        rows: The first row and the last one.
        frames: These two, as the library reads them.
    """

    shape: tuple[int, int, int, int]
    storage: Storage | None
    why: str
    user_block_bytes: int
    rows: tuple[int, ...]
    frames: tuple[NDArray[np.uint8], ...]


class FrameSources:
    """How the datasets of many files are read; the least recently used are found out again.

    Args:
        files: Open files.
        scratch: Working memory of the reading threads.
    """

    def __init__(self, files: OpenFiles, scratch: Scratch) -> None:
        self._files, self._scratch = files, scratch
        self._said: set[str] = set()
        self.reset()
        reset_after_fork(self)

    def reset(self) -> None:
        """Forget all sources."""
        self._lock = threading.Lock()
        self._known: OrderedDict[tuple[FileIdentity, str], FrameSource] = OrderedDict()
        self._kept_bytes = 0

    def find(
        self, identity: FileIdentity, images: tuple[ImageColumn, ...]
    ) -> tuple[FrameSource, ...]:
        """How each of the cameras of a file is read.

        Raises:
            DataFault: The file cannot be read any more.
        """
        keys = [(identity, image.dataset) for image in images]
        with self._lock:
            found = [self._known.get(key) for key in keys]
            for key, source in zip(keys, found, strict=True):
                if source is not None:
                    self._known.move_to_end(key)
        sources = tuple(
            self._find(identity, image) if source is None else source
            for image, source in zip(images, found, strict=True)
        )
        if None in found and not any(isinstance(source, Hdf5Source) for source in sources):
            self._files.close_hdf5(identity)
        return sources

    def _find(self, identity: FileIdentity, image: ImageColumn) -> FrameSource:
        seen = self._files.read(identity, lambda file: _look(file, identity, image))
        source = self._check(identity, image, seen)
        with self._lock:
            key = (identity, image.dataset)
            if key in self._known:  # another thread was faster
                return self._known[key]
            self._known[key] = source
            self._kept_bytes += source.memory_bytes + _SOURCE_BYTES
            while self._kept_bytes > _KEPT_BYTES and len(self._known) > 1:
                oldest = self._known.popitem(last=False)[1]
                self._kept_bytes -= oldest.memory_bytes + _SOURCE_BYTES
        return source

    def _check(self, identity: FileIdentity, image: ImageColumn, seen: _Seen) -> FrameSource:
        """The direct source if it gives the frames that the library gave, else the library."""
        name = image.dataset
        if seen.storage is not None:
            # Whether addresses count the user block depends on the library's version.
            shifts = {0, seen.user_block_bytes}
            candidates = [
                direct_source(
                    self._files,
                    identity,
                    name,
                    seen.shape,
                    seen.storage.shifted(shift) if shift else seen.storage,
                    self._scratch,
                )
                for shift in sorted(shifts)
            ]
            right = [source for source in candidates if _gives(source, seen)]
            if len(right) == 1:
                IMAGE_SOURCES.labels(reader="direct").inc()
                return right[0]
            SOURCE_MISMATCHES.inc()
            log.warning(
                "%s: %s: frames read directly are not those that HDF5 reads: HDF5 reads them "
                "all from now on, which is slower; rewrite the file with h5repack",
                identity.path,
                name,
            )
        elif seen.why not in self._said:
            self._said.add(seen.why)
            log.info(
                "%s: %s: read through the HDF5 library, one read at a time: %s (said once)",
                identity.path,
                name,
                seen.why,
            )
        IMAGE_SOURCES.labels(reader="hdf5").inc()
        return Hdf5Source(self._files, identity, name, seen.shape)


def _look(file: OpenFile, identity: FileIdentity, image: ImageColumn) -> _Seen:
    column = file.column(image.dataset)
    sides = (image.height, image.width)
    frame = (*sides, 3) if image.order == "hwc" else (3, *sides)
    if column.shape[1:] != frame or column.dtype != np.uint8 or not column.shape[0]:
        raise unreadable(
            identity, f"it has {column.shape} {column.dtype}: expected {frame}", image.dataset
        )
    storage, why = None, ""
    try:
        storage = read_storage(column, identity.path, identity.size_bytes)
    except NeedsHdf5 as reason:
        why = str(reason)
    rows = (0, column.shape[0] - 1)
    frames = tuple(column.read(row, row + 1)[0] for row in rows) if storage else ()
    return _Seen(
        shape=(column.shape[0], frame[0], frame[1], frame[2]),
        storage=storage,
        why=why,
        user_block_bytes=file.full().userblock_size,
        rows=rows,
        frames=frames,
    )


def _gives(source: FrameSource, seen: _Seen) -> bool:
    for row, expected in zip(seen.rows, seen.frames, strict=True):
        found = np.empty(source.frame_shape, np.uint8)
        try:
            source.read([row], [found])
        except DataFault as error:
            if error.reason != "UNREADABLE":
                raise
            return False
        if not np.array_equal(found, expected):
            return False
    return True
