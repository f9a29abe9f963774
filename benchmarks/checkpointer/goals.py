"""What is wanted of the figures; whether they reach it is printed and recorded, never a test."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

__all__ = ["GOALS", "Goal"]


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
        """Whether the figure reaches the bound."""
        value = found[self.name]
        return value <= self.bound if self.at_most else value >= self.bound

    def show(self, value: float) -> str:
        """A value as people read it."""
        if self.unit == "%":
            return f"{100 * value:.1f} %"
        return f"{value:,.2f}{self.unit}" if value < 100 else f"{value:,.0f}{self.unit}"

    def show_bound(self) -> str:
        """The bound as people read it."""
        return f"{'at most' if self.at_most else 'at least'} {self.show(self.bound)}"


GOALS = (
    Goal("call of `save_async`, p50", "call_ms_p50", 1.0, " ms", at_most=True),
    Goal("call of `save_async`, p99", "call_ms_p99", 3.0, " ms", at_most=True),
    Goal(
        "stall of the next step, p50, as a share of the copy",
        "stall_share",
        0.05,
        "%",
        at_most=True,
    ),
    Goal("DCP's shortest call that copies / call and stall of ours", "dcp_over_ours", 20.0),
    Goal("throughput with saves / without, one thread", "throughput_ratio", 0.95),
    Goal("`small` saves", "saved_small", 0.15, "%"),
    Goal("`small`, one thread", "small_mb_s", 700.0, " MB/s"),
    Goal("`fast` saves", "saved_fast", 0.11, "%"),
    Goal("`fast`, one thread", "fast_mb_s", 2500.0, " MB/s"),
    Goal("`delta` saves, 10 steps after its base", "saved_delta10", 0.30, "%"),
    Goal("`delta` saves, encoder frozen", "saved_frozen", 0.85, "%"),
    Goal("`policy-bf16` saves, policy alone", "saved_policy_bf16", 0.65, "%"),
)
