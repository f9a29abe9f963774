"""One pass over the joints, actions and rewards of a file, block by block."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np
import xxhash
from numpy.typing import NDArray

from penstock.errors import DataFault
from penstock_sampler.episodes import row_blocks
from penstock_sampler.examine import Examined
from penstock_sampler.opening import HDF5_ERRORS, dataset_at, open_hdf5
from penstock_sampler.scalars import ScalarStore
from penstock_sampler.statistics import RunningStatistics

__all__ = ["FileScan", "scan_file"]

_BLOCK_BYTES = 4 << 20
_HEAD_BYTES = 64 << 10


@dataclass(frozen=True)
class FileScan:
    """What the pass gives.

    Attributes:
        statistics: Keys ``joint``, ``action``, ``reward``; over servable transitions.
        digest: Hash of size, head, layout, episodes, scalars and two frames of each camera: equal
            for copies, another one for a file that was changed in place.
    """

    statistics: dict[str, RunningStatistics]
    digest: bytes


def scan_file(path: Path, examined: Examined, scalars: ScalarStore) -> FileScan:
    """Read all scalars of one file and append them to ``scalars``.

    Raises:
        DataFault: A block cannot be read.
        LimitExceeded: The store is full.
    """
    try:
        with open_hdf5(path) as file:
            return _scan(file, examined, scalars, _start_digest(path, examined))
    except HDF5_ERRORS as error:
        raise DataFault(
            f"{path}: cannot be read ({error}): copy or record it again",
            reason="UNREADABLE",
            metadata={"file": str(path)},
        ) from error


def _start_digest(path: Path, examined: Examined) -> xxhash.xxh3_128:
    digest = xxhash.xxh3_128()
    with path.open("rb") as raw:
        digest.update(raw.read(_HEAD_BYTES))
    digest.update(f"{examined.identity.size_bytes} {examined.layout}".encode())
    episodes = examined.episodes
    for column in (episodes.first_row, episodes.length, episodes.outcome):
        digest.update(column.tobytes())
    return digest


def _scan(
    file: h5py.File, examined: Examined, scalars: ScalarStore, digest: xxhash.xxh3_128
) -> FileScan:
    layout, dropped = examined.layout, examined.episodes.dropped
    joint, action, reward = (
        dataset_at(file, path) for path in (layout.joint, layout.action, layout.reward)
    )
    statistics = {
        "joint": RunningStatistics(layout.joint_dim),
        "action": RunningStatistics(layout.action_dim),
        "reward": RunningStatistics(1),
    }
    row_bytes = 8 * (layout.joint_dim + layout.action_dim + 1)
    for start, stop in row_blocks(joint, layout.observations, max(1, _BLOCK_BYTES // row_bytes)):
        # Observation N of an N+1 layout has no action.
        last = min(stop, layout.rows)
        columns = {
            "joint": _rows(joint, start, stop),
            "action": _rows(action, start, last),
            "reward": _rows(reward, start, last).reshape(-1, 1),
        }
        scalars.append(columns["joint"], columns["action"], columns["reward"][:, 0])
        servable = np.ones(last - start, np.bool_)
        first, end = np.searchsorted(dropped, (start, last))
        servable[dropped[first:end] - start] = False
        for name, values in columns.items():
            digest.update(values.tobytes())
            statistics[name].add(values[: last - start][servable])
    for image in layout.images:
        for row in (0, layout.observations - 1):
            digest.update(np.asarray(dataset_at(file, image.dataset)[row]).tobytes())
    return FileScan(statistics, digest.digest())


def _rows(dataset: h5py.Dataset, start: int, stop: int) -> NDArray[np.float32]:
    # A float64 beyond float32 becomes infinite, and is counted by the statistics as such.
    with np.errstate(over="ignore"):
        return np.asarray(dataset[start:stop]).astype(np.float32)
