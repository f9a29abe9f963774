"""What a client needs of a store of rollouts, however it is reached."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Protocol

from penstock.client.rollout.encoded import Encoded
from penstock.errors import Corrupt, InvalidInput
from penstock.rollout_file import Index, Leaves, unflatten
from penstock.streams import (
    Opened,
    PushRequest,
    RolloutInfo,
    Selection,
    StreamSettings,
    StreamState,
    Which,
)

__all__ = ["Pulled", "RolloutAccess", "check_selection", "damaged"]

_MAX_INDEX = 1 << 32


@dataclass(frozen=True, slots=True)
class Pulled:
    """A rollout, or a part of it.

    Attributes:
        opened: What it is, and how it was given.
        leaves: Arrays ``[env, time, ...]`` by path.
        index: Of the whole file: its fields, and how they are stored.
    """

    opened: Opened
    leaves: Leaves
    index: Index

    @property
    def info(self) -> RolloutInfo:
        """What it is."""
        return self.opened.info

    @property
    def data(self) -> dict[str, Any]:
        """The nested dict of arrays that was pushed."""
        return unflatten(self.leaves)


class RolloutAccess(Protocol):
    """What a client needs of a store."""

    def configure(self, stream: str, settings: StreamSettings) -> StreamState:
        """Set what a stream holds."""
        ...

    def push(self, request: PushRequest, encoded: Encoded, wait_s: float | None) -> RolloutInfo:
        """Store a rollout; when this returns it is durable."""
        ...

    def pull(
        self, stream: str, which: Which, selection: Selection, wait_s: float, threads: int
    ) -> Pulled:
        """Find a rollout and read it, or a part of it."""
        ...

    def settle(
        self, stream: str, consumer: str, sequence: int, *, done: bool, member: str = ""
    ) -> None:
        """A consumer is through with a rollout, or its member gives it back."""
        ...

    def forget_consumer(self, stream: str, consumer: str) -> None:
        """Forget a consumer."""
        ...

    def stream(self, stream: str) -> StreamState:
        """Describe a stream."""
        ...

    def streams(self) -> list[StreamState]:
        """All streams."""
        ...

    def list(self, stream: str, after_sequence: int, limit: int) -> list[RolloutInfo]:
        """Some rollouts of a stream by ascending sequence."""
        ...

    def delete(self, stream: str, sequence: int) -> None:
        """Delete one rollout."""
        ...

    def subscribe(self, stream: str, after_sequence: int) -> Iterator[RolloutInfo]:
        """Rollouts as they become durable."""
        ...

    def close(self) -> None:
        """Release what is held; calls that wait end."""
        ...


def check_selection(selection: Selection) -> None:
    """Refuse what could not be told apart from "all" on a wire, or does not fit there.

    Raises:
        InvalidInput: As it says.
    """
    for name, chosen in (("envs", selection.envs), ("fields", selection.fields)):
        if chosen is not None and not chosen:
            raise InvalidInput(f"selection.{name} is empty: None stands for all", field=name)
    if selection.steps is not None and selection.steps <= 0:
        raise InvalidInput(
            f"selection.steps is {selection.steps}: None stands for all that follow", field="steps"
        )
    numbers = (*(selection.envs or ()), selection.first_step, selection.steps or 0)
    if not all(0 <= number < _MAX_INDEX for number in numbers):
        raise InvalidInput(
            f"{selection}: environments and steps are numbers from 0 to 2**32 - 1", field="envs"
        )


def damaged(info: RolloutInfo, error: Corrupt) -> Corrupt:
    """The error for a rollout that arrived whole but is damaged."""
    return Corrupt(
        f"{info} (sequence {info.sequence}) is damaged: {error.message}: settle or delete it, and "
        "go on with the next one",
        reason=error.reason,
        metadata={**error.metadata, "sequence": str(info.sequence)},
    )
