"""A rollout that is encoded while it is sent, and kept until all of it has arrived."""

from __future__ import annotations

import threading
from bisect import bisect_right
from collections.abc import Iterator

from penstock.chunks import CHUNK_BYTES, Digest
from penstock.rollout_file import Encoder

__all__ = ["Encoded", "EncodedBefore"]


class EncodedBefore:
    """The file of a rollout that was encoded before, in place of an encoder.

    Args:
        data: The whole file.
    """

    def __init__(self, data: bytes) -> None:
        self._data = data
        self.digest = Digest.of_bytes(data)

    def __iter__(self) -> Iterator[bytes | memoryview]:
        yield memoryview(self._data)


class Encoded:
    """Pieces of a rollout's file from any offset on. Safe to use from several threads.

    A stream that broke off may still ask for a piece when the next one begins.

    Args:
        encoder: Of the rollout.
    """

    def __init__(self, encoder: Encoder | EncodedBefore) -> None:
        self._encoder, self._source = encoder, iter(encoder)
        self._lock = threading.Lock()
        self._buffers: list[memoryview] = []
        self._starts = [0]
        self._failure: Exception | None = None

    @property
    def digest(self) -> Digest:
        """Of the whole, once all pieces were given."""
        return self._encoder.digest

    def check(self) -> None:
        """Raise what the encoder raised, if it did."""
        if self._failure is not None:
            raise self._failure

    def pieces(self, offset_bytes: int = 0) -> Iterator[tuple[int, memoryview]]:
        """All from an offset on: where each piece lies, and its bytes, at most 1 MiB.

        Raises:
            PenstockError: The rollout cannot be encoded.
        """
        offset = offset_bytes
        while True:
            buffer, start = self._buffer_at(offset)
            if buffer is None:
                return
            while offset < start + len(buffer):
                piece = buffer[offset - start : offset - start + CHUNK_BYTES]
                yield offset, piece
                offset += len(piece)

    def _buffer_at(self, offset: int) -> tuple[memoryview | None, int]:
        with self._lock:
            while offset >= self._starts[-1]:
                self.check()
                try:
                    made = next(self._source, None)
                except Exception as error:
                    self._failure = error
                    raise
                if made is None:
                    return None, 0
                view = memoryview(made).cast("B")
                if len(view):
                    self._buffers.append(view)
                    self._starts.append(self._starts[-1] + len(view))
            number = bisect_right(self._starts, offset) - 1
            return self._buffers[number], self._starts[number]
