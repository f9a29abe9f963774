"""The shape of a state: its containers and keys, learnt once to find the leaves again quickly."""

from __future__ import annotations

import copy
import operator
from collections import OrderedDict
from collections.abc import Iterable
from itertools import chain, repeat
from typing import Any

__all__ = ["Shape"]

_CONTAINERS = (dict, OrderedDict, list, tuple)


class _Node:
    """One container: its type, its keys or length, and what its children are."""

    __slots__ = (
        "children",
        "has_numbers",
        "is_flat",
        "key_texts",
        "keys",
        "kind",
        "length",
        "metadata",
        "row_keys",
    )

    def __init__(self, value: Any, leaves: list[Any]) -> None:
        self.kind = type(value)
        self.length = len(value)
        self.keys: list[Any] | None = None
        self.key_texts: list[str] | None = None
        self.has_numbers = False
        self.metadata: Any = None
        if isinstance(value, dict):
            self.keys = list(value)
            # 1, 1.0 and True are equal, but not the same key of a checkpoint.
            self.has_numbers = bool(self.keys) and _all_of(int, self.keys)
            if not self.has_numbers and not _all_of(str, self.keys):
                self.key_texts = list(map(repr, self.keys))
            self.metadata = copy.deepcopy(getattr(value, "_metadata", None))
        values = value.values() if isinstance(value, dict) else value
        self.children = [_learn(child, leaves) for child in values]
        self.is_flat = all(child is None for child in self.children)
        self.row_keys = _row_keys(self.children)

    def collect(self, value: Any, leaves: list[Any]) -> bool:
        """Append the leaves of ``value``; False if it does not have this shape."""
        if type(value) is not self.kind or len(value) != self.length:
            return False
        values = value
        if self.keys is not None:
            if not self._has_keys(value):
                return False
            values = value.values()
        if self.is_flat:
            leaves.extend(values)
            return True
        if self.row_keys is not None:
            return _collect_rows(values, self.row_keys, leaves)
        for child, node in zip(values, self.children, strict=True):
            if node is None:
                leaves.append(child)
            elif not node.collect(child, leaves):
                return False
        return True

    def _has_keys(self, value: Any) -> bool:
        if list(value) != self.keys:
            return False
        # A plain dict has no attributes.
        if self.kind is not dict and getattr(value, "_metadata", None) != self.metadata:
            return False
        if self.has_numbers:
            return _all_of(int, value)
        return self.key_texts is None or list(map(repr, value)) == self.key_texts


class Shape:
    """The containers of one state.

    Args:
        state: A state that a checkpoint can hold; it is a tree.
    """

    def __init__(self, state: Any) -> None:
        self._leaves: list[Any] = []
        self._root = _learn(state, self._leaves)

    def forget_leaves(self) -> list[Any]:
        """The leaves of the state that this was learnt from; they are no longer kept."""
        leaves, self._leaves = self._leaves, []
        return leaves

    def leaves_of(self, state: Any) -> list[Any] | None:
        """The leaves of a state of the same shape, in the same order; None if it has another.

        A container where a leaf was counts as a leaf.
        """
        if self._root is None:
            return [state]
        found: list[Any] = []
        return found if self._root.collect(state, found) else None


def _row_keys(nodes: list[_Node | None]) -> list[Any] | None:
    """The keys of plain dicts of leaves that all have the same ones, as optimizers have them."""
    first = nodes[0] if nodes else None
    if first is None or not all(
        node is not None
        and node.kind is dict
        and node.is_flat
        and node.key_texts is None
        and not node.has_numbers
        and node.keys == first.keys
        for node in nodes
    ):
        return None
    return first.keys


def _all_of(kind: type, values: Iterable[Any]) -> bool:
    """Whether all are of just this type."""
    return all(map(operator.is_, map(type, values), repeat(kind)))


def _collect_rows(values: Iterable[Any], keys: list[Any], leaves: list[Any]) -> bool:
    # Loops are left to map, which costs a third; there is a row for each parameter.
    rows = list(values)
    if not _all_of(dict, rows) or set(map(len, rows)) != {len(keys)}:
        return False
    if list(chain.from_iterable(rows)) != keys * len(rows):
        return False
    leaves.extend(chain.from_iterable(map(dict[Any, Any].values, rows)))
    return True


def _learn(value: Any, leaves: list[Any]) -> _Node | None:
    if type(value) in _CONTAINERS:
        return _Node(value, leaves)
    leaves.append(value)
    return None
