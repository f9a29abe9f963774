"""What differs between two checkpoints, found piece by piece in bounded memory.

Tensors are equal when their bytes are. Which tensors share memory is not compared.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, cast

import numpy as np
import numpy.typing as npt

from penstock.client.checkpoint_diff.leaves import Container, LongBytes, Tensor, leaves_of
from penstock.container import CHUNK_SIZE_BYTES, Reader
from penstock.container.tensors import TensorEntry
from penstock.container.torch_bridge import TORCH_ITEM_SIZES

__all__ = ["ABSENT", "Difference", "TensorChange", "ValueChange", "diff_checkpoints"]

ABSENT = "(absent)"
"""Stands for the value of a place that one of the two states does not have."""

_NOTHING = object()
_PIECE_ELEMENTS = 1 << 18
_NUMBERS = "biufc"
_BYTES_ONLY = ("bfloat", "float8")


@dataclass(frozen=True, slots=True)
class TensorChange:
    """A tensor with the same dtype and shape and other values.

    Attributes:
        path: Its place, as ``state['model']['w']``.
        changed: Elements whose bytes differ.
        elements: How many there are.
        max_abs: Largest absolute difference; None for dtypes that are compared as bytes
            (``bfloat16``, ``float8_*``, texts, times).
        relative_norm: Norm of the difference over that of the old values; None where the old ones
            are all zero, or compared as bytes.
        not_finite: Changed elements that are infinite or no number before or after: they do not
            count in ``max_abs`` and ``relative_norm``.
    """

    path: str
    changed: int
    elements: int
    max_abs: float | int | None
    relative_norm: float | None
    not_finite: int = 0


@dataclass(frozen=True, slots=True)
class ValueChange:
    """A plain value, or the form of a tensor, that differs; both as they are printed."""

    path: str
    old: str
    new: str


@dataclass(slots=True)
class Difference:
    """All that differs between an old and a new state.

    Attributes:
        only_in_old: Paths of tensors and their forms.
        only_in_new: Likewise.
        reformed: Tensors whose kind, dtype or shape differs.
        changed: Tensors of the same form with other values.
        equal: How many tensors are equal.
        values: Plain values that differ, or are in one state only.
    """

    only_in_old: dict[str, str] = field(default_factory=dict[str, str])
    only_in_new: dict[str, str] = field(default_factory=dict[str, str])
    reformed: list[ValueChange] = field(default_factory=list[ValueChange])
    changed: list[TensorChange] = field(default_factory=list[TensorChange])
    equal: int = 0
    values: list[ValueChange] = field(default_factory=list[ValueChange])

    def __bool__(self) -> bool:
        """Whether anything differs."""
        found = (self.only_in_old, self.only_in_new, self.reformed, self.changed, self.values)
        return any(found)


def diff_checkpoints(old: Reader, new: Reader) -> Difference:
    """Compare two checkpoints.

    Args:
        old: Open; its base too where it has one.
        new: Likewise.

    Raises:
        Corrupt: A chunk does not match its hash, or a tree is malformed.
        Unsupported: A checkpoint refers to another one, which its reader cannot open.
    """
    result = Difference()
    of_old, of_new = leaves_of(old.index), leaves_of(new.index)
    for path in {**of_old, **of_new}:
        before, after = of_old.get(path, _NOTHING), of_new.get(path, _NOTHING)
        if isinstance(before, Tensor) and isinstance(after, Tensor):
            entries = old.index.entries[before.number], new.index.entries[after.number]
            _compare_tensors(result, path, (old, entries[0]), (new, entries[1]))
            continue
        if isinstance(before, Tensor):
            result.only_in_old[path] = _form(old.index.entries[before.number])
            before = _NOTHING
        if isinstance(after, Tensor):
            result.only_in_new[path] = _form(new.index.entries[after.number])
            after = _NOTHING
        if not _same(before, after, old, new):
            result.values.append(ValueChange(path, _shown(before), _shown(after)))
    return result


def _compare_tensors(
    result: Difference,
    path: str,
    old: tuple[Reader, TensorEntry],
    new: tuple[Reader, TensorEntry],
) -> None:
    if _form(old[1]) != _form(new[1]):
        result.reformed.append(ValueChange(path, _form(old[1]), _form(new[1])))
        return
    elements = math.prod(old[1].shape)
    as_numbers = not old[1].dtype.startswith(_BYTES_ONLY) and _dtype(old[1]).kind in _NUMBERS
    sums = _Sums()
    before, after = _Elements(*old), _Elements(*new)
    for start in range(0, elements, _PIECE_ELEMENTS):
        stop = min(elements, start + _PIECE_ELEMENTS)
        sums.add(before.read(start, stop), after.read(start, stop), as_numbers=as_numbers)
    if not sums.changed:
        result.equal += 1
        return
    relative = sums.norm_of_difference / sums.norm_of_old if sums.norm_of_old else None
    result.changed.append(
        TensorChange(
            path,
            sums.changed,
            elements,
            sums.max_abs if as_numbers else None,
            relative if as_numbers else None,
            sums.not_finite,
        )
    )


class _Elements:
    """The elements of a tensor in C order, read where they are asked for."""

    def __init__(self, reader: Reader, entry: TensorEntry) -> None:
        self._reader, self._entry = reader, entry
        self._dtype = _dtype(entry)
        self._bytes = _StorageBytes(reader, entry.storage)
        self._view: npt.NDArray[Any] | None = None
        if entry.stride is not None and 0 not in entry.shape:
            # Elements that lie scattered: the part of the storage that holds them is read whole.
            item = self._dtype.itemsize
            strides = [step * item for step in entry.stride]
            last = sum(
                (extent - 1) * step for extent, step in zip(entry.shape, strides, strict=True)
            )
            held = self._bytes.read(entry.offset_bytes, entry.offset_bytes + last + item)
            self._view = np.ndarray(entry.shape, self._dtype, held.data, 0, strides)

    def read(self, start: int, stop: int) -> npt.NDArray[Any]:
        """Elements from ``start`` to ``stop``, ``(stop - start,)``."""
        if self._view is not None:
            return self._view.flat[start:stop]
        item, offset = self._dtype.itemsize, self._entry.offset_bytes
        if not item:
            return np.zeros(stop - start, self._dtype)
        return self._bytes.read(offset + start * item, offset + stop * item).view(self._dtype)


class _StorageBytes:
    """The bytes of a storage; the chunk that was read last is kept."""

    def __init__(self, reader: Reader, storage: int) -> None:
        self._reader, self._storage = reader, storage
        self._size_bytes = reader.index.storages[storage].raw_size_bytes
        self._number = -1
        self._chunk = np.empty(0, np.uint8)

    def read(self, start: int, stop: int) -> npt.NDArray[np.uint8]:
        """Bytes from ``start`` to ``stop``, ``(stop - start,) uint8``."""
        out = np.empty(stop - start, np.uint8)
        for number in range(start // CHUNK_SIZE_BYTES, -(-stop // CHUNK_SIZE_BYTES)):
            first = number * CHUNK_SIZE_BYTES
            if number != self._number:
                size = min(CHUNK_SIZE_BYTES, self._size_bytes - first)
                self._chunk, self._number = np.empty(size, np.uint8), number
                self._reader.read_chunk(self._storage, number, self._chunk)
            begin, end = max(start, first), min(stop, first + len(self._chunk))
            out[begin - start : end - start] = self._chunk[begin - first : end - first]
        return out


class _Sums:
    """What is known of the differences of one tensor so far."""

    def __init__(self) -> None:
        self.changed = self.not_finite = 0
        self.max_abs: float | int = 0
        self.norm_of_difference = self.norm_of_old = 0.0

    def add(self, old: npt.NDArray[Any], new: npt.NDArray[Any], *, as_numbers: bool) -> None:
        """Compare one piece, ``(n,)`` both."""
        if not old.dtype.itemsize:
            return
        differs = _bytes_differ(old, new)
        self.changed += int(differs.sum())
        if not as_numbers:
            return
        old, new = _widened(old), _widened(new)
        finite = np.isfinite(old)
        self.norm_of_old = math.hypot(self.norm_of_old, _norm(old[finite]))
        counted = differs & finite & np.isfinite(new)
        self.not_finite += int(differs.sum()) - int(counted.sum())
        if not counted.any():
            return
        old, new = old[counted], new[counted]
        with np.errstate(over="ignore"):
            distance = _distance(old, new)
        largest = distance.max()
        self.max_abs = max(
            self.max_abs, int(largest) if distance.dtype.kind == "u" else float(largest)
        )
        self.norm_of_difference = math.hypot(self.norm_of_difference, _norm(distance))


def _dtype(entry: TensorEntry) -> np.dtype[Any]:
    if entry.kind == "numpy":
        return np.dtype(entry.dtype)
    if entry.dtype.startswith(_BYTES_ONLY):
        return np.dtype(f"u{TORCH_ITEM_SIZES[entry.dtype]}")
    return np.dtype(entry.dtype)


def _bytes_differ(old: npt.NDArray[Any], new: npt.NDArray[Any]) -> npt.NDArray[np.bool_]:
    size = old.dtype.itemsize
    if size in (1, 2, 4, 8):
        whole = np.dtype(f"u{size}")
        return old.view(whole) != new.view(whole)
    pieces = old.view(np.uint8).reshape(-1, size) != new.view(np.uint8).reshape(-1, size)
    return pieces.any(axis=1)


def _widened(values: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Integers as they are (bool as uint8); floats in at least 64 bits, native byte order."""
    if values.dtype.kind == "b":
        return values.view(np.uint8)
    if values.dtype.kind in "iu":
        return values.astype(values.dtype.newbyteorder("="), copy=False)
    wide = np.float64 if values.dtype.kind == "f" else np.complex128
    return values.astype(np.promote_types(values.dtype, wide), copy=False)


def _distance(old: npt.NDArray[Any], new: npt.NDArray[Any]) -> npt.NDArray[Any]:
    if old.dtype.kind in "iu":
        # Larger minus smaller: exact, also where the signed difference would not fit.
        unsigned = np.dtype(f"u{old.dtype.itemsize}")
        return np.maximum(old, new).view(unsigned) - np.minimum(old, new).view(unsigned)
    return np.abs(new - old)


def _norm(values: npt.NDArray[Any]) -> float:
    """Euclidean norm; scaled, so that squares neither overflow nor vanish."""
    sizes = np.abs(values.astype(np.promote_types(values.dtype, np.float64)))
    largest = float(sizes.max(initial=0.0))
    if largest == 0.0 or math.isinf(largest):
        return largest
    return largest * float(np.sqrt(np.sum(np.square(sizes / largest))))


def _form(entry: TensorEntry) -> str:
    grad = ", requires_grad" if entry.requires_grad else ""
    return f"{entry.kind} {entry.dtype} {entry.shape}{grad}"


def _shown(value: Any) -> str:
    return ABSENT if value is _NOTHING else f"{value!r:.200}"


def _same(old: Any, new: Any, old_reader: Reader, new_reader: Reader) -> bool:
    if old is _NOTHING or new is _NOTHING:
        there = new if old is _NOTHING else old
        # What is in a container that is new or gone is listed itself; an empty one has nothing.
        return there is _NOTHING or (isinstance(there, Container) and there.size > 0)
    if isinstance(old, Container) and isinstance(new, Container):
        return old.kind == new.kind and (old.keys == new.keys or set(old.keys) != set(new.keys))
    if isinstance(old, LongBytes) and isinstance(new, LongBytes):
        pieces = zip(_pieces(old_reader, old), _pieces(new_reader, new), strict=True)
        return old.size_bytes == new.size_bytes and all(np.array_equal(a, b) for a, b in pieces)
    if type(old) is not type(new):
        return False
    if isinstance(old, np.generic):
        other = cast("np.generic", new)
        return old.dtype == other.dtype and old.tobytes() == other.tobytes()
    # By their text: it tells zeros of either sign apart and takes no-numbers as equal.
    return repr(old) == repr(new)


def _pieces(reader: Reader, value: LongBytes) -> Iterator[npt.NDArray[np.uint8]]:
    source = _StorageBytes(reader, value.storage)
    for start in range(0, value.size_bytes, CHUNK_SIZE_BYTES):
        yield source.read(start, min(value.size_bytes, start + CHUNK_SIZE_BYTES))
