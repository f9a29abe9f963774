"""Translates between checkpoints as the SDK knows them and their messages, both ways."""

from __future__ import annotations

from penstock.checkpoints import LATEST, CheckpointInfo, RunInfo, UploadRequest
from penstock.chunks import Digest
from penstock.v1 import checkpoint_pb2 as pb
from penstock.v1 import tensor_pb2 as tb

__all__ = [
    "checkpoint_from_message",
    "checkpoint_to_message",
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


def _digest_to_message(digest: Digest) -> tb.Digest:
    return tb.Digest(size_bytes=digest.size_bytes, xxh3_128=digest.xxh3_128)


def _digest_from_message(message: tb.Digest) -> Digest:
    return Digest(message.size_bytes, message.xxh3_128)
