"""The fields of a rollout as its index describes them, and the grid that each is cut along."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from typing import Any, cast

import numpy as np

from penstock.rollout_file.encoding import CODECS, Codec
from penstock.rollout_file.leaves import DTYPES
from penstock.rollout_file.limits import Limits

__all__ = ["Field", "fields_from", "fields_to", "grid"]

_LEAST_SEGMENT_BYTES = 32 << 10
_MOST_SEGMENT_BYTES = 1 << 20
_ENVS = 8
_MOST_STEPS = 64
_MOST_EXTENT = 1 << 40
_HALVED = ("float32", "float64")


@dataclass(frozen=True, slots=True)
class Field:
    """One tensor of a rollout.

    Attributes:
        name: Its path, joined by ``/``.
        dtype: What it is decoded to, a NumPy name.
        shape: After environment and time.
        codec: Of its segments.
        stored: What is stored: ``float16`` where precision was given up, else the same as dtype.
        next_of: The name of the field that it is rebuilt from; None for most.
        chunk_envs: Environments of a segment.
        chunk_steps: Steps of a segment.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    codec: Codec
    stored: str
    next_of: str | None
    chunk_envs: int
    chunk_steps: int

    @property
    def stored_dtype(self) -> np.dtype[Any]:
        """What its segments decode to."""
        return DTYPES[self.stored]

    @property
    def elements(self) -> int:
        """Of a row: one step of one environment."""
        return prod(self.shape)

    @property
    def row_size_bytes(self) -> int:
        """Of a row as it is stored."""
        return self.elements * self.stored_dtype.itemsize

    @property
    def raw_row_size_bytes(self) -> int:
        """Of a row as it was."""
        return self.elements * DTYPES[self.dtype].itemsize


def grid(envs: int, steps: int, row_size_bytes: int) -> tuple[int, int]:
    """Into how large segments a field is cut.

    Returns:
        Environments and steps of a segment: 8 environments where that gives some KiB but not more
        than 1 MiB.
    """
    chunk_steps = min(steps, _MOST_STEPS)
    size = max(1, row_size_bytes) * chunk_steps
    chunk_envs = _ENVS
    if size * _ENVS < _LEAST_SEGMENT_BYTES:
        chunk_envs = -(-_LEAST_SEGMENT_BYTES // (size * _ENVS)) * _ENVS
    while chunk_envs > 1 and size * chunk_envs > _MOST_SEGMENT_BYTES:
        chunk_envs //= 2
    if size * chunk_envs > _MOST_SEGMENT_BYTES:
        chunk_steps = max(1, _MOST_SEGMENT_BYTES // row_size_bytes)
    return min(chunk_envs, envs), chunk_steps


def fields_to(fields: Sequence[Field]) -> list[list[Any]]:
    """As the index holds them."""
    return [
        [
            *(field.name, field.dtype, list(field.shape), field.codec),
            *(field.stored, field.next_of, field.chunk_envs, field.chunk_steps),
        ]
        for field in fields
    ]


def fields_from(stored: Any, envs: int, steps: int, limits: Limits) -> tuple[Field, ...]:
    """Fields of an index, checked.

    Raises:
        ValueError: Something cannot be; or another exception that JSON of the wrong form causes.
    """
    if not isinstance(stored, list) or not 1 <= len(cast("list[Any]", stored)) <= limits.fields:
        raise ValueError(f"fields are {stored!r:.80}")
    fields = tuple(_field(entry, envs, steps, limits) for entry in cast("list[Any]", stored))
    by_name = {field.name: field for field in fields}
    if len(by_name) != len(fields):
        raise ValueError("two fields have the same name")
    total = sum(envs * steps * _demand(field.shape, field.dtype) for field in fields)
    if total > limits.raw_size_bytes:
        raise ValueError(f"{total} bytes of tensors, at most {limits.raw_size_bytes} are read")
    for field in fields:
        if field.next_of is not None:
            _check_next(field, by_name.get(field.next_of))
    return fields


def _field(entry: Any, envs: int, steps: int, limits: Limits) -> Field:
    name, dtype, shape, codec, stored, next_of, chunk_envs, chunk_steps = entry
    if not isinstance(name, str) or not all(name.split("/")):
        raise ValueError(f"a field is called {name!r:.80}")
    if len(name.encode(errors="surrogatepass")) > limits.name_bytes:
        raise ValueError(f"a field is called {name:.80}...")
    if not isinstance(dtype, str) or dtype not in DTYPES:
        raise ValueError(f"{name} has the dtype {dtype!r:.40}")
    if stored != dtype and not (stored == "float16" and dtype in _HALVED):
        raise ValueError(f"{name} is {dtype} and is stored as {stored!r:.40}")
    if codec not in CODECS or not (next_of is None or isinstance(next_of, str)):
        raise ValueError(f"{name} has the codec {codec!r:.40} and follows {next_of!r:.80}")
    extents = _numbers(shape, 0, _MOST_EXTENT)
    if len(extents) > limits.axes or _demand(extents, dtype) > limits.row_size_bytes:
        raise ValueError(f"{name} has the shape {shape!r:.80} of {dtype}")
    _numbers([chunk_envs], 1, envs)
    _numbers([chunk_steps], 1, steps)
    found = Field(name, dtype, extents, codec, stored, next_of, chunk_envs, chunk_steps)
    rows = chunk_envs * chunk_steps
    if rows > 1 and rows * found.row_size_bytes > _MOST_SEGMENT_BYTES:
        raise ValueError(f"{name} has segments of {chunk_envs} x {chunk_steps}, beyond 1 MiB")
    return found


def _numbers(values: Any, least: int, most: int) -> tuple[int, ...]:
    # A bool is an int to isinstance, and no number here.
    if not isinstance(values, list) or not all(
        type(value) is int and least <= value <= most for value in cast("list[Any]", values)
    ):
        raise ValueError(f"found {values!r:.80}, expected numbers from {least} to {most}")
    return tuple(cast("list[int]", values))


def _demand(shape: Sequence[int], dtype: str) -> int:
    """Bytes of a row; NumPy multiplies the other extents of an empty array too."""
    return prod(max(1, extent) for extent in shape) * DTYPES[dtype].itemsize


def _check_next(field: Field, base: Field | None) -> None:
    same = base is not None and base.next_of is None and base.name != field.name
    if not same or base is None:
        raise ValueError(f"{field.name} is rebuilt from {field.next_of!r:.80}, which cannot be")
    mine = (field.dtype, field.stored, field.shape, field.chunk_envs, field.chunk_steps)
    if mine != (base.dtype, base.stored, base.shape, base.chunk_envs, base.chunk_steps):
        raise ValueError(f"{field.name} is rebuilt from {base.name}, which is of another form")
