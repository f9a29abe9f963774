"""The index of a rollout file: what it holds, and where each segment lies.

    magic     8 bytes
    segments  back to back, ordered by first environment, field, first step
    index     u32 size of the JSON; JSON (ASCII); u32 size of each segment; u64 hash of each segment
    footer    u64 size of the index; xxh3-128 of the index; magic

Numbers are little-endian, hashes are XXH3-64. Offsets follow from the sizes, and which part of
which field a segment holds follows from the grid of the field.
"""

from __future__ import annotations

import io
import json
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, BinaryIO, cast

import numpy as np
import xxhash
from numpy.typing import NDArray

from penstock.errors import Corrupt
from penstock.rollout_file.field import Field, fields_from, fields_to
from penstock.rollout_file.limits import Limits
from penstock.rollout_file.selection import Selected, Wanted

__all__ = ["FOOTER", "MAGIC", "Index", "Segments", "read_index"]

MAGIC = b"PSROLL1\n"
FOOTER = struct.Struct("<Q16s8s")

_VERSION = 1
_JSON_SIZE = struct.Struct("<I")
_ENTRY_BYTES = 12


@dataclass(frozen=True, slots=True)
class Segments:
    """Which segments a rollout has, in the order of its file.

    Attributes:
        field: ``(n,) int64``: number of the field.
        first_env: ``(n,) int64``.
        first_step: ``(n,) int64``.
        envs: ``(n,) int64``: how many environments it holds.
        steps: ``(n,) int64``: how many steps of each.
    """

    field: NDArray[np.int64]
    first_env: NDArray[np.int64]
    first_step: NDArray[np.int64]
    envs: NDArray[np.int64]
    steps: NDArray[np.int64]

    @classmethod
    def of(cls, envs: int, steps: int, fields: Sequence[Field]) -> Segments:
        """Cut every field along its grid."""
        parts: list[NDArray[np.int64]] = []
        for number, field in enumerate(fields):
            if not field.row_size_bytes:
                continue
            env = np.arange(0, envs, field.chunk_envs, dtype=np.int64)
            step = np.arange(0, steps, field.chunk_steps, dtype=np.int64)
            count = len(env) * len(step)
            part = np.empty((5, count), np.int64)
            part[0] = number
            part[1], part[2] = np.repeat(env, len(step)), np.tile(step, len(env))
            part[3] = np.minimum(field.chunk_envs, envs - part[1])
            part[4] = np.minimum(field.chunk_steps, steps - part[2])
            parts.append(part)
        every = np.concatenate(parts, axis=1) if parts else np.empty((5, 0), np.int64)
        every = np.ascontiguousarray(every[:, np.lexsort((every[2], every[0], every[1]))])
        return cls(*every)

    @staticmethod
    def count(envs: int, steps: int, fields: Sequence[Field]) -> int:
        """How many there will be; costs no memory."""
        return sum(
            -(-envs // field.chunk_envs) * -(-steps // field.chunk_steps)
            for field in fields
            if field.row_size_bytes
        )


@dataclass(frozen=True)
class Index:
    """What a rollout file holds, checked for consistency.

    Attributes:
        data: Its bytes, as they lie in the file.
        envs: Environments.
        steps: Steps of each.
        fields: What is stored, in order.
        meta: What the writer said about it: plain JSON.
        sizes: ``(n,) int64``: stored bytes of each segment.
        hashes: ``(n,) uint64``: XXH3-64 of each.
    """

    data: bytes
    envs: int
    steps: int
    fields: tuple[Field, ...]
    meta: Mapping[str, Any]
    sizes: NDArray[np.int64]
    hashes: NDArray[np.uint64]

    @classmethod
    def parse(cls, data: bytes, file_size_bytes: int, limits: Limits | None = None) -> Index:
        """Read an index.

        Args:
            data: The index alone; distrusted.
            file_size_bytes: Of the whole file, which the sizes of the segments must fill.
            limits: What is refused as too large; None for the usual.

        Raises:
            Corrupt: It contradicts itself or the size of the file, or is beyond the limits.
        """
        limits = limits or Limits()
        if not _JSON_SIZE.size <= len(data) <= limits.index_size_bytes:
            raise _malformed(f"it has {len(data)} bytes")
        json_bytes = _JSON_SIZE.unpack_from(data)[0]
        entries_at = _JSON_SIZE.size + json_bytes
        if entries_at > len(data):
            raise _malformed(f"its JSON of {json_bytes} bytes is longer than the index")
        try:
            head: Any = json.loads(data[_JSON_SIZE.size : entries_at].decode("ascii"))
            envs, steps, fields, meta = _head(head, limits)
        except (ValueError, TypeError, KeyError, RecursionError) as error:
            raise _malformed(f"{error!s:.200}") from error
        count = Segments.count(envs, steps, fields)
        if len(data) - entries_at != count * _ENTRY_BYTES:
            message = f"{len(data) - entries_at} bytes for the places of {count} segments"
            raise _malformed(message)
        sizes = np.frombuffer(data, "<u4", count, entries_at).astype(np.int64)
        hashes = np.frombuffer(data, "<u8", count, entries_at + 4 * count).astype(np.uint64)
        needed = len(MAGIC) + int(sizes.sum()) + len(data) + FOOTER.size
        if needed != file_size_bytes:
            message = f"the file has {file_size_bytes} bytes, its segments fill {needed}"
            raise _malformed(message)
        return cls(bytes(data), envs, steps, fields, meta, sizes, hashes)

    @classmethod
    def build(
        cls,
        envs: int,
        steps: int,
        fields: Sequence[Field],
        meta: Mapping[str, Any],
        sizes: NDArray[np.int64],
        hashes: NDArray[np.uint64],
    ) -> Index:
        """The index of what was encoded."""
        head = {"version": _VERSION, "envs": envs, "steps": steps}
        head |= {"fields": fields_to(fields), "meta": dict(meta)}
        text = json.dumps(head, separators=(",", ":"), allow_nan=False).encode("ascii")
        parts = [_JSON_SIZE.pack(len(text)), text]
        parts += [sizes.astype("<u4").tobytes(), hashes.astype("<u8").tobytes()]
        return cls(b"".join(parts), envs, steps, tuple(fields), dict(meta), sizes, hashes)

    @property
    def raw_size_bytes(self) -> int:
        """Of all tensors, decoded."""
        rows = self.envs * self.steps
        return sum(rows * field.raw_row_size_bytes for field in self.fields)

    @property
    def file_size_bytes(self) -> int:
        """Of the whole file."""
        return len(MAGIC) + int(self.sizes.sum()) + len(self.data) + FOOTER.size

    @cached_property
    def segments(self) -> Segments:
        """Which segments there are."""
        return Segments.of(self.envs, self.steps, self.fields)

    @cached_property
    def offsets(self) -> NDArray[np.int64]:
        """``(n,) int64``: where in the file each segment begins."""
        offsets = np.cumsum(self.sizes) - self.sizes
        return offsets + len(MAGIC)

    @property
    def footer(self) -> bytes:
        """What follows the index in the file."""
        return FOOTER.pack(len(self.data), xxhash.xxh3_128_digest(self.data), MAGIC)

    def place(self, number: int) -> str:
        """What a segment is called in errors."""
        found = self.segments
        name = self.fields[int(found.field[number])].name
        env, step = int(found.first_env[number]), int(found.first_step[number])
        return (
            f"{name} of environments {env} to {env + int(found.envs[number]) - 1}, "
            f"steps {step} to {step + int(found.steps[number]) - 1}, "
            f"at byte {int(self.offsets[number])} of the rollout,"
        )

    def wanted(self, selection: Selected | None = None) -> Wanted:
        """Which segments a selection needs.

        Raises:
            InvalidInput: It names an environment, a step or a field that is not there.
        """
        return Wanted.of(self, selection)

    def ranges(self, selection: Selected | None = None) -> list[tuple[int, int]]:
        """Which parts of the file a selection needs.

        Args:
            selection: A ``penstock.streams.Selection``; None for all.

        Returns:
            Offset and size of each part, ascending, with a gap between any two. Fields that a
            chosen one is rebuilt from are included.

        Raises:
            InvalidInput: It names an environment, a step or a field that is not there.
        """
        chosen = self.wanted(selection).segments
        if not len(chosen):
            return []
        begins, ends = self.offsets[chosen], self.offsets[chosen] + self.sizes[chosen]
        new = np.flatnonzero(np.concatenate(([True], begins[1:] != ends[:-1])))
        last = np.concatenate((new[1:], [len(chosen)])) - 1
        pieces = zip(begins[new].tolist(), (ends[last] - begins[new]).tolist(), strict=True)
        return [(begin, size) for begin, size in pieces if size]


def read_index(file: BinaryIO, limits: Limits | None = None) -> Index:
    """Read the index of a rollout file.

    Args:
        file: Seekable.
        limits: What is refused as too large; None for the usual.

    Raises:
        Corrupt: It is no rollout file, was cut off, or its index is damaged.
    """
    limits = limits or Limits()
    size = file.seek(0, io.SEEK_END)
    if size < len(MAGIC) + _JSON_SIZE.size + FOOTER.size:
        raise Corrupt(f"a file of {size} bytes is no rollout", reason="FILE")
    file.seek(0)
    if file.read(len(MAGIC)) != MAGIC:
        raise Corrupt("the file does not begin as a rollout does", reason="FILE")
    file.seek(size - FOOTER.size)
    index_bytes, digest, magic = FOOTER.unpack(file.read(FOOTER.size))
    if magic != MAGIC:
        raise Corrupt("the file does not end as a rollout does: it was cut off", reason="FILE")
    if index_bytes > min(size - len(MAGIC) - FOOTER.size, limits.index_size_bytes):
        raise _malformed(f"{index_bytes} bytes in a file of {size}")
    file.seek(size - FOOTER.size - index_bytes)
    data = file.read(index_bytes)
    if xxhash.xxh3_128_digest(data) != digest:
        raise _malformed("it does not match its hash")
    return Index.parse(data, size, limits)


def _head(head: Any, limits: Limits) -> tuple[int, int, tuple[Field, ...], Mapping[str, Any]]:
    if not isinstance(head, dict) or head.get("version") != _VERSION:
        raise ValueError(f"this is version {_VERSION}, found {head!r:.80}")
    known = cast("dict[str, Any]", head)
    envs, steps, meta = known["envs"], known["steps"], known["meta"]
    for name, value, most in (("envs", envs, limits.envs), ("steps", steps, limits.steps)):
        if type(value) is not int or not 1 <= value <= most:
            raise ValueError(f"{name} is {value!r:.40}, not 1 to {most}")
    if not isinstance(meta, dict):
        raise TypeError(f"meta is {meta!r:.40}")
    fields = fields_from(known["fields"], envs, steps, limits)
    return envs, steps, fields, cast("dict[str, Any]", meta)


def _malformed(what: str) -> Corrupt:
    return Corrupt(f"the index of the rollout is malformed: {what}", reason="INDEX")
