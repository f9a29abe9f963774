"""The sampler as its users see it: embedded or remote, the same batches."""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from penstock.backends import SamplerBackend
from penstock.batch import Batch, FrameSpec
from penstock.client.sampler.buffers import FrameBuffers
from penstock.client.sampler.remote import RemoteSampler
from penstock.client.sampler.transfer import TransferStatistics
from penstock.dataset import DatasetInfo, EpisodeTable
from penstock.errors import InvalidInput
from penstock.plan import Plan
from penstock.plan_view import Draw, PlanView
from penstock.weights import Priorities

__all__ = ["SamplerClient"]

log = logging.getLogger(__name__)

_PREFETCH_THREADS = 2


class SamplerClient:
    """One dataset, wherever it is served from.

    Frames of a batch lie in memory that earlier batches had and that nobody looks at any more; a
    batch, array or tensor that is kept keeps its memory.

    Attributes:
        info: The dataset as it was when the client was opened.
        spec: Size of the images in every batch.
        transfer: Counters of the wire (all zero when embedded) and of waiting for batches.
    """

    def __init__(
        self,
        backend: SamplerBackend,
        spec: FrameSpec,
        transfer: TransferStatistics,
        buffers: FrameBuffers | None = None,
    ) -> None:
        self._backend = backend
        self._buffers = buffers or FrameBuffers()
        self.spec = spec
        self.transfer = transfer
        self.info: DatasetInfo = backend.info()
        spec.resolve(self.info)
        self.episodes: EpisodeTable = backend.episodes()
        self._views: dict[Plan, PlanView] = {}

    def view(self, plan: Plan, weights: ArrayLike | Priorities | None = None) -> PlanView:
        """The plan over this dataset: its transitions, episodes and steps per epoch.

        Args:
            plan: What to sample.
            weights: See :meth:`batches`.

        Raises:
            InvalidInput: The plan does not fit the dataset, or the weights do not fit the plan.
            NotFound: The dataset has no such weight column.
        """
        if plan in self._views and weights is None:
            return self._views[plan]
        if plan.weight_column:
            if weights is not None:
                raise InvalidInput(
                    f"weights are given, and plan.weight_column is {plan.weight_column!r}: use one "
                    "of them",
                    field="weights",
                )
            view = self._new_view(plan, self._backend.weights(plan.weight_column))
        else:
            view = self._new_view(plan, weights)
        if weights is None:
            self._views[plan] = view
        return view

    def _new_view(self, plan: Plan, weights: ArrayLike | Priorities | None) -> PlanView:
        view = PlanView(plan, self.episodes, files=self.info.files, weights=weights)
        for remark in view.remarks:
            log.warning("%s", remark)
        return view

    def sample(self, plan: Plan, step: int) -> Batch:
        """The batch of one step.

        Raises:
            InvalidInput: The plan does not fit the dataset.
            Unavailable: No holder of a file answered for as long as the client waits.
            DataFault: A file cannot be read; names it.
        """
        return self._sample(self.view(plan), step, _never)

    def fetch(self, transition_ids: NDArray[np.int64]) -> Batch:
        """The transitions of that name, ``(n,) int64``, in that order."""
        return self._fetch(np.asarray(transition_ids, np.int64), None, _never)

    def batches(
        self,
        plan: Plan,
        start_step: int = 0,
        *,
        stop_step: int | None = None,
        stride: int = 1,
        prefetch: int = 4,
        weights: ArrayLike | Priorities | None = None,
    ) -> Iterator[Batch]:
        """Batches of consecutive steps, fetched ahead of their use.

        What goes wrong with a batch is raised where that batch would have been given.

        Args:
            plan: What to sample.
            start_step: First step; to resume, the step after the last one that was used.
            stop_step: First step that is not given; None goes on for ever.
            stride: Distance between the steps given, for workers that share a plan.
            prefetch: Batches that may wait for their use: the memory that waiting costs.
            weights: ``(transitions,)``, for a ``weighted`` plan without a weight column; training
                may change them, see :class:`penstock.weights.Priorities`. A change counts for
                steps that are not fetched ahead yet.
        """
        view = self.view(plan, weights)  # what does not fit fails here, not in the first batch
        return self._prefetched(view, start_step, stop_step, stride, max(1, prefetch))

    def _prefetched(
        self, view: PlanView, step: int, stop_step: int | None, stride: int, prefetch: int
    ) -> Iterator[Batch]:
        waiting: deque[Future[Batch]] = deque()
        stopped = threading.Event()
        threads = min(prefetch, _PREFETCH_THREADS)
        pool = ThreadPoolExecutor(threads, thread_name_prefix="penstock-prefetch")
        try:
            while True:
                while len(waiting) < prefetch and (stop_step is None or step < stop_step):
                    waiting.append(pool.submit(self._sample, view, step, stopped.is_set))
                    step += stride
                if not waiting:
                    return
                begun = time.perf_counter()
                batch = waiting.popleft().result()
                given = time.perf_counter()
                yield batch
                del batch  # its memory is free as soon as the consumer lets go of it
                self.transfer.add(wait_s=given - begun, loop_s=time.perf_counter() - begun)
        finally:
            # Whoever stops in the middle does not wait for a replica that is away.
            stopped.set()
            pool.shutdown(wait=True, cancel_futures=True)

    def _sample(self, view: PlanView, step: int, stopped: Callable[[], bool]) -> Batch:
        draw = view.draw(step)
        batch = self._fetch(draw.transition_ids, draw, stopped, view.plan.window)
        batch.step = step
        return batch

    def _fetch(
        self,
        ids: NDArray[np.int64],
        draw: Draw | None,
        stopped: Callable[[], bool],
        window: int = 1,
    ) -> Batch:
        begun = time.perf_counter()
        batch = Batch.allocate(len(ids), self.info, self.spec, self._buffers.take)
        if draw is not None:
            batch.window, batch.mask = window, draw.mask
        if isinstance(self._backend, RemoteSampler):
            filled = self._backend.read_some(ids, self.spec, batch, stopped)
            if not filled.all():
                # A window of which a transition is lost is lost as a whole.
                whole = filled.reshape(-1, window).all(axis=1)
                batch = batch.taken(np.repeat(whole, window))
        else:
            self._backend.read(ids, self.spec, batch)
        self.transfer.add_batch(time.perf_counter() - begun)
        return batch

    def close(self) -> None:
        """Release connections and files."""
        self._backend.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _never() -> bool:
    return False
