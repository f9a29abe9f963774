"""Encoding a rollout: buffers of the file come out while later ones are still being made."""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import numpy as np
import xxhash
from numpy.typing import NDArray

from penstock.chunks import Digest
from penstock.errors import InvalidInput, LimitExceeded
from penstock.native.rollouts import ROWS_IN, table
from penstock.rollout_file.encoding import Codec, Encoding, is_below
from penstock.rollout_file.field import Field, fields_from, fields_to, grid
from penstock.rollout_file.index import MAGIC, Index, Segments
from penstock.rollout_file.leaves import DTYPES, Leaves, flatten
from penstock.rollout_file.limits import Limits
from penstock.rollout_file.next_fields import find_bases
from penstock.rollout_file.tables import BATCH_BYTES, borrowed_coder, lines_of

__all__ = ["Encoder"]

_EFFORTS = {"raw": 0, "lz4": 1, "zstd": 1}
_MOST_META_BYTES = 1 << 20
_AHEAD = 2
"""Batches for each thread that are encoded before they are asked for."""

Encoded = tuple[NDArray[np.uint8], NDArray[np.int64], NDArray[np.uint64]]


class Encoder:
    """Encodes a rollout; iterate over it once for the content of its file.

    Args:
        leaves: As ``flatten`` gives them; they must not change before the last buffer came.
        encoding: How.
        threads: How many encode.
        meta: Plain JSON that the index carries.
        limits: What is refused as too large; None for the usual.

    Attributes:
        raw_size_bytes: Of all tensors.

    Raises:
        InvalidInput: ``leaves`` are none, ``half`` or ``only`` name what cannot be, a value is
            beyond float16, or ``meta`` is no JSON.
        LimitExceeded: The rollout is too large.
    """

    def __init__(
        self,
        leaves: Leaves,
        encoding: Encoding | None = None,
        *,
        threads: int = 1,
        meta: Mapping[str, Any] | None = None,
        limits: Limits | None = None,
    ) -> None:
        limits = limits or Limits()
        encoding = encoding or Encoding()
        leaves = flatten(leaves, limits)
        self._threads = max(1, threads)
        self._meta = _checked_meta(meta or {})
        self._envs, self._steps = next(iter(leaves.values())).shape[:2]
        self.raw_size_bytes = sum(array.nbytes for array in leaves.values())
        if self.raw_size_bytes > limits.raw_size_bytes:
            message = f"a rollout of {self.raw_size_bytes} bytes, at most {limits.raw_size_bytes}"
            raise LimitExceeded(message)
        self._arrays, self._fields = _plan(leaves, encoding)
        try:
            fields_from(fields_to(self._fields), self._envs, self._steps, limits)
        except ValueError as error:
            raise LimitExceeded(f"nobody could read the rollout: {error}") from error
        self._table = self._lines(encoding)
        self._index: Index | None = None
        self._digest: Digest | None = None

    @property
    def index(self) -> Index:
        """The index, once all buffers came."""
        if self._index is None:
            raise RuntimeError("the index is known when all buffers came")
        return self._index

    @property
    def digest(self) -> Digest:
        """Of the whole file, once all buffers came."""
        if self._digest is None:
            raise RuntimeError("the digest is known when all buffers came")
        return self._digest

    @property
    def size_bytes(self) -> int:
        """Of the whole file, once all buffers came."""
        return self.digest.size_bytes

    def __iter__(self) -> Iterator[memoryview]:
        state = xxhash.xxh3_128()
        size = 0
        sizes: list[NDArray[np.int64]] = [np.empty(0, np.int64)]
        hashes: list[NDArray[np.uint64]] = [np.empty(0, np.uint64)]
        begin = MAGIC
        for data, part_sizes, part_hashes in self._encoded():
            sizes.append(part_sizes)
            hashes.append(part_hashes)
            buffer = memoryview(begin + data.tobytes()) if begin else data.data
            begin = b""
            state.update(buffer)
            size += len(buffer)
            yield buffer
        index = Index.build(
            *(self._envs, self._steps, self._fields, self._meta),
            *(np.concatenate(sizes), np.concatenate(hashes)),
        )
        end = begin + index.data + index.footer
        state.update(end)
        self._index = index
        self._digest = Digest(size + len(end), state.digest())
        yield memoryview(end)

    def _encoded(self) -> Iterator[Encoded]:
        batches = self._batches()
        if self._threads == 1:
            yield from map(self._encode, batches)
            return
        ahead: deque[Future[Encoded]] = deque()
        with ThreadPoolExecutor(self._threads, "penstock-encode") as pool:
            try:
                for batch in batches:
                    ahead.append(pool.submit(self._encode, batch))
                    if len(ahead) > _AHEAD * self._threads:
                        yield ahead.popleft().result()
                while ahead:
                    yield ahead.popleft().result()
            finally:
                for future in ahead:
                    future.cancel()

    def _batches(self) -> Iterator[slice]:
        of = self._table["of"]
        raw = np.cumsum(of["envs"] * of["steps"] * of["elements"] * of["item"])
        begin = 0
        while begin < len(raw):
            before = int(raw[begin - 1]) if begin else 0
            end = int(np.searchsorted(raw, before + BATCH_BYTES, "right"))
            end = max(end, begin + 1)
            yield slice(begin, end)
            begin = end

    def _encode(self, batch: slice) -> Encoded:
        with borrowed_coder() as coder:
            return coder.encode(self._table[batch])

    def _lines(self, encoding: Encoding) -> NDArray[np.void]:
        """All segments, with the addresses of their rows."""
        found = Segments.of(self._envs, self._steps, self._fields)
        lines = table(ROWS_IN, len(found.field))
        lines["of"] = lines_of(self._fields, found)
        lines["effort"] = _EFFORTS[encoding.codec] if encoding.level is None else encoding.level
        arrays = [self._arrays[field.name] for field in self._fields]
        where = np.array([_where(array) for array in arrays], np.int64)
        number = {field.name: place for place, field in enumerate(self._fields)}
        base = np.array([number[field.next_of or field.name] for field in self._fields], np.int64)
        for prefix, place in (("", where[found.field]), ("base_", where[base[found.field]])):
            begin = place[:, 0] + found.first_env * place[:, 1] + found.first_step * place[:, 2]
            lines["base" if prefix else "rows"] = begin
            lines[f"{prefix}env_stride"], lines[f"{prefix}step_stride"] = place[:, 1], place[:, 2]
        return lines


def _where(array: NDArray[Any]) -> tuple[int, int, int]:
    return array.__array_interface__["data"][0], array.strides[0], array.strides[1]


def _plan(leaves: Leaves, encoding: Encoding) -> tuple[Leaves, tuple[Field, ...]]:
    arrays = {name: _stored(name, array, encoding) for name, array in leaves.items()}
    for path in (*encoding.half, *(encoding.only or ())):
        if not any(is_below(name, path) for name in leaves):
            message = f"there is no field {path!r:.80}: the rollout has {', '.join(leaves):.400}"
            raise InvalidInput(message, field=path)
    bases = find_bases(arrays) if encoding.rebuild_next else {}
    envs, steps = next(iter(leaves.values())).shape[:2]
    fields: list[Field] = []
    for name, array in arrays.items():
        codec: Codec = encoding.codec
        if encoding.only is not None and not any(is_below(name, path) for path in encoding.only):
            codec = "raw"
        row = array[0, 0].nbytes
        dtype = leaves[name].dtype.name
        shape = array.shape[2:]
        fields.append(
            Field(
                *(name, dtype, shape, codec, array.dtype.name, bases.get(name)),
                *grid(envs, steps, row),
            )
        )
    return arrays, tuple(fields)


def _stored(name: str, array: NDArray[Any], encoding: Encoding) -> NDArray[Any]:
    """As it will be stored: little-endian, float16 where that was asked for."""
    named = name in encoding.half
    floats = array.dtype.name in ("float32", "float64")
    if named and not floats:
        message = f"half names {name}, which is {array.dtype}: expected float32 or float64"
        raise InvalidInput(message, field=name)
    if floats and any(is_below(name, path) for path in encoding.half):
        with np.errstate(over="ignore"):
            half = array.astype("<f2")
        beyond = np.isinf(half) & np.isfinite(array)
        if beyond.any():
            value = array[beyond][0]
            message = f"{name} holds {value}, beyond float16 (65504): leave it out of half"
            raise InvalidInput(message, field=name)
        return half
    array = array.astype(DTYPES[array.dtype.name], copy=False)
    # Rows must lie in one piece, and their addresses ascend.
    row = array[0, 0]
    straight = row.flags.c_contiguous and min(array.strides[:2]) >= 0
    return array if straight else np.ascontiguousarray(array)


def _checked_meta(meta: Mapping[str, Any]) -> dict[str, Any]:
    try:
        text = json.dumps(dict(meta), allow_nan=False)
    except (TypeError, ValueError, RecursionError) as error:
        raise InvalidInput(f"meta is no plain JSON: {error}", field="meta") from error
    if len(text) > _MOST_META_BYTES:
        message = f"meta has {len(text)} bytes as JSON: at most {_MOST_META_BYTES} are stored"
        raise InvalidInput(message, field="meta")
    return json.loads(text)
