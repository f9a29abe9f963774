"""The last rollouts in memory, encoded; decoded when they are used."""

from __future__ import annotations

import io
import logging
import threading
from collections import Counter, deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from numpy.typing import NDArray

from penstock.errors import InvalidInput
from penstock.rollout_file import read
from penstock.rollouts.collected import CollectedBatch

__all__ = ["Kept", "RolloutHistory"]

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Kept:
    """A rollout as it is kept.

    Attributes:
        data: Its file.
        envs: Environments.
        steps: Steps of each.
        iteration: Of the collector.
        policy_version: Version of the policy that acted.
        torch_paths: Leaves that were torch tensors.
    """

    data: bytes
    envs: int
    steps: int
    iteration: int
    policy_version: int
    torch_paths: frozenset[str]


class RolloutHistory:
    """The newest rollouts that fit into some memory, oldest first.

    ``history[-1]`` is the newest one. Each access gives another batch, which decodes once and gives
    its memory back when nothing refers to it any more.

    Args:
        max_bytes: Of all that is kept, encoded.
        counts: Counts ``decoded``, ``forgotten`` (made place for newer ones) and ``too_large``.

    Raises:
        InvalidInput: ``max_bytes`` is less than 1.
    """

    def __init__(self, max_bytes: int, counts: Counter[str]) -> None:
        if max_bytes < 1:
            raise InvalidInput(
                f"history_bytes={max_bytes}: expected at least 1", field="history_bytes"
            )
        self._max_bytes, self._counts = max_bytes, counts
        self._lock = threading.Lock()
        self._kept: deque[Kept] = deque()
        self._size_bytes = 0

    @property
    def size_bytes(self) -> int:
        """Of all that is kept, encoded."""
        return self._size_bytes

    def add(self, kept: Kept) -> None:
        """Keep a rollout, and forget as many of the oldest as it takes."""
        size_bytes = len(kept.data)
        with self._lock:
            if size_bytes > self._max_bytes:
                self._counts["too_large"] += 1
                log.warning(
                    "iteration %d is not kept: it has %d bytes, history_bytes=%d",
                    kept.iteration,
                    size_bytes,
                    self._max_bytes,
                )
                return
            while self._size_bytes + size_bytes > self._max_bytes:
                self._size_bytes -= len(self._kept.popleft().data)
                self._counts["forgotten"] += 1
            self._kept.append(kept)
            self._size_bytes += size_bytes

    def __len__(self) -> int:
        return len(self._kept)

    def __getitem__(self, place: int) -> CollectedBatch:
        with self._lock:
            kept = self._kept[place]
        return self._batch(kept)

    def __iter__(self) -> Iterator[CollectedBatch]:
        with self._lock:
            found = tuple(self._kept)
        return map(self._batch, found)

    def _batch(self, kept: Kept) -> CollectedBatch:
        def load() -> Mapping[str, NDArray[Any]]:
            self._counts["decoded"] += 1
            return read(io.BytesIO(kept.data))

        return CollectedBatch(
            load,
            envs=kept.envs,
            steps=kept.steps,
            iteration=kept.iteration,
            policy_version=kept.policy_version,
            torch_paths=kept.torch_paths,
        )
