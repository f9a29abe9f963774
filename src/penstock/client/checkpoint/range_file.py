"""A file on a server, fetched where it is read."""

from __future__ import annotations

import io
from collections.abc import Callable, Generator, Iterator

from penstock.errors import PenstockError, Unavailable

__all__ = ["RangeFile"]

_MIN_WINDOW_BYTES = 1 << 18
_MAX_WINDOW_BYTES = 1 << 24
"""Asked for at least, where reading begins anew, and at most, while it goes on in order."""

_MAX_RESUMES = 3
"""Times that one read is taken up again without a byte in between."""


class RangeFile(io.RawIOBase):
    """Seekable and read-only.

    Each request is for a window: what is read, and a little ahead. Reading in order doubles the
    window, so few requests are made; going elsewhere begins with a small one, so little is sent
    that nobody reads.

    Args:
        name: For messages.
        size_bytes: Of the file.
        pieces: Gives the file's bytes in pieces, from an offset on, so many bytes.
        on_break: Told when a stream breaks off, before it is taken up again; waits, or raises.
    """

    def __init__(
        self,
        name: str,
        size_bytes: int,
        pieces: Callable[[int, int], Iterator[bytes]],
        on_break: Callable[[PenstockError], None],
    ) -> None:
        super().__init__()
        self.name, self._size_bytes = name, size_bytes
        self._pieces, self._on_break = pieces, on_break
        self._position = 0
        self._stream: Iterator[bytes] | None = None
        self._stream_at = self._stream_stop = 0
        self._window_bytes = _MIN_WINDOW_BYTES
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
        if self._stream is None or not self._stream_at <= self._position < self._stream_stop:
            self._begin(size_bytes)
        while True:
            skipped = min(self._position - self._stream_at, len(self._left))
            self._left, self._stream_at = self._left[skipped:], self._stream_at + skipped
            if self._left:
                break
            piece = None if self._stream is None else next(self._stream, None)
            if piece is None:
                raise Unavailable(f"{self.name}: the stream ended at byte {self._stream_at}")
            self._left = memoryview(piece)
        found = bytes(self._left[:size_bytes])
        self._left = self._left[len(found) :]
        self._stream_at += len(found)
        self._position += len(found)
        return found

    def _begin(self, size_bytes: int) -> None:
        in_order = self._stream is not None and self._position == self._stream_stop
        self._window_bytes = (
            min(2 * self._window_bytes, _MAX_WINDOW_BYTES) if in_order else _MIN_WINDOW_BYTES
        )
        self._leave()
        asked = min(max(size_bytes, self._window_bytes), self._size_bytes - self._position)
        self._stream_at, self._stream_stop = self._position, self._position + asked
        self._stream = self._pieces(self._position, asked)

    def _leave(self) -> None:
        stream, self._stream, self._left = self._stream, None, memoryview(b"")
        if isinstance(stream, Generator):
            stream.close()
