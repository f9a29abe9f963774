"""LeRobot v3.0 datasets: tables, videos and metadata, without lerobot itself.

``meta/info.json`` is written last: a folder without it is no dataset.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from penstock_converter.mapping.model import LeRobotOutput, Mapping
from penstock_converter.messages.schema import FeatureSchema, Schema
from penstock_converter.outputs.appending import FilePlace, WriterState
from penstock_converter.outputs.lerobot_episode import HISTOGRAMS, ROWS, video_file
from penstock_converter.outputs.shards import FILES_PER_FOLDER, shards_in
from penstock_converter.outputs.spool import Spool
from penstock_converter.outputs.statistics import (
    Histogram,
    Statistics,
    of_columns,
)
from penstock_converter.outputs.tables import TableShards, write_tasks
from penstock_converter.outputs.video import VideoShards, video_info

__all__ = ["LeRobotWriter", "StagedEpisode"]

VERSION = "v3.0"
_FRAME_COLUMNS = {
    "timestamp": "float32",
    "frame_index": "int64",
    "episode_index": "int64",
    "index": "int64",
    "task_index": "int64",
}
_FRAME_BYTES = 36
"""What the columns of every dataset add to a row, before compression."""

_META_PLACE = "meta/episodes/"
_EPISODE_ROWS = 100


class StagedEpisode(NamedTuple):
    """A complete episode that waits to be joined.

    Attributes:
        folder: Its files, as ``LeRobotEpisode`` writes them.
        length: Rows.
    """

    folder: Path
    length: int


class LeRobotWriter:
    """Joins episodes into one dataset; nothing is encoded again.

    Args:
        root: Folder of the dataset; exists.
        scratch: Folder for what is needed until the end.
        mapping: What becomes what.
        output: The part of it for LeRobot.
        schema: What the features of all episodes look like.
    """

    def __init__(
        self, root: Path, scratch: Path, mapping: Mapping, output: LeRobotOutput, schema: Schema
    ) -> None:
        self.root, self.scratch, self.mapping, self.output = root, scratch, mapping, output
        self.schema = schema
        self.frames = 0
        self.episodes = 0
        self._spools: dict[str, Spool] = {}
        self._histograms: dict[str, Histogram] = {}
        self._data = TableShards(root / "data", output.data_file_mb)
        self._meta = TableShards(root / "meta" / "episodes", output.data_file_mb)
        self._videos: dict[str, VideoShards] = {}
        self._rows: list[dict[str, Any]] = []

    def add(self, episode: StagedEpisode) -> None:
        """Join a complete episode to the dataset."""
        length = episode.length
        table = episode.folder / ROWS
        size = table.stat().st_size + length * _FRAME_BYTES
        shard = self._data.append(self._tables(table), size)
        row: dict[str, Any] = {
            "episode_index": self.episodes,
            "tasks": [self.mapping.task],
            "length": length,
            "data/chunk_index": shard.chunk,
            "data/file_index": shard.file,
            "dataset_from_index": self.frames,
            "dataset_to_index": self.frames + length,
        }
        for name, feature in self._features():
            if feature.dtype != "video":
                continue
            place = self._video(name).append(video_file(episode.folder, name), length)
            row[f"videos/{name}/chunk_index"] = place.shard.chunk
            row[f"videos/{name}/file_index"] = place.shard.file
            row[f"videos/{name}/from_timestamp"] = place.from_timestamp
            row[f"videos/{name}/to_timestamp"] = place.to_timestamp
        images: dict[str, Statistics] = {}
        for name, histogram in _histograms(episode.folder).items():
            images[name] = histogram.statistics()
            if name in self._histograms:
                self._histograms[name].merge(histogram)
            else:
                self._histograms[name] = histogram
        row.update(self._row_statistics(images))
        self._rows.append(row)
        self.frames += length
        self.episodes += 1
        if len(self._rows) >= _EPISODE_ROWS:
            self._flush_meta()

    def resume(self, dataset: Path, state: WriterState) -> None:
        """Go on with a finished dataset, whose files are linked or copied and stay as they are.

        Args:
            dataset: Its folder.
            state: Where its writer stood.
        """
        self.frames, self.episodes = state.frames, state.episodes
        self._histograms.update(state.histograms)
        files = shards_in(dataset / "data", "parquet")
        self._recall(files)
        self._data.resume(files, state.data.shard, state.data.size_bytes)
        files = shards_in(dataset / "meta" / "episodes", "parquet")
        skip = 0
        if state.waiting:
            last = pq.ParquetFile(files[-1])
            waiting = last.read_row_group(last.num_row_groups - 1).to_pylist()
            self._rows = [
                {key: value for key, value in row.items() if not key.startswith(_META_PLACE)}
                for row in waiting
            ]
            if last.num_row_groups > 1:
                skip = 1
            else:
                files = files[:-1]
        if files:
            place = state.meta
            self._meta.resume(files, place.shard, place.size_bytes, skip=skip, rows_of_lists=True)
        for name, place in state.videos.items():
            self._video(name).resume(shards_in(dataset / "videos" / name, "mp4"), place)

    def finish(self) -> WriterState:
        """Write metadata and close everything; ``meta/info.json`` comes last.

        Returns:
            What ``resume`` takes to append further episodes one day.
        """
        state = WriterState(
            self.schema,
            self.frames,
            self.episodes,
            FilePlace(*self._data.place),
            FilePlace(*self._meta.place),
            len(self._rows),
            {name: video.place for name, video in self._videos.items()},
            self._histograms,
        )
        self._flush_meta()
        self._data.close()
        self._meta.close()
        for video in self._videos.values():
            video.finish()
        meta = self.root / "meta"
        write_tasks(meta / "tasks.parquet", [self.mapping.task])
        numbers = {name: of_columns(spool.view()) for name, spool in self._spools.items()}
        images = {name: found.statistics() for name, found in self._histograms.items()}
        statistics = {
            name: _plain(images[name] if name in images else numbers[name])
            for name in self._columns()
        }
        (meta / "stats.json").write_text(json.dumps(statistics, indent=4), "utf-8")
        (meta / "info.json").write_text(json.dumps(self._info(), indent=4), "utf-8")
        self.close()
        return state

    def close(self) -> None:
        """Let go of open files."""
        self._data.close()
        self._meta.close()
        for spool in self._spools.values():
            spool.close()

    def _features(self) -> Iterator[tuple[str, FeatureSchema]]:
        # In the order of the mapping; cameras settle theirs in whichever order threads run.
        for name in self.mapping.features:
            yield name, self.schema.features[name]

    def _columns(self) -> list[str]:
        return [*self.mapping.features, *_FRAME_COLUMNS]

    def _tables(self, path: Path) -> Iterator[pa.Table]:
        """Row groups of an episode with the columns that every dataset has."""
        metadata = _hugging_face(dict(self._features()))
        start = 0
        with pq.ParquetFile(path) as source:
            for group in range(source.num_row_groups):
                table = source.read_row_group(group)
                count = table.num_rows
                columns = dict(zip(table.column_names, table.columns, strict=True))
                columns.pop("", None)
                for name, feature in self._features():
                    if not feature.is_image:
                        self._keep(name, _matrix(columns[name], count), feature.dtype)
                for name, values in self._frame_columns(start, count).items():
                    self._keep(name, values[:, None], _FRAME_COLUMNS[name])
                    columns[name] = pa.chunked_array([pa.array(values)])
                start += count
                yield pa.table(columns).replace_schema_metadata(metadata)

    def _recall(self, files: Sequence[Path]) -> None:
        """Read the numbers of rows that are there, for statistics of the whole dataset."""
        dtypes = {name: f.dtype for name, f in self._features() if not f.is_image}
        dtypes.update(_FRAME_COLUMNS)
        for file in files:
            with pq.ParquetFile(file) as source:
                for group in range(source.num_row_groups):
                    table = source.read_row_group(group, list(dtypes))
                    for name, dtype in dtypes.items():
                        self._keep(name, _matrix(table[name], table.num_rows), dtype)

    def _frame_columns(self, start: int, count: int) -> dict[str, NDArray[Any]]:
        frames = np.arange(start, start + count, dtype=np.int64)
        return {
            "timestamp": (frames / self.mapping.fps).astype(np.float32),
            "frame_index": frames,
            "episode_index": np.full(count, self.episodes, np.int64),
            "index": frames + self.frames,
            "task_index": np.zeros(count, np.int64),
        }

    def _keep(self, name: str, values: NDArray[Any], dtype: str) -> None:
        """Keep numbers for statistics of the whole dataset."""
        if name not in self._spools:
            path = self.scratch / f"{len(self._spools)}.column"
            self._spools[name] = Spool(path, values.shape[1], np.dtype(dtype))
        self._spools[name].append(values)

    def _row_statistics(self, images: dict[str, Statistics]) -> dict[str, Any]:
        numbers = {
            name: of_columns(spool.view(self.frames)) for name, spool in self._spools.items()
        }
        return {
            f"stats/{name}/{key}": values
            for name in self._columns()
            for key, values in _plain(images[name] if name in images else numbers[name]).items()
        }

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
        place = {f"{_META_PLACE}chunk_index": shard.chunk, f"{_META_PLACE}file_index": shard.file}
        self._meta.append_rows([{**row, **place} for row in self._rows], size)
        self._rows.clear()

    def _info(self) -> dict[str, Any]:
        features = {name: self._described(name, feature) for name, feature in self._features()}
        for name, dtype in _FRAME_COLUMNS.items():
            features[name] = {"dtype": dtype, "shape": [1], "names": None}
        path = "chunk-{chunk_index:03d}/file-{file_index:03d}"
        has_videos = any(feature.dtype == "video" for _, feature in self._features())
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

    def _described(self, name: str, feature: FeatureSchema) -> dict[str, Any]:
        names = list(feature.labels) if feature.labels else None
        if feature.is_image:
            names = ["height", "width", "channels"]
        described: dict[str, Any] = {
            "dtype": "image" if feature.dtype == "depth" else feature.dtype,
            "shape": list(feature.shape),
            "names": names,
        }
        if feature.dtype == "video":
            described["info"] = video_info(
                feature.shape,
                self.mapping.fps,
                self.output.codec,
                self._videos[name].pixel_format,
            )
        return described


def _histograms(folder: Path) -> dict[str, Histogram]:
    with np.load(folder / HISTOGRAMS, allow_pickle=False) as archive:
        return {
            name: Histogram(archive[f"counts_{index}"], int(archive["images"][index]))
            for index, name in enumerate(archive["names"].tolist())
        }


def _matrix(column: pa.ChunkedArray, count: int) -> NDArray[Any]:
    """A column of numbers or lists of a fixed size as (n, D)."""
    array = column.combine_chunks()
    if pa.types.is_fixed_size_list(array.type):
        # Not by its method `flatten`, for which pyarrow first makes all functions that it has.
        width = array.type.list_size
        values = array.values.slice(array.offset * width, count * width)
        return values.to_numpy(zero_copy_only=False).reshape(count, -1)
    return array.to_numpy(zero_copy_only=False)[:, None]


def _hugging_face(described: dict[str, FeatureSchema]) -> dict[str, str]:
    """Types of columns as the datasets library keeps them, so that images open as such."""
    features: dict[str, Any] = {}
    for name, feature in described.items():
        value = {"dtype": feature.dtype, "_type": "Value"}
        if feature.dtype in ("image", "depth"):
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
