"""A checkpoint store as the client reaches it: in this process, or over gRPC.

Both ways offer the same few operations on whole files. The remote one goes on where it was when
the service comes back: an upload from the first byte that is missing there, a download from the
first one missing here.
"""

from __future__ import annotations

import logging
import os
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from typing import BinaryIO, TypeVar, cast

import xxhash

from penstock.backends import SYNC_BYTES, CheckpointBackend
from penstock.checkpoints import CheckpointInfo, RunInfo, UploadRequest, UploadState
from penstock.chunks import CHUNK_BYTES, Digest
from penstock.client.channel import answers, open_channel, retrying
from penstock.client.checkpoint.messages import (
    checkpoint_from_message,
    collected_from_message,
    policy_to_message,
    ref_to_message,
    run_from_message,
    upload_to_message,
)
from penstock.client.checkpoint.operations import Begin
from penstock.client.checkpoint.range_file import RangeFile
from penstock.client.errors import translated_errors
from penstock.disk import full_disk_named
from penstock.errors import Conflict, Corrupt, InvalidInput, NotFound, PenstockError, Unavailable
from penstock.failpoints import failpoint
from penstock.retention import Collected, RetentionPolicy
from penstock.targets import Target
from penstock.v1 import checkpoint_pb2 as pb
from penstock.v1.checkpoint_pb2_grpc import CheckpointServiceStub

__all__ = ["EmbeddedStore", "RemoteStore"]

log = logging.getLogger(__name__)

_MAX_RESENDS = 3
"""Times that content is sent anew when it arrives damaged or its upload is gone."""

T = TypeVar("T")


class EmbeddedStore:
    """A store in this process."""

    def __init__(self, backend: CheckpointBackend) -> None:
        self._backend = backend

    def upload(self, request: UploadRequest, file: BinaryIO, begin: Begin) -> CheckpointInfo:
        """Store the content of ``file``; when this returns it is durable."""
        while True:
            state = begin(
                lambda token: self._backend.begin_upload(replace(request, fencing_token=token))
            )
            failpoint("client.begun")
            try:
                if not state.committed:
                    self._append(state, file)
                failpoint("client.before_commit")
                return self._backend.commit(state.upload_id)
            except Corrupt as error:
                # What was left of an earlier try may be torn (a power loss): it is removed now.
                if state.committed or not state.received_bytes:
                    raise
                log.warning("%s/%d: sent anew: %s", request.run, request.step, error)

    def open_content(self, info: CheckpointInfo) -> BinaryIO:
        """The content of a checkpoint, seekable."""
        return self._backend.open_content(info.run, info.step)

    def open_parts(self, info: CheckpointInfo) -> BinaryIO:
        """The same: it is read where it lies."""
        return self.open_content(info)

    def get(self, run: str, which: int | str) -> CheckpointInfo:
        """Look up a step, a tag or ``latest``."""
        return self._backend.get(run, which)

    def list(self, run: str) -> list[CheckpointInfo]:
        """All checkpoints of a run."""
        return self._backend.list(run)

    def runs(self) -> list[RunInfo]:
        """All runs."""
        return self._backend.runs()

    def delete(self, run: str, step: int) -> None:
        """Delete one checkpoint."""
        self._backend.delete(run, step)

    def pin(self, run: str, which: int | str, *, pinned: bool) -> CheckpointInfo:
        """Keep a checkpoint until it is let go, or let it go."""
        return self._backend.pin(run, which, pinned=pinned)

    def collect(
        self, run: str | None, policy: RetentionPolicy | None, *, dry_run: bool
    ) -> Collected:
        """Remove what a policy does not keep, or say what that would be."""
        return self._backend.collect(run, policy, dry_run=dry_run)

    def verify(self, run: str, which: int | str) -> tuple[CheckpointInfo, int]:
        """Check every byte where it is stored."""
        info, verified = self._backend.verify(run, which)
        return info, verified.chunk_count

    def close(self) -> None:
        """Close the store."""
        self._backend.close()

    def _append(self, state: UploadState, file: BinaryIO) -> None:
        unsynced = 0
        for offset, data in _chunks(file, state.received_bytes):
            self._backend.append(state.upload_id, offset, data)
            unsynced += len(data)
            if unsynced >= SYNC_BYTES:
                self._backend.sync(state.upload_id)
                unsynced = 0


class RemoteStore:
    """A store behind a checkpointer service.

    Args:
        target: Of scheme ``grpc``.
        retry_s: How long to wait for a service that is away; each byte of progress starts anew.
        counts: Counts retries, resumed uploads and so on, by name.

    Raises:
        InvalidInput: The target names several servers; a store is one.
    """

    def __init__(self, target: Target, retry_s: float, counts: Counter[str]) -> None:
        if len(target.locations) != 1 or target.options:
            raise InvalidInput(f"{target}: a checkpoint store is one server", field="target")
        self._target, self._retry_s, self._counts = target, retry_s, counts
        self._channel = open_channel(target)
        self._stub = CheckpointServiceStub(self._channel)

    def upload(self, request: UploadRequest, file: BinaryIO, begin: Begin) -> CheckpointInfo:
        """Store the content of ``file``; when this returns it is durable."""
        resends, furthest, progress_s = 0, -1, time.monotonic()
        while True:
            state = begin(lambda token: self._begin(replace(request, fencing_token=token)))
            if state.received_bytes > furthest:
                furthest, progress_s = state.received_bytes, time.monotonic()
            failpoint("client.begun")
            try:
                if not state.committed:
                    self._send(state, file, request.digest.size_bytes)
                failpoint("client.before_commit")
                return self._commit(state.upload_id)
            except Unavailable as error:
                if time.monotonic() - progress_s > self._retry_s:
                    raise
                self._counts["uploads_resumed"] += 1
                log.warning("%s: upload broke off, resuming: %s", self._target, error)
            except (Corrupt, NotFound) as error:
                # Damaged on the way, or the upload was removed meanwhile: what is here is intact.
                resends += 1
                if resends > _MAX_RESENDS:
                    raise
                self._counts["uploads_resent"] += 1
                log.warning("%s: upload refused, sending anew: %s", self._target, error)

    def open_content(self, info: CheckpointInfo) -> BinaryIO:
        """Download a checkpoint into a temporary file and check its digest.

        Raises:
            Corrupt: What arrived does not match the digest.
            Conflict: The checkpoint was replaced meanwhile.
            LimitExceeded: The disk of temporary files is full.
        """
        file = tempfile.TemporaryFile(prefix="penstock-", suffix=".pstk")  # noqa: SIM115 - handed on
        try:
            name = f"{info.run}/{info.step}"
            with full_disk_named(f"fetching {name} to {tempfile.gettempdir()}"):
                self._download(info, file)
        except BaseException:
            file.close()
            raise
        file.seek(0)
        return file

    def open_parts(self, info: CheckpointInfo) -> BinaryIO:
        """A checkpoint that is downloaded where it is read, and no further."""
        name = f"{self._target} {info.run}/{info.step}"

        def give_up(error: PenstockError) -> None:
            self._counts["downloads_resumed"] += 1
            log.warning("%s: download broke off, resuming: %s", self._target, error)
            self.get(info.run, info.step)  # waits until the service is back

        pieces = partial(self._pieces, info)
        return cast("BinaryIO", RangeFile(name, info.size_bytes, pieces, give_up))

    def get(self, run: str, which: int | str) -> CheckpointInfo:
        """Look up a step, a tag or ``latest``."""
        request = pb.GetCheckpointRequest(checkpoint=ref_to_message(run, which))
        answer = self._retry(lambda: self._stub.GetCheckpoint(request))
        return checkpoint_from_message(answer.checkpoint)

    def list(self, run: str) -> list[CheckpointInfo]:
        """All checkpoints of a run."""
        request = pb.ListCheckpointsRequest(run=run)
        answer = self._retry(lambda: self._stub.ListCheckpoints(request))
        return [checkpoint_from_message(message) for message in answer.checkpoints]

    def runs(self) -> list[RunInfo]:
        """All runs."""
        answer = self._retry(lambda: self._stub.ListRuns(pb.ListRunsRequest()))
        return [run_from_message(message) for message in answer.runs]

    def delete(self, run: str, step: int) -> None:
        """Delete one checkpoint."""
        request = pb.DeleteCheckpointRequest(run=run, step=step)
        asked: list[int] = []

        def ask() -> None:
            asked.append(step)
            self._stub.DeleteCheckpoint(request)

        try:
            self._retry(ask)
        except NotFound:
            # A second try may find that the first one, whose answer was lost, did its work.
            if len(asked) == 1:
                raise

    def pin(self, run: str, which: int | str, *, pinned: bool) -> CheckpointInfo:
        """Keep a checkpoint until it is let go, or let it go."""
        request = pb.PinCheckpointRequest(checkpoint=ref_to_message(run, which), pinned=pinned)
        answer = self._retry(lambda: self._stub.PinCheckpoint(request))
        return checkpoint_from_message(answer.checkpoint)

    def collect(
        self, run: str | None, policy: RetentionPolicy | None, *, dry_run: bool
    ) -> Collected:
        """Remove what a policy does not keep, or say what that would be.

        When an answer is lost, the next one lacks what was removed before: that is logged.
        """
        request = pb.CollectGarbageRequest(
            run=run or "",
            policy=None if policy is None else policy_to_message(policy),
            dry_run=dry_run,
        )
        asked: list[str] = []

        def ask() -> pb.CollectGarbageResponse:
            asked.append(request.run)
            return self._stub.CollectGarbage(request)

        answer = self._retry(ask)
        if len(asked) > 1 and not dry_run:
            log.warning(
                "%s: asked %d times to collect; what it removed before the last time is not named",
                self._target,
                len(asked),
            )
        return collected_from_message(answer)

    def verify(self, run: str, which: int | str) -> tuple[CheckpointInfo, int]:
        """Check every byte where it is stored."""
        request = pb.VerifyCheckpointRequest(checkpoint=ref_to_message(run, which))
        answer = self._retry(lambda: self._stub.VerifyCheckpoint(request))
        return checkpoint_from_message(answer.checkpoint), answer.chunks

    def close(self) -> None:
        """Close the connection."""
        self._channel.close()

    def _begin(self, request: UploadRequest) -> UploadState:
        message = upload_to_message(request)
        answer = self._retry(lambda: self._stub.BeginUpload(message))
        return UploadState(
            upload_id=answer.upload_id,
            fencing_token=answer.fencing_token,
            received_bytes=answer.received_bytes,
            committed=answer.already_committed,
        )

    def _send(self, state: UploadState, file: BinaryIO, size_bytes: int) -> None:
        def messages() -> Iterator[pb.UploadChunksRequest]:
            for offset, data in _chunks(file, state.received_bytes):
                yield pb.UploadChunksRequest(
                    upload_id=state.upload_id,
                    offset_bytes=offset,
                    data=data,
                    xxh3_64=xxhash.xxh3_64_intdigest(data),
                )

        received = state.received_bytes
        with translated_errors(self._target):
            for answer in self._stub.UploadChunks(messages()):
                received = answer.received_bytes
        if received != size_bytes:
            raise Unavailable(f"{self._target} took {received} of {size_bytes} bytes, then ended")

    def _commit(self, upload_id: str) -> CheckpointInfo:
        request = pb.CommitUploadRequest(upload_id=upload_id)
        answer = self._retry(lambda: self._stub.CommitUpload(request))
        return checkpoint_from_message(answer.checkpoint)

    def _download(self, info: CheckpointInfo, file: BinaryIO) -> None:
        name = f"{info.run}/{info.step}"
        hasher = xxhash.xxh3_128()
        received, furthest, progress_s = 0, -1, time.monotonic()
        while received < info.size_bytes:
            if received > furthest:
                furthest, progress_s = received, time.monotonic()
            try:
                for data in self._pieces(info, received, info.size_bytes - received):
                    file.write(data)
                    hasher.update(data)
                    received += len(data)
            except Unavailable as error:
                if time.monotonic() - progress_s > self._retry_s:
                    raise
                self._counts["downloads_resumed"] += 1
                log.warning("%s: download broke off, resuming: %s", self._target, error)
                self.get(info.run, info.step)  # waits until the service is back
        found = Digest(received, hasher.digest())
        if found != info.digest:
            raise Corrupt(f"{self._target}: {name} arrived as {found}, expected {info.digest}")

    def _pieces(self, info: CheckpointInfo, start: int, size_bytes: int) -> Iterator[bytes]:
        request = pb.DownloadRequest(
            checkpoint=ref_to_message(info.run, info.step),
            offset_bytes=start,
            size_bytes=size_bytes,
        )
        received = 0
        with translated_errors(self._target):
            for message in answers(self._stub.Download(request)):
                if message.HasField("checkpoint"):
                    found = checkpoint_from_message(message.checkpoint)
                    if found.digest != info.digest:
                        raise Conflict(f"{info.run}/{info.step} was replaced meanwhile: load again")
                received += len(message.data)
                if received > size_bytes:
                    raise Corrupt(f"{self._target} sends more than {size_bytes} bytes")
                yield message.data
        if received < size_bytes:
            raise Unavailable(f"{self._target} sent {received} of {size_bytes} bytes")

    def _retry(self, ask: Callable[[], T]) -> T:
        def call() -> T:
            with translated_errors(self._target):
                return ask()

        def note(_: PenstockError) -> None:
            self._counts["retries"] += 1

        return retrying(call, target=self._target, retry_s=self._retry_s, on_retry=note)


def _chunks(file: BinaryIO, start_bytes: int) -> Iterator[tuple[int, bytes]]:
    # By position: a stream that broke off may still be reading when the next one begins.
    handle, offset = file.fileno(), start_bytes
    while data := os.pread(handle, CHUNK_BYTES, offset):
        yield offset, data
        failpoint("client.chunk_sent")
        offset += len(data)
