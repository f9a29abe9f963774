"""Turning the entries of an index back into tensors and arrays that share memory as they did."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from penstock.container.index import Index
from penstock.container.tensors import TensorEntry, contiguous_stride
from penstock.container.torch_bridge import TORCH_ITEM_SIZES, require_torch
from penstock.errors import Corrupt, LimitExceeded, Unsupported

__all__ = ["Materializer"]

FillStorage = Callable[[int, npt.NDArray[np.uint8]], None]


class Materializer:
    """The leaves of a tree, read when they are asked for; each storage is read once.

    Args:
        index: Of the file, checked.
        fill: Reads a storage into ``(raw size,) uint8``.
        device: Where torch tensors go.
        as_numpy: Give arrays for torch tensors.
    """

    def __init__(self, index: Index, fill: FillStorage, device: str, *, as_numpy: bool) -> None:
        self._index = index
        self._fill = fill
        self._device = device
        self._as_numpy = as_numpy
        self._tensors: dict[int, Any] = {}
        # A file that lets a tensor and an array share a storage gets two: no confusion of types.
        self._torch_storages: dict[int, Any] = {}
        self._numpy_storages: dict[int, npt.NDArray[np.uint8]] = {}

    def tensor(self, number: int) -> Any:
        """The tensor or array of entry ``number``; the same object each time."""
        if number >= len(self._index.entries):
            raise Corrupt(f"the tree names tensor {number}, which is not there", reason="TREE")
        if number not in self._tensors:
            entry = self._index.entries[number]
            if entry.kind == "numpy":
                self._tensors[number] = self._array(entry, np.dtype(entry.dtype))
            elif self._as_numpy:
                self._tensors[number] = self._torch_as_numpy(entry)
            else:
                self._tensors[number] = self._torch_tensor(entry)
        return self._tensors[number]

    def storage_bytes(self, number: int) -> bytes:
        """All bytes of a storage."""
        if number >= len(self._index.storages):
            raise Corrupt(f"the tree names storage {number}, which is not there", reason="TREE")
        return self._numpy_storage(number).tobytes()

    def torch_value(self, kind: str, value: Any) -> Any:
        """A ``torch.Size``, ``torch.dtype`` or ``torch.device``; as NumPy: a tuple or a name."""
        if self._as_numpy:
            return tuple(value) if kind == "z" else value
        torch = require_torch("this checkpoint")
        if kind == "z":
            return torch.Size(value)
        if kind == "y":
            return getattr(torch, value)
        try:
            return torch.device(value)
        except RuntimeError as error:
            raise Corrupt(f"the tree names the device {value!r:.40}", reason="TREE") from error

    def _array(self, entry: TensorEntry, dtype: np.dtype[Any]) -> npt.NDArray[Any]:
        storage = self._numpy_storage(entry.storage)
        if dtype.itemsize == 0:
            return np.zeros(entry.shape, dtype)
        if entry.stride is None:
            end = entry.offset_bytes + dtype.itemsize * int(np.prod(entry.shape, dtype=np.int64))
            return storage[entry.offset_bytes : end].view(dtype).reshape(entry.shape)
        strides = [step * dtype.itemsize for step in entry.stride]
        if 0 in entry.shape:
            return np.empty(entry.shape, dtype)
        window = np.ndarray(entry.shape, dtype, storage.data, entry.offset_bytes, strides)
        return window.copy()

    def _torch_as_numpy(self, entry: TensorEntry) -> npt.NDArray[Any]:
        if entry.dtype.startswith(("bfloat", "float8")):
            raise Unsupported(
                f"NumPy has no {entry.dtype}: load with torch instead of as_numpy=True",
                reason="NUMPY_DTYPE",
            )
        return self._array(entry, np.dtype(entry.dtype))

    def _torch_tensor(self, entry: TensorEntry) -> Any:
        torch = require_torch("a checkpoint of torch tensors (or as_numpy=True)")
        base = self._torch_storage(torch, entry.storage)
        stride = entry.stride or contiguous_stride(entry.shape)
        tensor = torch.empty(0, dtype=getattr(torch, entry.dtype), device=base.device)
        offset = entry.offset_bytes // TORCH_ITEM_SIZES[entry.dtype]
        tensor.set_(base.untyped_storage(), offset, entry.shape, stride)
        if entry.kind == "parameter":
            return torch.nn.Parameter(tensor, requires_grad=entry.requires_grad)
        return tensor.requires_grad_(entry.requires_grad)

    def _torch_storage(self, torch: Any, number: int) -> Any:
        if number not in self._torch_storages:
            size_bytes = self._index.storages[number].raw_size_bytes
            try:
                base = torch.empty(size_bytes, dtype=torch.uint8)
            except RuntimeError as error:
                raise _no_memory(size_bytes) from error
            self._fill(number, base.numpy())
            self._torch_storages[number] = base.to(self._device)
        return self._torch_storages[number]

    def _numpy_storage(self, number: int) -> npt.NDArray[np.uint8]:
        if number not in self._numpy_storages:
            size_bytes = self._index.storages[number].raw_size_bytes
            try:
                out = np.empty(size_bytes, np.uint8)
            except MemoryError as error:
                raise _no_memory(size_bytes) from error
            self._fill(number, out)
            self._numpy_storages[number] = out
        return self._numpy_storages[number]


def _no_memory(size_bytes: int) -> LimitExceeded:
    return LimitExceeded(
        f"there is no memory for a tensor of {size_bytes} bytes: load a part of the checkpoint "
        "with only=, or where there is more memory",
        reason="NO_MEMORY",
    )
