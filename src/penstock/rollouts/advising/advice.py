"""What is recommended, and why."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from rich.filesize import decimal

from penstock.rollout_file import Encoding
from penstock.rollouts.advising.place import Place
from penstock.rollouts.advising.plans import Link, Plan, PlanName

__all__ = ["Advice", "advice_for", "advice_without_sending"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Advice:
    """How to encode rollouts to a target.

    Attributes:
        plan: ``none`` sends them as they are, ``selective`` encodes the fields for which that pays,
            ``full`` encodes all by LZ4, ``full-zstd`` by zstd.
        encoding: What does that.
        predicted_s: What each plan is predicted to take for one rollout, from a collector's arrays
            to a trainer's; empty where nothing is sent.
        bandwidth_bytes_per_s: Of the way to the target; None where nothing is sent.
        ratio: How many times smaller the plan makes a rollout.
        reason: Why, in a sentence.
    """

    plan: PlanName
    encoding: Encoding
    predicted_s: Mapping[PlanName, float]
    bandwidth_bytes_per_s: float | None
    ratio: float
    reason: str


_NOTHING_SENT: Mapping[Place, str] = {
    "process": "none: same process, nothing is sent",
    "host": "none: same host, shared memory, no codec",
}


def advice_without_sending(place: Place) -> Advice:
    """Advice where there is no way that rollouts must go."""
    return Advice(
        plan="none",
        encoding=Encoding(codec="raw", rebuild_next=False),
        predicted_s={},
        bandwidth_bytes_per_s=None,
        ratio=1.0,
        reason=_NOTHING_SENT[place],
    )


def advice_for(
    plans: Mapping[PlanName, Plan], chosen: PlanName, link: Link, raw_bytes: int
) -> Advice:
    """Advice to follow a plan."""
    plan = plans[chosen]
    return Advice(
        plan=chosen,
        encoding=plan.encoding,
        predicted_s={name: found.seconds for name, found in plans.items()},
        bandwidth_bytes_per_s=link.bytes_per_s,
        ratio=raw_bytes / plan.size_bytes,
        reason=_reason(plans, plan, link, raw_bytes),
    )


def _reason(plans: Mapping[PlanName, Plan], plan: Plan, link: Link, raw_bytes: int) -> str:
    none, rate = plans["none"], f"{_size(link.bytes_per_s)}/s"
    if plan is none:
        other = min((found for found in plans.values() if found is not none), key=_seconds)
        little = ", too little to change" if other.seconds < none.seconds else ""
        return (
            f"none: at {rate} {_size(raw_bytes)} take {_ms(none.seconds)} as they are; "
            f"{other.name} would take {_ms(other.seconds)} for {_size(other.size_bytes)}{little}"
        )
    only = plan.encoding.only
    if plan.encoding.codec == "raw":
        how = "leaving out what the next step tells"
    elif only is None:
        how = plan.encoding.codec
    else:
        how = f"{plan.encoding.codec} of {len(only)} field{'s' if len(only) > 1 else ''}"
    return (
        f"{plan.name}: {how} brings {_size(raw_bytes)} to {_size(plan.size_bytes)}; at {rate} that "
        f"takes {_ms(plan.seconds)} instead of {_ms(none.seconds)}"
    )


def _seconds(plan: Plan) -> float:
    return plan.seconds


def _size(size_bytes: float) -> str:
    return decimal(round(size_bytes))


def _ms(seconds: float) -> str:
    return f"{1000 * seconds:.3g} ms" if seconds < 1 else f"{seconds:.3g} s"
