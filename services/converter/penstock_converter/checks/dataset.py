"""A LeRobot dataset as it lies on disk, opened as far as it can be opened."""

from __future__ import annotations

import json
import math
from collections.abc import Generator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray
from pydantic import ValidationError

from penstock.errors import DataFault
from penstock_converter.jobs.outcome import Outcome, read_outcome
from penstock_converter.mapping.model import Mapping
from penstock_converter.outputs.shards import Shard, shard_path

__all__ = [
    "FRAME_COLUMNS",
    "Dataset",
    "Episodes",
    "VideoPlaces",
    "matrix",
    "open_dataset",
    "open_table",
]

FRAME_COLUMNS = {
    "timestamp": "float32",
    "frame_index": "int64",
    "episode_index": "int64",
    "index": "int64",
    "task_index": "int64",
}
"""Columns of every dataset and their types."""

IMAGE_DTYPES = ("video", "image")
_MAX_INFO_BYTES = 1 << 26
_BATCH_NUMBERS = 1 << 20


class VideoPlaces(NamedTuple):
    """Where the frames of one camera are, by episode: (E,) each."""

    chunk: NDArray[np.int64]
    file: NDArray[np.int64]
    begin_s: NDArray[np.float64]
    end_s: NDArray[np.float64]


@dataclass(frozen=True)
class Episodes:
    """The table of episodes without its statistics: a few numbers an episode, (E,) each.

    Attributes:
        number: ``episode_index``.
        length: Rows.
        start: Number of the first row in the dataset.
        stop: Number after the last row.
        chunk: Folder of the data file.
        file: Number of the data file.
        meta: (E, 2) where the row says it lies.
        lies: (E, 2) where it lies.
        videos: By camera.
        tasks: Texts.
    """

    number: NDArray[np.int64]
    length: NDArray[np.int64]
    start: NDArray[np.int64]
    stop: NDArray[np.int64]
    chunk: NDArray[np.int64]
    file: NDArray[np.int64]
    meta: NDArray[np.int64]
    lies: NDArray[np.int64]
    videos: dict[str, VideoPlaces]
    tasks: list[tuple[str, ...]]

    def __len__(self) -> int:
        return len(self.number)

    def of_data_file(self, shard: Shard) -> NDArray[np.int64]:
        """Episodes in a data file, in order."""
        return np.flatnonzero((self.chunk == shard.chunk) & (self.file == shard.file))

    def of_video_file(self, camera: str, shard: Shard) -> NDArray[np.int64]:
        """Episodes in a video file of a camera, in order."""
        places = self.videos[camera]
        return np.flatnonzero((places.chunk == shard.chunk) & (places.file == shard.file))


@dataclass
class Dataset:
    """What could be opened.

    Attributes:
        root: Its folder.
        info: ``meta/info.json``; empty if it cannot be read.
        statistics: ``meta/stats.json``; empty if it cannot be read.
        tasks: Text by number.
        episodes: None if the table cannot be read.
        outcome: ``conversion.json``; None if a converter of another kind made the dataset.
        mapping: The mapping in it; None if it is of another version.
    """

    root: Path
    info: dict[str, Any] = field(default_factory=dict[str, Any])
    statistics: dict[str, Any] = field(default_factory=dict[str, Any])
    tasks: dict[int, str] = field(default_factory=dict[int, str])
    episodes: Episodes | None = None
    outcome: Outcome | None = None
    mapping: Mapping | None = None
    _places: dict[Shard, tuple[NDArray[np.int64], NDArray[np.int64]]] = field(
        default_factory=dict[Shard, Any]
    )

    @property
    def features(self) -> dict[str, dict[str, Any]]:
        """What ``info.json`` says of features that it describes as it should."""
        found = self.info.get("features")
        if not isinstance(found, dict):
            return {}
        return {
            str(name): each
            for name, each in found.items()
            if isinstance(each, dict)
            and isinstance(each.get("dtype"), str)
            and isinstance(each.get("shape"), list)
            and all(type(side) is int and side > 0 for side in each["shape"])
        }

    @property
    def fps(self) -> int:
        """Frames a second; 0 if ``info.json`` does not tell."""
        fps = self.info.get("fps")
        return fps if type(fps) is int and fps > 0 else 0

    @property
    def cameras(self) -> list[str]:
        """Features that are images."""
        return [name for name, each in self.features.items() if each["dtype"] in IMAGE_DTYPES]

    @property
    def numbers(self) -> list[str]:
        """Features that are numbers, and the columns of every dataset."""
        others = (*IMAGE_DTYPES, "string")
        return [name for name, each in self.features.items() if each["dtype"] not in others]

    def is_video(self, name: str) -> bool:
        """Whether the feature is in videos."""
        return self.features[name]["dtype"] == "video"

    def shape(self, name: str) -> tuple[int, ...]:
        """Shape of a feature."""
        return tuple(self.features[name]["shape"])

    def width(self, name: str) -> int:
        """Numbers of a row."""
        return math.prod(self.shape(name))

    def data_path(self, shard: Shard) -> Path:
        """A data file."""
        return shard_path(self.root / "data", shard, "parquet")

    def video_path(self, name: str, shard: Shard) -> Path:
        """A video file."""
        return shard_path(self.root / "videos" / name, shard, "mp4")

    def data_shards(self) -> list[Shard]:
        """Data files that episodes name, in order."""
        episodes = self.episodes
        return [] if episodes is None else shards_of(episodes.chunk, episodes.file)

    def video_shards(self, name: str) -> list[Shard]:
        """Video files of a camera that episodes name, in order."""
        if self.episodes is None or name not in self.episodes.videos:
            return []
        places = self.episodes.videos[name]
        return shards_of(places.chunk, places.file)

    def rows_of(self, shard: Shard) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Episodes of a data file, and the row in it after each."""
        if shard not in self._places:
            assert self.episodes is not None  # noqa: S101 - data_shards would be empty
            inside = self.episodes.of_data_file(shard)
            self._places[shard] = inside, np.cumsum(self.episodes.length[inside])
        return self._places[shard]

    def data_place(self, episode: int) -> tuple[Shard, int]:
        """Data file of an episode and its first row there."""
        episodes = self.episodes
        assert episodes is not None  # noqa: S101 - there are no episodes to ask about
        shard = Shard(int(episodes.chunk[episode]), int(episodes.file[episode]))
        inside, ends = self.rows_of(shard)
        at = int(np.searchsorted(inside, episode))
        return shard, int(ends[at] - episodes.length[episode])

    def relative(self, path: Path) -> str:
        """Path as findings name it."""
        return str(path.relative_to(self.root)) if path.is_relative_to(self.root) else str(path)

    def episode_files(self) -> list[Path]:
        """Files of the table of episodes, in order."""
        return sorted((self.root / "meta" / "episodes").glob("chunk-*/file-*.parquet"))

    def episode_statistics(
        self, name: str
    ) -> Generator[tuple[str, dict[str, list[float]]], None, None]:
        """File and stated statistics of a feature, episode by episode."""
        prefix = f"stats/{name}/"
        for path in self.episode_files():
            with open_table(path) as table:
                columns = [c for c in table.schema_arrow.names if c.startswith(prefix)]
                # A column is asked for beside them, or there would be no rows without statistics.
                asked = [*columns, "episode_index"]
                for batch in table.iter_batches(100, columns=asked):
                    for row in batch.select(asked).to_pylist():
                        yield (
                            self.relative(path),
                            {c.removeprefix(prefix): row[c] for c in columns},
                        )


def open_dataset(root: Path) -> Dataset:
    """A dataset of which only ``conversion.json`` is read yet."""
    outcome = read_outcome(root)
    mapping = None
    if outcome is not None:
        with suppress(ValidationError):
            mapping = Mapping.model_validate(outcome.mapping)
    return Dataset(root, outcome=outcome, mapping=mapping)


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object.

    Raises:
        DataFault: It is missing, too large, or no object.
    """
    if not path.is_file():
        raise DataFault("is missing")
    if path.stat().st_size > _MAX_INFO_BYTES:
        raise DataFault(f"has {path.stat().st_size} bytes, at most {_MAX_INFO_BYTES} are read")
    content = json.loads(path.read_text("utf-8"))
    if not isinstance(content, dict):
        raise DataFault(f"holds a {type(content).__name__}: expected an object")
    return {str(key): value for key, value in content.items()}


def read_tasks(root: Path) -> dict[int, str]:
    """``meta/tasks.parquet``: text by number."""
    with open_table(root / "meta" / "tasks.parquet") as source:
        table = source.read()
    texts = next((n for n in ("__index_level_0__", "task") if n in table.column_names), None)
    if texts is None or "task_index" not in table.column_names:
        raise DataFault(f"has columns {table.column_names}: expected task_index and the texts")
    numbers = table["task_index"].to_pylist()
    if len(set(numbers)) != len(numbers):
        raise DataFault(f"task_index repeats: {numbers}")
    return dict(zip(numbers, table[texts].to_pylist(), strict=True))


def read_episodes(dataset: Dataset) -> Episodes:
    """The table of episodes, file by file.

    Raises:
        DataFault: There is none, or a column is missing.
    """
    files = dataset.episode_files()
    if not files:
        raise DataFault("there is no meta/episodes/chunk-000/file-000.parquet")
    videos = [name for name in dataset.cameras if dataset.is_video(name)]
    needed = [
        "episode_index",
        "length",
        "dataset_from_index",
        "dataset_to_index",
        "data/chunk_index",
        "data/file_index",
        *(f"meta/episodes/{part}" for part in ("chunk_index", "file_index")),
    ]
    parts = ("chunk_index", "file_index", "from_timestamp", "to_timestamp")
    needed += [f"videos/{name}/{part}" for name in videos for part in parts]
    columns: dict[str, list[NDArray[Any]]] = {name: [] for name in needed}
    lies: list[NDArray[np.int64]] = []
    tasks: list[tuple[str, ...]] = []
    for path in files:
        with open_table(path) as source:
            present = set(source.schema_arrow.names)
            missing = [name for name in (*needed, "tasks") if name not in present]
            if missing:
                raise DataFault(f"{dataset.relative(path)} has no column {', '.join(missing)}")
            table = source.read([*needed, "tasks"])
        for name in needed:
            columns[name].append(table[name].to_numpy())
        tasks += [tuple(each or ()) for each in table["tasks"].to_pylist()]
        place = [int(path.parent.name.split("-")[1]), int(path.stem.split("-")[1])]
        lies.append(np.tile(np.array(place, np.int64), (table.num_rows, 1)))
    joined = {name: np.concatenate(pieces) for name, pieces in columns.items()}
    for name, values in joined.items():
        if values.dtype.kind not in "iuf" or (values.dtype.kind == "f" and np.isnan(values).any()):
            raise DataFault(f"column {name} of meta/episodes has rows without a number")
    whole = {n: v.astype(np.int64) for n, v in joined.items() if not n.endswith("timestamp")}
    return Episodes(
        number=whole["episode_index"],
        length=whole["length"],
        start=whole["dataset_from_index"],
        stop=whole["dataset_to_index"],
        chunk=whole["data/chunk_index"],
        file=whole["data/file_index"],
        meta=np.stack([whole[f"meta/episodes/{p}_index"] for p in ("chunk", "file")], axis=1),
        lies=np.concatenate(lies),
        videos={
            name: VideoPlaces(
                whole[f"videos/{name}/chunk_index"],
                whole[f"videos/{name}/file_index"],
                joined[f"videos/{name}/from_timestamp"].astype(np.float64),
                joined[f"videos/{name}/to_timestamp"].astype(np.float64),
            )
            for name in videos
        },
        tasks=tasks,
    )


def shards_of(chunks: NDArray[np.int64], files: NDArray[np.int64]) -> list[Shard]:
    """The different files, in order."""
    pairs = np.unique(np.stack([chunks, files], axis=1), axis=0)
    return [Shard(int(chunk), int(file)) for chunk, file in pairs]


def open_table(path: Path) -> pq.ParquetFile:
    """A Parquet file that is read piece by piece."""
    if not path.is_file():
        raise DataFault("is missing")
    return pq.ParquetFile(path, pre_buffer=False, buffer_size=1 << 20)


def batch_rows(width: int) -> int:
    """Rows of a batch of a column of ``width`` numbers."""
    return max(1, _BATCH_NUMBERS // max(width, 1))


def matrix(column: pa.Array, width: int) -> NDArray[Any]:
    """Numbers, or lists of them, as (n, width).

    Raises:
        DataFault: Rows are empty, or of another width.
    """
    count = len(column)
    array: Any = column
    while True:
        if array.null_count:
            raise DataFault(f"{array.null_count} of {len(array)} values are missing (null)")
        if isinstance(array, pa.ExtensionArray):
            array = array.storage
        elif pa.types.is_nested(array.type) and not pa.types.is_struct(array.type):
            array = array.flatten()
        else:
            break
    values = array.to_numpy(zero_copy_only=False)
    if values.size != count * width:
        raise DataFault(f"{count} rows hold {values.size} numbers: expected {width} each")
    return values.reshape(count, width)
