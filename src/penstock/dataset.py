"""What a dataset is to a client: cameras, dimensions, files, statistics, and its episode table."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import IntEnum

import numpy as np
import xxhash
from numpy.typing import NDArray

from penstock.moments import ColumnStatistics, Moments

__all__ = [
    "COLUMNS",
    "Camera",
    "ColumnStatistics",
    "DataFile",
    "DatasetInfo",
    "EpisodeTable",
    "Outcome",
    "RefusedFile",
    "describe",
]

COLUMNS = ("joint", "action", "reward")
"""Columns that have statistics."""


class Outcome(IntEnum):
    """How an episode ended."""

    OPEN = 0
    """The recording stops without saying why."""
    TERMINAL = 1
    """The environment ended it."""
    TRUNCATED = 2
    """It was cut, by a time limit for instance."""


@dataclass(frozen=True)
class Camera:
    """One image stream as it is stored; height and width in pixels."""

    name: str
    height: int
    width: int
    channels: int = 3


@dataclass(frozen=True)
class DataFile:
    """One file of the dataset.

    Attributes:
        file_id: The same on every replica that holds a copy.
        size_bytes: Size of the file.
        rows: Rows of its action dataset.
        held: Whether who describes it holds a copy.
        digest: Hash of the content that batches depend on, 16 bytes; equal for copies.
        transitions: Servable transitions.
        episodes: Rows of the episode table.
        dropped_rows: Rows without a next observation that are not terminal.
        cameras: Size of each camera's images in this file.
        moments: Keys ``joint``, ``action``, ``reward``; over the servable transitions.
    """

    file_id: str
    size_bytes: int
    rows: int
    held: bool = True
    digest: bytes = b""
    transitions: int = 0
    episodes: int = 0
    dropped_rows: int = 0
    cameras: tuple[Camera, ...] = ()
    moments: Mapping[str, Moments] = field(default_factory=dict[str, Moments], compare=False)


@dataclass(frozen=True)
class RefusedFile:
    """A file that is not served, and why."""

    file_id: str
    reason: str
    message: str


@dataclass(frozen=True)
class DatasetInfo:
    """A dataset as a client sees it.

    Attributes:
        version: Digest over all files; batches of one plan are equal as long as it is.
        cameras: In the order of the camera axis of ``Batch.frames``.
        joint_dim: Width of a joint vector.
        action_dim: Width of an action vector.
        transitions: Number of servable transitions; ids run from 0 to this number - 1.
        episodes: Number of rows of the episode table.
        files: Every served file.
        refused: Every file that is not served, with the reason.
        dropped_rows: Rows without a next observation that are not terminal.
        statistics: Keys ``joint``, ``action``, ``reward``.
        codecs: Names of the codecs the server can send.
    """

    version: str
    cameras: tuple[Camera, ...]
    joint_dim: int
    action_dim: int
    transitions: int
    episodes: int
    files: tuple[DataFile, ...]
    refused: tuple[RefusedFile, ...] = ()
    dropped_rows: int = 0
    statistics: Mapping[str, ColumnStatistics] = field(default_factory=dict)
    codecs: tuple[str, ...] = ("bitplanes_lz4", "bitplanes", "lz4", "raw")

    @property
    def camera_names(self) -> tuple[str, ...]:
        """Names in the order of the camera axis."""
        return tuple(camera.name for camera in self.cameras)


@dataclass(frozen=True)
class EpisodeTable:
    """All episodes as columns: files sorted by id, rows ascending.

    Attributes:
        file: ``(E,) int32`` index into ``DatasetInfo.files``.
        first_row: ``(E,) int64`` row of the first transition in its file.
        length: ``(E,) int32`` servable transitions.
        outcome: ``(E,) uint8``, see :class:`Outcome`.
        split_key: ``(E,) uint64`` uniform hash that places an episode in a split for good.
    """

    file: NDArray[np.int32]
    first_row: NDArray[np.int64]
    length: NDArray[np.int32]
    outcome: NDArray[np.uint8]
    split_key: NDArray[np.uint64]

    def __len__(self) -> int:
        return len(self.length)

    @property
    def first_transition(self) -> NDArray[np.int64]:
        """``(E + 1,) int64``: id of each episode's first transition, then the total."""
        starts = np.zeros(len(self.length) + 1, np.int64)
        np.cumsum(self.length, out=starts[1:])
        return starts


def describe(
    files: Sequence[DataFile],
    refused: Sequence[RefusedFile] = (),
    *,
    joint_dim: int,
    action_dim: int,
) -> DatasetInfo:
    """The dataset that ``files`` make, the same wherever it is put together.

    Args:
        files: Ascending by id, each with digest, cameras and moments; at least one.
        refused: Files that are not served.
        joint_dim: Width of a joint vector.
        action_dim: Width of an action vector.
    """
    version = xxhash.xxh3_128()
    for file in files:
        version.update(file.file_id.encode("utf-8", "surrogateescape") + b"\0" + file.digest)
    widths = {"joint": joint_dim, "action": action_dim, "reward": 1}
    moments = {name: Moments.empty(widths[name]) for name in COLUMNS}
    for file in files:
        for name in COLUMNS:
            moments[name] = moments[name].merged(file.moments[name])
    return DatasetInfo(
        version=version.hexdigest(),
        cameras=_usual_cameras(files),
        joint_dim=joint_dim,
        action_dim=action_dim,
        transitions=sum(file.transitions for file in files),
        episodes=sum(file.episodes for file in files),
        files=tuple(files),
        refused=tuple(refused),
        dropped_rows=sum(file.dropped_rows for file in files),
        statistics={name: column.statistics() for name, column in moments.items()},
    )


def _usual_cameras(files: Sequence[DataFile]) -> tuple[Camera, ...]:
    """Each camera with the size that most files have; the first file decides a tie."""
    columns = zip(*(file.cameras for file in files), strict=True)
    return tuple(Counter(cameras).most_common(1)[0][0] for cameras in columns)
