"""Bytes of a recording, read by place: a part of a file, or a chunk that was decompressed.

No size that a recording claims is believed: what is not there is not allocated.
"""

from __future__ import annotations

import bz2
import os
from typing import Protocol

from backports.zstd import ZstdDecompressor
from lz4.frame import LZ4FrameDecompressor

__all__ = ["CHUNK_LIMIT_BYTES", "FileView", "Incomplete", "MemoryView", "View", "decompressed"]

CHUNK_LIMIT_BYTES = 1 << 30
"""No recorder makes chunks or messages that large; a size beyond it is damage."""

_AHEAD_BYTES = 4096
_SMALL_BYTES = 512


class Incomplete(ValueError):
    """Bytes that are to be there are missing or are not what they are to be."""


class View(Protocol):
    """Bytes by offset."""

    @property
    def size_bytes(self) -> int:
        """How many there are."""
        ...

    def take(self, offset: int, size_bytes: int) -> bytes:
        """A part.

        Raises:
            Incomplete: It is not all there.
        """
        ...


class MemoryView:
    """A decompressed chunk."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self.size_bytes = len(data)

    def take(self, offset: int, size_bytes: int) -> bytes:
        """See ``View``."""
        _check(offset, size_bytes, self.size_bytes)
        return self._data[offset : offset + size_bytes]


class FileView:
    """A stretch of an open file; small parts are read some way ahead."""

    def __init__(self, descriptor: int, begin: int, end: int) -> None:
        self._descriptor, self._begin = descriptor, begin
        self.size_bytes = max(end - begin, 0)
        self._ahead, self._ahead_at = b"", 0

    def take(self, offset: int, size_bytes: int) -> bytes:
        """See ``View``."""
        inside = offset - self._ahead_at
        # Most of what is small has been read, and what was read is there.
        if 0 <= size_bytes <= len(self._ahead) - inside and inside >= 0:
            return self._ahead[inside : inside + size_bytes]
        _check(offset, size_bytes, self.size_bytes)
        if size_bytes > _SMALL_BYTES:
            return self._read(offset, size_bytes)
        length = min(_AHEAD_BYTES, self.size_bytes - offset)
        self._ahead, self._ahead_at = self._read(offset, length), offset
        return self._ahead[:size_bytes]

    def part(self, offset: int, size_bytes: int) -> FileView:
        """A stretch of this one.

        Raises:
            Incomplete: It is not all there.
        """
        _check(offset, size_bytes, self.size_bytes)
        begin = self._begin + offset
        return FileView(self._descriptor, begin, begin + size_bytes)

    def _read(self, offset: int, size_bytes: int) -> bytes:
        data = os.pread(self._descriptor, size_bytes, self._begin + offset)
        if len(data) != size_bytes:
            raise Incomplete(f"{len(data)} of {size_bytes} bytes are there: the file was cut")
        return data


def _check(offset: int, size_bytes: int, there: int) -> None:
    if offset < 0 or size_bytes < 0 or offset + size_bytes > there:
        raise Incomplete(f"{size_bytes} bytes at {offset} are asked for, of {there}")


def decompressed(data: bytes, method: str, limit_bytes: int, *, cut: bool = False) -> bytes:
    """Decompress ``data`` to ``limit_bytes`` at most.

    Args:
        data: One or several streams of the method.
        method: ``bz2``, ``lz4`` or ``zstd``.
        limit_bytes: What comes after that is not decompressed.
        cut: Whether the end may be missing or broken; what comes before is returned.

    Raises:
        Incomplete: The method is another one, or the end is missing.
    """
    makers = {"bz2": bz2.BZ2Decompressor, "lz4": LZ4FrameDecompressor, "zstd": ZstdDecompressor}
    if method not in makers:
        raise Incomplete(f"compression {method!r} is unknown")
    if limit_bytes > CHUNK_LIMIT_BYTES:
        raise Incomplete(f"{limit_bytes} bytes are claimed, {CHUNK_LIMIT_BYTES} are the most")
    pieces: list[bytes | bytearray] = []
    size = 0
    while size < limit_bytes and data:
        stream = makers[method]()
        try:
            piece = stream.decompress(data, limit_bytes - size)
        except Exception as error:  # each of the three has errors of its own
            if cut:
                break
            raise Incomplete(f"{method} data are broken: {error}") from error
        pieces.append(piece)
        size += len(piece)
        if not stream.eof:
            if not cut and size < limit_bytes:
                raise Incomplete(f"{method} data end early")
            break
        data = bytes(stream.unused_data or b"")
    return b"".join(pieces)
