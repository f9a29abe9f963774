"""The places of a stored state and what stands there, without reading a tensor."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, cast

from penstock.container.index import Index
from penstock.container.tree import decode_tree
from penstock.errors import Corrupt

__all__ = ["Container", "LongBytes", "Tensor", "leaves_of"]

_METADATA = "_metadata"


@dataclass(frozen=True, slots=True)
class Tensor:
    """A tensor or array: the number of its entry."""

    number: int


@dataclass(frozen=True, slots=True)
class LongBytes:
    """A byte string that is kept as a storage of its own."""

    storage: int
    size_bytes: int

    def __repr__(self) -> str:
        return f"{self.size_bytes} bytes"


@dataclass(frozen=True, slots=True)
class TorchValue:
    """A ``torch.Size``, ``torch.dtype`` or ``torch.device``, without torch."""

    kind: str
    value: Any

    def __repr__(self) -> str:
        names = {"z": "Size", "y": "dtype", "v": "device"}
        return f"torch.{names[self.kind]} {self.value}"


@dataclass(frozen=True, slots=True)
class Container:
    """A dict, list or tuple: its type, how much it holds, and the order of its keys."""

    kind: str
    size: int
    keys: tuple[Any, ...] = ()

    def __repr__(self) -> str:
        if not self.keys:
            return f"{self.kind} of {self.size}"
        return f"{self.kind} with the keys {', '.join(repr(key) for key in self.keys)}"


def leaves_of(index: Index) -> dict[str, Any]:
    """Everything in a state by its path, in its order.

    Args:
        index: Of a file, checked.

    Returns:
        Paths such as ``state['model'][3]``, and there a ``Tensor``, ``LongBytes``, ``TorchValue``,
        ``Container`` or plain Python value.

    Raises:
        Corrupt: The tree is malformed.
    """
    # Not the bytes of a byte string, but where they are.
    return dict(_walk(decode_tree(index.tree, cast("Any", _Numbers(index))), "state"))


class _Numbers:
    """Leaves that say which tensor stands at a place, for a tree to be decoded without any."""

    def __init__(self, index: Index) -> None:
        self._index = index

    def tensor(self, number: int) -> Tensor:
        if number >= len(self._index.entries):
            raise Corrupt(f"the tree names tensor {number}, which is not there", reason="TREE")
        return Tensor(number)

    def storage_bytes(self, number: int) -> LongBytes:
        if number >= len(self._index.storages):
            raise Corrupt(f"the tree names storage {number}, which is not there", reason="TREE")
        return LongBytes(number, self._index.storages[number].raw_size_bytes)

    def torch_value(self, kind: str, value: Any) -> TorchValue:
        return TorchValue(kind, tuple(value) if kind == "z" else value)


def _walk(node: Any, path: str) -> Iterator[tuple[str, Any]]:
    if type(node) in (dict, OrderedDict):
        children = cast("dict[Any, Any]", node)
        yield path, Container(type(node).__name__, len(children), tuple(children))
        for key, child in children.items():
            yield from _walk(child, f"{path}[{key!r}]")
        if hasattr(node, _METADATA):
            yield from _walk(getattr(node, _METADATA), f"{path}.{_METADATA}")
    elif type(node) in (list, tuple):
        items = cast("list[Any]", node)
        yield path, Container(type(node).__name__, len(items))
        for number, child in enumerate(items):
            yield from _walk(child, f"{path}[{number}]")
    else:
        yield path, node
