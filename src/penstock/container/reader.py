"""Reading ``.pstk`` files: nothing is believed before its hash and its bounds were checked."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from itertools import accumulate
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt
import xxhash

from penstock.chunks import Digest
from penstock.container.codecs import Codec, Filter, decode_chunk
from penstock.container.index import (
    FOOTER,
    FOOTER_MAGIC,
    MAGIC,
    BaseRef,
    Chunk,
    Index,
    StoredStorage,
    index_hash,
    parse_index,
)
from penstock.container.limits import Limits
from penstock.container.materialize import Materializer
from penstock.container.tree import decode_tree, find_subtree
from penstock.errors import Corrupt, InvalidInput, LimitExceeded, PenstockError, Unsupported

__all__ = ["OpenBase", "Reader", "Verified", "check_magic", "read", "verify"]


@dataclass(frozen=True, slots=True)
class Verified:
    """An intact file.

    Attributes:
        digest: Size and hash of the whole file.
        raw_size_bytes: Of all tensors once decoded.
        chunk_count: Chunks whose hashes were checked.
        base: The checkpoint that it refers to, whose file is to be checked by itself.
    """

    digest: Digest
    raw_size_bytes: int
    chunk_count: int
    base: BaseRef | None = None


class Reader(AbstractContextManager["Reader"]):
    """An open checkpoint whose size, footer and index are intact; chunks are checked when read.

    Args:
        source: A path, or a seekable file open for binary reading (which is not closed).
        limits: What the file may demand; the default ones if None.
        open_base: Opens the checkpoint that the file refers to, if it does; called when its first
            byte is needed. The opened reader is closed with this one.
        owns_file: Close an open file too.

    Raises:
        Corrupt: It is truncated, damaged or no ``.pstk`` file.
        InvalidInput: It is a pickle (a ``.pt`` file), which is never read here.
        LimitExceeded: It is intact, but demands more than ``limits`` allow.
        OSError: It cannot be opened or read.
    """

    def __init__(
        self,
        source: str | Path | BinaryIO,
        *,
        limits: Limits | None = None,
        open_base: OpenBase | None = None,
        owns_file: bool = False,
    ) -> None:
        self._limits = limits or Limits()
        self._open_base, self._base = open_base, None
        self._offsets: tuple[int, list[int]] | None = None
        if isinstance(source, str):
            source = Path(source)
        self._owns_file = owns_file or isinstance(source, Path)
        self._file = source.open("rb") if isinstance(source, Path) else source
        self.name = str(getattr(self._file, "name", "checkpoint"))
        try:
            with self._naming_the_file():
                self.index: Index = self._open()
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Close the file if this reader opened it, and the base."""
        if self._base is not None:
            self._base.close()
            self._base = None
        if self._owns_file:
            self._file.close()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    @property
    def meta(self) -> Mapping[str, str]:
        """Strings that the writer left."""
        return self.index.meta

    def load(self, *, only: Sequence[Any] = (), device: str = "cpu", as_numpy: bool = False) -> Any:
        """Decode the state, or the part of it that ``only`` leads to.

        Args:
            only: Keys from the root, e.g. ``("policy", "encoder")``; other tensors are not read.
            device: Where torch tensors go.
            as_numpy: Give NumPy arrays for torch tensors; torch is then not needed.

        Raises:
            Corrupt: A chunk does not match its hash.
            InvalidInput: ``only`` leads nowhere.
            Unsupported: The state holds torch tensors and torch is not installed, or ``as_numpy``
                meets a dtype that NumPy does not have.
        """
        with self._naming_the_file():
            node = find_subtree(self.index.tree, only)
            leaves = Materializer(self.index, self._read_storage, device, as_numpy=as_numpy)
            return decode_tree(node, leaves, self._limits)

    def verify(self) -> Verified:
        """Check every byte; memory stays at one chunk.

        Raises:
            Corrupt: A chunk does not match its hash, or the tree is malformed.
        """
        with self._naming_the_file():
            decode_tree(self.index.tree, _Checker(self.index), self._limits)
            hasher = xxhash.xxh3_128(MAGIC)
            for number, storage in enumerate(self.index.storages):
                offset = storage.offset_bytes
                for chunk in storage.chunks:
                    # What equals the base is checked with the base.
                    if chunk.codec != Codec.BASE:
                        hasher.update(self._read_chunk(offset, chunk, number))
                    offset += chunk.stored_bytes
            # The tail is small: index and footer, both checked when the file was opened.
            tail_offset = len(MAGIC) + sum(
                chunk.stored_bytes for storage in self.index.storages for chunk in storage.chunks
            )
            hasher.update(self._read_at(tail_offset, self._size_bytes - tail_offset))
        return Verified(
            Digest(self._size_bytes, hasher.digest()),
            self.index.raw_size_bytes,
            self.index.chunk_count,
            self.index.base,
        )

    def _open(self) -> Index:
        self._size_bytes = self._file.seek(0, os.SEEK_END)
        head = self._read_at(0, min(len(MAGIC), self._size_bytes))
        check_magic(head)
        if self._size_bytes < len(MAGIC) + FOOTER.size:
            raise Corrupt(f"it is cut off after {self._size_bytes} bytes", reason="TRUNCATED")
        footer = self._read_at(self._size_bytes - FOOTER.size, FOOTER.size)
        offset, size_bytes, digest, magic = FOOTER.unpack(footer)
        if magic != FOOTER_MAGIC or offset + size_bytes + FOOTER.size != self._size_bytes:
            raise Corrupt(
                f"its {self._size_bytes} bytes do not end in a footer: it is cut off or damaged",
                reason="TRUNCATED",
            )
        if size_bytes > self._limits.index_size_bytes:
            raise LimitExceeded(
                f"its index has {size_bytes} bytes, the limit is {self._limits.index_size_bytes}",
                reason="INDEX_SIZE",
            )
        data = self._read_at(offset, size_bytes)
        if index_hash(data) != digest:
            raise Corrupt("its index does not match its hash", reason="INDEX_HASH")
        self.index_hash: bytes = digest
        return parse_index(data, offset, self._limits)

    def _read_at(self, offset_bytes: int, size_bytes: int) -> bytes:
        self._file.seek(offset_bytes)
        data = self._file.read(size_bytes)
        if len(data) != size_bytes:
            raise Corrupt(
                f"{size_bytes} bytes were expected at {offset_bytes}, {len(data)} are there",
                reason="TRUNCATED",
            )
        return data

    def _read_chunk(self, offset_bytes: int, chunk: Chunk, storage: int) -> bytes:
        stored = self._read_at(offset_bytes, chunk.stored_bytes)
        if xxhash.xxh3_64_intdigest(stored) != chunk.xxh3_64:
            raise Corrupt(
                f"the chunk at byte {offset_bytes} (storage {storage}) does not match its hash",
                reason="CHUNK_HASH",
            )
        return stored

    def read_chunk(self, storage: int, number: int, out: npt.NDArray[np.uint8]) -> None:
        """Decode one chunk.

        Args:
            storage: Number of its storage.
            number: Of the chunk within it.
            out: ``(raw size of the chunk,) uint8``, filled.

        Raises:
            Corrupt: It does not match its hash, or there is no such chunk of that size.
        """
        with self._naming_the_file():
            stored = self._resolved(storage)
            if stored is None or number >= len(stored.chunks):
                raise Corrupt(f"it has no chunk {number} of storage {storage}", reason="BASE")
            offset = self._chunk_offsets(storage, stored)[number]
            if stored.chunks[number].raw_bytes != len(out):
                raise Corrupt(
                    f"chunk {number} of storage {storage} has {stored.chunks[number].raw_bytes} "
                    f"bytes, {len(out)} are expected",
                    reason="BASE",
                )
            self._decode(stored, storage, number, offset, out)

    def _chunk_offsets(self, number: int, storage: StoredStorage) -> list[int]:
        # Of one storage at a time: chunks are asked for storage by storage.
        if self._offsets is None or self._offsets[0] != number:
            sizes = (chunk.stored_bytes for chunk in storage.chunks)
            self._offsets = number, list(accumulate(sizes, initial=storage.offset_bytes))
        return self._offsets[1]

    def _resolved(self, number: int) -> StoredStorage | None:
        if number >= len(self.index.storages):
            return None
        storage = self.index.storages[number]
        return storage if storage.same_as is None else self.index.storages[storage.same_as]

    def _read_storage(self, number: int, out: npt.NDArray[np.uint8]) -> None:
        storage = self.index.storages[number]
        if storage.same_as is not None:
            storage = self.index.storages[storage.same_as]
        offset, start = storage.offset_bytes, 0
        for which, chunk in enumerate(storage.chunks):
            piece = out[start : start + chunk.raw_bytes]
            self._decode(storage, number, which, offset, piece)
            offset += chunk.stored_bytes
            start += chunk.raw_bytes

    def _decode(
        self,
        storage: StoredStorage,
        number: int,
        which: int,
        offset_bytes: int,
        out: npt.NDArray[np.uint8],
    ) -> None:
        chunk = storage.chunks[which]
        refers = chunk.codec == Codec.BASE or chunk.filter == Filter.DELTA
        base = None
        if refers and storage.base is not None:
            base = out if chunk.codec == Codec.BASE else np.empty_like(out)
            self._opened_base().read_chunk(storage.base, which, base)
        if chunk.codec == Codec.BASE:
            if xxhash.xxh3_64_intdigest(out.data) != chunk.xxh3_64:
                raise Corrupt(
                    f"chunk {which} of storage {number} does not equal that of its base",
                    reason="CHUNK_HASH",
                )
            return
        stored = self._read_chunk(offset_bytes, chunk, number)
        decode_chunk(stored, out, storage.item_size_bytes, chunk.filter, chunk.codec, base)

    def _opened_base(self) -> Reader:
        if self._base is None:
            wanted = self.index.base
            if wanted is None or self._open_base is None:
                step = "another checkpoint" if wanted is None else f"step {wanted.step} of its run"
                raise Unsupported(
                    f"it refers to {step}: load it from its store, or fetch it whole with "
                    "penstock checkpoints get",
                    reason="BASE_NEEDED",
                )
            base = self._open_base(wanted)
            if base.index_hash != wanted.index_hash:
                base.close()
                raise Corrupt(
                    f"it refers to step {wanted.step} of its run, and {base.name} is another",
                    reason="BASE",
                )
            self._base = base
        return self._base

    def _naming_the_file(self) -> _NamedFile:
        return _NamedFile(self.name)


OpenBase = Callable[[BaseRef], Reader]
"""Opens a checkpoint of the same run whose digest is the one given."""


def read(
    source: str | Path | BinaryIO,
    *,
    only: Sequence[Any] = (),
    device: str = "cpu",
    as_numpy: bool = False,
    limits: Limits | None = None,
) -> Any:
    """Read a state, or a part of it; ``Reader`` and its ``load`` tell arguments and errors."""
    with Reader(source, limits=limits) as reader:
        return reader.load(only=only, device=device, as_numpy=as_numpy)


def verify(source: str | Path | BinaryIO, *, limits: Limits | None = None) -> Verified:
    """Check every byte of a file in bounded memory; see ``Reader`` for errors."""
    with Reader(source, limits=limits) as reader:
        return reader.verify()


def check_magic(head: bytes) -> None:
    """Check the first bytes of a file.

    Args:
        head: The first 8 bytes, or all if there are fewer.

    Raises:
        Corrupt: They are no beginning of a ``.pstk`` file.
        InvalidInput: They are the beginning of a pickle or a ``.pt`` file.
    """
    if head == MAGIC:
        return
    if head.startswith((b"PK\x03\x04", b"\x80")):
        raise InvalidInput(
            "this is a pickle or .pt file, which can run code when it is read and is not accepted: "
            "convert it where you trust it, with: penstock checkpoints convert FILE.pt FILE.pstk",
            field="content",
            reason="PICKLE_REFUSED",
        )
    if MAGIC.startswith(head):
        raise Corrupt(f"it ends after {len(head)} bytes", reason="TRUNCATED")
    raise Corrupt(
        f"it begins with {head!r}, which is no .pstk checkpoint of this version: damaged, or "
        "another format",
        reason="MAGIC",
    )


class _NamedFile(AbstractContextManager[None]):
    """Puts the file's name in front of an error's message, and behind it what helps."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if isinstance(error, PenstockError) and not error.metadata.get("file"):
            remedy = ": use another copy or another step" if isinstance(error, Corrupt) else ""
            error.message = f"{self._name}: {error.message}{remedy}"
            error.args = (error.message,)
            error.metadata["file"] = self._name


class _Checker:
    """Leaves that only check that what the tree refers to exists."""

    def __init__(self, index: Index) -> None:
        self._index = index

    def tensor(self, number: int) -> Any:
        if number >= len(self._index.entries):
            raise Corrupt(f"the tree names tensor {number}, which is not there", reason="TREE")
        return replace(self._index.entries[number])

    def storage_bytes(self, number: int) -> bytes:
        if number >= len(self._index.storages):
            raise Corrupt(f"the tree names storage {number}, which is not there", reason="TREE")
        return b""

    def torch_value(self, kind: str, value: Any) -> Any:
        return (kind, str(value))
