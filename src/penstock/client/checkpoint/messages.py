"""Translates between checkpoints as the SDK knows them and their messages, both ways."""

from __future__ import annotations

from penstock.checkpoints import LATEST, CheckpointInfo, RunInfo, UploadRequest
from penstock.chunks import Digest
from penstock.retention import Collected, KeepBest, RetentionPolicy
from penstock.v1 import checkpoint_pb2 as pb
from penstock.v1 import tensor_pb2 as tb

__all__ = [
    "checkpoint_from_message",
    "checkpoint_to_message",
    "collected_from_message",
    "collected_to_message",
    "policy_from_message",
    "policy_to_message",
    "ref_to_message",
    "run_from_message",
    "run_to_message",
    "upload_from_message",
    "upload_to_message",
    "which_from_message",
]


def checkpoint_to_message(info: CheckpointInfo) -> pb.Checkpoint:
    """A stored checkpoint as it travels."""
    return pb.Checkpoint(
        run=info.run,
        step=info.step,
        digest=_digest_to_message(info.digest),
        raw_size_bytes=info.raw_size_bytes,
        created_unix_ms=info.created_unix_ms,
        tags=info.tags,
        metrics=info.metrics,
        base_step=info.base_step,
        pinned=info.pinned,
        verified_unix_ms=info.verified_unix_ms,
        damaged=info.damaged,
    )


def checkpoint_from_message(message: pb.Checkpoint) -> CheckpointInfo:
    """A stored checkpoint as it was meant."""
    return CheckpointInfo(
        run=message.run,
        step=message.step,
        digest=_digest_from_message(message.digest),
        raw_size_bytes=message.raw_size_bytes,
        created_unix_ms=message.created_unix_ms,
        tags=tuple(message.tags),
        metrics=dict(message.metrics),
        base_step=message.base_step if message.HasField("base_step") else None,
        pinned=message.pinned,
        verified_unix_ms=message.verified_unix_ms,
        damaged=message.damaged,
    )


def run_to_message(info: RunInfo) -> pb.Run:
    """A run as it travels."""
    return pb.Run(
        name=info.name,
        checkpoints=info.checkpoints,
        latest_step=info.latest_step,
        stored_bytes=info.stored_bytes,
    )


def run_from_message(message: pb.Run) -> RunInfo:
    """A run as it was meant."""
    return RunInfo(
        name=message.name,
        checkpoints=message.checkpoints,
        latest_step=message.latest_step,
        stored_bytes=message.stored_bytes,
    )


def ref_to_message(run: str, which: int | str) -> pb.CheckpointRef:
    """A step, a tag or ``latest`` as it travels."""
    if isinstance(which, int):
        return pb.CheckpointRef(run=run, step=which)
    if which == LATEST:
        return pb.CheckpointRef(run=run)
    return pb.CheckpointRef(run=run, tag=which)


def which_from_message(message: pb.CheckpointRef) -> int | str:
    """A step, a tag or ``latest`` as it was meant."""
    which = message.WhichOneof("which")
    if which == "step":
        return message.step
    return message.tag if which == "tag" else LATEST


def upload_to_message(request: UploadRequest) -> pb.BeginUploadRequest:
    """An announcement as it travels."""
    return pb.BeginUploadRequest(
        run=request.run,
        step=request.step,
        digest=_digest_to_message(request.digest),
        raw_size_bytes=request.raw_size_bytes,
        fencing_token=request.fencing_token,
        tags=request.tags,
        metrics=request.metrics,
    )


def upload_from_message(message: pb.BeginUploadRequest) -> UploadRequest:
    """An announcement as it was meant; the backend checks it."""
    return UploadRequest(
        run=message.run,
        step=message.step,
        digest=_digest_from_message(message.digest),
        raw_size_bytes=message.raw_size_bytes,
        fencing_token=message.fencing_token,
        tags=tuple(message.tags),
        metrics=dict(message.metrics),
    )


def policy_to_message(policy: RetentionPolicy) -> pb.RetentionPolicy:
    """A retention policy as it travels."""
    return pb.RetentionPolicy(
        keep_last=policy.keep_last,
        keep_every=policy.keep_every,
        keep_best=[
            pb.KeepBest(
                metric=rule.metric, count=rule.count, higher_is_better=rule.higher_is_better
            )
            for rule in policy.keep_best
        ],
    )


def policy_from_message(message: pb.RetentionPolicy) -> RetentionPolicy:
    """A retention policy as it was meant.

    Raises:
        InvalidInput: A rule is none.
    """
    return RetentionPolicy(
        keep_last=message.keep_last,
        keep_every=message.keep_every,
        keep_best=tuple(
            KeepBest(rule.metric, rule.count, rule.higher_is_better) for rule in message.keep_best
        ),
    )


def collected_to_message(collected: Collected) -> pb.CollectGarbageResponse:
    """What retention decided as it travels."""
    return pb.CollectGarbageResponse(
        removed=map(checkpoint_to_message, collected.removed),
        kept=[
            pb.KeptCheckpoint(run=run, step=step, reasons=reasons)
            for run, step, reasons in collected.kept
        ],
        freed_bytes=collected.freed_bytes,
    )


def collected_from_message(message: pb.CollectGarbageResponse) -> Collected:
    """What retention decided as it was meant."""
    return Collected(
        tuple(map(checkpoint_from_message, message.removed)),
        tuple((kept.run, kept.step, tuple(kept.reasons)) for kept in message.kept),
    )


def _digest_to_message(digest: Digest) -> tb.Digest:
    return tb.Digest(size_bytes=digest.size_bytes, xxh3_128=digest.xxh3_128)


def _digest_from_message(message: tb.Digest) -> Digest:
    return Digest(message.size_bytes, message.xxh3_128)
