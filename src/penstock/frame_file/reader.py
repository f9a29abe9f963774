"""Reading cached frames: by rows, with ``pread``, every record checked against its hash.

Nothing of the file is mapped or kept: mapped pages would count as this process's memory, and an
index in memory would grow with the file.
"""

from __future__ import annotations

import contextlib
import os
import stat
import threading
import weakref
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from penstock.codecs import decode_images
from penstock.errors import Corrupt, InvalidInput, NotFound
from penstock.frame_file.header import (
    MAX_HEADER_BYTES,
    USUAL_HEADER_BYTES,
    FrameHeader,
    record_hash,
)

__all__ = ["FrameFile"]

_RUN_BYTES = 4 << 20
"""Neighbours beyond this size are read with another call; it bounds a thread's scratch memory."""

_SIZES_AT = 16
"""Where the sizes begin in an entry of the index."""

_MAX_SEGMENTS = 512
"""Pieces of memory that one call reads into; systems allow 1024."""


class FrameFile:
    """A file of cached frames, open for reading; safe to use from several threads.

    It stays readable after its name is gone. The descriptor is closed by :meth:`close`, or when the
    last reference is gone, so that whoever still reads keeps it.

    Attributes:
        header: What it holds.
        name: How errors call it.
    """

    def __init__(self, descriptor: int, name: str) -> None:
        self._descriptor = descriptor
        self._closing = weakref.finalize(self, os.close, descriptor)
        try:
            self._size_bytes = _size(descriptor, name)
            self.header, self._index_offset = _header(descriptor, self._size_bytes, name)
            self._data_offset = self.header.data_offset(self._index_offset)
        except BaseException:
            self._closing()
            raise
        self.name = name
        self._entry = self.header.entry
        self._max_rows = max(2, _RUN_BYTES // max(1, self.header.raw_record_bytes))
        if hasattr(os, "posix_fadvise"):
            # Rows are drawn at random; readahead would read megabytes around each.
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_RANDOM)

    @classmethod
    def open(cls, file: Path | int) -> FrameFile:
        """Open a path, or take over a descriptor.

        Raises:
            NotFound: There is no such file, or it may not be read.
            Corrupt: It is no sound file of cached frames.
        """
        if isinstance(file, int):
            return cls(file, f"cached frames in descriptor {file}")
        try:
            descriptor = os.open(file, os.O_RDONLY | os.O_CLOEXEC)
        except OSError as error:
            raise NotFound(f"{file}: cannot be opened ({error.strerror})") from error
        return cls(descriptor, str(file))

    def __len__(self) -> int:
        return self.header.observations

    @property
    def size_bytes(self) -> int:
        """Size of the file."""
        return self._size_bytes

    def duplicate(self) -> int:
        """Another descriptor of the file, read-only, which the caller closes."""
        return os.dup(self._descriptor)

    def touch(self) -> bool:
        """Mark the file as used now; False when it has lost its name.

        A file that belongs to another user, or lies on a read-only disk, keeps its time.
        """
        with contextlib.suppress(OSError):
            os.utime(self._descriptor)
        return os.fstat(self._descriptor).st_nlink > 0

    def is_at(self, path: Path) -> bool:
        """Whether that path is a name of this very file."""
        try:
            return os.path.samestat(path.stat(), os.fstat(self._descriptor))
        except OSError:
            return False

    def close(self) -> None:
        """Close the descriptor now; nobody may be reading."""
        self._closing()

    def read_records(self, rows: Sequence[int]) -> tuple[bytes, NDArray[np.uint32]]:
        """Encoded images as they lie in the file, for a wire.

        Args:
            rows: Observations in the order that is wanted; neighbours cost one read.

        Returns:
            The records back to back, and the encoded size of each camera's image,
            ``(n, C)`` uint32.

        Raises:
            InvalidInput: A row is out of range.
            Corrupt: The file is damaged; names it and the row.
        """
        parts: list[bytes] = []
        sizes: list[tuple[int, ...]] = []
        for start, stop in _neighbours(rows, self._max_rows):
            run = self._locate(rows[start], stop - start)
            data = _pread(self._descriptor, run.size_bytes, self._data_offset + run.at, self.name)
            self._check(run, memoryview(data))
            parts.append(data)
            sizes.extend(run.sizes)
        shape = (len(rows), len(self.header.cameras))
        image_bytes = np.array(sizes, np.uint32).reshape(shape)
        return parts[0] if len(parts) == 1 else b"".join(parts), image_bytes

    def read_into(
        self,
        rows: NDArray[np.int64],
        following: NDArray[np.int64],
        out: NDArray[np.uint8],
        places: NDArray[np.int64] | None = None,
    ) -> None:
        """Decoded frames of transitions; the interpreter lock is not held meanwhile.

        Args:
            rows: ``(n,)``: the current observation of each transition.
            following: ``(n,)``: its next observation.
            out: ``(B, 2, C, H, W, 3)``, contiguous. After an error it may hold anything.
            places: ``(n,)``: which row of ``out`` each transition goes to; None for 0 to n - 1.

        Raises:
            InvalidInput: A row or place is out of range, or ``out`` is of another shape.
            Corrupt: The file is damaged; names it and the row.
        """
        shape = (2, len(self.header.cameras), *self.header.image_shape)
        if out.shape[1:] != shape or out.dtype != np.uint8 or not out.flags.c_contiguous:
            raise InvalidInput(
                f"out has shape {out.shape} and dtype {out.dtype}: expected (n, "
                f"{', '.join(map(str, shape))}) uint8, contiguous",
                field="out",
            )
        if not self.header.cameras:
            return
        slots = out.reshape(-1, *shape[1:])
        wanted = _wanted(rows, following, places, len(out))
        ordered = sorted(wanted)
        for start, stop in _neighbours(ordered, self._max_rows):
            run = self._locate(ordered[start], stop - start)
            firsts = [wanted[row][0] for row in ordered[start:stop]]
            if self.header.codec == "raw":
                self._read_raw(run, slots, firsts)
            else:
                self._read_encoded(run, slots, firsts)
        for places_of_row in wanted.values():
            for other in places_of_row[1:]:
                slots[other] = slots[places_of_row[0]]

    def _read_raw(self, run: _Run, slots: NDArray[np.uint8], places: list[int]) -> None:
        """Let the system put the records where they belong: no copy besides."""
        # One piece of memory for each stretch of neighbouring places.
        stretches = list(_neighbours(places, _MAX_SEGMENTS))
        for batch in range(0, len(stretches), _MAX_SEGMENTS):
            views = [
                slots[places[start] : places[start] + stop - start].reshape(-1).data
                for start, stop in stretches[batch : batch + _MAX_SEGMENTS]
            ]
            at = run.at + stretches[batch][0] * self.header.raw_record_bytes
            _preadv(self._descriptor, views, self._data_offset + at, self.name)
        for number, place in enumerate(places):
            self._check_record(run, number, slots[place].reshape(-1).data)

    def _read_encoded(self, run: _Run, slots: NDArray[np.uint8], places: list[int]) -> None:
        data = _scratch(run.size_bytes)
        _preadv(self._descriptor, [data], self._data_offset + run.at, self.name)
        self._check(run, data)
        for start, stop in _neighbours(places, len(places)):
            images = slots[places[start] : places[start] + stop - start]
            try:
                decode_images(
                    self.header.codec,
                    data[run.ends[start] : run.ends[stop]],
                    np.array(run.sizes[start:stop], np.uint32).reshape(-1),
                    images.reshape(-1, *self.header.image_shape),
                )
            except Corrupt as error:
                row = run.first + start
                raise Corrupt(f"{self.name}: rows from {row} do not decode: {error}") from error

    def _locate(self, first: int, count: int) -> _Run:
        """Read the entries of neighbouring rows."""
        if first < 0 or first + count > len(self):
            row = first if first < 0 else first + count - 1
            raise InvalidInput(
                f"{self.name}: row {row}: rows go from 0 to {len(self) - 1}", field="rows"
            )
        step, most = self.header.entry_bytes, self.header.max_image_bytes
        entries = _pread(
            self._descriptor, count * step, self._index_offset + first * step, self.name
        )
        run = _Run(first, entries, step)
        for number, (offset, digest, *sizes) in enumerate(self._entry.iter_unpack(entries)):
            if number == 0:
                run.at = offset
            size = sum(sizes)
            if (
                offset != run.at + run.size_bytes
                or offset + size > self.header.data_bytes
                or (sizes and max(sizes) > most)
            ):
                raise Corrupt(
                    f"{self.name}: row {first + number}: {size} bytes at {offset} do not fit: the "
                    "index is damaged"
                )
            if self.header.codec == "raw" and size != self.header.raw_record_bytes:
                raise Corrupt(f"{self.name}: row {first + number}: {size} bytes are no raw images")
            run.digests.append(digest)
            run.sizes.append(tuple(sizes))
            run.ends.append(run.size_bytes + size)
        return run

    def _check(self, run: _Run, data: memoryview) -> None:
        for number in range(len(run.digests)):
            self._check_record(run, number, data[run.ends[number] : run.ends[number + 1]])

    def _check_record(self, run: _Run, number: int, record: memoryview) -> None:
        row, step = run.first + number, run.entry_bytes
        sizes = run.entries[number * step + _SIZES_AT : (number + 1) * step]
        if record_hash(record, row, sizes) != run.digests[number]:
            raise Corrupt(f"{self.name}: row {row} does not match its hash")


class _Run:
    """Neighbouring records: ``ends[i]`` is where record ``i`` begins, after the first one."""

    __slots__ = ("at", "digests", "ends", "entries", "entry_bytes", "first", "sizes")

    def __init__(self, first: int, entries: bytes, entry_bytes: int) -> None:
        self.first, self.entries, self.entry_bytes = first, entries, entry_bytes
        self.at = 0
        self.ends: list[int] = [0]
        self.digests: list[int] = []
        self.sizes: list[tuple[int, ...]] = []

    @property
    def size_bytes(self) -> int:
        return self.ends[-1]


class _Scratch(threading.local):
    """Memory of a thread for encoded records: fresh pages for each read cost more than the read."""

    def __init__(self) -> None:
        self.memory = bytearray(0)


_SCRATCH = _Scratch()


def _scratch(size_bytes: int) -> memoryview:
    if len(_SCRATCH.memory) < size_bytes:
        _SCRATCH.memory = bytearray(size_bytes)
    return memoryview(_SCRATCH.memory)[:size_bytes]


def _wanted(
    rows: NDArray[np.int64],
    following: NDArray[np.int64],
    places: NDArray[np.int64] | None,
    size: int,
) -> dict[int, list[int]]:
    """For each observation its places, counted in observations of ``out``."""
    count = len(rows)
    # Plain numbers: calls are often about a few rows, where arrays cost more than they give.
    at = range(count) if places is None else places.tolist()
    if (
        len(at) != count
        or len(following) != count
        or (count and not 0 <= min(at) <= max(at) < size)
    ):
        raise InvalidInput(
            f"places {list(at)!r:.100} for {count} transitions do not fit a batch of {size}",
            field="places",
        )
    wanted: dict[int, list[int]] = {}
    for row, after, place in zip(rows.tolist(), following.tolist(), at, strict=True):
        wanted.setdefault(row, []).append(2 * place)
        wanted.setdefault(after, []).append(2 * place + 1)
    return wanted


def _neighbours(numbers: Sequence[int], longest: int) -> Iterator[tuple[int, int]]:
    """Ranges of positions whose numbers ascend by one, of at most ``longest``."""
    start = 0
    for stop in range(1, len(numbers) + 1):
        if (
            stop == len(numbers)
            or numbers[stop] != numbers[stop - 1] + 1
            or stop - start == longest
        ):
            yield start, stop
            start = stop


def _header(descriptor: int, size_bytes: int, name: str) -> tuple[FrameHeader, int]:
    first = _pread(descriptor, min(USUAL_HEADER_BYTES, size_bytes), 0, name)
    wanted = FrameHeader.size_bytes(first)
    if wanted > len(first):
        first = _pread(descriptor, min(wanted, MAX_HEADER_BYTES, size_bytes), 0, name)
    header, index_offset = FrameHeader.unpack(first, name)
    expected = header.data_offset(index_offset) + header.data_bytes
    if size_bytes != expected:
        raise Corrupt(f"{name}: has {size_bytes} bytes, its header says {expected}")
    return header, index_offset


def _size(descriptor: int, name: str) -> int:
    status = os.fstat(descriptor)
    if not stat.S_ISREG(status.st_mode):
        raise Corrupt(f"{name}: is not a regular file")
    return status.st_size


def _pread(descriptor: int, size_bytes: int, offset: int, name: str) -> bytes:
    try:
        data = os.pread(descriptor, size_bytes, offset)
    except OSError as error:
        raise Corrupt(f"{name}: cannot be read at {offset} ({error.strerror})") from error
    if len(data) != size_bytes:
        raise Corrupt(f"{name}: ends at {offset + len(data)}, {size_bytes} bytes are wanted")
    return data


def _preadv(descriptor: int, views: Sequence[memoryview], offset: int, name: str) -> None:
    size_bytes = sum(view.nbytes for view in views)
    try:
        got = os.preadv(descriptor, views, offset)
    except OSError as error:
        raise Corrupt(f"{name}: cannot be read at {offset} ({error.strerror})") from error
    if got != size_bytes:
        raise Corrupt(f"{name}: ends at {offset + got}, {size_bytes} bytes are wanted")
