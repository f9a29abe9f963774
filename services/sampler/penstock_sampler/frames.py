"""Reading the frames of a batch: each stored frame once, neighbours with one call.

The current observation of a transition and its next one are neighbours in the file, so a pair costs
one read; rows that a batch shares are read and resized once and copied.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import h5py
import numpy as np
from numpy.typing import NDArray

from penstock_sampler.files import FileIdentity, OpenFile, OpenFiles
from penstock_sampler.images import ImageColumn
from penstock_sampler.resize import place_frame

__all__ = ["FrameRequest", "read_frames"]

_RUN_BYTES = 8 << 20
"""Neighbours beyond this size are read with another call."""


@dataclass(frozen=True)
class FrameRequest:
    """Frames wanted from one file.

    Attributes:
        identity: The file.
        images: Its cameras.
        rows: ``(n,) int64`` observations, any order, repetition allowed.
        places: ``(n, 2) int64`` where each goes: row of the batch, and 0 (current) or 1 (next).
    """

    identity: FileIdentity
    images: tuple[ImageColumn, ...]
    rows: NDArray[np.int64]
    places: NDArray[np.int64]


def read_frames(request: FrameRequest, files: OpenFiles, out: NDArray[np.uint8]) -> None:
    """Fill the places of ``request`` in ``out``, ``(B, 2, C, H, W, 3)``.

    Raises:
        DataFault: The file cannot be read; names it.
    """
    wanted, index = np.unique(request.rows, return_inverse=True)
    order = np.argsort(index, kind="stable")
    places = [(int(row), int(slot)) for row, slot in request.places[order]]
    bounds = np.searchsorted(index[order], np.arange(len(wanted) + 1)).tolist()
    for camera, image in enumerate(request.images):
        for first, last in _runs(wanted, max(1, _RUN_BYTES // image.frame_bytes)):
            start, stop = int(wanted[first]), int(wanted[last - 1]) + 1
            frames = files.read(request.identity, _Read(image, start, stop))
            for position in range(first, last):
                ready: NDArray[np.uint8] | None = None
                for row, slot in places[bounds[position] : bounds[position + 1]]:
                    view = out[row, slot, camera]
                    if ready is None:
                        place_frame(frames[position - first], image.order, view)
                        ready = view
                    else:
                        np.copyto(view, ready)


def _runs(rows: NDArray[np.int64], longest: int) -> Iterator[tuple[int, int]]:
    """Ranges of positions in ``rows`` (ascending) whose values are neighbours."""
    edges = np.flatnonzero(np.diff(rows) != 1) + 1
    for first, last in zip((0, *edges.tolist()), (*edges.tolist(), len(rows)), strict=True):
        for start in range(first, last, longest):
            yield start, min(start + longest, last)


@dataclass(frozen=True)
class _Read:
    """Reads observations ``start`` to ``stop`` of one camera."""

    image: ImageColumn
    start: int
    stop: int

    def __call__(self, file: OpenFile) -> NDArray[np.uint8]:
        dataset = file.dataset(self.image.dataset)
        # The low-level call: h5py's own indexing costs as much again as the read.
        shape = (self.stop - self.start, *dataset.shape[1:])
        frames = np.empty(shape, np.uint8)
        space = dataset.id.get_space()
        space.select_hyperslab((self.start, 0, 0, 0), shape)
        dataset.id.read(h5py.h5s.create_simple(shape), space, frames)
        return frames
