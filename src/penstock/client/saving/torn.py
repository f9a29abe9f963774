"""Proof that nothing wrote to a state while its snapshot was being completed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import xxhash

from penstock.container import Plan
from penstock.errors import Conflict

__all__ = ["TornSnapshot", "Witness"]


class TornSnapshot(Conflict):
    """Something wrote to a state between the call that saves it and the next step."""

    default_reason = "TORN_SNAPSHOT"


class Witness:
    """Hashes of the tensors that are copied later, taken in the call.

    Args:
        plan: Of the state, which has just matched it.
        leaves: Of the state; kept, for only their memory is looked at.
        name: Of the checkpoint.
    """

    def __init__(self, plan: Plan, leaves: Sequence[Any], name: str) -> None:
        self._leaves, self._name = leaves, name
        self._staged = plan.staged()
        self._hashes = [_hash(memory) for _, memory, _ in self._staged]

    def check_copy(self, buffer: npt.NDArray[np.uint8]) -> None:
        """Compare the copy with what was there at the call.

        Raises:
            TornSnapshot: They differ; names the tensors.
        """
        pieces = [
            buffer[planned.offset_bytes : planned.offset_bytes + planned.size_bytes]
            for _, _, planned in self._staged
        ]
        self._check(pieces, "its copy is not what it was at the call: the snapshot is torn and")

    def check_source(self) -> None:
        """Compare the tensors with what they were at the call.

        Raises:
            TornSnapshot: They differ; names them.
        """
        memory = [memory for _, memory, _ in self._staged]
        self._check(memory, "it was written to before the next step: the snapshot may be torn and")

    def _check(self, pieces: list[npt.NDArray[np.uint8]], what: str) -> None:
        changed = [
            path
            for (path, _, _), piece, before in zip(self._staged, pieces, self._hashes, strict=True)
            if _hash(piece) != before
        ]
        if changed:
            others = f" and {len(changed) - 1} others" if len(changed) > 1 else ""
            raise TornSnapshot(
                f"{self._name}: {changed[0]}{others}: {what} the write must go into a block "
                "'with saver.guard():'",
                metadata={"tensors": ",".join(changed[:20])},
            )


def _hash(memory: npt.NDArray[np.uint8]) -> int:
    return xxhash.xxh3_64_intdigest(memory.data)
