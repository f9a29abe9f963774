r"""The frame of a ``.pstk`` file: magic, chunks back to back, JSON index, footer.

    offset 0        magic, 8 bytes: b"\x89PSTK\r\n" and the format's version
    offset 8        stored bytes of all chunks, storage by storage, no gaps
    index offset    JSON index (ASCII)
    end - 40        footer: index offset, index length (u64), xxh3-128 of the index, footer magic

Numbers are little-endian. The index holds ``tree`` (see ``tree``), ``tensors`` (entries),
``storages``, ``meta`` (strings about the writer) and, if the file refers to another checkpoint of
its run, ``base`` (its step, size, xxh3-128 and that of its index). A storage is its element size
and either its chunks (filter, codec, stored and raw size, xxh3-64 each) or the number of an earlier
storage with the same bytes; behind the chunks, the number of the storage of the base that they
refer to. Every byte of the file is hashed or compared. A chunk that only says that it equals the
base's has the hash of its raw bytes, all others that of their stored ones.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any, NamedTuple, cast

import xxhash

from penstock.chunks import Digest
from penstock.container.codecs import DELTA_ITEM_BYTES, Codec, Filter
from penstock.container.limits import CHUNK_SIZE_BYTES, Limits
from penstock.container.tensors import TensorEntry, contiguous_stride, numpy_dtype
from penstock.container.torch_bridge import TORCH_ITEM_SIZES
from penstock.errors import Corrupt, LimitExceeded

__all__ = [
    "FOOTER",
    "FOOTER_MAGIC",
    "MAGIC",
    "BaseRef",
    "Chunk",
    "Index",
    "NewStorage",
    "StoredStorage",
    "check_nodes",
    "encode_index",
    "index_hash",
    "named_entries",
    "parse_index",
]

MAGIC = b"\x89PSTK\r\n\x01"
FOOTER_MAGIC = b"PSTK\x01END"
FOOTER = struct.Struct("<QQ16s8s")

_MAX_AXES = 64
_MAX_ITEM_BYTES = 1 << 30
_DIGEST_BYTES = 16
_FLOAT32_BYTES = 4
_KINDS = {"torch", "parameter", "numpy"}
_FILTERS: Mapping[int, set[Filter]] = {
    Codec.NONE: {Filter.NONE},
    Codec.LZ4: {Filter.NONE, Filter.SHUFFLE},
    Codec.BLOSC2: set(Filter),
    Codec.BASE: {Filter.NONE},
    Codec.PLANES: {Filter.NONE, Filter.DELTA, Filter.BF16},
}
"""Which filters may go before a codec."""


class NewStorage(NamedTuple):
    """A storage as it is written: element size, chunks, and what it refers to."""

    item_size_bytes: int
    chunks: list[Chunk]
    base: int | None = None
    same_as: int | None = None

    def encode(self) -> list[Any]:
        """As the index holds it."""
        if self.same_as is not None:
            return [self.item_size_bytes, self.same_as]
        chunks = [[*chunk[:4], f"{chunk.xxh3_64:016x}"] for chunk in self.chunks]
        if self.base is not None:
            return [self.item_size_bytes, chunks, self.base]
        return [self.item_size_bytes, chunks]


class Chunk(NamedTuple):
    """One independent piece of a storage, as it lies in the file."""

    filter: int
    codec: int
    stored_bytes: int
    raw_bytes: int
    xxh3_64: int


class BaseRef(NamedTuple):
    """The checkpoint of the same run that a file refers to, which must be read with it.

    Attributes:
        step: Its step.
        digest: Of its whole file.
        index_hash: Of its index, and so of all its content: known without reading all of it.
    """

    step: int
    digest: Digest
    index_hash: bytes


@dataclass(frozen=True, slots=True)
class StoredStorage:
    """A storage in a file.

    Attributes:
        item_size_bytes: Bytes per element, which are coded by planes.
        offset_bytes: Of its first chunk in the file; the others follow without gaps.
        raw_size_bytes: Once decoded.
        chunks: In order.
        base: Number of the storage of the base that some of them refer to.
        same_as: Number of an earlier storage that has the same bytes; then there are no chunks.
    """

    item_size_bytes: int
    offset_bytes: int
    raw_size_bytes: int
    chunks: tuple[Chunk, ...]
    base: int | None = None
    same_as: int | None = None


@dataclass(frozen=True, slots=True)
class Index:
    """What a file holds, checked for consistency; ``tree`` is checked when it is decoded."""

    tree: Any
    entries: tuple[TensorEntry, ...]
    storages: tuple[StoredStorage, ...]
    meta: Mapping[str, str]
    raw_size_bytes: int
    chunk_count: int
    base: BaseRef | None = None

    def named_entries(self) -> Iterator[tuple[str, TensorEntry]]:
        """Tensors and arrays with their path in the state, in its order."""
        return named_entries(self.tree, self.entries)


def encode_index(
    tree: Any,
    entries: list[TensorEntry],
    storages: list[NewStorage],
    meta: Mapping[str, str],
    base: BaseRef | None = None,
) -> bytes:
    """The index as it is written."""
    document: dict[str, Any] = {
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
        "storages": [storage.encode() for storage in storages],
    }
    if base is not None:
        hashes = base.digest.xxh3_128.hex(), base.index_hash.hex()
        document["base"] = [base.step, base.digest.size_bytes, *hashes]
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
    check_nodes(data, limits)
    try:
        document = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise _malformed(f"it is no JSON: {error!s:.80}") from error
    try:
        tree, tensors, storages = document["tree"], document["tensors"], document["storages"]
        meta = {str(key): str(value) for key, value in document["meta"].items()}
        base = _parse_base(document.get("base"))
        stored = _parse_storages(storages, index_offset_bytes, with_base=base is not None)
        raw_size_bytes = _check_counts(stored, len(tensors), limits)
        entries = tuple(_parse_entry(fields, stored, limits) for fields in tensors)
    except (TypeError, ValueError, KeyError, AttributeError, IndexError, OverflowError) as error:
        raise _malformed(f"{type(error).__name__}: {error!s:.80}") from error
    chunk_count = sum(len(storage.chunks) for storage in stored)
    return Index(tree, entries, stored, meta, raw_size_bytes, chunk_count, base)


def check_nodes(data: bytes, limits: Limits) -> None:
    """Refuse an index of too many values.

    Raises:
        LimitExceeded: It has more than ``limits`` allow.
    """
    # Each of them has a brace; those inside texts are few.
    nodes = data.count(b"{")
    if nodes > limits.node_count:
        raise LimitExceeded(
            f"the index of the checkpoint has {nodes} values, the limit is {limits.node_count}: "
            "put long lists of numbers into arrays",
            reason="NODE_COUNT",
        )


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


def _parse_base(fields: Any) -> BaseRef | None:
    if fields is None:
        return None
    step, size_bytes, *hashes = fields
    if type(step) is not int or type(size_bytes) is not int or step < 0 or size_bytes <= 0:
        raise _malformed(f"a base {fields!r:.80}")
    digest, index = map(bytes.fromhex, hashes)
    if (len(digest), len(index)) != (_DIGEST_BYTES, _DIGEST_BYTES):
        raise _malformed(f"a base with hashes of {len(digest)} and {len(index)} bytes")
    return BaseRef(step, Digest(size_bytes, digest), index)


def _parse_storages(
    storages: Any, index_offset_bytes: int, *, with_base: bool
) -> tuple[StoredStorage, ...]:
    offset = len(MAGIC)
    result: list[StoredStorage] = []
    for item, content, *refers in cast("list[tuple[Any, ...]]", storages):
        if type(item) is not int or not 0 < item <= _MAX_ITEM_BYTES:
            raise _malformed(f"an element size of {item!r:.40} bytes")
        if type(content) is int:
            if refers or not 0 <= content < len(result) or result[content].same_as is not None:
                raise _malformed(f"a storage that is the same as {content!r:.40}")
            raw = result[content].raw_size_bytes
            result.append(StoredStorage(item, offset, raw, (), same_as=content))
            continue
        base = _parse_reference(refers, with_base=with_base)
        chunks = tuple(_parse_chunk(fields, item, base is not None) for fields in content)
        if any(chunk.raw_bytes != CHUNK_SIZE_BYTES for chunk in chunks[:-1]):
            raise _malformed("a chunk that is not the last of its storage is not full")
        raw = sum(chunk.raw_bytes for chunk in chunks)
        result.append(StoredStorage(item, offset, raw, chunks, base))
        offset += sum(chunk.stored_bytes for chunk in chunks)
    if offset != index_offset_bytes:
        raise _malformed(f"its chunks end at {offset}, the index begins at {index_offset_bytes}")
    return tuple(result)


def _parse_reference(refers: list[Any], *, with_base: bool) -> int | None:
    if not refers:
        return None
    (number,) = refers
    if type(number) is not int or number < 0 or not with_base:
        raise _malformed(f"a storage that refers to {number!r:.40} of a base")
    return number


def _parse_chunk(fields: list[Any], item_size_bytes: int, with_base: bool) -> Chunk:  # noqa: FBT001
    filter_, codec, stored, raw, digest = fields
    if not all(type(value) is int for value in (filter_, codec, stored, raw)):
        raise _malformed(f"a chunk {fields!r:.80}")
    chunk = Chunk(Filter(filter_), Codec(codec), stored, raw, int(digest, 16))
    fewest = 0 if codec == Codec.BASE else 1
    if not 0 < raw <= CHUNK_SIZE_BYTES or not fewest <= stored <= raw:
        raise _malformed(f"a chunk of {stored} stored and {raw} raw bytes")
    if filter_ not in _FILTERS[codec]:
        raise _malformed(f"a chunk with the codec {codec} and the filter {filter_}")
    if codec == Codec.NONE and stored != raw:
        raise _malformed(f"an uncompressed chunk of {stored} stored and {raw} raw bytes")
    if codec == Codec.BASE and stored:
        raise _malformed(f"a chunk of {stored} bytes that equals that of the base")
    if filter_ != Filter.NONE and raw % item_size_bytes:
        raise _malformed(f"a shuffled chunk of {raw} bytes with elements of {item_size_bytes}")
    if filter_ == Filter.DELTA and item_size_bytes not in DELTA_ITEM_BYTES:
        raise _malformed(f"a difference of elements of {item_size_bytes} bytes")
    if filter_ == Filter.BF16 and item_size_bytes != _FLOAT32_BYTES:
        raise _malformed(f"rounded elements of {item_size_bytes} bytes")
    if (codec == Codec.BASE or filter_ == Filter.DELTA) and not with_base:
        raise _malformed("a chunk that refers to a base in a storage that does not")
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


def named_entries(
    tree: Any, entries: Sequence[TensorEntry], path: str = ""
) -> Iterator[tuple[str, TensorEntry]]:
    """Tensors and arrays with their path in the state, in its order."""
    if not isinstance(tree, dict):
        return
    tagged = cast("dict[str, Any]", tree)
    for tag in ("d", "o"):
        for key, child in tagged.get(tag, ()):
            name = key if isinstance(key, str) else json.dumps(key)
            yield from named_entries(child, entries, f"{path}.{name}" if path else name)
    for tag in ("l", "u"):
        for position, child in enumerate(tagged.get(tag, ())):
            yield from named_entries(
                child, entries, f"{path}.{position}" if path else str(position)
            )
    number = tagged.get("t")
    if number is not None and number < len(entries):
        yield path, entries[number]


def _malformed(what: str) -> Corrupt:
    return Corrupt(f"the index of the checkpoint is malformed: {what}", reason="INDEX")
