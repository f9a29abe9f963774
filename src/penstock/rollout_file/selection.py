"""Which segments a part of a rollout needs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np
from numpy.typing import NDArray

from penstock.errors import InvalidInput
from penstock.rollout_file.encoding import is_below

if TYPE_CHECKING:
    from penstock.rollout_file.index import Index

__all__ = ["Selected", "Wanted"]


class Selected(Protocol):
    """Part of a rollout; ``penstock.streams.Selection`` is one and documents the attributes."""

    @property
    def envs(self) -> Sequence[int] | None:
        """Which environments, in this order."""
        ...

    @property
    def fields(self) -> Sequence[str] | None:
        """Which fields."""
        ...

    @property
    def first_step(self) -> int:
        """The first step."""
        ...

    @property
    def steps(self) -> int | None:
        """How many."""
        ...


@dataclass(frozen=True, slots=True)
class Wanted:
    """A selection, checked against an index.

    Attributes:
        envs: ``(n,) int64``: environments in the order they are wanted in.
        first_step: The first step.
        steps: How many.
        fields: Numbers of the chosen fields, ascending.
        bases: Numbers of the fields that are not chosen but needed to rebuild some.
        segments: ``(m,) int64``: numbers of the segments that are needed, ascending.
    """

    envs: NDArray[np.int64]
    first_step: int
    steps: int
    fields: tuple[int, ...]
    bases: tuple[int, ...]
    segments: NDArray[np.int64]

    @classmethod
    def of(cls, index: Index, selection: Selected | None) -> Wanted:
        """Check a selection; None for all.

        Raises:
            InvalidInput: It names an environment, a step or a field that is not there.
        """
        if selection is None:
            every = tuple(range(len(index.fields)))
            segments = np.arange(len(index.sizes), dtype=np.int64)
            return cls(np.arange(index.envs), 0, index.steps, every, (), segments)
        envs = _envs(selection.envs, index.envs)
        first, steps = _steps(selection, index.steps)
        fields = _fields(selection.fields, [field.name for field in index.fields])
        numbers = {field.name: number for number, field in enumerate(index.fields)}
        needed = {numbers[name] for n in fields if (name := index.fields[n].next_of) is not None}
        bases = tuple(sorted(needed - set(fields)))
        found = index.segments
        is_field = np.zeros(len(index.fields), bool)
        is_field[np.array([*fields, *bases], np.int64)] = True
        # How many chosen environments come before each one.
        before = np.zeros(index.envs + 1, np.int64)
        before[envs + 1] = 1
        before = np.cumsum(before)
        has_env = before[found.first_env + found.envs] > before[found.first_env]
        has_step = (found.first_step < first + steps) & (found.first_step + found.steps > first)
        segments = np.flatnonzero(is_field[found.field] & has_env & has_step)
        return cls(envs, first, steps, fields, bases, segments)


def _envs(wanted: Sequence[int] | None, envs: int) -> NDArray[np.int64]:
    if wanted is None:
        return np.arange(envs)
    try:
        chosen = np.array(tuple(wanted), dtype=np.int64)
    except (OverflowError, ValueError, TypeError) as error:
        raise InvalidInput(f"envs are no integers: {error}", field="envs") from error
    bad = chosen[(chosen < 0) | (chosen >= envs)]
    if len(bad):
        message = f"environment {bad[0]} is not there: the rollout has 0 to {envs - 1}"
        raise InvalidInput(message, field="envs")
    if len(np.unique(chosen)) != len(chosen):
        raise InvalidInput("an environment is chosen twice", field="envs")
    return chosen


def _steps(selection: Selected, steps: int) -> tuple[int, int]:
    first = selection.first_step
    if not 0 <= first < steps:
        message = f"step {first} is not there: the rollout has 0 to {steps - 1}"
        raise InvalidInput(message, field="first_step")
    count = steps - first if selection.steps is None else selection.steps
    if not 1 <= count <= steps - first:
        message = f"{count} steps from step {first} on: the rollout has {steps - first}"
        raise InvalidInput(message, field="steps")
    return first, count


def _fields(wanted: Sequence[str] | None, names: Sequence[str]) -> tuple[int, ...]:
    if wanted is None:
        return tuple(range(len(names)))
    chosen: set[int] = set()
    for path in wanted:
        found = {number for number, name in enumerate(names) if is_below(name, path)}
        if not found:
            message = f"field {path!r:.80} is not there: the rollout has {', '.join(names):.400}"
            raise InvalidInput(message, field="fields")
        chosen |= found
    return tuple(sorted(chosen))
