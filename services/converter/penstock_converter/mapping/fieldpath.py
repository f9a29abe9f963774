"""Paths into messages: ``position``, ``pose.orientation.w``, ``points[0].positions[2:5]``."""

from __future__ import annotations

import re
from dataclasses import dataclass, fields, is_dataclass
from typing import Any, Self

from penstock.errors import DataFault

__all__ = ["FieldPath"]

_STEP = re.compile(r"([A-Za-z_]\w*)((?:\[-?\d*(?::-?\d*)?\])*)")
_SUBSCRIPT = re.compile(r"\[(-?\d*)(:?)(-?\d*)\]")


@dataclass(frozen=True)
class FieldPath:
    """A parsed path; ``steps`` are attribute names, indices and slices."""

    text: str
    steps: tuple[str | int | slice, ...]

    @classmethod
    def parse(cls, text: str) -> Self:
        """Parse ``text``.

        Raises:
            ValueError: It is no path.
        """
        steps: list[str | int | slice] = []
        for part in text.split("."):
            match = _STEP.fullmatch(part)
            if match is None:
                raise ValueError(
                    f"field {text!r}: {part!r} is not a name with indices, e.g. joint_q[12:19]"
                )
            steps.append(match[1])
            for first, colon, last in _SUBSCRIPT.findall(match[2]):
                if not colon and not first:
                    raise ValueError(f"field {text!r}: an index is empty")
                bounds = (int(bound) if bound else None for bound in (first, last))
                steps.append(slice(*bounds) if colon else int(first))
        return cls(text, tuple(steps))

    def of(self, message: Any) -> Any:
        """The value there.

        Raises:
            DataFault: The message has no such field; names those it has.
        """
        value = message
        for step in self.steps:
            if isinstance(step, str):
                if not hasattr(value, step):
                    known = [field.name for field in fields(value)] if is_dataclass(value) else []
                    raise DataFault(
                        f"field {self.text!r}: there is no {step!r} in a {_kind(value)}"
                        + (f", it has {', '.join(known)}" if known else ""),
                        reason="NO_SUCH_FIELD",
                    )
                value = getattr(value, step)
            else:
                value = self._element(value, step)
        return value

    def _element(self, value: Any, step: int | slice) -> Any:
        bounds = (step.start, step.stop) if isinstance(step, slice) else ()
        try:
            found = value[step]
            # A slice that reaches too far gives what is there, which is a vector of another form.
            short = any(bound is not None and abs(bound) > len(value) for bound in bounds)
        except (IndexError, TypeError) as error:
            raise self._unfit(value, step, str(error)) from error
        if short:
            raise self._unfit(value, step, f"it has {len(value)} elements")
        return found

    def _unfit(self, value: Any, step: int | slice, why: str) -> DataFault:
        shown = str(step)
        if isinstance(step, slice):
            shown = ":".join(
                "" if bound is None else str(bound) for bound in (step.start, step.stop)
            )
        return DataFault(
            f"field {self.text!r}: [{shown}] does not fit a {_kind(value)}: {why}",
            reason="NO_SUCH_FIELD",
        )


def _kind(value: Any) -> str:
    return getattr(value, "__msgtype__", type(value).__name__)
