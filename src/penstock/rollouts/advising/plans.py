"""Plans for a rollout, what each is predicted to take, and which one to follow.

A rollout is pushed, and pulled once all of it is stored. Encoding and sending overlap, and so do
fetching and decoding: it goes through two stages in pieces, and the slower one sets the pace. With
*n* pieces that all take the same, a stage that takes *t* in all takes *t/n* for each, and both take
the slower one plus what one piece takes in the other: ``max(t) + min(t) / n``.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from penstock.rollout_file import Encoding

__all__ = [
    "LOSS",
    "PULL_S_PER_BYTE",
    "Cost",
    "Group",
    "Link",
    "Plan",
    "PlanName",
    "Way",
    "choose",
    "plans_for",
]

PlanName = Literal["none", "selective", "full", "full-zstd"]
Way = Literal["plain", "raw", "lz4", "zstd"]
"""How fields are stored: ``plain`` as they are; ``raw`` so too, but what can be rebuilt from the
next step left out; the others encoded besides."""

GAIN = 0.10
"""By what part another plan must be faster to be changed to."""
LOSS = 0.05
"""By what part more than raw a plan may take before it is left."""

PIECE_BYTES = 1 << 20
"""About what goes through the stages at a time, before encoding."""
PULL_S_PER_BYTE = 1.5e-9
"""What a trainer takes at most to fetch a byte: the store is taken to be near it, however far the
collector is. Measured with gRPC over loopback, server and trainer on two cores: 36 to 48 ms for
26 MB. Where a pull from here is faster, that counts."""


@dataclass(frozen=True, slots=True)
class Cost:
    """What storing some fields in some way takes.

    Attributes:
        size_bytes: What is sent.
        encode_s: Of one thread.
        decode_s: Of one thread.
    """

    size_bytes: float
    encode_s: float
    decode_s: float


@dataclass(frozen=True, slots=True)
class Group:
    """Fields that are encoded together: one, and those that are rebuilt from it.

    Attributes:
        fields: Their paths.
        raw_bytes: Of their tensors.
        costs: By the way they are stored; ``plain``, ``raw`` and ``lz4`` at least.
    """

    fields: tuple[str, ...]
    raw_bytes: int
    costs: Mapping[Way, Cost]


@dataclass(frozen=True, slots=True)
class Link:
    """The way to the target.

    Attributes:
        bytes_per_s: How much goes through it.
        latency_s: What a push of nothing takes.
        pull_s_per_byte: Of a trainer that fetches what has gone through.
    """

    bytes_per_s: float
    latency_s: float = 0.0
    pull_s_per_byte: float = PULL_S_PER_BYTE


@dataclass(frozen=True, slots=True)
class Plan:
    """One way to bring a rollout to the target.

    Attributes:
        name: ``none`` sends it as it is, ``selective`` encodes some fields, ``full`` all.
        encoding: What does that.
        size_bytes: What is sent.
        push_s: What it is predicted to take until it is stored.
        pull_s: And from then on until a trainer has it decoded.
        waits_for_link: Whether sending takes longer than encoding.
    """

    name: PlanName
    encoding: Encoding
    size_bytes: float
    push_s: float
    pull_s: float
    waits_for_link: bool

    @property
    def seconds(self) -> float:
        """From a collector's arrays to a trainer's."""
        return self.push_s + self.pull_s


def plans_for(groups: Sequence[Group], link: Link, threads: int = 1) -> dict[PlanName, Plan]:
    """Predict all plans for a rollout.

    Args:
        groups: Its fields and their costs.
        link: Where it goes.
        threads: That encode, and that decode.

    Returns:
        ``none``, ``full``, ``full-zstd`` where zstd was measured, and ``selective`` where encoding
        a part of the fields differs from both ends.
    """
    raw_bytes = sum(group.raw_bytes for group in groups)

    def plan(name: PlanName, encoding: Encoding, costs: Iterable[Cost]) -> Plan:
        return _predict(name, encoding, tuple(costs), raw_bytes, link, threads)

    plain = (group.costs["plain"] for group in groups)
    plans: dict[PlanName, Plan] = {}
    plans["none"] = plan("none", Encoding(codec="raw", rebuild_next=False), plain)
    candidates = [
        plan(
            "selective",
            Encoding(codec="lz4", only=_names(chosen)) if chosen else Encoding(codec="raw"),
            (group.costs["lz4" if group in chosen else "raw"] for group in groups),
        )
        for chosen in _parts(groups)
    ]
    if candidates:
        plans["selective"] = min(candidates, key=lambda found: found.seconds)
    plans["full"] = plan("full", Encoding(), (group.costs["lz4"] for group in groups))
    if all("zstd" in group.costs for group in groups):
        costs = (group.costs["zstd"] for group in groups)
        plans["full-zstd"] = plan("full-zstd", Encoding(codec="zstd"), costs)
    return plans


def choose(plans: Mapping[PlanName, Plan], current: PlanName | None = None) -> PlanName:
    """Which plan to follow.

    The current one (``none`` at first) is kept unless another is predicted to be over 10 % faster,
    so that noise changes nothing. One that is predicted to take over 5 % longer than ``none`` is
    left in any case: encoding must never be what slows a fast link down.
    """
    kept = current if current is not None and current in plans else "none"
    best = min(plans.values(), key=lambda plan: plan.seconds)
    if best.seconds < (1 - GAIN) * plans[kept].seconds:
        return best.name
    if plans[kept].seconds > (1 + LOSS) * plans["none"].seconds:
        return best.name
    return kept


def _parts(groups: Sequence[Group]) -> list[tuple[Group, ...]]:
    """Parts of the fields worth trying: from the one that saves most per second of work on."""

    def worth(group: Group) -> float:
        saved = group.costs["raw"].size_bytes - group.costs["lz4"].size_bytes
        work_s = group.costs["lz4"].encode_s - group.costs["raw"].encode_s
        return saved / max(work_s, 1e-9)

    ranked = sorted(groups, key=worth, reverse=True)
    parts = [tuple(ranked[:count]) for count in range(len(ranked))]
    rebuilt = any(
        group.costs["raw"].size_bytes < group.costs["plain"].size_bytes for group in groups
    )
    # With nothing encoded and nothing to rebuild it is the plan ``none``.
    return parts if rebuilt else parts[1:]


def _names(groups: Sequence[Group]) -> tuple[str, ...]:
    return tuple(sorted(name for group in groups for name in group.fields))


def _predict(
    name: PlanName,
    encoding: Encoding,
    costs: Sequence[Cost],
    raw_bytes: int,
    link: Link,
    threads: int,
) -> Plan:
    size_bytes = sum(cost.size_bytes for cost in costs)
    encode_s = sum(cost.encode_s for cost in costs) / threads
    send_s = size_bytes / link.bytes_per_s
    fetch_s = size_bytes * link.pull_s_per_byte
    decode_s = sum(cost.decode_s for cost in costs) / threads
    pieces = max(1.0, raw_bytes / PIECE_BYTES)
    return Plan(
        name,
        encoding,
        size_bytes,
        push_s=link.latency_s + _overlapped(encode_s, send_s, pieces),
        pull_s=_overlapped(fetch_s, decode_s, pieces),
        waits_for_link=send_s > encode_s,
    )


def _overlapped(first_s: float, second_s: float, pieces: float) -> float:
    return max(first_s, second_s) + min(first_s, second_s) / pieces
