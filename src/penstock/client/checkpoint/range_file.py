"""A file on a server, fetched where it is read."""

from __future__ import annotations

import io
from collections.abc import Callable, Generator, Iterator

from penstock.errors import PenstockError, Unavailable

__all__ = ["RangeFile"]

_SKIP_BYTES = 1 << 22
"""Going forward so little is read over; farther, a new stream is cheaper."""

_MAX_RESUMES = 3
"""Times that one read is taken up again without a byte in between."""


class RangeFile(io.RawIOBase):
    """Seekable and read-only; reading in order is one stream.

    Args:
        name: For messages.
        size_bytes: Of the file.
        pieces: Gives the file's bytes from an offset on, in pieces.
        on_break: Told when a stream breaks off, before it is taken up again; waits, or raises.
    """

    def __init__(
        self,
        name: str,
        size_bytes: int,
        pieces: Callable[[int], Iterator[bytes]],
        on_break: Callable[[PenstockError], None],
    ) -> None:
        super().__init__()
        self.name, self._size_bytes = name, size_bytes
        self._pieces, self._on_break = pieces, on_break
        self._position = 0
        self._stream: Iterator[bytes] | None = None
        self._stream_at = 0
        self._left = memoryview(b"")

    def seekable(self) -> bool:
        """True."""
        return True

    def readable(self) -> bool:
        """True."""
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Go somewhere; nothing is fetched yet."""
        start = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._size_bytes}
        self._position = start[whence] + offset
        return self._position

    def read(self, size: int = -1, /) -> bytes:
        """All of the next ``size`` bytes, fewer only at the end.

        Raises:
            PenstockError: The server does not give them.
        """
        stop = self._size_bytes if size < 0 else min(self._size_bytes, self._position + size)
        parts: list[bytes] = []
        resumes = 0
        while self._position < stop:
            try:
                parts.append(self._next(stop - self._position))
                resumes = 0
            except Unavailable as error:
                self._leave()
                resumes += 1
                if resumes > _MAX_RESUMES:
                    raise
                self._on_break(error)
        return b"".join(parts)

    def close(self) -> None:
        """Leave the stream."""
        self._leave()
        super().close()

    def _next(self, size_bytes: int) -> bytes:
        ahead = self._position - self._stream_at
        if self._stream is None or not 0 <= ahead <= _SKIP_BYTES:
            self._leave()
            self._stream, self._stream_at = self._pieces(self._position), self._position
        while True:
            skipped = min(self._position - self._stream_at, len(self._left))
            self._left, self._stream_at = self._left[skipped:], self._stream_at + skipped
            if self._left:
                break
            piece = next(self._stream, None)
            if piece is None:
                raise Unavailable(f"{self.name}: the stream ended at byte {self._stream_at}")
            self._left = memoryview(piece)
        found = bytes(self._left[:size_bytes])
        self._left = self._left[len(found) :]
        self._stream_at += len(found)
        self._position += len(found)
        return found

    def _leave(self) -> None:
        stream, self._stream, self._left = self._stream, None, memoryview(b"")
        if isinstance(stream, Generator):
            stream.close()
