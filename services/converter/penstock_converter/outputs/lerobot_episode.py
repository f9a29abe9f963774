"""One episode for a LeRobot dataset, in a folder of its own until it is joined."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from penstock_converter.frames.choice import Frames
from penstock_converter.mapping.model import LeRobotOutput, Mapping
from penstock_converter.messages.images import EncodedImage, encode_png
from penstock_converter.messages.schema import Schema
from penstock_converter.outputs.sink import Block, Image
from penstock_converter.outputs.statistics import Histogram
from penstock_converter.outputs.video import EpisodeCopier, EpisodeEncoder

__all__ = ["HISTOGRAMS", "ROWS", "LeRobotEpisode", "video_file"]

ROWS = "rows.parquet"
HISTOGRAMS = "histograms.npz"
COMPRESSION = "snappy"
_IMAGE_TYPE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
_SAMPLE_PERIOD_S, _SAMPLES_LEAST = 3, 10
"""Images of an episode that stand for all come so far apart, and there are so many at least."""

_SAMPLED_SIDE = 150
"""Pixels of the longer side that stand for all, about; LeRobot leaves out others, too."""


class _Video(Protocol):
    def add(self, image: Image) -> None: ...

    def close(self) -> None: ...

    def discard(self) -> None: ...


def video_file(folder: Path, feature: str) -> Path:
    """Where the video of a feature is kept until its episode is joined."""
    return folder / f"{feature}.mp4"


class LeRobotEpisode:
    """Writes the table of an episode without its numbers in the dataset, videos and histograms.

    Args:
        folder: Where to; exists, and is removed by whoever made it.
        mapping: What becomes what.
        output: The part of it for LeRobot.
    """

    def __init__(self, folder: Path, mapping: Mapping, output: LeRobotOutput) -> None:
        self._folder, self._mapping, self._output = folder, mapping, output
        self._length = 0
        self._sampled_every = 1
        self._encodes = output.codec != "copy"
        features = mapping.features.items() if output.video else ()
        self._filmed = {name for name, each in features if each.dtype in (None, "video")}
        self._deep = {name for name, each in mapping.features.items() if each.dtype == "depth"}
        self._histograms: dict[str, Histogram] = {}
        self._videos: dict[str, _Video] = {}
        self._parquet: pq.ParquetWriter | None = None

    def begin(self, frames: Frames) -> None:
        """Learn how long the episode is."""
        self._length = frames.count
        if self._output.samples_images:
            period = _SAMPLE_PERIOD_S * self._mapping.fps
            self._sampled_every = max(min(period, frames.count // _SAMPLES_LEAST), 1)

    def wants_pixels(self, feature: str, frame: int) -> bool:
        """Encoders want all of them, statistics those that are sampled."""
        if frame >= self._length:
            return False
        encoded = self._encodes and feature in self._filmed
        return encoded or feature in self._deep or frame % self._sampled_every == 0

    def image(self, feature: str, frame: int, image: Image) -> EncodedImage | None:
        """Encode one image, or pass on the file that it came as."""
        if frame >= self._length:
            return None
        # Each camera has a thread and keys of its own in these dictionaries.
        if image.pixels is not None and frame % self._sampled_every == 0:
            if feature not in self._histograms:
                self._histograms[feature] = Histogram.like(image.pixels)
            self._histograms[feature].add(self._sampled(image.pixels))
        if feature not in self._filmed:
            if image.source is not None:
                return image.source
            assert image.pixels is not None  # noqa: S101 - raw images and depth are decoded
            return encode_png(image.pixels)
        if feature not in self._videos:
            path, fps = video_file(self._folder, feature), self._mapping.fps
            self._videos[feature] = (
                EpisodeEncoder(path, fps, self._output, self._length)
                if self._encodes
                else EpisodeCopier(path, fps, self._length)
            )
        self._videos[feature].add(image)
        return None

    def rows(self, block: Block, schema: Schema) -> None:
        """Write rows into the episode's table."""
        columns: dict[str, Any] = {}
        for name in self._mapping.features:
            feature = schema.features[name]
            if feature.dtype in ("image", "depth"):
                columns[name] = _image_column(block, name)
            elif feature.dtype != "video":
                columns[name] = _number_column(block.numbers[name].astype(feature.dtype))
        table = pa.table(columns)
        if not columns:
            # A table without columns forgets how many rows it has.
            table = pa.table({"": pa.nulls(block.count)})
        if self._parquet is None:
            path = self._folder / ROWS
            self._parquet = pq.ParquetWriter(path, table.schema, compression=COMPRESSION)
        self._parquet.write_table(table)

    def observation_after(self, numbers: dict[str, NDArray[np.float64]]) -> None:
        """Datasets of LeRobot have no place for an observation without action."""

    def close(self) -> None:
        """Finish the files."""
        self._close_table()
        for video in self._videos.values():
            video.close()
        # Names of features may hold what names in archives may not.
        arrays: dict[str, Any] = {
            "names": np.array(list(self._histograms), np.str_),
            "images": np.array([found.images for found in self._histograms.values()], np.int64),
        }
        for index, found in enumerate(self._histograms.values()):
            arrays[f"counts_{index}"] = found.counts
        np.savez(self._folder / HISTOGRAMS, **arrays)

    def abort(self) -> None:
        """Let go of the files."""
        self._close_table()
        for video in self._videos.values():
            video.discard()

    def _sampled(self, pixels: NDArray[Any]) -> NDArray[Any]:
        if not self._output.samples_images:
            return pixels
        step = max(max(pixels.shape[:2]) // _SAMPLED_SIDE, 1)
        return np.ascontiguousarray(pixels[::step, ::step])

    def _close_table(self) -> None:
        if self._parquet is not None:
            self._parquet.close()
            self._parquet = None


def _number_column(values: NDArray[Any]) -> pa.Array:
    """(n, D) as lists of a fixed size; (n, 1) as plain numbers."""
    flat = pa.array(np.ascontiguousarray(values).reshape(-1))
    if values.shape[1] == 1:
        return flat
    return pa.FixedSizeListArray.from_arrays(flat, values.shape[1])


def _image_column(block: Block, name: str) -> pa.Array:
    rows = [
        {"bytes": bytes(file.data), "path": f"frame-{block.start + offset:06d}.{file.extension}"}
        for offset, file in enumerate(block.files[name])
        if file is not None
    ]
    return pa.array(rows, _IMAGE_TYPE)
