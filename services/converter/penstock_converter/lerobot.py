"""LeRobot v3.0 datasets: tables, videos and metadata, without lerobot itself.

``meta/info.json`` is written last: a folder without it is no dataset.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from penstock_converter.episode import Block
from penstock_converter.frames import Frames
from penstock_converter.images import EncodedImage, Pixels, encode_png
from penstock_converter.mapping import LeRobotOutput, Mapping
from penstock_converter.schema import FeatureSchema, Schema
from penstock_converter.shards import FILES_PER_FOLDER
from penstock_converter.spool import Spool
from penstock_converter.statistics import ImageHistogram, Statistics, of_columns
from penstock_converter.tables import TableShards, write_tasks
from penstock_converter.video import EpisodeEncoder, VideoShards, video_info

__all__ = ["LeRobotEpisode", "LeRobotWriter"]

VERSION = "v3.0"
_FRAME_COLUMNS = {
    "timestamp": "float32",
    "frame_index": "int64",
    "episode_index": "int64",
    "index": "int64",
    "task_index": "int64",
}
_EPISODE_ROWS = 100
_IMAGE_TYPE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])


class LeRobotWriter:
    """Collects episodes into one dataset.

    Args:
        root: Folder of the dataset; exists.
        scratch: Folder for what is needed until the end.
        mapping: What becomes what.
        output: The part of it for LeRobot.

    Attributes:
        joining: Whether an episode is half joined; the dataset is lost if that fails.
    """

    def __init__(self, root: Path, scratch: Path, mapping: Mapping, output: LeRobotOutput) -> None:
        self.root, self.scratch, self.mapping, self.output = root, scratch, mapping, output
        self.frames = 0
        self.episodes = 0
        self.spools: dict[str, Spool] = {}
        self._histograms: dict[str, ImageHistogram] = {}
        self._data = TableShards(root / "data", output.data_file_mb)
        self._meta = TableShards(root / "meta" / "episodes", output.data_file_mb)
        self._videos: dict[str, VideoShards] = {}
        self._rows: list[dict[str, Any]] = []
        self.joining = False

    def episode(self) -> LeRobotEpisode:
        """Begin the next episode."""
        return LeRobotEpisode(self)

    def spool(self, name: str, width: int, dtype: str) -> Spool:
        """Where the numbers of a feature are kept for statistics."""
        if name not in self.spools:
            path = self.scratch / f"{len(self.spools)}.column"
            self.spools[name] = Spool(path, width, np.dtype(dtype))
        return self.spools[name]

    def add(self, episode: LeRobotEpisode, schema: Schema) -> None:
        """Join a complete episode to the dataset."""
        self.joining = True
        length = episode.length
        shard = self._data.append(episode.table)
        row: dict[str, Any] = {
            "episode_index": self.episodes,
            "tasks": [self.mapping.task],
            "length": length,
            "data/chunk_index": shard.chunk,
            "data/file_index": shard.file,
            "dataset_from_index": self.frames,
            "dataset_to_index": self.frames + length,
        }
        for name, path in episode.videos.items():
            place = self._video(name).append(path, length)
            row[f"videos/{name}/chunk_index"] = place.shard.chunk
            row[f"videos/{name}/file_index"] = place.shard.file
            row[f"videos/{name}/from_timestamp"] = place.from_timestamp
            row[f"videos/{name}/to_timestamp"] = place.to_timestamp
        for name, histogram in episode.histograms.items():
            self._histograms.setdefault(name, ImageHistogram()).merge(histogram)
        numbers = {name: of_columns(spool.view(self.frames)) for name, spool in self.spools.items()}
        images = {name: found.statistics() for name, found in episode.histograms.items()}
        for name in self._columns(schema):
            statistics = images[name] if name in images else numbers[name]
            for key, values in _plain(statistics).items():
                row[f"stats/{name}/{key}"] = values
        self._rows.append(row)
        self.frames += length
        self.episodes += 1
        if len(self._rows) >= _EPISODE_ROWS:
            self._flush_meta()
        self.joining = False

    def finish(self, schema: Schema) -> None:
        """Write metadata and close everything; ``meta/info.json`` comes last."""
        self._flush_meta()
        self._data.close()
        self._meta.close()
        for video in self._videos.values():
            video.close()
        meta = self.root / "meta"
        write_tasks(meta / "tasks.parquet", [self.mapping.task])
        numbers = {name: of_columns(spool.view()) for name, spool in self.spools.items()}
        images = {name: found.statistics() for name, found in self._histograms.items()}
        statistics = {
            name: _plain(images[name] if name in images else numbers[name])
            for name in self._columns(schema)
        }
        (meta / "stats.json").write_text(json.dumps(statistics, indent=4), "utf-8")
        (meta / "info.json").write_text(json.dumps(self._info(schema), indent=4), "utf-8")
        self.close()

    def close(self) -> None:
        """Let go of open files."""
        self._data.close()
        self._meta.close()
        for part in (*self._videos.values(), *self.spools.values()):
            part.close()

    def _columns(self, schema: Schema) -> list[str]:
        # In the order of the mapping; cameras settle theirs in whichever order threads run.
        return [
            *(name for name in self.mapping.features if name in schema.features),
            *_FRAME_COLUMNS,
        ]

    def _video(self, name: str) -> VideoShards:
        if name not in self._videos:
            self._videos[name] = VideoShards(
                self.root / "videos" / name,
                self.mapping.fps,
                self.output.video_file_mb,
                FILES_PER_FOLDER,
            )
        return self._videos[name]

    def _flush_meta(self) -> None:
        if not self._rows:
            return
        size = sum(len(json.dumps(row)) for row in self._rows)
        shard = self._meta.peek(size)
        place = {
            "meta/episodes/chunk_index": shard.chunk,
            "meta/episodes/file_index": shard.file,
        }
        self._meta.append_rows([{**row, **place} for row in self._rows], size)
        self._rows.clear()

    def _info(self, schema: Schema) -> dict[str, Any]:
        features = {
            name: self._described(schema.features[name])
            for name in self.mapping.features
            if name in schema.features
        }
        for name, dtype in _FRAME_COLUMNS.items():
            features[name] = {"dtype": dtype, "shape": [1], "names": None}
        path = "chunk-{chunk_index:03d}/file-{file_index:03d}"
        has_videos = any(feature.dtype == "video" for feature in schema.features.values())
        return {
            "codebase_version": VERSION,
            "robot_type": self.mapping.robot_type,
            "total_episodes": self.episodes,
            "total_frames": self.frames,
            "total_tasks": 1,
            "chunks_size": FILES_PER_FOLDER,
            "data_files_size_in_mb": self.output.data_file_mb,
            "video_files_size_in_mb": self.output.video_file_mb,
            "fps": self.mapping.fps,
            "splits": {"train": f"0:{self.episodes}"},
            "data_path": f"data/{path}.parquet",
            "video_path": f"videos/{{video_key}}/{path}.mp4" if has_videos else None,
            "features": features,
        }

    def _described(self, feature: FeatureSchema) -> dict[str, Any]:
        names = list(feature.labels) if feature.labels else None
        if feature.is_image:
            names = ["height", "width", "channels"]
        described: dict[str, Any] = {
            "dtype": feature.dtype,
            "shape": list(feature.shape),
            "names": names,
        }
        if feature.dtype == "video":
            described["info"] = video_info(feature.shape, self.mapping.fps, self.output.codec)
        return described


class LeRobotEpisode:
    """One episode on its way into a dataset; files of its own until it is complete."""

    def __init__(self, writer: LeRobotWriter) -> None:
        self._writer = writer
        self._folder = writer.scratch / "episode"
        shutil.rmtree(self._folder, ignore_errors=True)
        self._folder.mkdir(parents=True)
        self.table = self._folder / "rows.parquet"
        self.videos: dict[str, Path] = {}
        self.histograms: dict[str, ImageHistogram] = {}
        self.length = 0
        self._encoders: dict[str, EpisodeEncoder] = {}
        self._parquet: pq.ParquetWriter | None = None
        self._schema: Schema | None = None
        self._cameras = 0

    def begin(self, frames: Frames) -> None:
        """Learn how long the episode is."""
        self.length = frames.count

    def pixels(
        self, feature: str, frame: int, pixels: Pixels, source: EncodedImage | None
    ) -> EncodedImage | None:
        """Encode one image, or pass on the file that it came as."""
        if frame >= self.length:
            return None
        # Each camera has a thread and keys of its own in these dictionaries.
        if feature not in self.histograms:
            self.histograms[feature] = ImageHistogram()
        self.histograms[feature].add(pixels)
        if not self._is_video(feature):
            return source or encode_png(pixels)
        if feature not in self._encoders:
            path = self._folder / f"{feature}.mp4"
            self.videos[feature] = path
            self._encoders[feature] = EpisodeEncoder(
                path, self._writer.mapping.fps, self._writer.output
            )
        self._encoders[feature].add(pixels)
        return None

    def rows(self, block: Block, schema: Schema) -> None:
        """Write rows into the episode's table."""
        self._schema = schema
        columns: dict[str, Any] = {}
        for name in self._writer.mapping.features:
            feature = schema.features[name]
            if feature.dtype == "image":
                columns[name] = _image_column(block, name)
            elif feature.dtype != "video":
                values = block.numbers[name].astype(feature.dtype)
                self._writer.spool(name, feature.shape[0], feature.dtype).append(values)
                columns[name] = _number_column(values)
        for name, values in self._frame_columns(block).items():
            self._writer.spool(name, 1, _FRAME_COLUMNS[name]).append(values[:, None])
            columns[name] = pa.array(values)
        table = pa.table(columns)
        if self._parquet is None:
            table = table.replace_schema_metadata(_hugging_face(schema))
            self._parquet = pq.ParquetWriter(self.table, table.schema, compression="snappy")
        self._parquet.write_table(table.cast(self._parquet.schema))

    def observation_after(self, numbers: dict[str, NDArray[np.float64]]) -> None:
        """Datasets of LeRobot have no place for an observation without action."""

    def close(self) -> None:
        """Finish the files and join them to the dataset."""
        self._close_table()
        for encoder in self._encoders.values():
            encoder.close()
        assert self._schema is not None  # noqa: S101 - an episode has one row at least
        self._writer.add(self, self._schema)
        shutil.rmtree(self._folder)

    def abort(self) -> None:
        """Forget the episode."""
        self._close_table()
        for encoder in self._encoders.values():
            encoder.discard()
        for spool in self._writer.spools.values():
            spool.truncate(self._writer.frames)
        shutil.rmtree(self._folder, ignore_errors=True)

    def _close_table(self) -> None:
        if self._parquet is not None:
            self._parquet.close()
            self._parquet = None

    def _is_video(self, feature: str) -> bool:
        asked = self._writer.mapping.features[feature].dtype
        return self._writer.output.video and asked != "image"

    def _frame_columns(self, block: Block) -> dict[str, NDArray[Any]]:
        frames = np.arange(block.start, block.start + block.count, dtype=np.int64)
        writer = self._writer
        return {
            "timestamp": (frames / writer.mapping.fps).astype(np.float32),
            "frame_index": frames,
            "episode_index": np.full(block.count, writer.episodes, np.int64),
            "index": frames + writer.frames,
            "task_index": np.zeros(block.count, np.int64),
        }


def _number_column(values: NDArray[Any]) -> pa.Array:
    """(n, D) as lists of a fixed size; (n, 1) as plain numbers."""
    flat = pa.array(np.ascontiguousarray(values).reshape(-1))
    if values.shape[1] == 1:
        return flat
    return pa.FixedSizeListArray.from_arrays(flat, values.shape[1])


def _image_column(block: Block, name: str) -> pa.Array:
    rows = [
        {"bytes": file.data, "path": f"frame-{block.start + offset:06d}.{file.extension}"}
        for offset, file in enumerate(block.files[name])
        if file is not None
    ]
    return pa.array(rows, _IMAGE_TYPE)


def _hugging_face(schema: Schema) -> dict[str, str]:
    """Types of columns as the datasets library keeps them, so that images open as such."""
    features: dict[str, Any] = {}
    for name, feature in schema.features.items():
        value = {"dtype": feature.dtype, "_type": "Value"}
        if feature.dtype == "image":
            features[name] = {"_type": "Image"}
        elif feature.dtype != "video":
            width = feature.shape[0]
            lists = {"feature": value, "length": width, "_type": "Sequence"}
            features[name] = value if width == 1 else lists
    for name, dtype in _FRAME_COLUMNS.items():
        features[name] = {"dtype": dtype, "_type": "Value"}
    return {"huggingface": json.dumps({"info": {"features": features}})}


def _plain(statistics: Statistics) -> dict[str, Any]:
    """Statistics as JSON and Parquet take them; counts are whole numbers."""
    return {
        name: [int(values[0])] if name == "count" else values.tolist()
        for name, values in statistics.items()
    }
