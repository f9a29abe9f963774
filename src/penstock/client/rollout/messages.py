"""Translates between streams as the SDK knows them and their messages, both ways."""

from __future__ import annotations

from penstock.chunks import Digest
from penstock.errors import InvalidInput
from penstock.streams import (
    DEFAULT_LEASE_S,
    ConsumerState,
    Opened,
    ProducerState,
    PushRequest,
    RolloutInfo,
    Selection,
    StreamSettings,
    StreamState,
    Take,
    Which,
)
from penstock.v1 import rollout_pb2 as pb
from penstock.v1 import tensor_pb2 as tb

__all__ = [
    "digest_from_message",
    "digest_to_message",
    "opened_from_message",
    "opened_to_message",
    "push_from_message",
    "push_to_message",
    "rollout_from_message",
    "rollout_to_message",
    "selection_from_message",
    "settings_from_message",
    "settings_to_message",
    "stream_from_message",
    "stream_to_message",
    "which_from_message",
    "which_to_message",
]

_WHEN_FULL: dict[pb.WhenFull, str] = {
    pb.WHEN_FULL_REFUSE: "refuse",
    pb.WHEN_FULL_DROP_OLDEST: "drop-oldest",
}
_WHEN_FULL_NUMBERS = {name: number for number, name in _WHEN_FULL.items()}


def digest_to_message(digest: Digest) -> tb.Digest:
    """A digest as it travels."""
    return tb.Digest(size_bytes=digest.size_bytes, xxh3_128=digest.xxh3_128)


def digest_from_message(message: tb.Digest) -> Digest:
    """A digest as it was meant."""
    return Digest(message.size_bytes, message.xxh3_128)


def settings_to_message(settings: StreamSettings) -> pb.StreamSettings:
    """Settings of a stream as they travel."""
    return pb.StreamSettings(
        capacity=settings.capacity,
        when_full=_WHEN_FULL_NUMBERS[settings.when_full],
        keep_last=settings.keep_last,
        keep_every=settings.keep_every,
    )


def settings_from_message(message: pb.StreamSettings) -> StreamSettings:
    """Settings of a stream as they were meant; without a choice a full queue refuses.

    Raises:
        InvalidInput: ``when_full`` is not known here.
    """
    if message.when_full not in (*_WHEN_FULL, pb.WHEN_FULL_UNSPECIFIED):
        raise InvalidInput(f"when_full {message.when_full} is not known", field="when_full")
    drops = message.when_full == pb.WHEN_FULL_DROP_OLDEST
    return StreamSettings(
        capacity=message.capacity,
        when_full="drop-oldest" if drops else "refuse",
        keep_last=message.keep_last,
        keep_every=message.keep_every,
    )


def rollout_to_message(info: RolloutInfo) -> pb.RolloutInfo:
    """A stored rollout as it travels."""
    return pb.RolloutInfo(
        stream=info.stream,
        sequence=info.sequence,
        producer=info.producer,
        iteration=info.iteration,
        policy_version=info.policy_version,
        envs=info.envs,
        steps=info.steps,
        raw_size_bytes=info.raw_size_bytes,
        digest=digest_to_message(info.digest),
        created_unix_ms=info.created_unix_ms,
    )


def rollout_from_message(message: pb.RolloutInfo) -> RolloutInfo:
    """A stored rollout as it was meant."""
    return RolloutInfo(
        stream=message.stream,
        sequence=message.sequence,
        producer=message.producer,
        iteration=message.iteration,
        policy_version=message.policy_version,
        envs=message.envs,
        steps=message.steps,
        raw_size_bytes=message.raw_size_bytes,
        digest=digest_from_message(message.digest),
        created_unix_ms=message.created_unix_ms,
    )


def stream_to_message(state: StreamState) -> pb.StreamState:
    """A stream as it travels."""
    return pb.StreamState(
        name=state.name,
        settings=settings_to_message(state.settings),
        rollouts=state.rollouts,
        stored_bytes=state.stored_bytes,
        last_sequence=state.last_sequence,
        newest_policy_version=state.newest_policy_version,
        dropped=state.dropped,
        refused=state.refused,
        producers=[
            pb.ProducerState(name=p.name, last_iteration=p.last_iteration, pushed=p.pushed)
            for p in state.producers
        ],
        consumers=[
            pb.ConsumerState(
                name=c.name,
                waiting=c.waiting,
                taken=c.taken,
                settled=c.settled,
                skipped_stale=c.skipped_stale,
                dropped=c.dropped,
            )
            for c in state.consumers
        ],
    )


def stream_from_message(message: pb.StreamState) -> StreamState:
    """A stream as it was meant."""
    return StreamState(
        name=message.name,
        settings=settings_from_message(message.settings),
        rollouts=message.rollouts,
        stored_bytes=message.stored_bytes,
        last_sequence=message.last_sequence,
        newest_policy_version=message.newest_policy_version,
        dropped=message.dropped,
        refused=message.refused,
        producers=tuple(
            ProducerState(name=p.name, last_iteration=p.last_iteration, pushed=p.pushed)
            for p in message.producers
        ),
        consumers=tuple(
            ConsumerState(
                name=c.name,
                waiting=c.waiting,
                taken=c.taken,
                settled=c.settled,
                skipped_stale=c.skipped_stale,
                dropped=c.dropped,
            )
            for c in message.consumers
        ),
    )


def push_to_message(request: PushRequest, offset_bytes: int) -> pb.PushBegin:
    """An announcement as it travels."""
    return pb.PushBegin(
        stream=request.stream,
        producer=request.producer,
        iteration=request.iteration,
        policy_version=request.policy_version,
        push_id=request.push_id,
        offset_bytes=offset_bytes,
    )


def push_from_message(message: pb.PushBegin) -> PushRequest:
    """An announcement as it was meant; the backend checks it."""
    return PushRequest(
        stream=message.stream,
        producer=message.producer,
        iteration=message.iteration,
        policy_version=message.policy_version,
        push_id=message.push_id,
    )


def which_to_message(
    stream: str, which: Which, selection: Selection, wait_s: float
) -> pb.PullRolloutRequest:
    """What is asked for as it travels."""
    request = pb.PullRolloutRequest(
        stream=stream,
        wait_ms=max(0, round(wait_s * 1000)),
        envs=selection.envs,
        fields=selection.fields,
        first_step=selection.first_step,
        steps=selection.steps,
    )
    if which.sequence is not None:
        request.sequence = which.sequence
    elif which.iteration is not None:
        producer, iteration = which.iteration
        request.iteration.CopyFrom(pb.ProducerIteration(producer=producer, iteration=iteration))
    elif which.after_sequence is not None:
        request.after_sequence = which.after_sequence
    elif which.take is not None:
        request.next.CopyFrom(_take_to_message(which.take))
    elif which.latest:
        request.latest = True
    return request


def which_from_message(message: pb.PullRolloutRequest) -> Which:
    """What is asked for as it was meant; the backend checks it."""
    way = message.WhichOneof("which")
    if way == "sequence":
        return Which(sequence=message.sequence)
    if way == "iteration":
        return Which(iteration=(message.iteration.producer, message.iteration.iteration))
    if way == "after_sequence":
        return Which(after_sequence=message.after_sequence)
    if way == "next":
        return Which(take=_take_from_message(message.next))
    return Which(latest=message.latest)


def selection_from_message(message: pb.PullRolloutRequest) -> Selection:
    """Which part is asked for as it was meant."""
    return Selection(
        envs=tuple(message.envs) or None,
        fields=tuple(message.fields) or None,
        first_step=message.first_step,
        steps=message.steps or None,
    )


def opened_to_message(opened: Opened, index: bytes) -> pb.RolloutOpened:
    """A rollout that was found as it travels."""
    return pb.RolloutOpened(
        rollout=rollout_to_message(opened.info),
        index=index,
        attempt=opened.attempt,
        skipped_stale=opened.skipped_stale,
        dropped=opened.dropped,
        newest_policy_version=opened.newest_policy_version,
    )


def opened_from_message(message: pb.RolloutOpened) -> Opened:
    """A rollout that was found as it was meant."""
    return Opened(
        info=rollout_from_message(message.rollout),
        attempt=message.attempt,
        skipped_stale=message.skipped_stale,
        dropped=message.dropped,
        newest_policy_version=message.newest_policy_version,
    )


def _take_to_message(take: Take) -> pb.TakeNext:
    return pb.TakeNext(
        consumer=take.consumer,
        member=take.member,
        lease_ms=round(take.lease_s * 1000),
        policy_version=take.policy_version,
        max_staleness=take.max_staleness,
    )


def _take_from_message(message: pb.TakeNext) -> Take:
    return Take(
        consumer=message.consumer,
        member=message.member,
        lease_s=message.lease_ms / 1000 if message.lease_ms else DEFAULT_LEASE_S,
        policy_version=message.policy_version,
        max_staleness=message.max_staleness if message.HasField("max_staleness") else None,
    )
