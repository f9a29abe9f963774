"""The typed tree of a state: JSON that gives back exactly the Python values that went in.

Plain JSON values stand for themselves (null, booleans, strings, integers of up to 64 bits). All
else is an object with one key, its tag:

    d, o     dict, OrderedDict: [[key, value], ...]; keys keep their type
    l, u     list, tuple
    i, f, c  large integer (hex), float (hex), complex (two floats in hex)
    b, B     bytes: hex, or the number of a storage if long
    t        tensor or array: the number of its entry
    n        NumPy scalar: [dtype, hex]
    z, y, v  torch.Size, torch.dtype, torch.device

The same tensor object met twice is one object again after loading. Lists and dicts are values: met
twice, they become two.
"""

from __future__ import annotations

import re
from collections import OrderedDict
from collections.abc import Callable, Hashable, Sequence
from typing import Any, Protocol, cast

import numpy as np

from penstock.container.limits import Limits
from penstock.container.tensors import StorageTable, numpy_dtype
from penstock.container.torch_bridge import TORCH_ITEM_SIZES, loaded_torch
from penstock.errors import Corrupt, InvalidInput, LimitExceeded

__all__ = ["Leaves", "decode_tree", "encode_tree", "find_subtree"]

_INLINE_BYTES = 4096
_INT64 = 1 << 63
_MAX_INT_BITS = 1 << 16
_MAX_TEXT = 1 << 16  # digits of the longest integer, with sign and prefix, and some room
_DEVICE = re.compile(r"[a-z]{1,32}(?::\d{1,4})?")
_METADATA = "_metadata"  # torch keeps the versions of modules on a state dict's attribute


class Leaves(Protocol):
    """Gives the values that a tree only refers to."""

    def tensor(self, number: int) -> Any:
        """The tensor or array of an entry."""
        ...

    def storage_bytes(self, number: int) -> bytes:
        """All bytes of a storage."""
        ...

    def torch_value(self, kind: str, value: Any) -> Any:
        """A ``torch.Size`` of ints, ``torch.dtype`` or ``torch.device`` of a checked string."""
        ...


def encode_tree(state: Any, table: StorageTable, limits: Limits) -> Any:
    """Turn ``state`` into JSON values and put its tensors into ``table``.

    Raises:
        InvalidInput: A value of unknown type, a cycle; ``field`` and message name its path.
        LimitExceeded: Nesting is too deep, or there are too many tensors.
    """
    return _Encoder(table, limits).node(state, "state", 0)


class _Encoder:
    def __init__(self, table: StorageTable, limits: Limits) -> None:
        self._table = table
        self._limits = limits
        self._open: set[int] = set()
        self._torch = loaded_torch()

    def node(self, value: Any, path: str, depth: int) -> Any:
        if value is None or value is True or value is False or type(value) is str:
            return value
        if type(value) is int and value.bit_length() <= _MAX_INT_BITS:
            return value if -_INT64 <= value < _INT64 else {"i": hex(value)}
        if type(value) is float:
            return {"f": value.hex()}
        if type(value) in (dict, OrderedDict, list, tuple):
            return self._container(value, path, depth)
        return self._leaf(value, path)

    def _container(self, value: Any, path: str, depth: int) -> Any:
        if depth >= self._limits.nesting_depth:
            raise LimitExceeded(
                f"{path[:200]} is nested deeper than {self._limits.nesting_depth} containers",
                reason="NESTING_DEPTH",
            )
        if id(value) in self._open:
            raise InvalidInput(f"{path} contains itself: a checkpoint is a tree", field=path)
        self._open.add(id(value))
        if type(value) in (list, tuple):
            items = [self.node(v, f"{path}[{i}]", depth + 1) for i, v in enumerate(value)]
            node: dict[str, Any] = {"l" if type(value) is list else "u": items}
        else:
            pairs = [
                [self._key(key, path), self.node(child, f"{path}[{key!r}]", depth + 1)]
                for key, child in value.items()
            ]
            node = {"d" if type(value) is dict else "o": pairs}
            if hasattr(value, _METADATA):
                metadata = getattr(value, _METADATA)
                node["m"] = self.node(metadata, f"{path}.{_METADATA}", depth + 1)
        self._open.discard(id(value))
        return node

    def _key(self, key: Any, path: str) -> Any:
        parts = cast("tuple[Any, ...]", key) if type(key) is tuple else (key,)
        for part in parts:
            if type(part) not in (str, int, float, bool, bytes, type(None)):
                raise InvalidInput(
                    f"{path} has the key {key!r:.80} of type {type(part).__name__}: keys are str, "
                    "int, float, bool, bytes, None, or tuples of them",
                    field=path,
                )
        return self.node(key, path, 0)

    def _leaf(self, value: Any, path: str) -> Any:
        if type(value) is bytes:
            if len(value) <= _INLINE_BYTES:
                return {"b": value.hex()}
            return {"B": self._table.add_bytes(value, path)}
        if type(value) is complex:
            return {"c": [value.real.hex(), value.imag.hex()]}
        node = self._numpy_leaf(value, path) or self._torch_leaf(value, path)
        if node is None:
            raise InvalidInput(
                f"{path} is {value!r:.80} of type {type(value).__module__}."
                f"{type(value).__qualname__}, which a checkpoint cannot hold: save its "
                "state_dict(), or plain dicts, lists, numbers, strings and tensors",
                field=path,
                reason="UNKNOWN_TYPE",
            )
        return node

    def _numpy_leaf(self, value: Any, path: str) -> Any:
        if type(value) is np.ndarray:
            return {"t": self._counted(self._table.add_array(cast("Any", value), path))}
        if not isinstance(value, np.generic) or value.dtype.itemsize > _INLINE_BYTES:
            return None
        if numpy_dtype(value.dtype.str) is None:
            return None
        return {"n": [value.dtype.str, value.tobytes().hex()]}

    def _torch_leaf(self, value: Any, path: str) -> Any:
        torch = self._torch
        if torch is None:
            return None
        if isinstance(value, torch.Tensor):
            return {"t": self._counted(self._table.add_tensor(torch, value, path))}
        if type(value) is torch.Size:
            return {"z": list(value)}
        if type(value) is torch.dtype:
            return {"y": str(value).removeprefix("torch.")}
        if type(value) is torch.device:
            return {"v": str(value)}
        return None

    def _counted(self, number: int) -> int:
        if number >= self._limits.tensor_count:
            raise LimitExceeded(
                f"the state has more than {self._limits.tensor_count} tensors",
                reason="TENSOR_COUNT",
            )
        return number


def find_subtree(node: Any, keys: Sequence[Any]) -> Any:
    """The node below ``node`` that ``keys`` lead to: dict keys, or positions in lists and tuples.

    Raises:
        InvalidInput: There is no such place; the message lists what there is.
    """
    path = "state"
    for key in keys:
        tag, payload = _untag(node)
        children: dict[Any, Any] = {}
        if tag in ("d", "o"):
            children = {decode_tree(name, _NO_LEAVES): child for name, child in payload}
        elif tag in ("l", "u"):
            children = dict(enumerate(payload))
        if key not in children:
            there = ", ".join(repr(name) for name in list(children)[:20]) or "nothing"
            raise InvalidInput(f"{path} has no {key!r}; it has {there}", field="only")
        node = children[key]
        path += f"[{key!r}]"
    return node


def decode_tree(node: Any, leaves: Leaves, limits: Limits | None = None) -> Any:
    """Turn JSON values back into Python values.

    Args:
        node: From ``json.loads``; every byte of it is distrusted.
        leaves: Gives tensors and torch's own types.
        limits: Bounds; the default ones if None.

    Raises:
        Corrupt: A tag is unknown or its payload has the wrong form.
    """
    return _Decoder(leaves, limits or Limits()).node(node, 0)


class _Decoder:
    def __init__(self, leaves: Leaves, limits: Limits) -> None:
        self._leaves = leaves
        self._limits = limits
        self._by_tag: dict[str, Callable[[Any], Any]] = {
            "i": _big_int,
            "f": _float,
            "c": _complex,
            "b": _inline_bytes,
            "B": lambda number: leaves.storage_bytes(_number(number)),
            "t": lambda number: leaves.tensor(_number(number)),
            "n": _numpy_scalar,
            "z": lambda sizes: leaves.torch_value("z", [_number(size) for size in _list(sizes)]),
            "y": lambda name: leaves.torch_value("y", _torch_dtype(name)),
            "v": lambda name: leaves.torch_value("v", _device(name)),
        }

    def node(self, node: Any, depth: int) -> Any:
        if node is None or isinstance(node, (bool, str, int)):
            return node
        tag, payload = _untag(node)
        if tag not in ("d", "o", "l", "u"):
            decode = self._by_tag.get(tag)
            if decode is None:
                raise _malformed(f"unknown tag {tag!r:.40}")
            return decode(payload)
        if depth >= self._limits.nesting_depth:
            raise _malformed(f"nested deeper than {self._limits.nesting_depth} containers")
        items = _list(payload)
        if tag in ("l", "u"):
            values = [self.node(item, depth + 1) for item in items]
            return values if tag == "l" else tuple(values)
        result: dict[Any, Any] = OrderedDict() if tag == "o" else {}
        for item in items:
            pair = _list(item)
            if len(pair) != 2:  # noqa: PLR2004 - key and value
                raise _malformed("an entry of a dict is no pair")
            key = self.node(pair[0], self._limits.nesting_depth - 1)
            if not _is_hashable(key):
                raise _malformed(f"a key of type {type(key).__name__}")
            result[key] = self.node(pair[1], depth + 1)
        if tag == "o" and "m" in node:
            cast("Any", result)._metadata = self.node(node["m"], depth + 1)  # noqa: SLF001
        return result


class _NoLeaves:
    def tensor(self, number: int) -> Any:
        raise _malformed(f"tensor {number} where none may stand")

    def storage_bytes(self, number: int) -> bytes:
        raise _malformed(f"storage {number} where none may stand")

    def torch_value(self, kind: str, value: Any) -> Any:
        raise _malformed(f"a torch value {kind}:{value} where none may stand")


_NO_LEAVES = _NoLeaves()


def _malformed(what: str) -> Corrupt:
    return Corrupt(f"the tree of the checkpoint is malformed: {what}", reason="TREE")


def _untag(node: Any) -> tuple[str, Any]:
    if not isinstance(node, dict):
        return "", None
    tagged = cast("dict[str, Any]", node)
    tags = [tag for tag in tagged if tag != "m"]
    if len(tags) != 1 or ("m" in tagged and tags != ["o"]):
        raise _malformed(f"a node with the tags {list(tagged)[:5]!r:.80}")
    return tags[0], tagged[tags[0]]


def _list(value: Any) -> list[Any]:
    if not isinstance(value, list):
        raise _malformed(f"{value!r:.40} where a list is expected")
    return cast("list[Any]", value)


def _number(value: Any) -> int:
    if type(value) is not int or not 0 <= value < _INT64:
        raise _malformed(f"{value!r:.40} where a number is expected")
    return value


def _text(value: Any) -> str:
    if not isinstance(value, str) or len(value) > _MAX_TEXT:
        raise _malformed(f"{value!r:.40} where a short text is expected")
    return value


def _big_int(value: Any) -> int:
    try:
        return int(_text(value), 16)
    except ValueError as error:
        raise _malformed(str(error)[:80]) from error


def _float(value: Any) -> float:
    try:
        return float.fromhex(_text(value))
    except (ValueError, OverflowError) as error:
        raise _malformed(str(error)[:80]) from error


def _complex(value: Any) -> complex:
    parts = _list(value)
    if len(parts) != 2:  # noqa: PLR2004 - real and imaginary part
        raise _malformed("a complex number without two parts")
    return complex(_float(parts[0]), _float(parts[1]))


def _inline_bytes(value: Any) -> bytes:
    try:
        return bytes.fromhex(_text(value))
    except ValueError as error:
        raise _malformed(str(error)[:80]) from error


def _numpy_scalar(value: Any) -> Any:
    parts = _list(value)
    dtype = numpy_dtype(_text(parts[0])) if len(parts) == 2 else None  # noqa: PLR2004 - dtype, hex
    data = _inline_bytes(parts[1]) if dtype is not None else b""
    if dtype is None or len(data) != dtype.itemsize:
        raise _malformed(f"the NumPy scalar {value!r:.80}")
    if not data:
        return dtype.type()
    return np.frombuffer(data, dtype)[0]


def _torch_dtype(value: Any) -> str:
    if value not in TORCH_ITEM_SIZES:
        raise _malformed(f"the dtype {value!r:.40}")
    return value


def _device(value: Any) -> str:
    if _DEVICE.fullmatch(_text(value)) is None:
        raise _malformed(f"the device {value!r:.40}")
    return value


def _is_hashable(key: Any) -> bool:
    if not isinstance(key, Hashable):
        return False
    try:
        hash(key)
    except TypeError:  # a tuple of lists
        return False
    return True
