"""Chunked, verified transfer: digests of content, and the chunks it travels in."""

from __future__ import annotations

import io
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import xxhash

__all__ = ["CHUNK_BYTES", "Chunk", "Digest", "iter_chunks"]

CHUNK_BYTES = 1 << 20
"""Uploads are fastest with chunks of 256 KiB to 1 MiB."""


@dataclass(frozen=True)
class Digest:
    """Identifies content by its size and its xxh3-128 hash (16 bytes, big-endian)."""

    size_bytes: int
    xxh3_128: bytes

    @classmethod
    def of_bytes(cls, data: bytes | memoryview) -> Digest:
        """Digest of what is in memory."""
        return cls(len(data), xxhash.xxh3_128_digest(data))

    @classmethod
    def of_file(cls, path: Path) -> Digest:
        """Digest of a file, read chunk by chunk."""
        state, size = xxhash.xxh3_128(), 0
        with path.open("rb") as file:
            while data := file.read(CHUNK_BYTES):
                state.update(data)
                size += len(data)
        return cls(size, state.digest())

    def __str__(self) -> str:
        return f"xxh3:{self.xxh3_128.hex()}/{self.size_bytes}"


@dataclass(frozen=True)
class Chunk:
    """Part of some content, at most ``CHUNK_BYTES`` long, with its own hash."""

    offset_bytes: int
    data: bytes
    xxh3_64: int

    def is_intact(self) -> bool:
        """Whether the data matches the hash."""
        return xxhash.xxh3_64_intdigest(self.data) == self.xxh3_64


def iter_chunks(file: BinaryIO, start_bytes: int = 0) -> Iterator[Chunk]:
    """Chunks of ``file`` in order, from ``start_bytes`` to its end."""
    file.seek(start_bytes, io.SEEK_SET)
    offset = start_bytes
    while data := file.read(CHUNK_BYTES):
        yield Chunk(offset, data, xxhash.xxh3_64_intdigest(data))
        offset += len(data)
