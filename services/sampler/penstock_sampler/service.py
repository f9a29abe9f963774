"""The sampler on the wire: translates calls of ``penstock.v1.SamplerService`` to the backend."""

from __future__ import annotations

from collections.abc import Iterator

import grpc
import numpy as np
import structlog
from numpy.typing import NDArray

from penstock.backends import ReplicaBackend
from penstock.batch import Batch, FrameSpec
from penstock.client.messages import (
    codec_names,
    dataset_to_message,
    episodes_to_messages,
    files_to_messages,
    spec_from_message,
)
from penstock.client.part_messages import part_to_message
from penstock.client.plan_messages import plan_from_message
from penstock.dataset import DatasetInfo
from penstock.errors import Conflict, DataFault, InvalidInput, LimitExceeded
from penstock.plan import PlanView
from penstock.server.bootstrap import MAX_MESSAGE_BYTES
from penstock.v1 import sampler_pb2 as pb
from penstock.v1.sampler_pb2_grpc import (
    SamplerServiceServicer,
    add_SamplerServiceServicer_to_server,
)
from penstock_sampler import metrics

__all__ = ["SamplerService"]

log = structlog.get_logger(__name__)

MAX_IDS = 65_536
MAX_SIDE = 4096
PART_BYTES = 1 << 20
_MAX_STEP = 2**53
_MESSAGE_MARGIN_BYTES = 1 << 20


class SamplerService(SamplerServiceServicer):
    """Serves one backend; keeps nothing about its clients.

    Args:
        backend: The dataset.
        group_bytes: Frames that one stream reads ahead of sending them: its memory.
        max_calls: Calls that the server accepts at a time, told to clients.
    """

    def __init__(self, backend: ReplicaBackend, group_bytes: int, max_calls: int) -> None:
        self._backend, self._group_bytes, self._max_calls = backend, group_bytes, max_calls
        self._counted: DatasetInfo | None = None

    def dataset(self) -> DatasetInfo:
        """The dataset that is served; the gauges follow it.

        Raises:
            DataFault: There is none yet.
        """
        info = self._backend.info()
        if info is not self._counted:
            metrics.FILES.set(len(info.files))
            metrics.REFUSED_FILES.set(len(info.refused))
            metrics.DROPPED_ROWS.set(info.dropped_rows)
            self._counted = info
        return info

    def register(self, server: grpc.Server) -> list[str]:
        """Add this service to ``server``; returns its full name."""
        add_SamplerServiceServicer_to_server(self, server)
        return [pb.DESCRIPTOR.services_by_name["SamplerService"].full_name]

    def GetDataset(  # noqa: N802 - the protocol's name
        self, request: pb.GetDatasetRequest, context: grpc.ServicerContext
    ) -> pb.GetDatasetResponse:
        """Describe the dataset and what one call may ask for."""
        del request, context
        return pb.GetDatasetResponse(
            dataset=dataset_to_message(self.dataset()),
            limits=pb.ServerLimits(
                max_ids_per_fetch=MAX_IDS,
                max_image_side_px=MAX_SIDE,
                max_calls_in_flight=self._max_calls,
                target_part_bytes=PART_BYTES,
            ),
        )

    def ListFiles(  # noqa: N802 - the protocol's name
        self, request: pb.ListFilesRequest, context: grpc.ServicerContext
    ) -> Iterator[pb.ListFilesResponse]:
        """Stream the files with their moments."""
        del context
        if request.dataset_version:
            self._check_version(request.dataset_version)
        yield from files_to_messages(self.dataset().files)

    def ListEpisodes(  # noqa: N802 - the protocol's name
        self, request: pb.ListEpisodesRequest, context: grpc.ServicerContext
    ) -> Iterator[pb.ListEpisodesResponse]:
        """Stream the episode table."""
        del context
        if request.dataset_version:
            self._check_version(request.dataset_version)
        for columns in episodes_to_messages(self._backend.episodes()):
            yield pb.ListEpisodesResponse(episodes=columns)

    def Sample(  # noqa: N802 - the protocol's name
        self, request: pb.SampleRequest, context: grpc.ServicerContext
    ) -> Iterator[pb.SampleResponse]:
        """Resolve a plan and stream whole steps."""
        if request.dataset_version:
            self._check_version(request.dataset_version)
        if request.steps < 1 or request.first_step + request.steps > _MAX_STEP:
            raise InvalidInput(
                f"first_step {request.first_step}, steps {request.steps}: ask for at least 1 step, "
                f"below step {_MAX_STEP}",
                field="steps",
            )
        view = PlanView(plan_from_message(request.plan), self._backend.episodes())
        spec = spec_from_message(request.frame_spec)
        accepted = codec_names(request.accepted_codecs)
        for step in range(request.first_step, request.first_step + request.steps):
            sent = 0
            for part in self._parts(view.transition_ids(step), spec, accepted, context):
                sent += part.rows
                last = sent == view.plan.batch_size
                yield pb.SampleResponse(step=step, part=part, last_part=last)
            if not context.is_active():
                return

    def Fetch(  # noqa: N802 - the protocol's name
        self, request: pb.FetchRequest, context: grpc.ServicerContext
    ) -> Iterator[pb.FetchResponse]:
        """Stream the transitions that are asked for, in that order."""
        self._check_version(request.dataset_version)
        if len(request.transition_ids) > MAX_IDS:
            raise InvalidInput(
                f"{len(request.transition_ids)} transition_ids: at most {MAX_IDS} a call",
                field="transition_ids",
            )
        ids = np.array(request.transition_ids, np.uint64)
        # Checked before they become signed numbers.
        total = self.dataset().transitions
        if len(ids) and int(ids.max()) >= total:
            raise InvalidInput(
                f"transition id {int(ids.max())}: ids go from 0 to {total - 1}",
                field="transition_ids",
            )
        spec = spec_from_message(request.frame_spec)
        accepted = codec_names(request.accepted_codecs)
        for part in self._parts(ids.astype(np.int64), spec, accepted, context):
            yield pb.FetchResponse(part=part)

    def _check_version(self, version: str) -> None:
        served = self.dataset().version
        if version != served:
            raise Conflict(
                f"dataset version {version!r} is asked for, {served!r} is served: the files have "
                "changed, open the dataset again",
                reason="DATASET_VERSION",
                metadata={"asked": version, "served": served},
            )

    def _parts(
        self,
        ids: NDArray[np.int64],
        spec: FrameSpec,
        accepted: tuple[str, ...],
        context: grpc.ServicerContext,
    ) -> Iterator[pb.BatchPart]:
        """Read group after group, and cut each into parts of about 1 MiB."""
        row = Batch.allocate(1, self.dataset(), spec)
        row_bytes = row.frames.nbytes + sum(values.nbytes for values in row.columns.values())
        if row_bytes > MAX_MESSAGE_BYTES - _MESSAGE_MARGIN_BYTES:
            raise LimitExceeded(
                f"one transition has {row_bytes} bytes, a message holds {MAX_MESSAGE_BYTES}: ask "
                "for smaller images (image_size)",
                reason="TRANSITION_TOO_LARGE",
            )
        part_rows = max(1, PART_BYTES // row_bytes)
        for start in range(0, len(ids), part_rows):
            if not context.is_active():
                return
            part = self._part(ids[start : start + part_rows], spec, accepted, start)
            yield part

    def _part(
        self, ids: NDArray[np.int64], spec: FrameSpec, accepted: tuple[str, ...], first_row: int
    ) -> pb.BatchPart:
        columns = Batch.allocate(len(ids), self.dataset(), spec)
        try:
            with metrics.READ_SECONDS.time():
                self._backend.read_columns(ids, columns)
                observations = self._backend.read_observations(ids, spec, accepted)
        except DataFault as error:
            metrics.READ_FAULTS.labels(error.reason).inc()
            log.error(  # noqa: TRY400 - the message names the file; a traceback adds nothing
                "read failed", reason=error.reason, error=error.message, **error.metadata
            )
            raise
        metrics.TRANSITIONS.inc(len(ids))
        metrics.RAW_BYTES.inc(observations.raw_bytes)
        metrics.SENT_BYTES.labels(observations.codec).inc(len(observations.data))
        return part_to_message(columns, observations if self.dataset().cameras else None, first_row)
