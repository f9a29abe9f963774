"""Which part of a rollout, as users write it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from penstock.errors import InvalidInput
from penstock.streams import Selection

__all__ = ["Steps", "parse_envs", "parse_steps", "select"]

Steps = slice | range | tuple[int, int]
"""Steps from the first to before the last: ``slice(0, 16)``, ``range(16)`` or ``(0, 16)``."""


def select(
    envs: Iterable[int] | None = None,
    fields: str | Sequence[str] | None = None,
    steps: Steps | None = None,
) -> Selection:
    """Choose a part of a rollout.

    Args:
        envs: Indices of environments, in the order they are wanted in; None for all.
        fields: A path in the nested rollout or several; None for all.
        steps: A range of steps; None for all.

    Raises:
        InvalidInput: Nothing is chosen, or steps are not in order.
    """
    first_step, count = (0, None) if steps is None else _bounds(steps)
    chosen = None if envs is None else tuple(int(env) for env in envs)
    paths = (fields,) if isinstance(fields, str) else None if fields is None else tuple(fields)
    for name, value in (("envs", chosen), ("fields", paths)):
        if value is not None and not value:
            raise InvalidInput(f"{name} is empty: leave it out for all", field=name)
    return Selection(envs=chosen, fields=paths, first_step=first_step, steps=count)


def parse_envs(text: str) -> tuple[int, ...]:
    """Environments from ``0-7,12``.

    Raises:
        InvalidInput: It reads otherwise.
    """
    found: list[int] = []
    for part in text.split(","):
        first, dash, last = part.strip().partition("-")
        if not first.isdecimal() or (dash and not last.isdecimal()):
            raise InvalidInput(f"environments {text!r}: write 3, 0-7 or 0-7,12", field="envs")
        found += range(int(first), int(last if dash else first) + 1)
    return tuple(found)


def parse_steps(text: str) -> tuple[int, int | None]:
    """The first step and how many from ``0:16``, ``8:`` or ``:8``.

    Raises:
        InvalidInput: It reads otherwise.
    """
    first, colon, last = (part.strip() for part in text.partition(":"))
    if not colon or not all(part == "" or part.isdecimal() for part in (first, last)):
        raise InvalidInput(f"steps {text!r}: write 0:16, 8: or :8", field="steps")
    return _bounds(slice(int(first or 0), int(last) if last else None))


def _bounds(steps: Steps) -> tuple[int, int | None]:
    if isinstance(steps, tuple):
        first, last, stride = steps[0], steps[1], 1
    else:
        first, last, stride = steps.start or 0, steps.stop, steps.step or 1
    if stride != 1:
        raise InvalidInput(f"steps go by {stride}: choose a range without gaps", field="steps")
    if first < 0 or (last is not None and last <= first):
        raise InvalidInput(
            f"steps {first} to {last}: expected a first one of at least 0 and a higher last one",
            field="steps",
        )
    return first, None if last is None else last - first
