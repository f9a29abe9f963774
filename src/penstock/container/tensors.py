"""Tensors and arrays of a state, gathered as storages: runs of bytes without Python objects.

A storage is written once, however many tensors look at it. Tensors whose bytes overlap (tied
weights, views of one another) share a storage and share memory again after loading; all others get
a storage of their own, so that a small view never drags a large buffer along.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from math import prod
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from penstock.container.torch_bridge import TORCH_ITEM_SIZES
from penstock.errors import InvalidInput

__all__ = [
    "Storage",
    "StorageTable",
    "TensorEntry",
    "bytes_of",
    "contiguous_stride",
    "numpy_dtype",
    "section_of",
]

SMALL_BYTES = 1 << 14
"""Tensors up to this size are copied in the call that takes a snapshot, not later."""

_ALIGNMENT_BYTES = 16
_KEY = re.compile(r"\[([^\]]+)\]")
_NUMPY_DTYPE = re.compile(r"[<>|](?:[biufcSU]\d{1,9}|[mM]8(?:\[\d{0,9}[a-zA-Zμ]{1,7}\])?)")


@dataclass(frozen=True, slots=True)
class TensorEntry:
    """Where one tensor or array lies.

    Attributes:
        kind: ``torch``, ``parameter`` or ``numpy``.
        dtype: Torch's name without ``torch.``, or NumPy's ``dtype.str``.
        shape: Extent of each axis.
        storage: Number of its storage.
        offset_bytes: First element within the storage.
        stride: In elements; None if contiguous.
        requires_grad: As the tensor had it.
    """

    kind: Literal["torch", "parameter", "numpy"]
    dtype: str
    shape: tuple[int, ...]
    storage: int
    offset_bytes: int = 0
    stride: tuple[int, ...] | None = None
    requires_grad: bool = False


@dataclass(frozen=True, slots=True)
class Storage:
    """Bytes of one or several tensors.

    Attributes:
        item_size_bytes: Bytes per element, for the shuffle filter.
        data: ``(n,) uint8``; a copy, or a view of the caller's memory.
        section: Part of the state whose tensors resemble this one; see ``section_of``.
        floating: Its elements are float32 numbers, which may be rounded where that is asked for.
        entry: Where ``data`` is no window on the caller's memory: number of the entry that it was
            taken from; None where it is one.
        window: Start and stop in the storage of that entry's tensor, in bytes; None if the values
            were gathered one by one.
    """

    item_size_bytes: int
    data: npt.NDArray[np.uint8]
    section: str = ""
    floating: bool = False
    entry: int | None = None
    window: tuple[int, int] | None = None


@dataclass(slots=True)
class _Pending:
    number: int
    tensor: Any
    start_bytes: int
    stop_bytes: int


@dataclass(slots=True)
class StorageTable:
    """Collects the tensors of one state and lays them out.

    Args:
        copy: Copy every byte at once, so that later writes to the state do not show.
    """

    copy: bool = False
    entries: list[TensorEntry] = field(default_factory=list[TensorEntry])
    storages: list[Storage] = field(default_factory=list[Storage])
    _numbers: dict[int, int] = field(default_factory=dict[int, int])
    _kept: list[Any] = field(default_factory=list[Any])
    _sections: dict[int, str] = field(default_factory=dict[int, str])
    _resolved: set[int] = field(default_factory=set[int])
    _groups: dict[tuple[str, int], list[_Pending]] = field(
        default_factory=dict[tuple[str, int], list[_Pending]]
    )

    def add_bytes(self, data: bytes, path: str) -> int:
        """Keep a byte string (immutable, so never copied); returns its storage's number."""
        self.storages.append(Storage(1, np.frombuffer(data, np.uint8), section_of(path)))
        return len(self.storages) - 1

    def add_array(self, array: npt.NDArray[Any], path: str) -> int:
        """Keep a NumPy array; returns its entry's number.

        Raises:
            InvalidInput: The dtype holds objects or fields.
        """
        known = self._numbers.get(id(array))
        if known is not None:
            return known
        if _NUMPY_DTYPE.fullmatch(array.dtype.str) is None:
            raise InvalidInput(
                f"{path} is an array of dtype {array.dtype}, which a checkpoint cannot hold: "
                "convert it to numbers, or to lists of Python values",
                field=path,
            )
        flat = np.array(array, copy=True if self.copy else None, order="C").reshape(-1)
        entry = TensorEntry("numpy", array.dtype.str, array.shape, len(self.storages))
        # An itemsize of zero ("S0") cannot be viewed as bytes and has none.
        data = flat.view(np.uint8) if flat.nbytes else np.empty(0, np.uint8)
        number = self._remember(array, entry)
        self.storages.append(
            Storage(
                max(1, array.dtype.itemsize),
                data,
                section_of(path),
                array.dtype == np.float32,
                number,
            )
        )
        return number

    def add_tensor(self, torch: Any, tensor: Any, path: str) -> int:
        """Keep a torch tensor; returns its entry's number. Its bytes are taken in ``finish``.

        Raises:
            InvalidInput: Sparse, quantized, on the meta device, or a subclass.
        """
        known = self._numbers.get(id(tensor))
        if known is not None:
            return known
        parameter = type(tensor) is torch.nn.Parameter
        dtype = str(tensor.dtype).removeprefix("torch.")
        fault = ""
        if type(tensor) is not torch.Tensor and not parameter:
            fault = f"is a {type(tensor).__name__}, a subclass of Tensor: save its plain tensors"
        elif tensor.layout != torch.strided:
            fault = f"has the layout {tensor.layout}: save tensor.to_dense()"
        elif dtype not in TORCH_ITEM_SIZES:
            fault = f"has the dtype {tensor.dtype}, which a checkpoint cannot hold: convert it"
        elif tensor.device.type == "meta":
            fault = "is on the meta device and has no values: materialize it first"
        elif _has_no_memory(tensor):
            fault = "has no memory: its storage was resized or given back; gather it first"
        if fault:
            raise InvalidInput(f"{path} {fault}", field=path)
        grad = bool(tensor.requires_grad and tensor.is_leaf)
        entry = TensorEntry(
            "parameter" if parameter else "torch", dtype, tuple(tensor.shape), -1, 0, None, grad
        )
        number = self._remember(tensor, entry)
        self._sections[number] = section_of(path)
        plain = tensor.detach()
        if plain.is_conj() or plain.is_neg():
            # Its memory is not its value.
            plain = plain.resolve_conj().resolve_neg()
            self._resolved.add(number)
        item = TORCH_ITEM_SIZES[dtype]
        start = plain.storage_offset() * item if plain.numel() else 0
        stop = start + _extent(plain.shape, plain.stride()) * item
        key = (str(plain.device), plain.untyped_storage().data_ptr() if stop > start else -number)
        self._groups.setdefault(key, []).append(_Pending(number, plain, start, stop))
        return number

    def finish(self, torch: Any | None) -> None:
        """Take the bytes of all torch tensors; afterwards every entry is complete."""
        for group in self._groups.values():
            group.sort(key=lambda pending: pending.start_bytes)
            cluster = [group[0]]
            stop_bytes = group[0].stop_bytes
            for pending in group[1:]:
                if pending.start_bytes >= stop_bytes:
                    self._store(torch, cluster)
                    cluster = []
                cluster.append(pending)
                stop_bytes = max(stop_bytes, pending.stop_bytes)
            self._store(torch, cluster)
        self._groups.clear()
        self._kept.clear()

    def _remember(self, value: Any, entry: TensorEntry) -> int:
        # Kept alive while collecting: an id is unique only as long as its object lives.
        self._kept.append(value)
        self.entries.append(entry)
        self._numbers[id(value)] = len(self.entries) - 1
        return len(self.entries) - 1

    def _store(self, torch: Any, cluster: list[_Pending]) -> None:
        first = cluster[0].tensor
        item = first.element_size()
        span_bytes = cluster[0].stop_bytes - cluster[0].start_bytes
        window: tuple[int, int] | None = None
        gathered = len(cluster) == 1 and (
            first.numel() * item < span_bytes or cluster[0].number in self._resolved
        )
        if gathered:
            # A view with holes: nothing else looks at its bytes, so only its values are kept.
            start = 0
            cluster = [_Pending(cluster[0].number, first.contiguous(), 0, first.numel() * item)]
        else:
            start = cluster[0].start_bytes // _ALIGNMENT_BYTES * _ALIGNMENT_BYTES
            window = start, max(pending.stop_bytes for pending in cluster)
        data: npt.NDArray[np.uint8] = bytes_of(torch, first, window).cpu().numpy()
        is_view = first.device.type == "cpu" and not gathered
        if self.copy and is_view:
            data = data.copy()
        for pending in cluster:
            entry = self.entries[pending.number]
            stride = tuple(int(step) for step in pending.tensor.stride())
            self.entries[pending.number] = TensorEntry(
                entry.kind,
                entry.dtype,
                entry.shape,
                len(self.storages),
                pending.start_bytes - start,
                None if stride == contiguous_stride(entry.shape) else stride,
                entry.requires_grad,
            )
        self.storages.append(
            Storage(
                item,
                data,
                self._sections[cluster[0].number],
                all(self.entries[pending.number].dtype == "float32" for pending in cluster),
                None if is_view else cluster[0].number,
                window,
            )
        )


def bytes_of(torch: Any, tensor: Any, window: tuple[int, int] | None) -> Any:
    """The bytes of a tensor where it is.

    Args:
        torch: The module.
        tensor: Any dense one.
        window: Start and stop in its storage, in bytes, to look at without a copy; None for its
            values in C order, gathered.

    Returns:
        ``(n,) uint8`` tensor on the same device.
    """
    if window is None:
        tensor = tensor.detach().resolve_conj().resolve_neg().contiguous()
        window = 0, tensor.numel() * tensor.element_size()
        if tensor.storage_offset():
            start = tensor.storage_offset() * tensor.element_size()
            window = start, start + window[1]
    found = torch.empty(0, dtype=torch.uint8, device=tensor.device)
    found.set_(tensor.untyped_storage(), window[0], (window[1] - window[0],), (1,))
    return found


def section_of(path: str) -> str:
    """The section of a tensor.

    Sections are what resembles one another: a key of the state (``model``, ``ema``), and for
    optimizers each of their moments (``optimizer.exp_avg``).

    Args:
        path: Such as ``state['optimizer']['state'][3]['exp_avg']``.
    """
    keys = [key.strip("'\"") for key in _KEY.findall(path)]
    if len(keys) > 2 and any(key.isdecimal() for key in keys[1:-1]):  # noqa: PLR2004 - first, last
        return f"{keys[0]}.{keys[-1]}"
    return keys[0] if keys else ""


def contiguous_stride(shape: Sequence[int]) -> tuple[int, ...]:
    """Strides in elements of a C-ordered tensor, as torch computes them."""
    return tuple(prod(max(1, extent) for extent in shape[axis + 1 :]) for axis in range(len(shape)))


def numpy_dtype(name: str) -> np.dtype[Any] | None:
    """The dtype that a ``dtype.str`` names, or None if a checkpoint may not hold it."""
    if _NUMPY_DTYPE.fullmatch(name) is None:
        return None
    try:
        return np.dtype(name)
    except (TypeError, ValueError):
        return None


def _has_no_memory(tensor: Any) -> bool:
    end = tensor.storage_offset() + _extent(tensor.shape, tensor.stride())
    return tensor.numel() > 0 and tensor.untyped_storage().nbytes() < end * tensor.element_size()


def _extent(shape: Sequence[int], stride: Sequence[int]) -> int:
    if 0 in shape:
        return 0
    return 1 + sum((extent - 1) * step for extent, step in zip(shape, stride, strict=True))
