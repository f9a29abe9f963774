r"""The frame of a ``.pstk`` file: magic, chunks back to back, JSON index, footer.

    offset 0        magic, 8 bytes: b"\x89PSTK\r\n" and the format's version
    offset 8        stored bytes of all chunks, storage by storage, no gaps
    index offset    JSON index (ASCII)
    end - 40        footer: index offset, index length (u64), xxh3-128 of the index, footer magic

Numbers are little-endian. The index holds ``tree`` (see ``tree``), ``tensors`` (entries),
``storages`` (element size, then filter, codec, stored and raw size and xxh3-64 of each chunk) and
``meta`` (strings about the writer). Every byte of the file is hashed or compared.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from math import prod
from typing import Any, NamedTuple, cast

import xxhash

from penstock.container.codecs import Codec, Filter
from penstock.container.limits import CHUNK_SIZE_BYTES, Limits
from penstock.container.tensors import TensorEntry, contiguous_stride, numpy_dtype
from penstock.container.torch_bridge import TORCH_ITEM_SIZES
from penstock.errors import Corrupt, LimitExceeded

__all__ = [
    "FOOTER",
    "FOOTER_MAGIC",
    "MAGIC",
    "Chunk",
    "Index",
    "StoredStorage",
    "encode_index",
    "index_hash",
    "parse_index",
]

MAGIC = b"\x89PSTK\r\n\x01"
FOOTER_MAGIC = b"PSTK\x01END"
FOOTER = struct.Struct("<QQ16s8s")

_MAX_AXES = 64
_MAX_ITEM_BYTES = 1 << 30
_KINDS = {"torch", "parameter", "numpy"}


class Chunk(NamedTuple):
    """One independent piece of a storage, as it lies in the file."""

    filter: int
    codec: int
    stored_bytes: int
    raw_bytes: int
    xxh3_64: int


@dataclass(frozen=True, slots=True)
class StoredStorage:
    """A storage in a file.

    Attributes:
        item_size_bytes: Bytes per element, for the shuffle filter.
        offset_bytes: Of its first chunk in the file; the others follow without gaps.
        raw_size_bytes: Once decoded.
        chunks: In order.
    """

    item_size_bytes: int
    offset_bytes: int
    raw_size_bytes: int
    chunks: tuple[Chunk, ...]


@dataclass(frozen=True, slots=True)
class Index:
    """What a file holds, checked for consistency; ``tree`` is checked when it is decoded."""

    tree: Any
    entries: tuple[TensorEntry, ...]
    storages: tuple[StoredStorage, ...]
    meta: Mapping[str, str]
    raw_size_bytes: int
    chunk_count: int

    def named_entries(self) -> Iterator[tuple[str, TensorEntry]]:
        """Tensors and arrays with their path in the state, in its order."""
        return _named(self.tree, "", self.entries)


def encode_index(
    tree: Any,
    entries: list[TensorEntry],
    storages: list[tuple[int, list[Chunk]]],
    meta: Mapping[str, str],
) -> bytes:
    """The index as it is written."""
    document = {
        "meta": dict(meta),
        "tree": tree,
        "tensors": [
            [
                entry.kind,
                entry.dtype,
                list(entry.shape),
                entry.storage,
                entry.offset_bytes,
                None if entry.stride is None else list(entry.stride),
                entry.requires_grad,
            ]
            for entry in entries
        ],
        "storages": [
            [item, [[*chunk[:4], f"{chunk.xxh3_64:016x}"] for chunk in chunks]]
            for item, chunks in storages
        ],
    }
    return json.dumps(document, separators=(",", ":"), allow_nan=False).encode("ascii")


def parse_index(data: bytes, index_offset_bytes: int, limits: Limits) -> Index:
    """Read and check an index.

    Args:
        data: The JSON, hash already checked. It is distrusted nevertheless.
        index_offset_bytes: Where it lies, which is where the chunks must end.
        limits: What the file may demand.

    Raises:
        Corrupt: It contradicts itself or the file.
        LimitExceeded: It is consistent, but demands more than ``limits`` allow.
    """
    try:
        document = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise _malformed(f"it is no JSON: {error!s:.80}") from error
    try:
        tree, tensors, storages = document["tree"], document["tensors"], document["storages"]
        meta = {str(key): str(value) for key, value in document["meta"].items()}
        stored = _parse_storages(storages, index_offset_bytes)
        raw_size_bytes = _check_counts(stored, len(tensors), limits)
        entries = tuple(_parse_entry(fields, stored, limits) for fields in tensors)
    except (TypeError, ValueError, KeyError, AttributeError, IndexError, OverflowError) as error:
        raise _malformed(f"{type(error).__name__}: {error!s:.80}") from error
    chunk_count = sum(len(storage.chunks) for storage in stored)
    return Index(tree, entries, stored, meta, raw_size_bytes, chunk_count)


def index_hash(data: bytes) -> bytes:
    """The hash of an index as the footer holds it."""
    return xxhash.xxh3_128_digest(data)


def _check_counts(storages: tuple[StoredStorage, ...], tensor_count: int, limits: Limits) -> int:
    if tensor_count > limits.tensor_count:
        raise LimitExceeded(
            f"the checkpoint has {tensor_count} tensors, the limit is {limits.tensor_count}",
            reason="TENSOR_COUNT",
        )
    raw_size_bytes = sum(storage.raw_size_bytes for storage in storages)
    if raw_size_bytes > limits.raw_size_bytes:
        raise LimitExceeded(
            f"the checkpoint decodes to {raw_size_bytes} bytes, the limit is "
            f"{limits.raw_size_bytes}",
            reason="RAW_SIZE",
        )
    return raw_size_bytes


def _parse_storages(storages: Any, index_offset_bytes: int) -> tuple[StoredStorage, ...]:
    offset = len(MAGIC)
    result: list[StoredStorage] = []
    for item, listed in cast("list[tuple[Any, Any]]", storages):
        if type(item) is not int or not 0 < item <= _MAX_ITEM_BYTES:
            raise _malformed(f"an element size of {item!r:.40} bytes")
        chunks = tuple(_parse_chunk(fields, item) for fields in listed)
        if any(chunk.raw_bytes != CHUNK_SIZE_BYTES for chunk in chunks[:-1]):
            raise _malformed("a chunk that is not the last of its storage is not full")
        raw = sum(chunk.raw_bytes for chunk in chunks)
        result.append(StoredStorage(item, offset, raw, chunks))
        offset += sum(chunk.stored_bytes for chunk in chunks)
    if offset != index_offset_bytes:
        raise _malformed(f"its chunks end at {offset}, the index begins at {index_offset_bytes}")
    return tuple(result)


def _parse_chunk(fields: list[Any], item_size_bytes: int) -> Chunk:
    filter_, codec, stored, raw, digest = fields
    if not all(type(value) is int for value in (filter_, codec, stored, raw)):
        raise _malformed(f"a chunk {fields!r:.80}")
    chunk = Chunk(Filter(filter_), Codec(codec), stored, raw, int(digest, 16))
    if not 0 < raw <= CHUNK_SIZE_BYTES or not 0 < stored <= raw:
        raise _malformed(f"a chunk of {stored} stored and {raw} raw bytes")
    if codec == Codec.NONE and (stored != raw or filter_ != Filter.NONE):
        raise _malformed(f"an uncompressed chunk of {stored} stored and {raw} raw bytes")
    if filter_ == Filter.SHUFFLE and raw % item_size_bytes:
        raise _malformed(f"a shuffled chunk of {raw} bytes with elements of {item_size_bytes}")
    return chunk


def _parse_entry(
    fields: list[Any], storages: tuple[StoredStorage, ...], limits: Limits
) -> TensorEntry:
    kind, dtype, shape, storage, offset, stride, requires_grad = fields
    item = _item_size(kind, dtype)
    numbers = [storage, offset, *shape, *(stride or [])]
    if not all(type(value) is int and value >= 0 for value in numbers) or len(shape) > _MAX_AXES:
        raise _malformed(f"a tensor {fields!r:.80}")
    if type(requires_grad) is not bool or (requires_grad and not _is_differentiable(kind, dtype)):
        raise _malformed(f"a {dtype} tensor that requires a gradient")
    if storage >= len(storages):
        raise _malformed(f"a tensor in storage {storage} of {len(storages)}")
    if stride is not None and (kind == "numpy" or len(stride) != len(shape)):
        raise _malformed(f"a tensor of shape {shape!r:.80} with strides {stride!r:.80}")
    strides = contiguous_stride(shape) if stride is None else stride
    needed = offset
    if 0 not in shape:
        last = sum((extent - 1) * step for extent, step in zip(shape, strides, strict=True))
        needed = offset + (last + 1) * item
    available = storages[storage].raw_size_bytes
    if needed > available or (item and offset % item) or (kind == "numpy" and offset):
        raise _malformed(
            f"a {dtype} tensor of shape {shape!r:.80} at byte {offset} of a storage of {available}"
        )
    # Extents of an empty tensor count too: torch multiplies them before it looks for the zero.
    if prod(max(1, extent) for extent in shape) * max(1, item) > limits.raw_size_bytes:
        raise _malformed(f"a tensor of shape {shape!r:.80}, beyond {limits.raw_size_bytes} bytes")
    if kind == "numpy" and needed != available:
        raise _malformed(f"an array of {needed} bytes in a storage of {available}")
    return TensorEntry(
        kind, dtype, tuple(shape), storage, offset, stride and tuple(stride), requires_grad
    )


def _item_size(kind: Any, dtype: Any) -> int:
    if kind not in _KINDS or not isinstance(dtype, str):
        raise _malformed(f"a tensor of kind {kind!r:.40} and dtype {dtype!r:.40}")
    if kind != "numpy":
        item = TORCH_ITEM_SIZES.get(dtype)
        if item is None:
            raise _malformed(f"the dtype {dtype!r:.40}")
        return item
    parsed = numpy_dtype(dtype)
    if parsed is None or parsed.itemsize > _MAX_ITEM_BYTES:
        raise _malformed(f"the dtype {dtype!r:.40}")
    return parsed.itemsize


def _is_differentiable(kind: str, dtype: str) -> bool:
    return kind != "numpy" and dtype.startswith(("float", "bfloat", "complex"))


def _named(
    node: Any, path: str, entries: tuple[TensorEntry, ...]
) -> Iterator[tuple[str, TensorEntry]]:
    if not isinstance(node, dict):
        return
    tagged = cast("dict[str, Any]", node)
    for tag in ("d", "o"):
        for key, child in tagged.get(tag, ()):
            name = key if isinstance(key, str) else json.dumps(key)
            yield from _named(child, f"{path}.{name}" if path else name, entries)
    for tag in ("l", "u"):
        for position, child in enumerate(tagged.get(tag, ())):
            yield from _named(child, f"{path}.{position}" if path else str(position), entries)
    number = tagged.get("t")
    if number is not None and number < len(entries):
        yield path, entries[number]


def _malformed(what: str) -> Corrupt:
    return Corrupt(f"the index of the checkpoint is malformed: {what}", reason="INDEX")
