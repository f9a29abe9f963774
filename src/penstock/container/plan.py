"""Taking the same state apart again and again: what is learnt the first time is kept.

A training loop saves a state of the same form each time: the same keys, the same tensors, mostly in
the same memory, other values. A plan knows where every byte lies and where it goes in a buffer, so
that a snapshot is little more than the copy. What may change before the next step of an optimizer
is copied at once: small tensors (among them the running statistics of batch normalisation), arrays
and plain values. Large tensors, and those that only optimizers write, can be copied later, as long
as nothing writes to them.
"""

from __future__ import annotations

import json
import operator
import secrets
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from itertools import compress, count
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from penstock.container.device import DeviceCopies
from penstock.container.forms import addresses_of, form_of, other_form
from penstock.container.index import named_entries
from penstock.container.layout import PlannedStorage, is_urgent, lay_out
from penstock.container.limits import Limits
from penstock.container.shape import Shape
from penstock.container.tensors import StorageTable, TensorEntry, bytes_of
from penstock.container.torch_bridge import loaded_torch
from penstock.container.tree import encode_tree
from penstock.container.windows import Windows
from penstock.container.writer import Flattened, flatten
from penstock.errors import Conflict

__all__ = ["Plan"]


class _Taken(NamedTuple):
    """A storage that is no window on the memory of a CPU tensor: it is taken from a leaf."""

    storage: int
    leaf: int
    window: tuple[int, int] | None


class Plan:
    """How to take states of one form apart.

    Args:
        state: The first of them; nothing of it is copied yet.
        limits: Bounds; the default ones if None.
        stepped: Address and bytes of CPU tensors that only the steps of optimizers write; they are
            copied later, however small, and ``match`` takes it that they keep their form.

    Attributes:
        entries: Of the tensors and arrays.
        storages: Their layout in a buffer.
        size_bytes: Of a buffer.

    Raises:
        InvalidInput, LimitExceeded: As ``flatten``.
    """

    def __init__(
        self, state: Any, limits: Limits | None = None, stepped: Mapping[int, int] | None = None
    ) -> None:
        self._limits = limits or Limits()
        self._stepped = stepped or {}
        flat = flatten(state, limits=self._limits)
        self.entries: Sequence[TensorEntry] = flat.entries
        self._urgent = {
            number
            for number, storage in enumerate(flat.storages)
            if is_urgent(storage, self._stepped)
        }
        self.storages: Sequence[PlannedStorage] = lay_out(flat.storages, self._urgent)
        self.size_bytes = max((s.offset_bytes + s.size_bytes for s in self.storages), default=0)
        self._paths = {entry.storage: p for p, entry in named_entries(flat.tree, flat.entries)}
        self._shape = Shape(state)
        leaves = self._shape.forget_leaves()
        self._types = list(map(type, leaves))
        self._nodes: list[Any] = []
        self._plain: list[int] = []
        self._plain_values: list[Any] = []
        self._plain_texts: list[str] = []
        self._cut_tree(flat.tree)
        self._bind(flat, leaves)

    def match(self, state: Any) -> list[Any] | None:
        """The leaves of a state, if it has the form that this plan was made for; else None."""
        leaves = self._shape.leaves_of(state)
        if leaves is None or list(map(type, leaves)) != self._types:
            return None
        if not self._same_objects(leaves):
            return None
        for position, form in self._other_forms:
            if other_form(leaves[position]) != form:
                return None
        return leaves if self._match_tensors(leaves) else None

    def take(self, leaves: Sequence[Any], out: npt.NDArray[np.uint8]) -> None:
        """Copy what may not wait.

        Args:
            leaves: As ``match`` has just given them.
            out: ``(size_bytes,) uint8``.
        """
        self._windows.copy_urgent(out)
        for copies in self._devices:
            copies.take()
        torch = loaded_torch()
        for number, leaf, window in self._taken:
            if not self.storages[number].size_bytes:
                continue
            storage, value = self.storages[number], leaves[leaf]
            piece = out[storage.offset_bytes : storage.offset_bytes + storage.size_bytes]
            if isinstance(value, bytes):
                piece[...] = np.frombuffer(value, np.uint8)
            elif isinstance(value, np.ndarray):
                piece.view(value.dtype).reshape(value.shape)[...] = value
            else:
                piece[...] = bytes_of(torch, value, window).cpu().numpy()

    def stage(self, leaves: Sequence[Any], out: npt.NDArray[np.uint8]) -> list[Any]:
        """Copy the rest; nothing may write to the state meanwhile.

        Args:
            leaves: As ``take`` had them.
            out: The same buffer.

        Returns:
            CUDA events: until they are reached, writers on the device and readers of the buffer
            must wait.

        Raises:
            Conflict: A tensor has changed its form in a way that ``match`` did not see.
        """
        self.settle(leaves)
        done = [copies.stage(out) for copies in self._devices]
        self._windows.copy_rest(out)
        return done

    def settle(self, leaves: Sequence[Any]) -> None:
        """Look at what ``match`` left out to be quick: forms, and where the rest lies.

        Raises:
            Conflict: As ``stage``.
        """
        tensors = self._pick_tensors(leaves)
        try:
            found = list(map(form_of, tensors))
            addresses = addresses_of(loaded_torch(), tensors)
        except RuntimeError as error:
            raise _changed(f"has no plain memory any more ({error})") from error
        for form, before in zip(found, self._forms, strict=True):
            if form != before:
                raise _changed(f"became {form}, it was {before} when it was saved before")
        if addresses != self._addresses and not self._follow(tensors, addresses):
            raise _changed("shares its memory with other tensors than before")

    def tree_of(self, leaves: Sequence[Any]) -> str:
        """JSON of the tree of a state that this plan matched."""
        values = [leaves[position] for position in self._plain]
        if not self._plain_texts:
            self._plain_values = [object()] * len(values)
            self._plain_texts = [""] * len(values)
        table = StorageTable()
        for index, (value, last) in enumerate(zip(values, self._plain_values, strict=True)):
            # The same object, not an equal one: 1, 1.0 and True are equal.
            if value is not last:
                node = encode_tree(value, table, self._limits)
                self._plain_texts[index] = json.dumps(node, separators=(",", ":"), allow_nan=False)
        self._plain_values = values
        pieces = zip(self._plain_texts, self._tree_pieces[1:], strict=True)
        return self._tree_pieces[0] + "".join(value + piece for value, piece in pieces)

    @property
    def on_device(self) -> bool:
        """Whether some of the state lies on a CUDA device."""
        return bool(self._devices)

    def staged(self) -> list[tuple[str, npt.NDArray[np.uint8], PlannedStorage]]:
        """Path, live memory and layout of each storage that ``stage`` copies."""
        return [
            (self._paths.get(number, "?"), memory, self.storages[number])
            for number, memory in self._windows.rest()
        ]

    def _cut_tree(self, tree: Any) -> None:
        """Cut the tree's JSON where plain values stand, so that new ones need only be put in."""
        mark = secrets.token_hex(8)
        marked = self._mark(tree, mark)
        text = json.dumps(marked, separators=(",", ":"), allow_nan=False)
        self._tree_pieces = text.split(f'"{mark}"')

    def _mark(self, node: Any, mark: str) -> Any:
        # In the order in which the shape gives leaves.
        tag = next(iter(node)) if isinstance(node, dict) else ""
        if tag in ("d", "o"):
            return {**node, tag: [[key, self._mark(child, mark)] for key, child in node[tag]]}
        if tag in ("l", "u"):
            return {tag: [self._mark(child, mark) for child in node[tag]]}
        self._nodes.append(node)
        if tag in ("t", "B"):
            return node
        self._plain.append(len(self._nodes) - 1)
        return mark

    def _bind(self, flat: Flattened, leaves: list[Any]) -> None:
        """Learn where the bytes of each storage come from, and by what to know the leaves again."""
        entry_leaf: dict[int, int] = {}
        bytes_leaf: dict[int, int] = {}
        self._tensors: list[int] = []
        for position, node in enumerate(self._nodes):
            if _is_tensor(node):
                entry_leaf.setdefault(node["t"], position)
                if flat.entries[node["t"]].kind != "numpy":
                    self._tensors.append(position)
            elif isinstance(node, dict) and "B" in node:
                bytes_leaf[node["B"]] = position
        self._other_forms = [
            (position, other_form(leaf))
            for position, leaf in enumerate(leaves)
            if isinstance(leaf, (np.ndarray, bytes))
        ]
        self._pick_tensors = _picker(self._tensors)
        tensors = [leaves[position] for position in self._tensors]
        self._addresses = addresses_of(loaded_torch(), tensors)
        self._forms = [form_of(tensor) for tensor in tensors]
        self._parameters = [
            (index, tensor.requires_grad)
            for index, tensor in enumerate(tensors)
            if tensor.requires_grad or type(tensor).__name__ == "Parameter"
        ]
        self._taken: list[_Taken] = []
        windows: list[int] = []
        for number, storage in enumerate(flat.storages):
            if number in bytes_leaf:
                self._taken.append(_Taken(number, bytes_leaf[number], None))
            elif storage.entry is not None:
                self._taken.append(_Taken(number, entry_leaf[storage.entry], storage.window))
            elif storage.data.nbytes:
                windows.append(number)
        self._windows = self._open_windows(flat, windows)
        self._devices = self._open_devices(leaves)
        # What optimizers step keeps its form, and may be looked at later; all else is looked at in
        # the call, for a change there is answered with another plan, not with an error.
        self._now = [
            index
            for index, address in enumerate(self._addresses)
            if index not in self._windows.later or address not in self._stepped
        ]
        self._pick_now = _picker(self._now)
        self._addresses_now = list(self._pick_now(self._addresses))
        self._sizes = [tensors[index].nbytes for index in self._now]
        self._pick_objects = _picker(self._ambiguous())
        ids = list(map(id, self._pick_objects(leaves)))
        self._distinct, self._object_pattern = len(set(ids)), _pattern(ids)

    def _open_windows(self, flat: Flattened, numbers: list[int]) -> Windows:
        numbers.sort(key=lambda number: number not in self._urgent)
        index_of = {number: index for index, number in enumerate(numbers)}
        members: list[tuple[int, int]] = []
        for index, position in enumerate(self._tensors):
            window = index_of.get(flat.entries[self._nodes[position]["t"]].storage)
            shape = self._forms[index][0]
            if window is not None and 0 not in shape:
                members.append((index, window))
        storages = [self.storages[number] for number in numbers]
        addresses = [flat.storages[n].data.__array_interface__["data"][0] for n in numbers]
        return Windows(
            numbers,
            sum(number in self._urgent for number in numbers),
            np.array(addresses, np.uint64),
            np.array([storage.size_bytes for storage in storages], np.uint64),
            np.array([storage.offset_bytes for storage in storages], np.uint64),
            np.array(members, np.int64).reshape(-1, 2),
            np.array(self._addresses, np.uint64),
            np.array(self._spans(), np.int64).reshape(-1, 2),
        )

    def _ambiguous(self) -> list[int]:
        """Leaves that need not be objects of their own, even where their memory is as it was.

        All others have an address that no other has, which ``match`` or ``settle`` looks at.
        """
        # What is not on the CPU must stay where it is.
        followed = self._windows.followed | dict(self._spans()).keys()
        counts = Counter(self._addresses)
        alone = {
            self._tensors[index]
            for index, address in enumerate(self._addresses)
            if address
            and counts[address] == 1
            and (index in followed or self._forms[index][3] != "cpu")
        }
        return [p for p, node in enumerate(self._nodes) if _is_tensor(node) and p not in alone]

    def _spans(self) -> list[tuple[int, int]]:
        """Index and extent of tensors with holes, whose values are gathered one by one."""
        gathered = {taken.leaf for taken in self._taken if taken.window is None}
        found: list[tuple[int, int]] = []
        for index, position in enumerate(self._tensors):
            shape, stride, dtype, device, _, is_conj, is_neg = self._forms[index]
            # What is conjugated only when it is read is a copy that shares with nothing.
            if position in gathered and device == "cpu" and not is_conj and not is_neg:
                extent = sum((size - 1) * step for size, step in zip(shape, stride, strict=True))
                found.append((index, (extent + 1) * dtype.itemsize))
        return found

    def _open_devices(self, leaves: list[Any]) -> list[DeviceCopies]:
        """Leave what lies on CUDA devices to copies of their own."""
        found: dict[str, list[_Taken]] = {}
        for taken in self._taken:
            device = getattr(leaves[taken.leaf], "device", None)
            if getattr(device, "type", "") == "cuda":
                found.setdefault(str(device), []).append(taken)
        on_device = {taken for several in found.values() for taken in several}
        self._taken = [taken for taken in self._taken if taken not in on_device]
        return [
            DeviceCopies(
                loaded_torch(),
                [(leaves[leaf], window) for _, leaf, window in several],
                [self.storages[number].offset_bytes for number, _, _ in several],
            )
            for several in found.values()
        ]

    def _same_objects(self, leaves: list[Any]) -> bool:
        """Whether tensors and arrays that were one object are one, and others are not."""
        ids = list(map(id, self._pick_objects(leaves)))
        if len(set(ids)) != self._distinct:
            return False
        return self._distinct == len(ids) or _pattern(ids) == self._object_pattern

    def _match_tensors(self, leaves: list[Any]) -> bool:
        torch = loaded_torch()
        if torch is None or not self._tensors:
            return True
        tensors = self._pick_tensors(leaves)
        now = self._pick_now(tensors)
        # Loops over all tensors are left to map, which costs half. What is not looked at here
        # shows in ``settle``: other forms of the same size, and all of what optimizers step.
        try:
            addresses = addresses_of(torch, now)
            sizes = list(map(torch.Tensor.nbytes.__get__, now))
        except RuntimeError:
            return False  # one without storage, e.g. sparse: a new plan refuses it by its path
        if sizes != self._sizes:
            return False
        if any(tensors[index].requires_grad != grad for index, grad in self._parameters):
            return False  # frozen, or set free
        if addresses != self._addresses_now:
            everywhere = list(self._addresses)
            for index, address in zip(self._now, addresses, strict=True):
                everywhere[index] = address
            return self._follow(tensors, everywhere)
        return True

    def _follow(self, tensors: Sequence[Any], addresses: list[int]) -> bool:
        """Copy from where the tensors lie now."""
        for index in compress(count(), map(operator.ne, addresses, self._addresses)):
            # What lies elsewhere than on the CPU is not followed: a new plan is made.
            on_cpu = tensors[index].device.type == "cpu"
            if not on_cpu or form_of(tensors[index]) != self._forms[index]:
                return False
        if not self._windows.move(np.array(addresses, np.uint64)):
            return False
        self._addresses = addresses
        self._addresses_now = list(self._pick_now(addresses))
        return True


def _picker(positions: Sequence[int]) -> Callable[[Sequence[Any]], Sequence[Any]]:
    """Gives what is at these positions."""
    if len(positions) < 2:  # noqa: PLR2004 - of one, itemgetter gives no tuple
        return lambda values: [values[position] for position in positions]
    return operator.itemgetter(*positions)


def _is_tensor(node: Any) -> bool:
    return isinstance(node, dict) and "t" in node


def _pattern(ids: Sequence[int]) -> list[int]:
    """For each id, where it stands for the first time."""
    first: dict[int, int] = {}
    return [first.setdefault(value, index) for index, value in enumerate(ids)]


def _changed(how: str) -> Conflict:
    message = f"a tensor of the state {how}: save again, which notices"
    return Conflict(message, reason="STATE_CHANGED")
