"""A rollout that was collected: its data, its minibatches, and what became of it in the store."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future
from typing import Any

import numpy as np
from numpy.typing import NDArray

from penstock.errors import InvalidInput
from penstock.rollouts.tensors import as_torch, nested
from penstock.streams import RolloutInfo

__all__ = ["CollectedBatch"]

Load = Callable[[], Mapping[str, NDArray[Any]]]


class CollectedBatch:
    """One rollout, decoded once however often it is used.

    Args:
        load: Gives the leaves by path, ``[env, time, ...]`` each; called once, when first needed.
        envs: Environments.
        steps: Steps of each.
        iteration: Of the collector.
        policy_version: Version of the policy that acted.
        torch_paths: Leaves that are handed out as torch tensors; the others are NumPy arrays.
        info: What it became in the store.
        source: What the collector yielded.

    Attributes:
        envs: Environments.
        steps: Steps of each.
        iteration: Of the collector.
        policy_version: Version of the policy that acted.
        info: A future: what the rollout became in the store once it is durable, None where it is
            not stored. It raises what went wrong; ``LimitExceeded`` with reason ``DROPPED`` where
            the full queue dropped the rollout.
        source: What the base collector yielded itself, on its device, valid as long as that
            collector says; None for a rollout out of a history.
    """

    def __init__(
        self,
        load: Load,
        *,
        envs: int,
        steps: int,
        iteration: int,
        policy_version: int,
        torch_paths: frozenset[str] = frozenset(),
        info: Future[RolloutInfo | None] | None = None,
        source: Any = None,
    ) -> None:
        self.envs, self.steps = envs, steps
        self.iteration, self.policy_version = iteration, policy_version
        self.source = source
        if info is None:
            info = Future()
            info.set_result(None)
        self.info = info
        self._load = load
        self._torch_paths = torch_paths
        self._lock = threading.Lock()
        self._leaves: Mapping[str, NDArray[Any]] | None = None
        self._on_device: tuple[str, dict[str, Any]] | None = None

    @property
    def leaves(self) -> Mapping[str, NDArray[Any]]:
        """The leaves as arrays ``[env, time, ...]``, by path."""
        with self._lock:
            if self._leaves is None:
                self._leaves = self._load()
            return self._leaves

    @property
    def data(self) -> dict[str, Any]:
        """The nested rollout: torch tensors where the collector yielded them, else arrays.

        It is a copy that stays as it is for as long as anything refers to it.
        """
        return nested(self._typed(None))

    def to(self, device: Any) -> dict[str, Any]:
        """The nested rollout as torch tensors on a device; those of the last device are kept.

        Raises:
            Unsupported: Torch is not installed, or has no such dtype.
        """
        return nested(self._typed(device))

    def tensordict(self, device: Any = None) -> Any:
        """The rollout as a TensorDict of batch size ``[envs, steps]``.

        Raises:
            Unsupported: tensordict is not installed.
        """
        return nested(
            self._typed(device or "cpu"), as_tensordict=True, batch_size=(self.envs, self.steps)
        )

    def minibatches(
        self,
        size: int,
        seed: int,
        *,
        epochs: int = 1,
        drop_last: bool = False,
        device: Any = None,
        as_tensordict: bool = False,
    ) -> Iterator[Any]:
        """Minibatches of transitions in random order, each transition once per epoch.

        The rollout is decoded, and moved to ``device``, once; a pure function of rollout, ``size``,
        ``seed`` and ``epochs``.

        Args:
            size: Transitions of a minibatch; the last one of an epoch may have fewer.
            seed: Of the order.
            epochs: How often to go through the rollout.
            drop_last: Leave out a last minibatch that has fewer.
            device: Where torch tensors go; None leaves everything as ``data`` has it.
            as_tensordict: Yield TensorDicts of batch size ``[size]``.

        Yields:
            Nested minibatches, each leaf ``[size, ...]``.

        Raises:
            InvalidInput: ``size`` or ``epochs`` is less than 1, or ``seed`` than 0.
        """
        for name, value in (("size", size), ("epochs", epochs)):
            if value < 1:
                raise InvalidInput(f"{name}={value}: expected at least 1", field=name)
        if seed < 0:
            raise InvalidInput(f"seed={seed}: expected at least 0", field="seed")
        if as_tensordict and device is None:
            device = "cpu"
        picked = self._picked(size, seed, epochs, device, drop_last=drop_last)
        return (
            nested(leaves, as_tensordict=as_tensordict, batch_size=(count,))
            for leaves, count in picked
        )

    def _picked(
        self, size: int, seed: int, epochs: int, device: Any, *, drop_last: bool
    ) -> Iterator[tuple[dict[str, Any], int]]:
        count = self.envs * self.steps
        typed = self._typed(device)
        flat = {path: leaf.reshape(count, *leaf.shape[2:]) for path, leaf in typed.items()}
        for epoch in range(epochs):
            order = np.random.default_rng([seed, epoch]).permutation(count)
            end = count - count % size if drop_last else count
            for first in range(0, end, size):
                chosen = _Choice(order[first : first + size])
                yield {path: chosen.of(leaf) for path, leaf in flat.items()}, chosen.count

    def _typed(self, device: Any) -> dict[str, Any]:
        leaves = self.leaves
        if device is None:
            wanted = {path: leaf for path, leaf in leaves.items() if path in self._torch_paths}
            return {**leaves, **(as_torch(wanted) if wanted else {})}
        with self._lock:
            if self._on_device is None or self._on_device[0] != str(device):
                self._on_device = (str(device), as_torch(leaves, device))
            return self._on_device[1]


class _Choice:
    """Rows that are picked from arrays, and from tensors wherever they are."""

    def __init__(self, rows: NDArray[np.int64]) -> None:
        self._rows = rows
        self._tensors: dict[str, Any] = {}
        self.count = len(rows)

    def of(self, leaf: Any) -> Any:
        if isinstance(leaf, np.ndarray):
            return np.take(leaf, self._rows, axis=0)
        device = str(leaf.device)
        if device not in self._tensors:
            self._tensors |= as_torch({device: self._rows}, leaf.device)
        return leaf.index_select(0, self._tensors[device])
