"""Writing a state into a ``.pstk`` file in one pass, one chunk of memory at a time."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import xxhash

from penstock.chunks import Digest
from penstock.container.codecs import Profile, check_profile, encode_chunk
from penstock.container.index import FOOTER, FOOTER_MAGIC, MAGIC, Chunk, encode_index, index_hash
from penstock.container.limits import CHUNK_SIZE_BYTES, Limits
from penstock.container.tensors import Storage, StorageTable, TensorEntry
from penstock.container.torch_bridge import loaded_torch
from penstock.container.tree import encode_tree
from penstock.disk import full_disk_named
from penstock.errors import LimitExceeded

__all__ = ["Flattened", "Written", "flatten", "write", "write_file"]


@dataclass(frozen=True, slots=True)
class Flattened:
    """A state taken apart: its tree without tensors, and the tensors' bytes.

    With ``flatten(copy=True)`` this is a snapshot: what the caller does to the state afterwards
    does not show.
    """

    tree: Any
    entries: list[TensorEntry]
    storages: list[Storage]

    @property
    def raw_size_bytes(self) -> int:
        """Bytes of all tensors together."""
        return sum(storage.data.nbytes for storage in self.storages)


@dataclass(frozen=True, slots=True)
class Written:
    """What was written.

    Attributes:
        digest: Size and hash of the whole file.
        raw_size_bytes: Of all tensors before encoding.
        chunk_count: Chunks of at most 1 MiB raw.
    """

    digest: Digest
    raw_size_bytes: int
    chunk_count: int


def flatten(state: Any, *, copy: bool = False, limits: Limits | None = None) -> Flattened:
    """Take a state apart.

    Args:
        state: Dicts, lists, tuples, numbers, strings, bytes, tensors, arrays (see ``tree``).
        copy: Copy all tensors at once; without it the result looks at the caller's memory.
        limits: Bounds; the default ones if None.

    Raises:
        InvalidInput: A value has a type that a checkpoint cannot hold; names its path.
        LimitExceeded: Too many tensors, or nested too deep.
    """
    table = StorageTable(copy=copy)
    tree = encode_tree(state, table, limits or Limits())
    table.finish(loaded_torch())
    return Flattened(tree, table.entries, table.storages)


def write(
    state: Any,
    file: BinaryIO,
    *,
    compress: Profile = "small",
    meta: Mapping[str, str] | None = None,
    limits: Limits | None = None,
) -> Written:
    """Write a state to an open file, front to back.

    The same state gives the same bytes: nothing in the file depends on time or place.

    Args:
        state: A state, or a ``Flattened``.
        file: Open for binary writing; it is not closed.
        compress: ``small``, ``lz4`` or ``none``.
        meta: Strings about the writer, e.g. its version.
        limits: Bounds; the default ones if None.

    Raises:
        InvalidInput: As ``flatten``, or an unknown profile.
        LimitExceeded: The state is larger than ``limits`` allow.
        Unsupported: The profile needs a package that is not installed.
        OSError: The file cannot be written.
    """
    limits = limits or Limits()
    profile = check_profile(compress)
    flat = state if isinstance(state, Flattened) else flatten(state, limits=limits)
    if flat.raw_size_bytes > limits.raw_size_bytes:
        raise LimitExceeded(
            f"the state has {flat.raw_size_bytes} bytes of tensors, the limit is "
            f"{limits.raw_size_bytes}",
            reason="RAW_SIZE",
        )
    hasher = xxhash.xxh3_128()
    size_bytes = 0

    def put(data: bytes | memoryview) -> None:
        nonlocal size_bytes
        file.write(data)
        hasher.update(data)
        size_bytes += len(data)

    put(MAGIC)
    storages: list[tuple[int, list[Chunk]]] = []
    for storage in flat.storages:
        chunks: list[Chunk] = []
        raw = storage.data.data  # ndarray.data is its memoryview
        for start in range(0, len(raw), CHUNK_SIZE_BYTES):
            piece = raw[start : start + CHUNK_SIZE_BYTES]
            filter_, codec, stored = encode_chunk(piece, storage.item_size_bytes, profile)
            digest = xxhash.xxh3_64_intdigest(stored)
            chunks.append(Chunk(filter_, codec, len(stored), len(piece), digest))
            put(stored)
        storages.append((storage.item_size_bytes, chunks))
    index_offset_bytes = size_bytes
    index = encode_index(flat.tree, flat.entries, storages, meta or {})
    if len(index) > limits.index_size_bytes:
        raise LimitExceeded(
            f"the index of the checkpoint would have {len(index)} bytes, the limit is "
            f"{limits.index_size_bytes}: put long lists of numbers into arrays",
            reason="INDEX_SIZE",
        )
    put(index)
    put(FOOTER.pack(index_offset_bytes, len(index), index_hash(index), FOOTER_MAGIC))
    chunk_count = sum(len(chunks) for _, chunks in storages)
    return Written(Digest(size_bytes, hasher.digest()), flat.raw_size_bytes, chunk_count)


def write_file(
    state: Any,
    path: str | Path,
    *,
    compress: Profile = "small",
    meta: Mapping[str, str] | None = None,
    limits: Limits | None = None,
) -> Written:
    """Write a state to ``path``; the file appears there whole and synced, or not at all.

    Raises:
        InvalidInput, LimitExceeded, Unsupported, OSError: As ``write``; LimitExceeded also when
            the disk is full.
    """
    path = Path(path)
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with full_disk_named(f"writing {path}"), part.open("wb") as file:
            written = write(state, file, compress=compress, meta=meta, limits=limits)
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)
    return written
