"""What a dataset keeps so that further episodes can be appended as if all had come at once."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Self

import numpy as np

from penstock_converter.messages.schema import Schema
from penstock_converter.outputs.shards import Shard
from penstock_converter.outputs.statistics import Histogram

__all__ = ["FilePlace", "WriterState"]


@dataclass(frozen=True)
class FilePlace:
    """The last of the numbered files of a table or a camera.

    Attributes:
        shard: Its number.
        size_bytes: Of all that was appended to it, as that was counted then.
        frames: Frames in it, of videos.
    """

    shard: Shard
    size_bytes: int
    frames: int = 0


@dataclass
class WriterState:
    """Where a ``LeRobotWriter`` stood when it had joined its last episode.

    Attributes:
        schema: What features look like.
        frames: Rows in all.
        episodes: Episodes in all.
        data: Last file of the rows.
        meta: Last file of the episodes, less those that wait.
        waiting: Rows of episodes at the end that make up the last row group.
        videos: Last file of each camera.
        histograms: Of all images of each camera.
    """

    schema: Schema
    frames: int
    episodes: int
    data: FilePlace
    meta: FilePlace
    waiting: int
    videos: dict[str, FilePlace] = field(default_factory=dict)
    histograms: dict[str, Histogram] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """As plain values."""
        return {
            "schema": self.schema.to_json(),
            "frames": self.frames,
            "episodes": self.episodes,
            "data": _place_to_json(self.data),
            "meta": _place_to_json(self.meta),
            "waiting": self.waiting,
            "videos": {name: _place_to_json(place) for name, place in self.videos.items()},
            "histograms": {name: _counts_to_json(h) for name, h in self.histograms.items()},
        }

    @classmethod
    def from_json(cls, content: dict[str, Any]) -> Self:
        """What ``to_json`` gave.

        Raises:
            KeyError, TypeError, ValueError: It is something else.
        """
        return cls(
            Schema.from_json(content["schema"]),
            int(content["frames"]),
            int(content["episodes"]),
            _place_from_json(content["data"]),
            _place_from_json(content["meta"]),
            int(content["waiting"]),
            {name: _place_from_json(place) for name, place in content["videos"].items()},
            {name: _counts_from_json(each) for name, each in content["histograms"].items()},
        )


def _place_to_json(place: FilePlace) -> list[int]:
    return [*place.shard, place.size_bytes, place.frames]


def _place_from_json(content: list[int]) -> FilePlace:
    chunk, file, size_bytes, frames = map(int, content)
    return FilePlace(Shard(chunk, file), size_bytes, frames)


def _counts_to_json(histogram: Histogram) -> dict[str, Any]:
    """Levels that occur, channel by channel: depth has 65 536 of them, and few occur."""
    occurring = [np.flatnonzero(channel) for channel in histogram.counts]
    return {
        "shape": list(histogram.counts.shape),
        "images": histogram.images,
        "levels": [levels.tolist() for levels in occurring],
        "counts": [
            channel[levels].tolist()
            for channel, levels in zip(histogram.counts, occurring, strict=True)
        ],
    }


def _counts_from_json(content: dict[str, Any]) -> Histogram:
    channels, levels = map(int, content["shape"])
    if (channels, levels) not in ((3, 256), (1, 65_536)):
        raise ValueError(f"a histogram has shape {channels}x{levels}")
    counts = np.zeros((channels, levels), np.int64)
    for channel in range(channels):
        counts[channel, content["levels"][channel]] = content["counts"][channel]
    return Histogram(counts, int(content["images"]))
