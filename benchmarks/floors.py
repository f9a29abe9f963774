"""What the machine itself needs to move the bytes of a batch: by memory, by socket, from disk."""

from __future__ import annotations

import mmap
import os
import random
import socket
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from pathlib import Path

import numpy as np

__all__ = ["Copier", "DirectReader", "Loopback", "drop_page_cache", "fill_page_cache", "loopback"]

_BLOCK = 4096
_MESSAGE_BYTES = 1 << 20
_READ_BYTES = 8 << 20


class Copier:
    """Copies a batch from random places of memory that is larger than any processor cache.

    Args:
        batch_bytes: What one batch holds.
        piece_bytes: What lies together: the frames of one transition.
        threads: How many threads share the work.
    """

    def __init__(self, batch_bytes: int, piece_bytes: int, threads: int = 1) -> None:
        self._pieces = batch_bytes // piece_bytes
        self._source = np.ones((4 * self._pieces, piece_bytes), np.uint8)
        self._target = np.zeros((self._pieces, piece_bytes), np.uint8)
        self._random = np.random.default_rng(0)
        self._threads = threads
        self._pool = ThreadPoolExecutor(threads)

    def copy(self) -> None:
        """Copy the bytes of one batch."""
        chosen = self._random.integers(0, len(self._source), self._pieces).tolist()

        def share(first: int) -> None:
            for place in range(first, self._pieces, self._threads):
                np.copyto(self._target[place], self._source[chosen[place]])

        if self._threads == 1:
            share(0)
        else:
            list(self._pool.map(share, range(self._threads)))


class Loopback:
    """A process that sends as many bytes as it is asked for over TCP."""

    def __init__(self, connection: socket.socket, largest_bytes: int) -> None:
        self._connection = connection
        self._target = memoryview(np.zeros(largest_bytes, np.uint8)).cast("B")

    def transfer(self, size_bytes: int) -> None:
        """Receive ``size_bytes`` into memory that is there already."""
        self._connection.sendall(size_bytes.to_bytes(8, "little"))
        done = 0
        while done < size_bytes:
            got = self._connection.recv_into(self._target[done:size_bytes])
            if not got:
                raise ConnectionError("the sender of the loopback floor ended")
            done += got


@contextmanager
def loopback(largest_bytes: int) -> Iterator[Loopback]:
    """Start the sender; it ends with the block."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port = str(listening.getsockname()[1])
        sender = subprocess.Popen([sys.executable, __file__, port])
        connection, _ = listening.accept()
        with closing(connection):
            yield Loopback(connection, largest_bytes)
        sender.wait()


def _send(port: int) -> None:
    message = memoryview(bytes(_MESSAGE_BYTES))
    with socket.create_connection(("127.0.0.1", port)) as connection:
        while asked := connection.recv(8):
            left = int.from_bytes(asked, "little")
            while left:
                left -= connection.send(message[: min(left, _MESSAGE_BYTES)])


class DirectReader:
    """Reads random pieces of files past the page cache, several at a time.

    Args:
        paths: Files to read from, all larger than a piece.
        depth: Reads in flight.
    """

    def __init__(self, paths: list[Path], depth: int = 8) -> None:
        self._descriptors = [os.open(path, os.O_RDONLY | os.O_DIRECT) for path in paths]
        self._sizes = [path.stat().st_size for path in paths]
        self._random = random.Random(0)  # noqa: S311
        self._depth = depth
        self._pool = ThreadPoolExecutor(depth)

    def read(self, pieces: int, piece_bytes: int) -> None:
        """Read ``pieces`` pieces; each is rounded up to whole blocks, as the disk does."""
        size = -(-piece_bytes // _BLOCK) * _BLOCK
        places = []
        for _ in range(pieces):
            file = self._random.randrange(len(self._descriptors))
            last = (self._sizes[file] - size) // _BLOCK
            places.append((file, _BLOCK * self._random.randint(0, last)))

        def share(first: int) -> None:
            with mmap.mmap(-1, size) as memory:  # aligned, as O_DIRECT wants it
                for file, offset in places[first :: self._depth]:
                    os.preadv(self._descriptors[file], [memory], offset)

        list(self._pool.map(share, range(self._depth)))

    def close(self) -> None:
        """Close the files."""
        self._pool.shutdown()
        for descriptor in self._descriptors:
            os.close(descriptor)


def fill_page_cache(paths: list[Path]) -> None:
    """Read files from end to end, so that nothing of what is timed comes from the disk.

    Twice, as in use: only at the second time a page counts as one that is worth keeping.
    """
    for path in [*paths, *paths]:
        with path.open("rb", buffering=0) as file:
            while file.read(_READ_BYTES):
                pass


def drop_page_cache(paths: list[Path]) -> None:
    """Have the next read of ``paths`` go to the disk."""
    for path in paths:
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)  # only clean pages are dropped
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        finally:
            os.close(descriptor)


if __name__ == "__main__":
    _send(int(sys.argv[1]))
