"""What every peer shares: the data, the task, the clock, and one line of JSON as the answer.

The task: 256 random transitions, each with the current and the next observation of three cameras,
as uint8 224x224 in one contiguous batch in host memory, from frames that were recorded at 256x256.
Each peer keeps the frames in the format that its own documentation advises and resizes them where
it advises to transform. With ``--resized`` the frames were resized offline before the peer got
them: an easier task, of which the figures stand apart.

Runs in the peer's environment: needs NumPy, psutil and OpenCV only.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import psutil
from numpy.typing import NDArray

__all__ = ["BATCH", "SHAPE", "PeerData", "answer", "resize"]

BATCH = 256
SHAPE = (2, 3, 224, 224, 3)
_WARM_UP, _GROUPS = 4, 5
_CHECKED_ROWS = 8
_TOLERATED_LEVELS = 1


@dataclass(frozen=True)
class PeerData:
    """Where the shared frames are, and how long to measure.

    Attributes:
        folder: Holds ``recorded.npy``, ``resized.npy``, ``pairs.npy`` and a folder per peer.
        batches: Batches of each of the measured groups.
        limit: Transitions that the peer may use; None for all.
        resized: Whether the peer gets frames that were resized offline.
    """

    folder: Path
    batches: int
    limit: int | None
    resized: bool

    @classmethod
    def from_arguments(cls) -> PeerData:
        """Parse the command line that the driver gives."""
        parser = argparse.ArgumentParser()
        parser.add_argument("--folder", type=Path, required=True)
        parser.add_argument("--batches", type=int, default=4)
        parser.add_argument("--limit", type=int)
        parser.add_argument("--resized", action="store_true")
        found = parser.parse_args()
        cv2.setNumThreads(1)
        return cls(found.folder, found.batches, found.limit, found.resized)

    @property
    def observations(self) -> NDArray[np.uint8]:
        """What the peer stores, ``(observations, 3, S, S, 3) uint8`` with S 256 or 224, mapped."""
        name = "resized" if self.resized else "recorded"
        return np.load(self.folder / f"{name}.npy", mmap_mode="r")

    @property
    def stored_shape(self) -> tuple[int, ...]:
        """Shape of a transition as the peer stores it."""
        return (2, *self.observations.shape[1:])

    @property
    def pairs(self) -> NDArray[np.int64]:
        """Current and next observation of each transition, ``(n, 2) int64``."""
        return np.load(self.folder / "pairs.npy")[: self.limit]

    def transitions(self) -> Iterator[NDArray[np.uint8]]:
        """The frames of each transition, ``(2, 3, S, S, 3) uint8``."""
        observations = self.observations
        for pair in self.pairs:
            yield observations[pair]

    def prepared(self, peer: str, write: Callable[[Path], None]) -> Path:
        """The folder with the peer's own format, written once."""
        folder = self.folder / (f"{peer}_resized" if self.resized else peer)
        if not (folder / ".complete").exists():
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir(parents=True)
            write(folder)
            (folder / ".complete").touch()
        return folder


def resize(stored: NDArray[np.uint8], out: NDArray[np.uint8] | None = None) -> NDArray[np.uint8]:
    """Images ``(..., S, S, 3)`` as ``(..., 224, 224, 3)``, as they are if they have that size."""
    if stored.shape[-3:] == SHAPE[2:]:
        if out is None:
            return stored
        np.copyto(out, stored)
        return out
    out = np.empty((*stored.shape[:-3], *SHAPE[2:]), np.uint8) if out is None else out
    for place in np.ndindex(stored.shape[:-3]):
        cv2.resize(stored[place], SHAPE[2:4], dst=out[place])
    return out


def answer(
    data: PeerData,
    batches: Iterator[Any],
    as_rows: Callable[[Any], NDArray[np.uint8]],
) -> None:
    """Time ``batches`` and print the answer.

    The time of a batch is that of a group divided by its batches: loaders with workers hand over
    several at once, so single intervals say little. The median is that of the groups.

    Args:
        data: The task.
        batches: The loader, endless.
        as_rows: Views a batch as ``(256, 2, 3, 224, 224, 3)``; not timed.

    Raises:
        ValueError: A batch is not what was asked for.
    """
    batch = next(batches)
    _check(data, as_rows(batch))
    for _ in range(_WARM_UP):
        batch = next(batches)
    walls: list[float] = []
    cpu = _cpu_s()
    for _ in range(_GROUPS):
        begun = time.perf_counter()
        for _ in range(data.batches):
            batch = next(batches)
        walls.append((time.perf_counter() - begun) / data.batches * 1e3)
    cpu_ms = (_cpu_s() - cpu) / (data.batches * _GROUPS) * 1e3
    _check(data, as_rows(batch))
    found = {"ms": statistics.median(walls), "cpu_ms": cpu_ms, "groups_ms": walls}
    print("\n" + json.dumps(found), flush=True)


def _check(data: PeerData, rows: NDArray[np.uint8]) -> None:
    """Hold some rows of a batch against what a plain ``cv2.resize`` makes of the frames."""
    if rows.shape != (BATCH, *SHAPE) or rows.dtype != np.uint8:
        raise ValueError(f"a batch has {rows.dtype} {rows.shape}: expected {(BATCH, *SHAPE)}")
    expected = np.load(data.folder / "resized.npy", mmap_mode="r")
    pairs = data.pairs
    patches = expected[pairs[:, 0], 0, 96:104, 96:104].astype(np.int16)
    for row in rows[:: BATCH // _CHECKED_ROWS]:
        away = np.abs(patches - row[0, 0, 96:104, 96:104]).max(axis=(1, 2, 3))
        for got, observation in zip(row, pairs[away.argmin()], strict=True):
            difference = np.abs(got.astype(np.int16) - expected[observation]).max()
            if difference > _TOLERATED_LEVELS:
                raise ValueError(f"frames differ from observation {observation}: {difference}")


def _cpu_s() -> float:
    """Seconds of CPU that this process and all below it have used."""
    process = psutil.Process()
    total = 0.0
    for each in (process, *process.children(recursive=True)):
        try:
            times = each.cpu_times()
        except psutil.NoSuchProcess:
            continue
        total += times.user + times.system
    return total
