"""A sampler service, or many replicas of it, as a backend."""

from __future__ import annotations

import os
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from penstock.batch import Batch, FrameSpec
from penstock.client.sampler.calls import Fetching
from penstock.client.sampler.fetching import BatchFetch, OnLost
from penstock.client.sampler.fleet import Fleet
from penstock.client.sampler.local import LocalFrames
from penstock.client.sampler.local_reading import LocalReader
from penstock.client.sampler.transfer import TransferStatistics
from penstock.client.sampler.weights import fetch_weights
from penstock.dataset import DatasetInfo, EpisodeTable
from penstock.errors import Internal, InvalidInput
from penstock.targets import Target
from penstock.union import Union

__all__ = ["RemoteSampler"]

_CLOSE_S = 5.0


class RemoteSampler:
    """Reads from all replicas of a target as if they were one dataset.

    Not usable in a process that was forked after it was made: open the target there instead.

    Args:
        target: A ``grpc`` target.
        transfer: Where what comes over the wire is counted.
        retry_s: Seconds to wait for a replica that is needed and away.
        on_lost: What to do when it stays away.
        fleet: The replicas; None finds those of the target.
        local: Whether frames that replicas of this machine have cached are read from there.
        direct: Whether rows come over a replica's direct port where it has one.
    """

    def __init__(
        self,
        target: Target,
        transfer: TransferStatistics,
        retry_s: float,
        on_lost: OnLost = "wait",
        fleet: Fleet | None = None,
        *,
        local: bool = True,
        direct: bool = True,
    ) -> None:
        self._retry_s = retry_s
        self._on_lost: OnLost = on_lost
        self._fleet = fleet or Fleet(target)
        self._fleet.on_retry = lambda: transfer.add(retries=1)
        if direct:
            self._fleet.on_direct_fault = lambda: transfer.add(direct_faults=1)
        self._fetching = Fetching(self._fleet, transfer)
        self._local = LocalReader(LocalFrames(self._fleet, transfer), transfer) if local else None
        self._process = os.getpid()

    @property
    def fleet(self) -> Fleet:
        """The replicas."""
        return self._fleet

    def info(self) -> DatasetInfo:
        """The dataset that the replicas hold together, waiting for them if they are away."""
        return self._union().info

    def episodes(self) -> EpisodeTable:
        """Its episode table."""
        return self._union().episodes

    def weights(self, column: str) -> NDArray[np.float32]:
        """One weight per transition, each from a replica that holds its file.

        Raises:
            NotFound: A replica has no such column; names those it has.
            Unavailable: No replica that answers holds a file.
        """
        self._union()
        return fetch_weights(self._fleet, column, self._retry_s)

    def read(self, ids: NDArray[np.int64], spec: FrameSpec, out: Batch) -> None:
        """Fill ``out``; what a dead or slow replica does not bring, others are asked for.

        Raises:
            InvalidInput: An id is out of range.
            Unavailable: No holder of a file answers; names both.
            DataFault: No holder can read a file; names it.
        """
        if not self.read_some(ids, spec, out).all():
            raise Internal("rows are missing although none were to be skipped")

    def read_some(
        self,
        ids: NDArray[np.int64],
        spec: FrameSpec,
        out: Batch,
        stopped: Callable[[], bool] = lambda: False,
    ) -> NDArray[np.bool_]:
        """Fill ``out``; returns which rows are filled: all, unless lost rows are skipped.

        Raises:
            Cancelled: ``stopped`` said that nobody wants the batch any more.
        """
        union = self._union()
        if os.getpid() != self._process:
            raise InvalidInput(
                "this sampler was opened before the process was forked: open it in the process "
                "that uses it, as penstock.torch.BatchDataset does",
                field="target",
            )
        outside = ids[(ids < 0) | (ids >= union.info.transitions)]
        if len(outside):
            raise InvalidInput(
                f"transition id {int(outside[0])}: ids go from 0 to {union.info.transitions - 1}",
                field="transition_ids",
            )
        expected = (len(ids), 2, len(union.info.cameras), *spec.resolve(union.info), 3)
        if out.frames.shape != expected:
            raise InvalidInput(
                f"the batch holds frames {out.frames.shape}, these transitions need {expected}",
                field="out",
            )
        out.transition_ids[:] = ids
        everything = np.ones(len(ids), np.bool_)
        if self._local is None:
            return self._fetch(ids, out, everything, stopped)
        reading = self._local.start(union, ids, out)
        try:
            # Frames that are read here lack their columns, the other rows lack both.
            filled = self._fetch(ids, out, reading.rows, stopped, with_frames=False)
            filled &= self._fetch(ids, out, ~reading.rows, stopped)
        finally:
            damaged = self._local.finish(reading)
        return filled & self._fetch(ids, out, damaged, stopped)

    def _fetch(
        self,
        ids: NDArray[np.int64],
        out: Batch,
        rows: NDArray[np.bool_],
        stopped: Callable[[], bool],
        *,
        with_frames: bool = True,
    ) -> NDArray[np.bool_]:
        """Fetch some rows; false where one of them was skipped, ``(n,) bool``."""
        return BatchFetch(
            self._fetching,
            ids,
            out,
            rows=rows,
            with_frames=with_frames,
            retry_s=self._retry_s,
            on_lost=self._on_lost,
            stopped=stopped,
        ).run()

    def close(self) -> None:
        """Close all connections."""
        self._fleet.close()
        if self._local is not None:
            self._local.close()
        self._fetching.threads.close(_CLOSE_S)

    def _union(self) -> Union:
        union = self._fleet.union
        return self._fleet.open(self._retry_s) if union is None else union
