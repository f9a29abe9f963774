"""The sampler on the wire: translates calls of ``penstock.v1.SamplerService`` to the backend."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import TypeVar

import grpc
import numpy as np
import structlog
from google.protobuf.message import DecodeError, Message
from numpy.typing import NDArray

from penstock.backends import ReplicaBackend
from penstock.batch import Batch, FrameSpec
from penstock.client.messages import (
    CODEC_NUMBERS,
    codec_names,
    dataset_to_message,
    episodes_to_messages,
    files_to_messages,
    spec_from_message,
)
from penstock.client.part_messages import observations_to_message, part_to_message
from penstock.client.plan_messages import plan_from_message
from penstock.dataset import DatasetInfo
from penstock.errors import Corrupt, DataFault, InvalidInput, LimitExceeded, Unsupported
from penstock.observations import Observations
from penstock.plan import Plan
from penstock.plan_view import PlanView
from penstock.server.bootstrap import MAX_MESSAGE_BYTES
from penstock.server.joined import Unserialised, joined
from penstock.server.outgoing import Outgoing
from penstock.v1 import sampler_pb2 as pb
from penstock.v1.sampler_pb2_grpc import (
    SamplerServiceServicer,
    add_SamplerServiceServicer_to_server,
)
from penstock_sampler import metrics
from penstock_sampler.serving.ahead import Ahead
from penstock_sampler.serving.parts import CutPart, cut
from penstock_sampler.serving.status import Activity, CacheStatus, ReportsCache, resident_bytes
from penstock_sampler.serving.streams import Caller, Streams
from penstock_sampler.serving.versions import ServedVersions

__all__ = ["SamplerService"]

log = structlog.get_logger(__name__)

MAX_IDS = 65_536
MAX_SIDE = 4096
PART_BYTES, DIRECT_PART_BYTES = 1 << 20, (4 << 20) - (8 << 10)
"""Each message takes its time besides its bytes. Through grpcio, 2 MiB would take a sixth less
time, and up to 20 MB more memory, of which a server has 100. More than 4 keep a client waiting, and
clients of gRPC take no more unless they are told to."""
GROUP_ROWS = 4096
"""Looked up at a time: what an answer takes does not depend on how much is asked for."""
_MAX_STEP = 2**53
_MESSAGE_MARGIN_BYTES = 1 << 20
_WEIGHTS_PER_MESSAGE = 65_536
_NUMBER_BYTES, _HASH_BYTES = 5, 16
"""What the size of an image or the place of an observation takes in a message at most; a hash."""

R = TypeVar("R")


@dataclass(frozen=True)
class _Wanted:
    """How a client wants its transitions."""

    spec: FrameSpec
    accepted: tuple[str, ...]
    frames: bool


@dataclass(frozen=True)
class _Group:
    """Some rows of an answer, and what their messages have in common.

    Attributes:
        first_row: Of them, in the answer.
        columns: All of them, without frames.
        envelope: The message around the part that ends before a given row, without it.
        part_number: Number of its field for the part.
        part_bytes: Of a part, unless one row has more.
        row_bytes: Of a row besides its encoded frames.
    """

    first_row: int
    columns: Batch
    envelope: Callable[[int], Message]
    part_number: int
    part_bytes: int
    row_bytes: int

    def message(
        self, read: Observations, first: int, piece: CutPart, *, hashed: bool = False
    ) -> Outgoing:
        """A piece of the frames that were read from row ``first`` on, with the columns."""
        start, stop = first + piece.start, first + piece.stop
        part = part_to_message(self.columns.rows(start, stop), self.first_row + start)
        shown = observations_to_message(
            read.codec,
            (read.height, read.width),
            piece.image_bytes,
            piece.current,
            piece.following,
            read.hashes[piece.used] if hashed and read.hashes is not None else None,
        )
        layers = [
            (self.envelope(self.first_row + stop), self.part_number),
            (part, pb.BatchPart.OBSERVATIONS_FIELD_NUMBER),
            (shown, pb.Observations.DATA_FIELD_NUMBER),
        ]
        return Outgoing(layers, read, piece.ranges, piece.size_bytes)

    def joined(self, read: Observations, first: int, piece: CutPart) -> tuple[CutPart, bytes]:
        """The same as gRPC takes it, read and checked."""
        with metrics.READ_SECONDS.time():
            return piece, self.message(read, first, piece).joined()


class SamplerService(SamplerServiceServicer):
    """Serves one dataset; keeps nothing about its clients.

    Args:
        backend: The dataset, or its versions.
        group_bytes: Frames, before encoding, that one stream reads at a time: its memory.
        max_calls: Streams of transitions at a time; more are told to come back.
        stall_s: Seconds that a stream waits for a client that does not read; 0 for ever.
        codec: Of all frames where the client accepts it; ``auto`` leaves it to the backend.
        activity: Where to count.
        local_socket: Path of the socket that hands out cached frames; empty without.
        processes: Server processes that share the address of this one, itself included.
        direct_port: Port that answers ``Fetch`` from the cache; 0 without.
    """

    def __init__(
        self,
        backend: ReplicaBackend | ServedVersions,
        group_bytes: int = 3 << 20,
        max_calls: int = 32,
        *,
        stall_s: float = 120.0,
        codec: str = "auto",
        activity: Activity | None = None,
        local_socket: str = "",
        processes: int = 1,
        direct_port: int = 0,
    ) -> None:
        served = backend if isinstance(backend, ServedVersions) else ServedVersions.of(backend)
        self._served, self._group_bytes = served, group_bytes
        self._streams, self._ahead = Streams(max_calls, stall_s), Ahead(max_calls)
        self._forced = () if codec == "auto" else (codec,)
        self._activity = activity or Activity()
        self._local_socket, self._processes = local_socket, processes
        self._direct_port = direct_port

    def register(self, server: grpc.Server) -> list[str]:
        """Add this service to ``server``; returns its full name."""
        add_SamplerServiceServicer_to_server(self, Unserialised(server, {"Fetch", "Sample"}))
        return [pb.DESCRIPTOR.services_by_name["SamplerService"].full_name]

    def GetDataset(  # noqa: N802 - the protocol's name
        self, request: pb.GetDatasetRequest, context: grpc.ServicerContext
    ) -> pb.GetDatasetResponse:
        """Describe the dataset and what one call may ask for."""
        del request, context
        with self._served.use() as backend:
            info = backend.info()
            if self._forced:
                info = replace(info, codecs=tuple(dict.fromkeys((*self._forced, "raw"))))
            return pb.GetDatasetResponse(
                dataset=dataset_to_message(info),
                limits=pb.ServerLimits(
                    max_ids_per_fetch=MAX_IDS,
                    max_image_side_px=MAX_SIDE,
                    max_calls_in_flight=self._streams.limit,
                    target_part_bytes=PART_BYTES,
                ),
                replica_id=self._activity.replica_id,
                local_socket=self._local_socket,
                processes=self._processes,
                direct_port=self._direct_port,
            )

    def ListFiles(  # noqa: N802 - the protocol's name
        self, request: pb.ListFilesRequest, context: grpc.ServicerContext
    ) -> Iterator[pb.ListFilesResponse]:
        """Stream the files with their moments."""
        del context
        with self._served.use(request.dataset_version) as backend:
            yield from files_to_messages(backend.info().files)

    def ListEpisodes(  # noqa: N802 - the protocol's name
        self, request: pb.ListEpisodesRequest, context: grpc.ServicerContext
    ) -> Iterator[pb.ListEpisodesResponse]:
        """Stream the episode table."""
        del context
        with self._served.use(request.dataset_version) as backend:
            for columns in episodes_to_messages(backend.episodes()):
                yield pb.ListEpisodesResponse(episodes=columns)

    def ListWeights(  # noqa: N802 - the protocol's name
        self, request: pb.ListWeightsRequest, context: grpc.ServicerContext
    ) -> Iterator[pb.ListWeightsResponse]:
        """Stream one weight per transition."""
        del context
        with self._served.use(request.dataset_version) as backend:
            weights = backend.weights(request.column)
            for start in range(0, len(weights), _WEIGHTS_PER_MESSAGE):
                part = weights[start : start + _WEIGHTS_PER_MESSAGE]
                yield pb.ListWeightsResponse(first_transition=start, weights=part.tolist())

    def GetStatus(  # noqa: N802 - the protocol's name
        self, request: pb.GetStatusRequest, context: grpc.ServicerContext
    ) -> pb.GetStatusResponse:
        """Say what this process has done since it started."""
        del request, context
        done = self._activity
        median_s, tail_s = done.fetch_quantiles_s()
        with self._served.use() as backend:
            info = backend.info()
            cache = backend.cache_status() if isinstance(backend, ReportsCache) else CacheStatus()
        return pb.GetStatusResponse(
            replica_id=done.replica_id,
            dataset_version=info.version,
            uptime_s=done.uptime_s,
            calls_in_flight=done.calls_in_flight,
            transitions_sent=done.transitions,
            raw_bytes=done.raw_bytes,
            sent_bytes=done.sent_bytes,
            cache_hits=cache.hits,
            cache_misses=cache.misses,
            cache_rebuilds=cache.rebuilds,
            cache_evictions=cache.evictions,
            cache_bytes=cache.size_bytes,
            cache_limit_bytes=cache.limit_bytes,
            cached_files=cache.cached_files,
            files=len(info.files),
            refused_files=len(info.refused),
            local_descriptors=done.local_descriptors,
            fetch_p50_s=median_s,
            fetch_p99_s=tail_s,
            codec=CODEC_NUMBERS.get(done.codec),
            resident_bytes=resident_bytes(),
        )

    def Sample(  # noqa: N802 - the protocol's name
        self, request: pb.SampleRequest, context: grpc.ServicerContext
    ) -> Iterator[bytes]:
        """Resolve a plan and stream whole steps."""
        if request.steps < 1 or request.first_step + request.steps > _MAX_STEP:
            raise InvalidInput(
                f"first_step {request.first_step}, steps {request.steps}: ask for at least 1 step, "
                f"below step {_MAX_STEP}",
                field="steps",
            )
        plan = plan_from_message(request.plan)
        wanted = self._wanted(request.frame_spec, codec_names(request.accepted_codecs))
        with self._served.use(request.dataset_version) as backend:
            view = _view(plan, backend)
            with self._streaming(context) as send:
                for step in range(request.first_step, request.first_step + request.steps):
                    ids = view.transition_ids(step)

                    def envelope(stop: int, step: int = step, rows: int = len(ids)) -> Message:
                        return pb.SampleResponse(step=step, last_part=stop == rows)

                    number = pb.SampleResponse.PART_FIELD_NUMBER
                    yield from send(self._parts(backend, ids, wanted, envelope, number))

    def Fetch(  # noqa: N802 - the protocol's name
        self, request: pb.FetchRequest, context: grpc.ServicerContext
    ) -> Iterator[bytes]:
        """Stream the transitions that are asked for, in that order."""
        with self._asked(request, context) as (backend, ids, wanted, send):
            number = pb.FetchResponse.PART_FIELD_NUMBER
            yield from send(self._parts(backend, ids, wanted, lambda _: pb.FetchResponse(), number))

    def answer(self, request: bytes, caller: Caller) -> Generator[Outgoing]:
        """Answer ``Fetch`` at the direct port: with what is cached, which nobody has checked.

        Args:
            request: A serialised ``FetchRequest``.
            caller: Who asks.

        Raises:
            InvalidInput: It is none.
            Unsupported: Not all of it is cached: ``NOT_CACHED``.
            PenstockError: As ``Fetch``.
        """
        try:
            parsed = pb.FetchRequest.FromString(request)
        except DecodeError as error:
            raise InvalidInput(f"{len(request)} bytes that are no FetchRequest") from error
        with self._asked(parsed, caller) as (backend, ids, wanted, send):
            yield from send(self._cached_parts(backend, ids, wanted))

    def _cached_parts(
        self, backend: ReplicaBackend, ids: NDArray[np.int64], wanted: _Wanted
    ) -> Iterator[Outgoing]:
        """Messages with the transitions ``ids``, as far as they are cached.

        Raises:
            Unsupported: The next of them are not: ``NOT_CACHED``.
        """
        info = backend.info()
        row_bytes = _row_bytes(info)
        missing = Unsupported("not all of it is cached: ask at the other port", reason="NOT_CACHED")
        if not (wanted.frames and info.cameras):
            raise missing
        # Before anything is looked for in the cache, which would be built for it.
        _frame_bytes(wanted.spec, info, row_bytes)

        def envelope(_: int) -> Message:
            return pb.FetchResponse()

        number = pb.FetchResponse.PART_FIELD_NUMBER
        for first_row in range(0, len(ids), GROUP_ROWS):
            rows = ids[first_row : first_row + GROUP_ROWS]
            cached = backend.cached_observations(rows, wanted.spec, wanted.accepted)
            if cached is None or cached.hashes is None:
                raise missing
            columns = _columns(backend, rows)
            group = _Group(first_row, columns, envelope, number, DIRECT_PART_BYTES, row_bytes)
            for piece in cut(cached, group.part_bytes, group.row_bytes):
                self._count_piece(cached, piece)
                yield group.message(cached, 0, piece, hashed=True)

    @contextlib.contextmanager
    def _asked(
        self, request: pb.FetchRequest, caller: Caller
    ) -> Generator[
        tuple[
            ReplicaBackend,
            NDArray[np.int64],
            _Wanted,
            Callable[[Iterator[R]], Iterator[R]],
        ]
    ]:
        """Check what is asked for, and hold a place for its stream."""
        if len(request.transition_ids) > MAX_IDS:
            raise InvalidInput(
                f"{len(request.transition_ids)} transition_ids: at most {MAX_IDS} a call",
                field="transition_ids",
            )
        wanted = self._wanted(
            request.frame_spec,
            codec_names(request.accepted_codecs),
            frames=not request.without_frames,
        )
        with self._served.use(request.dataset_version or "none") as backend:
            ids = _checked(request, backend.info())
            with self._streaming(caller, time.perf_counter()) as send:
                yield backend, ids, wanted, send

    def _wanted(
        self, spec: pb.FrameSpec, accepted: tuple[str, ...], *, frames: bool = True
    ) -> _Wanted:
        forced = tuple(codec for codec in self._forced if codec in accepted)
        return _Wanted(spec_from_message(spec), forced or accepted, frames)

    @contextlib.contextmanager
    def _streaming(
        self, context: Caller, fetch_begun_s: float | None = None
    ) -> Generator[Callable[[Iterator[R]], Iterator[R]]]:
        """Hold a place for a stream, and time it; gives what passes its messages on."""
        with self._streams.admit(context.peer(), context.cancel) as stream:

            def send(messages: Iterator[R]) -> Iterator[R]:
                for message in messages:
                    stream.sending()
                    yield message
                    stream.sent()

            self._activity.enter_call()
            fetch_s = None
            try:
                yield send
                if fetch_begun_s is not None and context.is_active():
                    fetch_s = time.perf_counter() - fetch_begun_s
                    metrics.FETCH_SECONDS.observe(fetch_s)
            finally:
                self._activity.leave_call(fetch_s)

    def _parts(
        self,
        backend: ReplicaBackend,
        ids: NDArray[np.int64],
        wanted: _Wanted,
        envelope: Callable[[int], Message],
        part_number: int,
    ) -> Iterator[bytes]:
        """Serialised messages with the transitions ``ids``, about 1 MiB each.

        Args:
            backend: What to read.
            ids: ``(n,) int64``, checked.
            wanted: How the client wants them.
            envelope: The message around the part that ends before a given row, without it.
            part_number: Number of its field for the part.
        """
        info = backend.info()
        row_bytes = _row_bytes(info)
        has_frames = bool(wanted.frames and info.cameras)
        frame_bytes = _frame_bytes(wanted.spec, info, row_bytes) if has_frames else 0
        for first_row in range(0, len(ids), GROUP_ROWS):
            rows = ids[first_row : first_row + GROUP_ROWS]
            columns = _columns(backend, rows)
            group = _Group(first_row, columns, envelope, part_number, PART_BYTES, row_bytes)
            if has_frames:
                yield from self._with_frames(backend, rows, wanted, group, frame_bytes)
            else:
                yield from self._without_frames(group)

    def _without_frames(self, group: _Group) -> Iterator[bytes]:
        rows = max(1, group.part_bytes // group.row_bytes)
        for start in range(0, len(group.columns), rows):
            part = group.columns.rows(start, start + rows)
            first_row = group.first_row + start
            data = part_to_message(part, first_row).SerializeToString()
            self._count(len(part), 0, 0, "")
            layers = [(group.envelope(first_row + len(part)), group.part_number)]
            yield joined(layers, len(data), partial(_put, data))

    def _with_frames(
        self,
        backend: ReplicaBackend,
        ids: NDArray[np.int64],
        wanted: _Wanted,
        group: _Group,
        frame_bytes: int,
    ) -> Iterator[bytes]:
        done = 0
        cached = backend.cached_observations(ids, wanted.spec, wanted.accepted)
        if cached is not None:
            # What is damaged is not cached any more, and is read below like the rest.
            with contextlib.suppress(Corrupt):
                for stop, message in self._messages(group, cached, 0):
                    yield message
                    done = stop
        together = max(1, self._group_bytes // frame_bytes)
        for first in range(done, len(ids), together):
            read = self._read(backend, ids[first : first + together], wanted)
            for _, message in self._messages(group, read, first):
                yield message

    def _messages(
        self, group: _Group, read: Observations, first: int
    ) -> Iterator[tuple[int, bytes]]:
        """Messages with what was read, and the row after the last one of each.

        Args:
            group: Whose messages they are.
            read: Frames of some rows.
            first: The first of those rows.
        """
        pieces = cut(read, group.part_bytes, group.row_bytes)
        tasks = (partial(group.joined, read, first, piece) for piece in pieces)
        for piece, message in self._ahead.run(tasks, lambda: read.from_disk):
            self._count_piece(read, piece)
            yield first + piece.stop, message

    def _read(
        self, backend: ReplicaBackend, ids: NDArray[np.int64], wanted: _Wanted
    ) -> Observations:
        try:
            with metrics.READ_SECONDS.time():
                return backend.read_observations(ids, wanted.spec, wanted.accepted)
        except DataFault as error:
            metrics.READ_FAULTS.labels(error.reason).inc()
            log.error(  # noqa: TRY400 - the message names the file; a traceback adds nothing
                "read failed", reason=error.reason, error=error.message, **error.metadata
            )
            raise

    def _count_piece(self, read: Observations, piece: CutPart) -> None:
        raw_bytes = piece.image_bytes.size * read.height * read.width * 3
        self._count(piece.stop - piece.start, raw_bytes, piece.size_bytes, read.codec)

    def _count(self, rows: int, raw_bytes: int, sent_bytes: int, codec: str) -> None:
        metrics.TRANSITIONS.inc(rows)
        if codec:
            metrics.RAW_BYTES.inc(raw_bytes)
            metrics.SENT_BYTES.labels(codec).inc(sent_bytes)
        self._activity.sent(rows, raw_bytes, sent_bytes, codec)


def _checked(request: pb.FetchRequest, info: DatasetInfo) -> NDArray[np.int64]:
    """The ids of a request, each of them served; ``(n,) int64``."""
    wanted = request.transition_ids
    ids = np.fromiter(wanted, np.uint64, len(wanted))
    # Checked before they become signed numbers.
    if len(ids) and int(ids.max()) >= info.transitions:
        raise InvalidInput(
            f"transition id {int(ids.max())}: ids go from 0 to {info.transitions - 1}",
            field="transition_ids",
        )
    return ids.astype(np.int64)


def _row_bytes(info: DatasetInfo) -> int:
    """What a transition takes in a message besides its frames."""
    row = Batch.allocate(1, replace(info, cameras=()), FrameSpec())
    observation = _NUMBER_BYTES * (len(info.cameras) + 1) + _HASH_BYTES
    return 8 + sum(values.nbytes for values in row.columns.values()) + 2 * observation


def _frame_bytes(spec: FrameSpec, info: DatasetInfo, row_bytes: int) -> int:
    """Frames of a transition before they are encoded.

    Raises:
        LimitExceeded: No message could hold one.
    """
    height, width = spec.resolve(info)
    frame_bytes = 2 * len(info.cameras) * height * width * 3
    if frame_bytes + row_bytes > MAX_MESSAGE_BYTES - _MESSAGE_MARGIN_BYTES:
        raise LimitExceeded(
            f"one transition has {frame_bytes + row_bytes} bytes, a message holds "
            f"{MAX_MESSAGE_BYTES}: ask for smaller images (image_size)",
            reason="TRANSITION_TOO_LARGE",
        )
    return frame_bytes


def _columns(backend: ReplicaBackend, ids: NDArray[np.int64]) -> Batch:
    columns = Batch.allocate(len(ids), replace(backend.info(), cameras=()), FrameSpec())
    backend.read_columns(ids, columns)
    return columns


def _view(plan: Plan, backend: ReplicaBackend) -> PlanView:
    weights = backend.weights(plan.weight_column) if plan.weight_column else None
    return PlanView(plan, backend.episodes(), files=backend.info().files, weights=weights)


def _put(data: bytes, into: memoryview) -> None:
    into[:] = data
