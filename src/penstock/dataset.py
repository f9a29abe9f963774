"""What a dataset is to a client: cameras, dimensions, files, statistics, and its episode table."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import IntEnum

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "Camera",
    "ColumnStatistics",
    "DataFile",
    "DatasetInfo",
    "EpisodeTable",
    "Outcome",
    "RefusedFile",
]


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
class ColumnStatistics:
    """Statistics of one column over all servable transitions, each array ``(D,) float32``."""

    mean: NDArray[np.float32]
    std: NDArray[np.float32]
    min: NDArray[np.float32]
    max: NDArray[np.float32]
    count: int


@dataclass(frozen=True)
class DataFile:
    """One file of the dataset; ``file_id`` is the same on every replica that holds a copy."""

    file_id: str
    size_bytes: int
    rows: int
    held: bool = True


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
    codecs: tuple[str, ...] = ("raw", "lz4")

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
