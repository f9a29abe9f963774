"""Whole files: reading and verifying."""

from __future__ import annotations

from typing import BinaryIO

import xxhash

from penstock.errors import Corrupt
from penstock.rollout_file.decoder import Decoder
from penstock.rollout_file.index import Index, read_index
from penstock.rollout_file.leaves import Leaves
from penstock.rollout_file.limits import Limits
from penstock.rollout_file.selection import Selected

__all__ = ["read", "verify"]

_PIECE_BYTES = 1 << 20


def read(
    file: BinaryIO,
    selection: Selected | None = None,
    *,
    threads: int = 1,
    limits: Limits | None = None,
) -> Leaves:
    """Read a rollout or a part of it.

    Args:
        file: Seekable.
        selection: A ``penstock.streams.Selection``; None for all.
        threads: How many decode.
        limits: What is refused as too large; None for the usual.

    Returns:
        Arrays ``[env, time, ...]`` by path.

    Raises:
        Corrupt: It is no rollout file, or damaged.
        InvalidInput: The selection names what is not there.
    """
    decoder = Decoder(index := read_index(file, limits), selection, threads=threads)
    for offset, size in index.ranges(selection):
        file.seek(offset)
        for at in range(offset, offset + size, _PIECE_BYTES):
            decoder.feed(at, file.read(min(_PIECE_BYTES, offset + size - at)))
    return decoder.finish()


def verify(file: BinaryIO, limits: Limits | None = None) -> Index:
    """Check every hash of a file; nothing is decoded.

    Args:
        file: Seekable.
        limits: What is refused as too large; None for the usual.

    Raises:
        Corrupt: It is no rollout file, or damaged; the message names the place.
    """
    index = read_index(file, limits)
    sizes, hashes = index.sizes.tolist(), index.hashes.tolist()
    if sizes:
        file.seek(int(index.offsets[0]))
    for number, (size, expected) in enumerate(zip(sizes, hashes, strict=True)):
        if xxhash.xxh3_64_intdigest(file.read(size)) != expected:
            raise Corrupt(f"{index.place(number)} is damaged", reason="SEGMENT")
    return index
