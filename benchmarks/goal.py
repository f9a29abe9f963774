"""What is wanted of a figure; whether it is reached is printed and recorded, never a test."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

__all__ = ["Goal"]


class Goal(NamedTuple):
    """A bound for one figure.

    Attributes:
        text: What the figure is.
        name: Its key.
        bound: What it should reach.
        unit: Of both; ``%`` for shares.
        at_most: Whether smaller is better.
    """

    text: str
    name: str
    bound: float
    unit: str = ""
    at_most: bool = False

    def is_met(self, found: Mapping[str, Any]) -> bool:
        """Whether the figure is there and reaches the bound."""
        value = found.get(self.name)
        if value is None:
            return False
        return value <= self.bound if self.at_most else value >= self.bound

    def show(self, value: float) -> str:
        """A value as people read it."""
        if self.unit == "%":
            return f"{100 * value:.1f} %"
        return f"{value:,.2f}{self.unit}" if value < 100 else f"{value:,.0f}{self.unit}"

    def show_bound(self) -> str:
        """The bound as people read it."""
        return f"{'at most' if self.at_most else 'at least'} {self.show(self.bound)}"
