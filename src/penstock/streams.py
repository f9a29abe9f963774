"""What is known of streams of rollouts, and the names they go by.

A *rollout* is what a policy did in a number of environments for a number of steps. A *stream* is
an ordered history of rollouts: each has a *sequence*, given in the order in which they became
durable, and is known by its *producer* and that producer's *iteration*. A *consumer* settles every
rollout of a stream once; its *members* are processes that share the work. What a consumer has not
settled waits in the stream's queue, whose capacity is bounded.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from penstock.chunks import Digest
from penstock.errors import InvalidInput

__all__ = [
    "DEFAULT_LEASE_S",
    "DEFAULT_PRODUCER",
    "ConsumerState",
    "Opened",
    "ProducerState",
    "PushRequest",
    "RolloutInfo",
    "Selection",
    "StreamSettings",
    "StreamState",
    "Take",
    "Which",
]

DEFAULT_PRODUCER = "main"
DEFAULT_LEASE_S = 300.0

WhenFull = Literal["refuse", "drop-oldest"]


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamSettings:
    """What a stream holds.

    Attributes:
        capacity: Rollouts that may wait: those that not every consumer has settled, or all while
            there is no consumer. 0 for any number.
        when_full: What becomes of another one then: ``refuse`` makes the producer wait,
            ``drop-oldest`` drops the oldest that nobody works on, and counts it.
        keep_last: Of those that no longer wait, the newest so many stay.
        keep_every: And multiples of this, by iteration. With both 0 all stay.
    """

    capacity: int = 0
    when_full: WhenFull = "refuse"
    keep_last: int = 0
    keep_every: int = 0

    def __post_init__(self) -> None:
        for name in ("capacity", "keep_last", "keep_every"):
            value = getattr(self, name)
            if not 0 <= value < 1 << 32:
                raise InvalidInput(f"{name} is {value}: expected 0 to 2**32 - 1", field=name)
        if self.when_full not in ("refuse", "drop-oldest"):
            raise InvalidInput(
                f"when_full is {self.when_full!r}: expected 'refuse' or 'drop-oldest'",
                field="when_full",
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class RolloutInfo:
    """A stored rollout.

    Attributes:
        stream: Name of the stream.
        sequence: Place in it, from 1; never given twice.
        producer: Who collected it.
        iteration: Of that producer.
        policy_version: Version of the policy that acted.
        envs: Environments.
        steps: Steps of each.
        raw_size_bytes: Of its tensors before encoding.
        digest: Size and hash of its file.
        created_unix_ms: When it became durable.
    """

    stream: str
    sequence: int
    producer: str
    iteration: int
    policy_version: int
    envs: int
    steps: int
    raw_size_bytes: int
    digest: Digest
    created_unix_ms: int

    def __str__(self) -> str:
        return f"{self.stream}/{self.producer}/{self.iteration}"


@dataclass(frozen=True, slots=True, kw_only=True)
class ProducerState:
    """A producer: the highest iteration that is stored or was, and how many it pushed."""

    name: str
    last_iteration: int
    pushed: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ConsumerState:
    """A consumer.

    Attributes:
        name: Of the consumer.
        waiting: Stored rollouts that it has not settled, taken ones counted.
        taken: Those that its members work on.
        settled: How many it is through with.
        skipped_stale: Passed over because the policy that acted was too old.
        dropped: Dropped by the full queue before it took them.
    """

    name: str
    waiting: int
    taken: int
    settled: int
    skipped_stale: int
    dropped: int


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamState:
    """A stream: its settings and what it holds.

    Attributes:
        name: Of the stream.
        settings: What it holds at most, and for how long.
        rollouts: How many are stored.
        stored_bytes: Size of their files.
        last_sequence: Of the newest one that was ever stored; 0 if there was none.
        newest_policy_version: Of any rollout that was ever stored.
        dropped: By the full queue.
        refused: Pushes that the full queue refused.
        producers: By name.
        consumers: By name.
    """

    name: str
    settings: StreamSettings
    rollouts: int
    stored_bytes: int
    last_sequence: int
    newest_policy_version: int
    dropped: int
    refused: int
    producers: tuple[ProducerState, ...]
    consumers: tuple[ConsumerState, ...]

    def last_iteration(self, producer: str = DEFAULT_PRODUCER) -> int | None:
        """The highest iteration that a producer has ever stored; None if it has stored none."""
        return next((p.last_iteration for p in self.producers if p.name == producer), None)


@dataclass(frozen=True, slots=True, kw_only=True)
class PushRequest:
    """What a producer announces before it sends a rollout.

    Attributes:
        stream: Name of the stream; created if it is missing.
        producer: Who collected it.
        iteration: Of that producer.
        policy_version: Version of the policy that acted.
        push_id: 32 hexadecimal digits, chosen by the producer.
    """

    stream: str
    producer: str
    iteration: int
    policy_version: int
    push_id: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Take:
    """What a member of a consumer asks for: the oldest rollout that is neither settled nor taken.

    Attributes:
        consumer: Name of the consumer; created if it is missing, with all that is stored to come.
        member: Which of several processes that share its work; a member that holds a rollout is
            given the same one again.
        lease_s: How long it stays taken without being settled.
        policy_version: Of the policy that will learn.
        max_staleness: How many versions older the policy that acted may be; rollouts that are older
            are settled and counted. None for any.
    """

    consumer: str
    member: str = ""
    lease_s: float = DEFAULT_LEASE_S
    policy_version: int = 0
    max_staleness: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Which:
    """Which rollout of a stream: exactly one attribute is set.

    Attributes:
        sequence: The one of this sequence.
        iteration: The one of this producer and iteration.
        latest: The newest one.
        after_sequence: The first one above this sequence; nothing is taken.
        take: The next one for a consumer.
    """

    sequence: int | None = None
    iteration: tuple[str, int] | None = None
    latest: bool = False
    after_sequence: int | None = None
    take: Take | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Selection:
    """Which part of a rollout.

    Attributes:
        envs: Indices of environments, without doubles, in the order they are wanted in; None for
            all.
        fields: Paths in the nested rollout, joined by ``/``; one that ends before a leaf stands for
            all below it. None for all.
        first_step: The first step.
        steps: How many; None for all that follow.
    """

    envs: tuple[int, ...] | None = None
    fields: tuple[str, ...] | None = None
    first_step: int = 0
    steps: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Opened:
    """A rollout that was found.

    Attributes:
        info: What it is.
        attempt: How often this consumer was given it, this time counted; 0 if it did not take it.
        skipped_stale: Passed over as too old since this consumer took the last one.
        dropped: Dropped by the full queue since then.
        newest_policy_version: Of any rollout in the stream.
    """

    info: RolloutInfo
    attempt: int = 0
    skipped_stale: int = 0
    dropped: int = 0
    newest_policy_version: int = field(default=0)

    @property
    def staleness(self) -> int:
        """How many policy versions older than the newest one in the stream it is."""
        return self.newest_policy_version - self.info.policy_version
