"""Reading pickles of tensors, arrays and containers; a pickle that names anything else is refused.

A pickle is a program that calls whatever it names. Here it can call the functions below and no
others, and those that build tensors and arrays check every size against the bytes that are there.
"""

from __future__ import annotations

import collections
import io
import pickle
from collections.abc import Callable, Mapping
from typing import Any, BinaryIO, Self, cast

import numpy as np
from numpy.typing import NDArray

from penstock.container.torch_bridge import TORCH_ITEM_SIZES, require_torch
from penstock.errors import Corrupt, DataFault, LimitExceeded, PenstockError

__all__ = ["load_tensors"]

_MOST_BYTES = 16 << 30
"""Of one tensor: one that repeats its elements by strides of 0 may be larger than its file."""

_TENSORDICTS = frozenset({"TensorDict", "LazyStackedTensorDict"})
_MAX_EXTENTS = 32


def load_tensors(file: BinaryIO, name: str) -> Any:
    """Unpickle dicts, lists, tuples and plain values around tensors, arrays and TensorDicts.

    TensorDicts become dicts; tensordict need not be installed.

    Args:
        file: A pickle.
        name: What to call it in messages.

    Raises:
        DataFault: It names something else, which is not called.
        Corrupt: It is damaged.
        LimitExceeded: A tensor is too large.
    """
    file.seek(0)
    try:
        return _plain(_Unpickler(file, name).load())
    except PenstockError:
        raise
    except Exception as error:
        # Out of a damaged pickle anything may come.
        raise Corrupt(
            f"{name}: its pickle is cut off or damaged ({type(error).__name__}: {error!s:.120}): "
            "copy it again"
        ) from error


class _Unpickler(pickle.Unpickler):
    def __init__(self, file: BinaryIO, name: str) -> None:
        super().__init__(file)
        self._name = name

    def find_class(self, module_name: str, global_name: str) -> Any:
        """What a pickle may name."""
        known = _KNOWN.get((module_name, global_name))
        if known is not None:
            return known
        top = module_name.partition(".")[0]
        if top == "tensordict" and global_name == "_make_td":
            return _make_tensordict
        if top == "tensordict" and global_name in _TENSORDICTS:
            return _STAND_INS[global_name]
        if module_name == "torch" and global_name in TORCH_ITEM_SIZES:
            return getattr(require_torch(self._name), global_name)
        raise DataFault(
            f"{self._name} holds {module_name}.{global_name}, which is no tensor, array or "
            "container, and is not run: in the program that made it, save nested dicts of tensors",
            reason="PICKLE_REFUSED",
            metadata={"global": f"{module_name}.{global_name}"},
        )

    def persistent_load(self, pid: Any) -> Any:
        """Nothing is fetched from elsewhere."""
        raise Corrupt(f"{self._name} refers to {pid!r:.80}, which is in another file")


class _TensorDict:
    """What the state of a pickled TensorDict is put into."""

    def __init__(self, *_: object) -> None:
        self.state: Mapping[str, Any] = {}

    def __setstate__(self, state: Any) -> None:
        # A class without slots gives its attributes, one with slots a pair.
        self.state = state[0] or state[1] if isinstance(state, tuple) else state

    def plain(self) -> Any:
        return _plain(self.state["_tensordict"])


class _LazyStack(_TensorDict):
    """The same of TensorDicts that are to be stacked."""

    def plain(self) -> Any:
        parts = [_plain(part) for part in self.state["tensordicts"]]
        return _stacked(parts, int(self.state["stack_dim"]))


_STAND_INS: Mapping[str, type[_TensorDict]] = {
    "TensorDict": _TensorDict,
    "LazyStackedTensorDict": _LazyStack,
}


def _make_tensordict(kind: type[_TensorDict], state: Any) -> _TensorDict:
    if kind not in _STAND_INS.values():
        raise TypeError(f"{kind!r:.80} is no TensorDict")
    made = kind()
    made.__setstate__(state)
    return made


def _plain(value: Any) -> Any:
    if isinstance(value, _TensorDict):
        return value.plain()
    if isinstance(value, dict):
        return {key: _plain(part) for key, part in cast("dict[Any, Any]", value).items()}
    return value


def _stacked(parts: list[Any], axis: int) -> Any:
    first = parts[0]
    if isinstance(first, dict):
        keys = cast("dict[Any, Any]", first)
        return {key: _stacked([part[key] for part in parts], axis) for key in keys}
    return require_torch("a rollout of tensors").stack(parts, axis)


def _torch_storage(data: bytes) -> Any:
    """A storage out of bytes that torch.save wrote, which hold a pickle of their own."""
    torch = require_torch("a rollout of tensors")
    return torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)


def _torch_tensor(
    storage: Any, offset: int, size: tuple[int, ...], stride: tuple[int, ...], *_: object
) -> Any:
    torch = require_torch("a rollout of tensors")
    if len(size) != len(stride) or len(size) > _MAX_EXTENTS or min((*size, *stride, offset, 0)) < 0:
        raise Corrupt(f"a tensor of {size} has strides {stride} and begins at {offset}")
    flat = torch.tensor([], dtype=storage.dtype)
    flat.set_(storage)
    count = 1
    for extent in size:
        count *= extent
    if count * flat.element_size() > _MOST_BYTES:
        raise LimitExceeded(f"a tensor of {size} has more than {_MOST_BYTES} bytes")
    last = offset + sum((e - 1) * s for e, s in zip(size, stride, strict=True)) if count else 0
    if last >= max(1, flat.numel()):
        raise Corrupt(f"a tensor of {size} reaches beyond the {flat.numel()} elements there are")
    return torch.as_strided(flat, size, stride, offset) if count else flat.new_empty(size)


def _torch_parameter(tensor: Any, *_: object) -> Any:
    return tensor


class _ArrayKind:
    """What stands for the class of arrays, which would make one of any size."""

    def __new__(cls) -> Self:
        """Nobody makes one."""
        raise TypeError("an array without content")


def _empty_array(kind: Any, shape: tuple[int, ...], dtype: Any) -> NDArray[Any]:
    """The array whose content the next opcode brings; it has none yet."""
    if kind is not _ArrayKind or shape != (0,):
        raise Corrupt(f"an array of {shape!r:.80} before its content")
    return np.ndarray((0,), dtype)


def _array_of_bytes(
    data: Any, dtype: np.dtype[Any], shape: tuple[int, ...], order: Any
) -> NDArray[Any]:
    return np.frombuffer(data, dtype).reshape(shape, order=order)


def _scalar(dtype: np.dtype[Any], data: bytes) -> Any:
    return np.frombuffer(data, dtype, 1)[0]


def _encoded_text(text: str, encoding: str) -> bytes:
    """How protocol 2 writes bytes."""
    if encoding != "latin1":
        raise Corrupt(f"bytes as {encoding!r:.40}")
    return text.encode("latin-1")


_Known = Callable[..., Any]
_KNOWN: dict[tuple[str, str], _Known] = {
    ("collections", "OrderedDict"): collections.OrderedDict,
    ("collections", "defaultdict"): lambda *_: {},
    ("_codecs", "encode"): _encoded_text,
    ("torch._utils", "_rebuild_tensor_v2"): _torch_tensor,
    ("torch._utils", "_rebuild_tensor"): _torch_tensor,
    ("torch._utils", "_rebuild_parameter"): _torch_parameter,
    ("torch.storage", "_load_from_bytes"): _torch_storage,
    ("torch", "Size"): tuple,
    ("torch", "device"): lambda *_: "cpu",
    ("numpy", "ndarray"): _ArrayKind,
    ("numpy", "dtype"): np.dtype,
} | {
    (f"numpy.{core}.{module}", name): known
    for core in ("core", "_core")
    for module, name, known in (
        ("multiarray", "_reconstruct", _empty_array),
        ("multiarray", "scalar", _scalar),
        ("numeric", "_frombuffer", _array_of_bytes),
    )
}
