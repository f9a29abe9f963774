"""The sampler as its clients see it: embedded or remote, the same batches."""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Self, TypeVar

import numpy as np
from numpy.typing import NDArray

from penstock.backends import SamplerBackend, load_backend
from penstock.batch import Batch, FrameSpec
from penstock.client.channel import RETRY_S, open_channel, retrying
from penstock.client.errors import translated_errors
from penstock.client.messages import (
    ACCEPTED_CODECS,
    dataset_from_message,
    episodes_from_messages,
)
from penstock.client.part_messages import part_into_batch
from penstock.dataset import DatasetInfo, EpisodeTable
from penstock.errors import Corrupt, Unavailable
from penstock.plan import Plan
from penstock.plan_view import PlanView
from penstock.targets import Target
from penstock.v1 import sampler_pb2 as pb
from penstock.v1.sampler_pb2_grpc import SamplerServiceStub

__all__ = ["RemoteSampler", "SamplerClient", "TransferStatistics", "open_sampler"]

log = logging.getLogger(__name__)

CALLS_IN_FLIGHT = 4
_MIN_IDS_PER_CALL = 8

T = TypeVar("T")


@dataclass
class TransferStatistics:
    """What has come over the wire so far; safe to read at any time."""

    raw_bytes: int = 0
    wire_bytes: int = 0
    batches: int = 0
    retries: int = 0
    wait_s: float = 0.0
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    def add(
        self,
        *,
        raw_bytes: int = 0,
        wire_bytes: int = 0,
        batches: int = 0,
        retries: int = 0,
        wait_s: float = 0.0,
    ) -> None:
        """Add to the counters."""
        with self._lock:
            self.raw_bytes += raw_bytes
            self.wire_bytes += wire_bytes
            self.batches += batches
            self.retries += retries
            self.wait_s += wait_s


class SamplerClient:
    """One dataset, wherever it is served from.

    Attributes:
        info: The dataset as it was when the client was opened.
        spec: Size of the images in every batch.
        transfer: Counters of the wire (all zero when embedded) and of waiting for batches.
    """

    def __init__(
        self, backend: SamplerBackend, spec: FrameSpec, transfer: TransferStatistics
    ) -> None:
        self._backend = backend
        self.spec = spec
        self.transfer = transfer
        self.info: DatasetInfo = backend.info()
        spec.resolve(self.info)
        self.episodes: EpisodeTable = backend.episodes()
        self._views: dict[Plan, PlanView] = {}

    def view(self, plan: Plan) -> PlanView:
        """The plan over this dataset: its transitions, episodes and steps per epoch."""
        if plan not in self._views:
            column = self._backend.weights(plan.weight_column) if plan.weight_column else None
            view = PlanView(plan, self.episodes, files=self.info.files, weights=column)
            for remark in view.remarks:
                log.warning("%s", remark)
            self._views[plan] = view
        return self._views[plan]

    def sample(self, plan: Plan, step: int) -> Batch:
        """The batch of one step.

        Raises:
            InvalidInput: The plan does not fit the dataset.
            Unavailable: Nobody answered for as long as the client retries.
            DataFault: A file cannot be read; names it.
        """
        draw = self.view(plan).draw(step)
        batch = self.fetch(draw.transition_ids)
        batch.step, batch.window, batch.mask = step, plan.window, draw.mask
        return batch

    def fetch(self, transition_ids: NDArray[np.int64]) -> Batch:
        """The transitions of that name, ``(n,) int64``, in that order."""
        batch = Batch.allocate(len(transition_ids), self.info, self.spec)
        self._backend.read(np.asarray(transition_ids, np.int64), self.spec, batch)
        self.transfer.add(batches=1)
        return batch

    def batches(
        self,
        plan: Plan,
        start_step: int = 0,
        *,
        stop_step: int | None = None,
        stride: int = 1,
        prefetch: int = 4,
    ) -> Iterator[Batch]:
        """Batches of consecutive steps, fetched ahead of their use.

        Args:
            plan: What to sample.
            start_step: First step; to resume, the step after the last one that was used.
            stop_step: First step that is not given; None goes on for ever.
            stride: Distance between the steps given, for workers that share a plan.
            prefetch: Batches that may wait for their use.
        """
        self.view(plan)  # a plan that does not fit fails here, not in the first batch
        return self._prefetched(plan, start_step, stop_step, stride, max(1, prefetch))

    def _prefetched(
        self, plan: Plan, step: int, stop_step: int | None, stride: int, prefetch: int
    ) -> Iterator[Batch]:
        waiting: deque[Future[Batch]] = deque()
        pool = ThreadPoolExecutor(min(prefetch, 2), thread_name_prefix="penstock-prefetch")
        try:
            while True:
                while len(waiting) < prefetch and (stop_step is None or step < stop_step):
                    waiting.append(pool.submit(self.sample, plan, step))
                    step += stride
                if not waiting:
                    return
                begun = time.perf_counter()
                batch = waiting.popleft().result()
                self.transfer.add(wait_s=time.perf_counter() - begun)
                yield batch
        finally:
            pool.shutdown(wait=True, cancel_futures=True)

    def close(self) -> None:
        """Release connections and files."""
        self._backend.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class RemoteSampler:
    """A sampler service, or many replicas of it, as a backend."""

    def __init__(self, target: Target, transfer: TransferStatistics, retry_s: float) -> None:
        self._target, self._transfer, self._retry_s = target, transfer, retry_s
        self._channel = open_channel(target)
        self._stub = SamplerServiceStub(self._channel)
        self._pool = ThreadPoolExecutor(CALLS_IN_FLIGHT, thread_name_prefix="penstock-fetch")
        self._version = ""

    def info(self) -> DatasetInfo:
        """Ask for the dataset, waiting for the service if it is away."""

        def ask() -> pb.GetDatasetResponse:
            with translated_errors(self._target):
                return self._stub.GetDataset(pb.GetDatasetRequest())

        info = dataset_from_message(self._retry(ask).dataset)
        self._version = info.version
        return info

    def episodes(self) -> EpisodeTable:
        """Ask for the episode table."""

        def ask() -> EpisodeTable:
            request = pb.ListEpisodesRequest(dataset_version=self._version)
            with translated_errors(self._target):
                stream = self._stub.ListEpisodes(request)
                return episodes_from_messages(message.episodes for message in stream)

        return self._retry(ask)

    def read(self, ids: NDArray[np.int64], spec: FrameSpec, out: Batch) -> None:
        """Fetch in several calls at a time; what a dead replica leaves is asked for again."""
        out.transition_ids[:] = ids
        size = max(_MIN_IDS_PER_CALL, -(-len(ids) // CALLS_IN_FLIGHT))
        calls = [
            self._pool.submit(self._fetch, out.rows(start, start + size), spec)
            for start in range(0, len(ids), size)
        ]
        try:
            for call in calls:
                call.result()
        finally:
            # Nothing may write into the batch after this call has failed.
            for call in calls:
                if not call.cancel():
                    call.exception()

    def close(self) -> None:
        """Close the connection."""
        self._pool.shutdown(wait=True, cancel_futures=True)
        self._channel.close()

    def _fetch(self, out: Batch, spec: FrameSpec) -> None:
        done = 0

        def ask() -> None:
            nonlocal done
            rest = out.rows(done, len(out))
            request = pb.FetchRequest(
                dataset_version=self._version,
                transition_ids=rest.transition_ids.tolist(),
                frame_spec=pb.FrameSpec(height_px=spec.height, width_px=spec.width),
                accepted_codecs=ACCEPTED_CODECS,
            )
            filled = 0
            with translated_errors(self._target):
                for message in self._stub.Fetch(request):
                    part = message.part
                    if part.first_row != filled:
                        raise Corrupt(
                            f"{self._target}: part starts at row {part.first_row}, not {filled}"
                        )
                    rows = part_into_batch(part, rest)
                    filled += rows
                    done += rows
                    self._transfer.add(
                        raw_bytes=rest.rows(part.first_row, part.first_row + rows).frames.nbytes,
                        wire_bytes=len(part.observations.data),
                    )
            if filled != len(rest):
                raise Unavailable(
                    f"{self._target}: the stream ended after {filled} of {len(rest)} rows"
                )

        self._retry(ask)

    def _retry(self, ask: Callable[[], T]) -> T:
        return retrying(
            ask,
            target=self._target,
            retry_s=self._retry_s,
            on_retry=lambda _: self._transfer.add(retries=1),
        )


def open_sampler(
    target: str | Target,
    *,
    image_size: tuple[int, int] | None = None,
    retry_s: float = RETRY_S,
) -> SamplerClient:
    """Open a dataset.

    Args:
        target: ``file:///data/*.hdf5`` reads here; ``grpc://host:50051`` asks a service.
        image_size: Height and width in pixels of every image; None leaves them as stored.
        retry_s: Seconds to wait for a service that is away, at the start and later.

    Raises:
        Unavailable: Nobody answered in that time.
        DataFault: No file of the dataset can be read.
    """
    parsed = target if isinstance(target, Target) else Target.parse(target)
    spec = FrameSpec(*(image_size or (0, 0)))
    transfer = TransferStatistics()
    if parsed.scheme == "file":
        backend: SamplerBackend = load_backend("sampler", parsed)
    else:
        backend = RemoteSampler(parsed, transfer, retry_s)
    try:
        return SamplerClient(backend, spec, transfer)
    except BaseException:
        backend.close()
        raise
