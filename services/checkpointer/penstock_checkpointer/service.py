"""The checkpointer on the wire: translates ``penstock.v1.CheckpointService`` to the store."""

from __future__ import annotations

from collections.abc import Iterator

import grpc
import structlog
import xxhash

from penstock.backends import SYNC_BYTES, CheckpointBackend
from penstock.chunks import CHUNK_BYTES, Digest
from penstock.client.checkpoint.messages import (
    checkpoint_to_message,
    collected_to_message,
    policy_from_message,
    run_to_message,
    upload_from_message,
    which_from_message,
)
from penstock.errors import Corrupt, InvalidInput
from penstock.v1 import checkpoint_pb2 as pb
from penstock.v1.checkpoint_pb2_grpc import (
    CheckpointServiceServicer,
    add_CheckpointServiceServicer_to_server,
)

__all__ = ["CheckpointService"]

log = structlog.get_logger(__name__)


class CheckpointService(CheckpointServiceServicer):
    """Serves one store."""

    def __init__(self, backend: CheckpointBackend) -> None:
        self._backend = backend

    def register(self, server: grpc.Server) -> list[str]:
        """Add this service to a server; returns its full name."""
        add_CheckpointServiceServicer_to_server(self, server)
        return [pb.DESCRIPTOR.services_by_name["CheckpointService"].full_name]

    def BeginUpload(  # noqa: N802 - the protocol's name
        self, request: pb.BeginUploadRequest, context: grpc.ServicerContext
    ) -> pb.BeginUploadResponse:
        """Open or take up an upload."""
        del context
        state = self._backend.begin_upload(upload_from_message(request))
        return pb.BeginUploadResponse(
            upload_id=state.upload_id,
            fencing_token=state.fencing_token,
            received_bytes=state.received_bytes,
            already_committed=state.committed,
        )

    def UploadChunks(  # noqa: N802 - the protocol's name
        self, request_iterator: Iterator[pb.UploadChunksRequest], context: grpc.ServicerContext
    ) -> Iterator[pb.UploadChunksResponse]:
        """Take chunks; what is synced is acknowledged, at the latest at the end."""
        del context
        upload_id, unsynced = "", 0
        for request in request_iterator:
            if len(request.data) > CHUNK_BYTES:
                raise InvalidInput(
                    f"a chunk has {len(request.data)} bytes, at most {CHUNK_BYTES} are taken",
                    field="data",
                )
            if xxhash.xxh3_64_intdigest(request.data) != request.xxh3_64:
                raise Corrupt(
                    f"the chunk at byte {request.offset_bytes} does not match its hash: send it "
                    "again",
                    reason="CHUNK_HASH",
                )
            if upload_id not in ("", request.upload_id):
                raise InvalidInput(
                    f"chunks of the uploads {upload_id} and {request.upload_id!r:.80} in one "
                    "stream: send each upload in a stream of its own",
                    field="upload_id",
                )
            upload_id = request.upload_id
            self._backend.append(upload_id, request.offset_bytes, request.data)
            unsynced += len(request.data)
            if unsynced >= SYNC_BYTES:
                yield pb.UploadChunksResponse(received_bytes=self._backend.sync(upload_id))
                unsynced = 0
        if unsynced:
            yield pb.UploadChunksResponse(received_bytes=self._backend.sync(upload_id))

    def CommitUpload(  # noqa: N802 - the protocol's name
        self, request: pb.CommitUploadRequest, context: grpc.ServicerContext
    ) -> pb.CommitUploadResponse:
        """Make an upload a checkpoint."""
        del context
        info = self._backend.commit(request.upload_id)
        log.info(
            "checkpoint committed",
            run=info.run,
            step=info.step,
            size_bytes=info.size_bytes,
            tags=info.tags,
        )
        return pb.CommitUploadResponse(checkpoint=checkpoint_to_message(info))

    def AbortUpload(  # noqa: N802 - the protocol's name
        self, request: pb.AbortUploadRequest, context: grpc.ServicerContext
    ) -> pb.AbortUploadResponse:
        """Give up an upload."""
        del context
        self._backend.abort(request.upload_id)
        return pb.AbortUploadResponse()

    def GetCheckpoint(  # noqa: N802 - the protocol's name
        self, request: pb.GetCheckpointRequest, context: grpc.ServicerContext
    ) -> pb.GetCheckpointResponse:
        """Look up a checkpoint."""
        del context
        ref = request.checkpoint
        info = self._backend.get(ref.run, which_from_message(ref))
        return pb.GetCheckpointResponse(checkpoint=checkpoint_to_message(info))

    def Download(  # noqa: N802 - the protocol's name
        self, request: pb.DownloadRequest, context: grpc.ServicerContext
    ) -> Iterator[pb.DownloadResponse]:
        """Send the content; sent whole, it is checked against its digest on the way."""
        ref = request.checkpoint
        info = self._backend.get(ref.run, which_from_message(ref))
        offset, end = request.offset_bytes, info.size_bytes
        if offset > end:
            raise InvalidInput(
                f"offset {offset} is beyond the {end} bytes of {info.run}/{info.step}",
                field="offset_bytes",
            )
        if request.size_bytes:
            end = min(end, offset + request.size_bytes)
        whole = offset == 0 and end == info.size_bytes
        hasher = xxhash.xxh3_128()
        yield pb.DownloadResponse(checkpoint=checkpoint_to_message(info), offset_bytes=offset)
        with self._backend.open_content(info.run, info.step) as file:
            file.seek(offset)
            while offset < end and context.is_active():
                data = file.read(min(CHUNK_BYTES, end - offset))
                if not data:
                    raise Corrupt(f"{info.run}/{info.step} ends at {offset}, expected {end}")
                hasher.update(data)
                yield pb.DownloadResponse(offset_bytes=offset, data=data)
                offset += len(data)
        if whole and offset == end and Digest(offset, hasher.digest()) != info.digest:
            log.error("stored checkpoint is damaged", run=info.run, step=info.step)
            raise Corrupt(
                f"{info.run}/{info.step} is damaged on the disk of the store: use another step",
                reason="DIGEST",
            )

    def ListCheckpoints(  # noqa: N802 - the protocol's name
        self, request: pb.ListCheckpointsRequest, context: grpc.ServicerContext
    ) -> pb.ListCheckpointsResponse:
        """List a run."""
        del context
        found = self._backend.list(request.run)
        return pb.ListCheckpointsResponse(checkpoints=map(checkpoint_to_message, found))

    def ListRuns(  # noqa: N802 - the protocol's name
        self, request: pb.ListRunsRequest, context: grpc.ServicerContext
    ) -> pb.ListRunsResponse:
        """List all runs."""
        del request, context
        return pb.ListRunsResponse(runs=map(run_to_message, self._backend.runs()))

    def DeleteCheckpoint(  # noqa: N802 - the protocol's name
        self, request: pb.DeleteCheckpointRequest, context: grpc.ServicerContext
    ) -> pb.DeleteCheckpointResponse:
        """Delete a checkpoint."""
        del context
        self._backend.delete(request.run, request.step)
        log.info("checkpoint deleted", run=request.run, step=request.step)
        return pb.DeleteCheckpointResponse()

    def VerifyCheckpoint(  # noqa: N802 - the protocol's name
        self, request: pb.VerifyCheckpointRequest, context: grpc.ServicerContext
    ) -> pb.VerifyCheckpointResponse:
        """Check every byte of a checkpoint."""
        del context
        ref = request.checkpoint
        info, verified = self._backend.verify(ref.run, which_from_message(ref))
        return pb.VerifyCheckpointResponse(
            checkpoint=checkpoint_to_message(info), chunks=verified.chunk_count
        )

    def PinCheckpoint(  # noqa: N802 - the protocol's name
        self, request: pb.PinCheckpointRequest, context: grpc.ServicerContext
    ) -> pb.PinCheckpointResponse:
        """Pin a checkpoint, or let it go."""
        del context
        ref = request.checkpoint
        info = self._backend.pin(ref.run, which_from_message(ref), pinned=request.pinned)
        log.info("checkpoint pin set", run=info.run, step=info.step, pinned=info.pinned)
        return pb.PinCheckpointResponse(checkpoint=checkpoint_to_message(info))

    def CollectGarbage(  # noqa: N802 - the protocol's name
        self, request: pb.CollectGarbageRequest, context: grpc.ServicerContext
    ) -> pb.CollectGarbageResponse:
        """Remove what a policy does not keep."""
        del context
        policy = policy_from_message(request.policy) if request.HasField("policy") else None
        found = self._backend.collect(request.run or None, policy, dry_run=request.dry_run)
        return collected_to_message(found)
