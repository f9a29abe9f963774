"""Files of cached frames, open for reading, and the transitions of many of them at once."""

from __future__ import annotations

import contextlib
import os
import stat
import weakref
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from penstock import native
from penstock.errors import Corrupt, InvalidInput, NotFound, PenstockError
from penstock.frame_file.header import MAX_HEADER_BYTES, USUAL_HEADER_BYTES, FrameHeader
from penstock.frame_file.records import Records, read_exactly

__all__ = ["FrameFile", "Piece", "read_pieces"]


class FrameFile:
    """A file of cached frames, open for reading; safe to use from several threads.

    It stays readable after its name is gone. The descriptor is closed by :meth:`close`, or when the
    last reference is gone, so that whoever still reads keeps it.

    Attributes:
        header: What it holds.
        name: How errors call it.
    """

    def __init__(self, descriptor: int, name: str) -> None:
        self._closing = weakref.finalize(self, os.close, descriptor)
        try:
            self._size_bytes = _size(descriptor, name)
            self.header, index_offset = _header(descriptor, self._size_bytes, name)
        except BaseException:
            self._closing()
            raise
        self.name = name
        self.records = Records(descriptor, name, self.header, index_offset)
        if hasattr(os, "posix_fadvise"):
            # Rows are drawn at random; readahead would read megabytes around each.
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_RANDOM)

    @classmethod
    def open(cls, file: Path | int, name: str = "") -> FrameFile:
        """Open a path, or take over a descriptor.

        Args:
            file: Which; a descriptor is closed here, even if this raises.
            name: How errors call it; empty for the path, or the number of the descriptor.

        Raises:
            NotFound: There is no such file, or it may not be read.
            Corrupt: It is no sound file of cached frames.
        """
        if isinstance(file, int):
            return cls(file, name or f"cached frames in descriptor {file}")
        try:
            descriptor = os.open(file, os.O_RDONLY | os.O_CLOEXEC)
        except OSError as error:
            raise NotFound(f"{file}: cannot be opened ({error.strerror})") from error
        return cls(descriptor, name or str(file))

    def __len__(self) -> int:
        return self.header.observations

    @property
    def size_bytes(self) -> int:
        """Size of the file."""
        return self._size_bytes

    def duplicate(self) -> int:
        """Another descriptor of the file, read-only, which the caller closes."""
        return os.dup(self.records.descriptor)

    def touch(self) -> bool:
        """Mark the file as used now; False when it has lost its name.

        A file that belongs to another user, or lies on a read-only disk, keeps its time.
        """
        with contextlib.suppress(OSError):
            os.utime(self.records.descriptor)
        return os.fstat(self.records.descriptor).st_nlink > 0

    def is_at(self, path: Path) -> bool:
        """Whether that path is a name of this very file."""
        try:
            return os.path.samestat(path.stat(), os.fstat(self.records.descriptor))
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
        return self.records.read(rows)

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
        at = np.arange(len(rows)) if places is None else places
        for error in read_pieces([Piece(self, rows, following, at)], out).values():
            raise error


@dataclass(frozen=True)
class Piece:
    """Transitions of one file.

    Attributes:
        file: Which.
        rows: ``(n,)``: the current observation of each transition.
        following: ``(n,)``: its next observation.
        places: ``(n,)``: which row of the batch it goes to.
    """

    file: FrameFile
    rows: NDArray[np.int64]
    following: NDArray[np.int64]
    places: NDArray[np.int64]


def read_pieces(pieces: Sequence[Piece], out: NDArray[np.uint8]) -> dict[int, PenstockError]:
    """Decoded frames of transitions of many files; the interpreter lock is not held meanwhile.

    Args:
        pieces: Of files of the same cameras and image size.
        out: ``(B, 2, C, H, W, 3)``, contiguous.

    Returns:
        What is wrong with a piece, by its index: Corrupt, when the file is damaged, or InvalidInput
        for a row that is out of range, both naming file and row. Its places may hold anything.

    Raises:
        InvalidInput: ``out`` is of another shape, or has no such place.
    """
    for file in {piece.file for piece in pieces}:
        _check_shape(file.header, out)
    wanted = [_wanted(piece, len(out)) for piece in pieces]
    slots = out.reshape(-1, *out.shape[2:])
    faults: dict[int, PenstockError] = {}
    kernels, hash_address = native.kernels(), native.xxh3_address()
    if not slots.size:
        return faults
    if kernels is None or not hash_address:
        for number, piece in enumerate(pieces):
            _read_plainly(number, piece, wanted[number], slots, faults)
        return faults
    table, first_of_piece, places = _table(wanted)
    files = np.array([piece.file.records.native_fields for piece in pieces], np.int64)
    images = slots.reshape(*slots.shape[:3], -1)
    done = 0
    while done < len(table):
        done += kernels.read_frames(hash_address, files, table[done:], places, images)
        if done < len(table):
            number = int(table[done, 0])
            _read_plainly(number, pieces[number], wanted[number], slots, faults)
            done = first_of_piece[number + 1]
    return faults


_Wanted = dict[int, list[int]]
"""For each observation its places, counted in observations of the batch."""


def _read_plainly(
    number: int,
    piece: Piece,
    wanted: _Wanted,
    slots: NDArray[np.uint8],
    faults: dict[int, PenstockError],
) -> None:
    try:
        piece.file.records.decode(wanted, slots)
    except (Corrupt, InvalidInput) as error:
        faults[number] = error


def _wanted(piece: Piece, size: int) -> _Wanted:
    # Plain numbers: pieces often have a few rows, where arrays cost more than they give.
    count, places = len(piece.rows), piece.places.tolist()
    if (
        len(places) != count
        or len(piece.following) != count
        or (count and not 0 <= min(places) <= max(places) < size)
    ):
        raise InvalidInput(
            f"places {places!r:.100} for {count} transitions do not fit a batch of {size}",
            field="places",
        )
    wanted: _Wanted = {}
    rows, following = piece.rows.tolist(), piece.following.tolist()
    for row, after, place in zip(rows, following, places, strict=True):
        wanted.setdefault(row, []).append(2 * place)
        wanted.setdefault(after, []).append(2 * place + 1)
    return wanted


def _table(wanted: Sequence[_Wanted]) -> tuple[NDArray[np.int64], list[int], NDArray[np.int64]]:
    """What the kernel is told: observations, where those of each piece begin, all places."""
    table: list[tuple[int, int, int, int]] = []
    firsts: list[int] = []
    places: list[int] = []
    for number, of_piece in enumerate(wanted):
        firsts.append(len(table))
        for row in sorted(of_piece):
            table.append((number, row, len(places), len(of_piece[row])))
            places += of_piece[row]
    firsts.append(len(table))
    return np.array(table, np.int64), firsts, np.array(places, np.int64)


def _check_shape(header: FrameHeader, out: NDArray[np.uint8]) -> None:
    shape = (2, len(header.cameras), *header.image_shape)
    if out.shape[1:] != shape or out.dtype != np.uint8 or not out.flags.c_contiguous:
        raise InvalidInput(
            f"out has shape {out.shape} and dtype {out.dtype}: expected (n, "
            f"{', '.join(map(str, shape))}) uint8, contiguous",
            field="out",
        )


def _header(descriptor: int, size_bytes: int, name: str) -> tuple[FrameHeader, int]:
    first = read_exactly(descriptor, min(USUAL_HEADER_BYTES, size_bytes), 0, name)
    wanted = FrameHeader.size_bytes(first)
    if wanted > len(first):
        first = read_exactly(descriptor, min(wanted, MAX_HEADER_BYTES, size_bytes), 0, name)
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
