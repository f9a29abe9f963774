"""Writing a state into a ``.pstk`` file in one pass, one chunk of memory at a time."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt
import xxhash

from penstock.chunks import Digest
from penstock.container.choice import choose_methods, kind_of
from penstock.container.codecs import Codec, Encoder, Filter, Profile, check_profile
from penstock.container.index import (
    FOOTER,
    FOOTER_MAGIC,
    MAGIC,
    BaseRef,
    Chunk,
    NewStorage,
    check_nodes,
    encode_index,
    index_hash,
    named_entries,
)
from penstock.container.limits import CHUNK_SIZE_BYTES, Limits
from penstock.container.planes import Piece
from penstock.container.reader import Reader
from penstock.container.tensors import Storage, StorageTable, TensorEntry
from penstock.container.torch_bridge import loaded_torch
from penstock.container.tree import encode_tree
from penstock.disk import full_disk_named, sync_directory
from penstock.errors import LimitExceeded

__all__ = ["Base", "Flattened", "Written", "flatten", "write", "write_file"]


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
        index_hash: Of the index.
        chunk_count: Chunks of at most 1 MiB raw.
        sections: Bytes of each section of the state, raw and stored.
        hashes: xxh3-128 of the raw chunks of each storage; none where what is read is not what was
            written, so that it cannot be a base.
    """

    digest: Digest
    index_hash: bytes
    raw_size_bytes: int
    chunk_count: int
    sections: Mapping[str, tuple[int, int]]
    hashes: Sequence[Sequence[bytes]]

    def ref(self, step: int) -> BaseRef:
        """How other checkpoints of its run name it as their base."""
        return BaseRef(step, self.digest, self.index_hash)


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


class Base:
    """A checkpoint of the same run, written before, that later ones may refer to.

    It must be whole in itself: a star, never a chain.

    Args:
        ref: How the others name it.
        file: Its content, seekable; read while they are written.
        hashes: As ``write`` gave them.

    Raises:
        Corrupt: The content is damaged.
    """

    def __init__(self, ref: BaseRef, file: BinaryIO, hashes: Sequence[Sequence[bytes]]) -> None:
        self.ref, self.hashes = ref, hashes
        self._reader = Reader(file)
        index = self._reader.index
        self._numbers = {path: entry.storage for path, entry in index.named_entries()}

    def storage_of(self, path: str, storage: Storage) -> int | None:
        """The number of the storage at the same place of the state, if it has the same form."""
        number = self._numbers.get(path)
        if number is None or not self.hashes[number]:
            return None
        found = self._reader.index.storages[number]
        same = (found.raw_size_bytes, found.item_size_bytes) == (
            storage.data.nbytes,
            storage.item_size_bytes,
        )
        return number if same else None

    def chunk(self, storage: int, number: int, size_bytes: int) -> npt.NDArray[np.uint8]:
        """The raw bytes of a chunk, ``(size_bytes,) uint8``."""
        out = np.empty(size_bytes, np.uint8)
        self._reader.read_chunk(storage, number, out)
        return out


def write(
    state: Any,
    file: BinaryIO,
    *,
    compress: Profile = "small",
    meta: Mapping[str, str] | None = None,
    base: Base | None = None,
    limits: Limits | None = None,
) -> Written:
    """Write a state to an open file, front to back.

    The same state (and base) gives the same bytes: nothing in the file depends on time or place.
    Storages with the same bytes are stored once; they do not share memory after loading.

    Args:
        state: A state, or a ``Flattened``.
        file: Open for binary writing; it is not closed.
        compress: ``small``, ``fast``, ``delta``, ``policy-bf16`` (loses precision) or ``none``.
        meta: Strings about the writer, e.g. its version.
        base: An earlier checkpoint: chunks that equal its own are not stored again, and with
            ``delta`` others as their difference.
        limits: Bounds; the default ones if None.

    Raises:
        InvalidInput: As ``flatten``, or an unknown profile.
        LimitExceeded: The state is larger than ``limits`` allow.
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
    writer = _Writer(flat, file, profile, base)
    meta = dict(meta or {})
    if profile == "policy-bf16":
        meta["lossy"] = "float32 rounded to bfloat16"
    return writer.write(meta, limits)


class _Writer:
    """Writes one state."""

    def __init__(
        self, flat: Flattened, file: BinaryIO, profile: Profile, base: Base | None
    ) -> None:
        self._flat, self._file, self._profile = flat, file, profile
        self._base = base
        self._hasher = xxhash.xxh3_128()
        self._size_bytes = 0
        self._in_base = self._match(base)
        self._encoder = Encoder()
        self._methods = choose_methods(
            flat.storages, profile, None if base is None else self._base_piece
        )

    def write(self, meta: Mapping[str, str], limits: Limits) -> Written:
        """Write everything."""
        self._put(MAGIC)
        storages: list[NewStorage] = []
        hashes: list[list[bytes]] = []
        sections: dict[str, tuple[int, int]] = {}
        seen: dict[tuple[int, bytes, bool], list[int]] = {}
        for number, storage in enumerate(self._flat.storages):
            before = self._size_bytes
            # Memory is read once: a chunk is hashed just before it is encoded. Only what begins as
            # another storage does is hashed ahead.
            found = [xxhash.xxh3_128_digest(piece) for piece in islice(_pieces(storage), 1)]
            # What is rounded reads as something else than other bytes that are equal to it.
            key = storage.data.nbytes, b"".join(found), self._rounds(storage)
            alike = seen.setdefault(key, [])
            if alike:
                found = [xxhash.xxh3_128_digest(piece) for piece in _pieces(storage)]
            twin = next((other for other in alike if hashes[other] == found), None)
            if twin is not None and np.array_equal(self._flat.storages[twin].data, storage.data):
                storages.append(NewStorage(storage.item_size_bytes, [], None, twin))
            else:
                storages.append(self._storage(number, storage, found))
                alike.append(number)
            hashes.append(found)
            raw, stored = sections.get(storage.section, (0, 0))
            stored += self._size_bytes - before
            sections[storage.section] = raw + storage.data.nbytes, stored
        index_offset_bytes = self._size_bytes
        refers = any(storage.base is not None for storage in storages)
        base = self._base.ref if self._base is not None and refers else None
        index = encode_index(self._flat.tree, self._flat.entries, storages, meta, base)
        if len(index) > limits.index_size_bytes:
            raise LimitExceeded(
                f"the index of the checkpoint would have {len(index)} bytes, the limit is "
                f"{limits.index_size_bytes}: put long lists of numbers into arrays",
                reason="INDEX_SIZE",
            )
        check_nodes(index, limits)
        self._put(index)
        self._put(FOOTER.pack(index_offset_bytes, len(index), index_hash(index), FOOTER_MAGIC))
        return Written(
            Digest(self._size_bytes, self._hasher.digest()),
            index_hash(index),
            self._flat.raw_size_bytes,
            sum(len(storage.chunks) for storage in storages),
            sections,
            # What was rounded reads as something else: nothing may refer to it.
            [
                [] if self._rounds(storage) else found
                for storage, found in zip(self._flat.storages, hashes, strict=True)
            ],
        )

    def _storage(self, number: int, storage: Storage, hashes: list[bytes]) -> NewStorage:
        """Write the chunks of a storage, and complete the hashes of their raw bytes."""
        method = self._methods[kind_of(storage)]
        base, in_base = self._base, self._in_base.get(number)
        chunks: list[Chunk] = []
        refers = False
        for which, raw in enumerate(_pieces(storage)):
            if which >= len(hashes):
                hashes.append(xxhash.xxh3_128_digest(raw))
            minuend = None
            if base is not None and in_base is not None:
                if base.hashes[in_base][which] == hashes[which]:
                    digest = xxhash.xxh3_64_intdigest(raw)
                    chunks.append(Chunk(Filter.NONE, Codec.BASE, 0, len(raw), digest))
                    refers = True
                    continue
                if method.filter == Filter.DELTA:
                    minuend = base.chunk(in_base, which, len(raw))
            encoded = self._encoder.encode(raw, storage.item_size_bytes, method, minuend)
            refers = refers or encoded.filter == Filter.DELTA
            hasher = xxhash.xxh3_64()
            for piece in encoded.pieces:
                hasher.update(piece)
                self._put(piece)
            chunks.append(
                Chunk(
                    encoded.filter,
                    encoded.codec,
                    encoded.size_bytes,
                    len(raw),
                    hasher.intdigest(),
                )
            )
        return NewStorage(storage.item_size_bytes, chunks, in_base if refers else None)

    def _put(self, data: Piece) -> None:
        self._file.write(data)
        self._hasher.update(data)
        self._size_bytes += len(data)

    def _match(self, base: Base | None) -> dict[int, int]:
        """The storage of the base for each storage that has one."""
        if base is None:
            return {}
        matched: dict[int, int] = {}
        for path, entry in named_entries(self._flat.tree, self._flat.entries):
            storage = self._flat.storages[entry.storage]
            found = None if self._rounds(storage) else base.storage_of(path, storage)
            if found is not None:
                matched.setdefault(entry.storage, found)
        return matched

    def _rounds(self, storage: Storage) -> bool:
        return self._profile == "policy-bf16" and storage.floating

    def _base_piece(self, number: int, start: int, stop: int) -> npt.NDArray[np.uint8] | None:
        in_base = self._in_base.get(number)
        if self._base is None or in_base is None:
            return None
        size = self._flat.storages[number].data.nbytes
        pieces: list[npt.NDArray[np.uint8]] = []
        for which in range(start // CHUNK_SIZE_BYTES, -(-stop // CHUNK_SIZE_BYTES)):
            offset = which * CHUNK_SIZE_BYTES
            pieces.append(self._base.chunk(in_base, which, min(CHUNK_SIZE_BYTES, size - offset)))
        skipped = start % CHUNK_SIZE_BYTES
        return np.concatenate(pieces)[skipped : skipped + stop - start]


def _pieces(storage: Storage) -> Iterator[memoryview]:
    raw = storage.data.data  # ndarray.data is its memoryview
    for start in range(0, len(raw), CHUNK_SIZE_BYTES):
        yield raw[start : start + CHUNK_SIZE_BYTES]


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
        sync_directory(path.parent)
    finally:
        part.unlink(missing_ok=True)
    return written
