"""The sampler on the wire: translates calls of ``penstock.v1.SamplerService`` to the backend."""

from __future__ import annotations

from collections.abc import Iterator

import grpc
import numpy as np
import structlog
from numpy.typing import NDArray

from penstock.backends import SamplerBackend
from penstock.batch import Batch, FrameSpec
from penstock.client.messages import (
    codec_names,
    dataset_to_message,
    episodes_to_messages,
    part_to_message,
    plan_from_message,
    spec_from_message,
)
from penstock.dataset import DatasetInfo
from penstock.errors import Conflict, DataFault, InvalidInput, LimitExceeded
from penstock.plan import PlanView
from penstock.server.bootstrap import MAX_MESSAGE_BYTES
from penstock.v1 import sampler_pb2 as pb
from penstock.v1 import tensor_pb2 as tb
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
_RAW_PARTS = 15
"""Parts that go out unencoded after one on which LZ4 gained nothing."""


class SamplerService(SamplerServiceServicer):
    """Serves one backend; keeps nothing about its clients.

    Args:
        backend: The dataset.
        group_bytes: Frames that one stream reads ahead of sending them: its memory.
        max_calls: Calls that the server accepts at a time, told to clients.
    """

    def __init__(self, backend: SamplerBackend, group_bytes: int, max_calls: int) -> None:
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
        # Whole parts, so that no group ends with a small one.
        group_rows = max(1, self._group_bytes // (row_bytes * part_rows)) * part_rows
        group = Batch.allocate(min(group_rows, len(ids)), self.dataset(), spec)
        skip = 0
        for start in range(0, len(ids), group_rows):
            if not context.is_active():
                return
            filled = group.rows(0, min(group_rows, len(ids) - start))
            self._read(ids[start : start + len(filled)], spec, filled)
            for offset in range(0, len(filled), part_rows):
                rows = filled.rows(offset, min(offset + part_rows, len(filled)))
                codecs = ("raw",) if skip and "raw" in accepted else accepted
                part = part_to_message(rows, start + offset, codecs)
                raw = part.frames.codec == tb.CODEC_RAW
                skip = (skip - 1 if skip else _RAW_PARTS) if raw else 0
                metrics.TRANSITIONS.inc(part.rows)
                metrics.RAW_BYTES.inc(part.frames.raw_size_bytes)
                metrics.SENT_BYTES.labels("raw" if raw else "lz4").inc(len(part.frames.data))
                yield part

    def _read(self, ids: NDArray[np.int64], spec: FrameSpec, out: Batch) -> None:
        try:
            with metrics.READ_SECONDS.time():
                self._backend.read(ids, spec, out)
        except DataFault as error:
            metrics.READ_FAULTS.labels(error.reason).inc()
            log.error(  # noqa: TRY400 - the message names the file; a traceback adds nothing
                "read failed", reason=error.reason, error=error.message, **error.metadata
            )
            raise
