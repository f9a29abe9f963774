"""Reading the frames of a batch: each stored frame once, neighbours by one call, several at a time.

The current observation of a transition and its next one are neighbours in the file, so a pair costs
one read; rows that a batch shares are read and resized once and copied. Reads, decoding and
resizing all let other threads run, so a few threads keep disk and cores busy.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from penstock.errors import InvalidInput
from penstock_sampler.cores import default_io_threads
from penstock_sampler.forking import reset_after_fork
from penstock_sampler.sources.files import FileIdentity, OpenFiles, unreadable
from penstock_sampler.sources.finding import FrameSources
from penstock_sampler.sources.images import ImageColumn
from penstock_sampler.sources.reading import FrameSource
from penstock_sampler.sources.resize import place_frame
from penstock_sampler.sources.scratch import Scratch

__all__ = ["FrameReader", "FrameRequest"]

_RUN_BYTES = 8 << 20
"""Neighbours beyond this size are read with another call."""
_SCRATCH_BYTES = 1 << 20
"""The same for frames that are resized, which wait for it in the processor's cache."""
_TASKS_PER_THREAD = 4
_RANK = 6


@dataclass(frozen=True)
class FrameRequest:
    """Frames wanted from one file.

    Attributes:
        identity: The file.
        images: Its cameras.
        rows: ``(n,) int64`` observations, any order, repetition allowed.
        places: ``(n, 2) int64`` where each goes: row of the batch, and slot: 0 (current), 1 (next).
    """

    identity: FileIdentity
    images: tuple[ImageColumn, ...]
    rows: NDArray[np.int64]
    places: NDArray[np.int64]


@dataclass(frozen=True)
class _Wanted:
    """Rows of one file, each once, and where each of them goes.

    Attributes:
        rows: Ascending.
        places: For each of them, indices of the first axis of the output.
    """

    rows: list[int]
    places: list[list[int]]


@dataclass(frozen=True)
class _Job:
    """One group of rows of one camera: positions ``first`` to ``last`` of ``wanted.rows``."""

    source: FrameSource
    image: ImageColumn
    camera: int
    wanted: _Wanted
    first: int
    last: int


class FrameReader:
    """Reads frames of many files; safe to use from several threads.

    Args:
        files: Open files; stay the caller's.
        io_threads: Reads in flight; 1 reads in the calling thread.
    """

    def __init__(self, files: OpenFiles, io_threads: int | None = None) -> None:
        self._io_threads = default_io_threads() if io_threads is None else io_threads
        self._scratch = Scratch()
        self._sources = FrameSources(files, self._scratch)
        self.reset()
        reset_after_fork(self)

    def reset(self) -> None:
        """Forget the threads."""
        self._lock = threading.Lock()
        self._threads: ThreadPoolExecutor | None = None

    def read(self, requests: Sequence[FrameRequest], out: NDArray[np.uint8]) -> None:
        """Fill the places of all requests.

        Args:
            requests: Frames of any files; their places must not overlap.
            out: ``(B, slots, C, H, W, 3) uint8``, C-contiguous.

        Raises:
            DataFault: A file cannot be read; names it. Other places may have been filled.
            InvalidInput: ``out`` is not contiguous, or a place or the cameras do not fit it.
        """
        if out.ndim != _RANK or not out.flags.c_contiguous or out.dtype != np.uint8:
            raise InvalidInput(
                f"out is {out.shape} {out.dtype}: expected contiguous (B, slots, C, H, W, 3) uint8",
                field="out",
            )
        flat = out.reshape(-1, *out.shape[2:])
        jobs: list[_Job] = []
        for request in requests:
            if len(request.images) > out.shape[2]:
                raise InvalidInput(
                    f"{len(request.images)} cameras do not fit {out.shape}", field="out"
                )
            if len(request.rows):
                self._plan(request, _wanted(request, out), flat, jobs)
        self._run(jobs, flat)

    def read_block(
        self,
        identity: FileIdentity,
        images: tuple[ImageColumn, ...],
        start: int,
        stop: int,
        out: NDArray[np.uint8],
    ) -> None:
        """Read neighbouring observations of one file.

        Args:
            identity: The file.
            images: Its cameras.
            start: First observation.
            stop: One after the last.
            out: ``(stop - start, C, H, W, 3) uint8``, C-contiguous; filled.

        Raises:
            DataFault: The file cannot be read; names it.
            InvalidInput: ``out`` is not contiguous or too small.
        """
        rows = np.arange(start, stop)
        places = np.stack([rows - start, np.zeros_like(rows)], axis=1)
        self.read([FrameRequest(identity, images, rows, places)], out[:, None])

    def close(self) -> None:
        """End the threads."""
        with self._lock:
            threads, self._threads = self._threads, None
        if threads is not None:
            threads.shutdown()

    def _plan(
        self, request: FrameRequest, wanted: _Wanted, out: NDArray[np.uint8], jobs: list[_Job]
    ) -> None:
        """Add the jobs of one request."""
        rows = wanted.rows
        sources = self._sources.find(request.identity, request.images)
        for camera, (image, source) in enumerate(zip(request.images, sources, strict=True)):
            if rows[0] < 0 or rows[-1] >= source.rows:
                raise unreadable(
                    request.identity,
                    f"rows {rows[0]} to {rows[-1]} of {source.rows} are asked for",
                    image.dataset,
                )
            kept = _RUN_BYTES if _fits(source, image, out) else _SCRATCH_BYTES
            jobs.extend(
                _Job(source, image, camera, wanted, first, last)
                for first, last in source.groups(rows, max(1, kept // image.frame_bytes))
            )

    def _run(self, jobs: list[_Job], out: NDArray[np.uint8]) -> None:
        """Do all jobs; returns when none of them writes to ``out`` any more."""
        if self._io_threads == 1 or len(jobs) <= 1:
            self._do(jobs, out, threading.Event())
            return
        weights = np.cumsum([(job.last - job.first) * job.image.frame_bytes for job in jobs])
        tasks = min(len(jobs), self._io_threads * _TASKS_PER_THREAD)
        edges = np.searchsorted(weights, weights[-1] * np.arange(1, tasks) / tasks, side="right")
        cuts = sorted({0, len(jobs), *edges.tolist()})
        failed = threading.Event()
        threads = self._pool()
        futures = [
            threads.submit(self._do, jobs[first:last], out, failed)
            for first, last in pairwise(cuts)
        ]
        wait(futures)
        for future in futures:
            future.result()

    def _do(self, jobs: list[_Job], out: NDArray[np.uint8], failed: threading.Event) -> None:
        try:
            for job in jobs:
                if failed.is_set():
                    return
                self._read(job, out)
        except BaseException:
            failed.set()
            raise

    def _read(self, job: _Job, out: NDArray[np.uint8]) -> None:
        source, wanted, camera = job.source, job.wanted, job.camera
        positions = range(job.first, job.last)
        targets = [out[wanted.places[position][0], camera] for position in positions]
        rows = wanted.rows[job.first : job.last]
        if _fits(source, job.image, out):
            source.read(rows, targets)
        else:
            frame_bytes = job.image.frame_bytes
            buffer = self._scratch.take("frames", len(targets) * frame_bytes)
            frames = list(buffer.reshape(len(targets), *source.frame_shape))
            source.read(rows, frames)
            for frame, target in zip(frames, targets, strict=True):
                place_frame(frame, job.image.order, target)
        for position, target in zip(positions, targets, strict=True):
            for place in wanted.places[position][1:]:
                np.copyto(out[place, camera], target)

    def _pool(self) -> ThreadPoolExecutor:
        with self._lock:
            if self._threads is None:
                self._threads = ThreadPoolExecutor(self._io_threads, "penstock-frames")
            return self._threads


def _wanted(request: FrameRequest, out: NDArray[np.uint8]) -> _Wanted:
    """Which rows a request asks for, and where in ``out`` they go.

    Raises:
        InvalidInput: A place does not fit.
    """
    count, slots = out.shape[:2]
    goes: dict[int, list[int]] = {}
    for row, (place, slot) in zip(request.rows.tolist(), request.places.tolist(), strict=True):
        if not (0 <= place < count and 0 <= slot < slots):
            raise InvalidInput(f"place ({place}, {slot}) does not fit {out.shape}", field="places")
        goes.setdefault(row, []).append(place * slots + slot)
    rows = sorted(goes)
    return _Wanted(rows, [goes[row] for row in rows])


def _fits(source: FrameSource, image: ImageColumn, out: NDArray[np.uint8]) -> bool:
    """Whether frames are wanted just as they are stored."""
    return image.order == "hwc" and source.frame_shape == out.shape[2:]
