"""Records of one file of cached frames: read with ``pread``, checked against their hashes, decoded.

Nothing of the file is mapped or kept: mapped pages would count as this process's memory, and an
index in memory would grow with the file. This is what the native library does in one call for many
files, and what says in words what is wrong with one.
"""

from __future__ import annotations

import os
import struct
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from penstock.codecs import IMAGE_CODECS, decode_images
from penstock.errors import Corrupt, InvalidInput
from penstock.frame_file.header import FrameHeader, record_hash

__all__ = ["Records", "Run", "read_exactly"]

_RUN_BYTES = 4 << 20
"""Neighbours beyond this size are read with another call; it bounds a thread's scratch memory."""

_SIZES_AT = 16
"""Where the sizes begin in an entry of the index."""

_MAX_SEGMENTS = 512
"""Pieces of memory that one call reads into; systems allow 1024."""


@dataclass(frozen=True)
class Records:
    """Where the records of an open file are.

    Attributes:
        descriptor: Of the file; who made this closes it.
        name: How errors call the file.
        header: What it holds.
        index_offset: Where its index begins.
    """

    descriptor: int
    name: str
    header: FrameHeader
    index_offset: int

    @cached_property
    def data_offset(self) -> int:
        """Where the first record begins."""
        return self.header.data_offset(self.index_offset)

    @cached_property
    def native_fields(self) -> tuple[int, ...]:
        """What the native library is told of the file; see ``Kernels.read_frames``."""
        header = self.header
        codec = IMAGE_CODECS.index(header.codec)
        return (
            *(self.descriptor, codec, header.observations),
            *(self.index_offset, self.data_offset, header.data_bytes),
        )

    def read(self, rows: Sequence[int]) -> tuple[bytes, NDArray[np.uint32]]:
        """Encoded images as they lie in the file; see ``FrameFile.read_records``.

        Raises:
            InvalidInput: A row is out of range.
            Corrupt: The file is damaged; names it and the row.
        """
        runs = self.locate(rows)
        data = bytearray(sum(run.size_bytes for run in runs))
        view, at = memoryview(data), 0
        for run in runs:
            self.read_run(run, view[at : at + run.size_bytes])
            at += run.size_bytes
        shape = (len(rows), len(self.header.cameras))
        sizes = [image for run in runs for image in run.sizes]
        return bytes(data), np.array(sizes, np.uint32).reshape(shape)

    def locate(self, rows: Sequence[int]) -> list[Run]:
        """Where the records of rows lie: neighbours together, in the order that is wanted.

        Raises:
            InvalidInput: A row is out of range.
            Corrupt: The index is damaged; names file and row.
        """
        return [
            self._locate(rows[start], stop - start)
            for start, stop in _neighbours(rows, self._max_rows)
        ]

    def read_run(self, run: Run, into: memoryview) -> None:
        """Read the records of a run into memory of just their size.

        Raises:
            Corrupt: The file is damaged; names it and the row.
        """
        _preadv(self.descriptor, [into], self.data_offset + run.at, self.name)
        self._check(run, into)

    def decode(self, wanted: Mapping[int, Sequence[int]], slots: NDArray[np.uint8]) -> None:
        """Decode observations.

        Args:
            wanted: For each row the places of ``slots`` that it goes to, at least one.
            slots: ``(N, C, H, W, 3)``, contiguous.

        Raises:
            InvalidInput: A row is out of range.
            Corrupt: The file is damaged; names it and the row.
        """
        ordered = sorted(wanted)
        for start, stop in _neighbours(ordered, self._max_rows):
            run = self._locate(ordered[start], stop - start)
            firsts = [wanted[row][0] for row in ordered[start:stop]]
            if self.header.codec == "raw":
                self._read_raw(run, slots, firsts)
            else:
                self._read_encoded(run, slots, firsts)
        for places in wanted.values():
            for other in places[1:]:
                slots[other] = slots[places[0]]

    @cached_property
    def _entry(self) -> struct.Struct:
        return self.header.entry

    @cached_property
    def _max_rows(self) -> int:
        return max(2, _RUN_BYTES // max(1, self.header.raw_record_bytes))

    def _read_raw(self, run: Run, slots: NDArray[np.uint8], places: list[int]) -> None:
        """Let the system put the records where they belong: no copy besides."""
        # One piece of memory for each stretch of neighbouring places.
        stretches = list(_neighbours(places, _MAX_SEGMENTS))
        for batch in range(0, len(stretches), _MAX_SEGMENTS):
            views = [
                slots[places[start] : places[start] + stop - start].reshape(-1).data
                for start, stop in stretches[batch : batch + _MAX_SEGMENTS]
            ]
            at = run.at + stretches[batch][0] * self.header.raw_record_bytes
            _preadv(self.descriptor, views, self.data_offset + at, self.name)
        for number, place in enumerate(places):
            self._check_record(run, number, slots[place].reshape(-1).data)

    def _read_encoded(self, run: Run, slots: NDArray[np.uint8], places: list[int]) -> None:
        data = _scratch(run.size_bytes)
        _preadv(self.descriptor, [data], self.data_offset + run.at, self.name)
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

    def _locate(self, first: int, count: int) -> Run:
        """Read the entries of neighbouring rows."""
        rows = self.header.observations
        if first < 0 or first + count > rows:
            row = first if first < 0 else first + count - 1
            raise InvalidInput(
                f"{self.name}: row {row}: rows go from 0 to {rows - 1}", field="rows"
            )
        step, most = self.header.entry_bytes, self.header.max_image_bytes
        entries = read_exactly(
            self.descriptor, count * step, self.index_offset + first * step, self.name
        )
        run = Run(first, entries, step)
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

    def _check(self, run: Run, data: memoryview) -> None:
        for number in range(len(run.digests)):
            self._check_record(run, number, data[run.ends[number] : run.ends[number + 1]])

    def _check_record(self, run: Run, number: int, record: memoryview) -> None:
        row, step = run.first + number, run.entry_bytes
        sizes = run.entries[number * step + _SIZES_AT : (number + 1) * step]
        if record_hash(record, row, sizes) != run.digests[number]:
            raise Corrupt(f"{self.name}: row {row} does not match its hash")


class Run:
    """Neighbouring records: ``ends[i]`` is where record ``i`` begins, after the first one."""

    __slots__ = ("at", "digests", "ends", "entries", "entry_bytes", "first", "sizes")

    def __init__(self, first: int, entries: bytes, entry_bytes: int) -> None:
        self.first, self.entries, self.entry_bytes = first, entries, entry_bytes
        self.at = 0
        self.ends: list[int] = [0]
        self.digests: list[int] = []
        self.sizes: list[tuple[int, ...]] = []

    def __len__(self) -> int:
        return len(self.sizes)

    @property
    def size_bytes(self) -> int:
        """Of all records together."""
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


def read_exactly(descriptor: int, size_bytes: int, offset: int, name: str) -> bytes:
    """So many bytes of a file.

    Raises:
        Corrupt: It ends before, or cannot be read; ``name`` names it.
    """
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
