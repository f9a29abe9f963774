"""Images of a dataset by episode and frame, one at a time, out of its videos or tables."""

from __future__ import annotations

import struct
from collections.abc import Generator, Iterator, Sequence
from contextlib import ExitStack
from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple, Protocol

import av
import cv2
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from av.error import FFmpegError
from numpy.typing import NDArray

from penstock.errors import DataFault
from penstock_converter.checks.dataset import Dataset, batch_rows, matrix, open_table
from penstock_converter.checks.findings import told
from penstock_converter.messages.images import MAX_PIXELS, decode_image
from penstock_converter.outputs.shards import Shard

__all__ = ["CameraImages", "Picture", "TableColumn", "decode_file", "open_camera", "sampled"]

_SAMPLES = 5
_NEAR_FRAMES = 8
"""Frames farther ahead are sought, nearer ones are reached by decoding."""

_TABLE_ROWS = 16
_PNG = b"\x89PNG\r\n\x1a\n"
_DEPTH_PNG = (16, 0)
"""Bits and colour type of a grey PNG of 16 bits."""


class Picture(NamedTuple):
    """One image, or why there is none.

    Attributes:
        frame: Row in the episode.
        pixels: (H, W, 3) uint8 RGB, or (H, W) uint16 millimetres.
        problem: What is wrong; empty if nothing is.
        data: The file that it was in, for images in tables.
    """

    frame: int
    pixels: NDArray[Any] | None
    problem: str = ""
    data: bytes = b""


class CameraImages(Protocol):
    """Images of one camera."""

    def file(self, episode: int) -> Path:
        """The file that holds an episode."""
        ...

    def of(self, episode: int, frames: Sequence[int]) -> Generator[Picture, None, None]:
        """Images of some frames, ascending."""
        ...

    def close(self) -> None:
        """Close files."""
        ...


def sampled(count: int, *, full: bool) -> list[int]:
    """Frames of an episode that are looked at: all, or first, middle, last and two between."""
    if full or count <= _SAMPLES:
        return list(range(count))
    return np.unique(np.linspace(0, count - 1, _SAMPLES).round().astype(int)).tolist()


def open_camera(dataset: Dataset, name: str) -> CameraImages:
    """Images of a camera, in whichever form the dataset has them."""
    if dataset.is_video(name):
        return _VideoImages(dataset, name)
    return _TableImages(dataset, name)


class _VideoImages:
    """Frames of videos, found by their times."""

    def __init__(self, dataset: Dataset, name: str) -> None:
        self._dataset, self._name = dataset, name
        self._path: Path | None = None
        self._files = ExitStack()
        self._container: Any = None
        self._frames: Iterator[Any] | None = None
        self._last = 0

    def file(self, episode: int) -> Path:
        assert self._dataset.episodes is not None  # noqa: S101 - there is no episode to ask about
        places = self._dataset.episodes.videos[self._name]
        shard = Shard(int(places.chunk[episode]), int(places.file[episode]))
        return self._dataset.video_path(self._name, shard)

    def of(self, episode: int, frames: Sequence[int]) -> Generator[Picture, None, None]:
        dataset = self._dataset
        assert dataset.episodes is not None  # noqa: S101 - there is no episode to ask about
        begin_s = float(dataset.episodes.videos[self._name].begin_s[episode])
        begin = round(begin_s * dataset.fps)
        for frame in frames:
            try:
                self._open(self.file(episode))
                pixels = self._decode(begin + frame)
            except (FFmpegError, DataFault, OSError, ValueError) as error:
                self._frames = None
                problem = error.message if isinstance(error, DataFault) else told(error)
                yield Picture(frame, None, f"does not decode: {problem}")
            else:
                yield Picture(frame, pixels)

    def close(self) -> None:
        self._files.close()
        self._container = self._frames = self._path = None

    def _open(self, path: Path) -> None:
        if self._path == path and self._container is not None:
            return
        self.close()
        if not path.is_file():
            raise DataFault("the file is missing")
        self._container = self._files.enter_context(av.open(str(path)))
        self._path = path
        stream = self._container.streams.video[0]
        context = stream.codec_context
        if not 0 < context.width * context.height <= MAX_PIXELS:
            raise DataFault(f"frames of {context.height}x{context.width} are not read")
        # A thread for each core would hold frames for each, and little is decoded.
        context.thread_count = 1
        # Damage is to be found, not to be painted over.
        context.options = {"err_detect": "explode"}

    def _decode(self, number: int) -> NDArray[np.uint8]:
        stream = self._container.streams.video[0]
        ticks = Fraction(1, self._dataset.fps) / stream.time_base
        wanted = round(number * ticks)
        ahead = wanted - self._last
        frames = self._frames
        if frames is None or not 0 < ahead <= _NEAR_FRAMES * ticks:
            self._container.seek(wanted, stream=stream, backward=True)
            frames = self._container.decode(stream)
        self._frames = frames
        for frame in frames:
            if frame.pts is None:
                continue
            self._last = frame.pts
            if frame.pts == wanted:
                if frame.is_corrupt:
                    raise DataFault("the decoder says that it is damaged")
                return frame.to_ndarray(format="rgb24")
            if frame.pts > wanted:
                break
        self._frames = None
        raise DataFault(f"there is no frame {number} at {float(wanted * stream.time_base):.6f} s")


class TableColumn:
    """A column of a table by episode and frame, some rows at a time."""

    def __init__(self, dataset: Dataset, name: str) -> None:
        self._dataset, self._name = dataset, name
        self._shard: Shard | None = None
        self._table: pq.ParquetFile | None = None
        self._starts: NDArray[np.int64] = np.zeros(1, np.int64)
        self._group = -1
        self._batches: Iterator[pa.RecordBatch] = iter(())
        self._batch: Any = None
        self._row = 0
        image = dataset.features[name]["dtype"] == "image"
        self._batch_rows = _TABLE_ROWS if image else 1024

    def file(self, episode: int) -> Path:
        """The data file of an episode."""
        return self._dataset.data_path(self._dataset.data_place(episode)[0])

    def value(self, episode: int, frame: int) -> Any:
        """The value of a row, as Python has it.

        Raises:
            DataFault: The file or the row is missing.
        """
        shard, begin = self._dataset.data_place(episode)
        self._open(shard)
        row = begin + frame
        if row >= self._starts[-1]:
            raise DataFault(f"the file ends after {int(self._starts[-1])} rows")
        group = int(np.searchsorted(self._starts, row, side="right")) - 1
        if group != self._group or row < self._row:
            assert self._table is not None  # noqa: S101 - just opened
            self._batches = self._table.iter_batches(
                self._batch_rows, row_groups=[group], columns=[self._name]
            )
            self._group, self._row, self._batch = group, int(self._starts[group]), None
        while self._batch is None or row >= self._row + len(self._batch):
            self._row += 0 if self._batch is None else len(self._batch)
            self._batch = next(self._batches).column(self._name)
        return self._batch[row - self._row].as_py()

    def blocks(self, episode: int, length: int) -> Generator[tuple[int, NDArray[Any]], None, None]:
        """Numbers of an episode, (n, D), and the frame that each block begins with."""
        shard, begin = self._dataset.data_place(episode)
        self._open(shard)
        assert self._table is not None  # noqa: S101 - just opened
        width = self._dataset.width(self._name)
        first, last = (
            int(np.searchsorted(self._starts, row, side="right")) - 1
            for row in (begin, begin + length - 1)
        )
        last = min(last, len(self._starts) - 2)
        row = int(self._starts[first])
        for batch in self._table.iter_batches(
            batch_rows(width), row_groups=range(first, last + 1), columns=[self._name]
        ):
            low, high = max(begin - row, 0), min(begin + length - row, len(batch))
            if low < high:
                column = batch.column(self._name).slice(low, high - low)
                yield row + low - begin, matrix(column, width)
            row += len(batch)

    def close(self) -> None:
        """Close the file."""
        self._batches, self._batch, self._group = iter(()), None, -1
        if self._table is not None:
            self._table.close()
        self._table = self._shard = None

    def _open(self, shard: Shard) -> None:
        if self._shard == shard:
            return
        self.close()
        table = open_table(self._dataset.data_path(shard))
        metadata = table.metadata
        rows = [metadata.row_group(group).num_rows for group in range(metadata.num_row_groups)]
        self._starts = np.cumsum([0, *rows])
        self._table, self._shard = table, shard


class _TableImages:
    """Images that are files in tables."""

    def __init__(self, dataset: Dataset, name: str) -> None:
        self._column = TableColumn(dataset, name)
        self._depth = dataset.shape(name)[-1] == 1

    def file(self, episode: int) -> Path:
        return self._column.file(episode)

    def of(self, episode: int, frames: Sequence[int]) -> Generator[Picture, None, None]:
        for frame in frames:
            data = b""
            try:
                value = self._column.value(episode, frame)
                data = value.get("bytes") if isinstance(value, dict) else None
                yield Picture(frame, decode_file(data or b"", depth=self._depth), data=data or b"")
            except (DataFault, OSError, ValueError, KeyError, pa.ArrowException) as error:
                problem = error.message if isinstance(error, DataFault) else told(error)
                yield Picture(frame, None, problem, data or b"")

    def close(self) -> None:
        self._column.close()


def decode_file(data: bytes, *, depth: bool) -> NDArray[Any]:
    """Pixels of a JPEG or PNG file: (H, W, 3) uint8, or (H, W) uint16 for depth.

    Raises:
        DataFault: It does not decode, or is no image of that kind.
    """
    if not data:
        raise DataFault("the row holds no file")
    if not depth:
        return decode_image(SimpleNamespace(format="of a table", data=data))
    if len(data) < 33 or not data.startswith(_PNG):  # noqa: PLR2004 - signature and first chunk
        raise DataFault("is no PNG: depth is kept as PNG of 16 bits")
    width, height, bits, colour = struct.unpack_from(">IIBB", data, 16)
    if (bits, colour) != _DEPTH_PNG:
        raise DataFault(f"is a PNG of {bits} bits and colour type {colour}: expected 16 bits, grey")
    if not 0 < width * height <= MAX_PIXELS:
        raise DataFault(f"says that it is {height}x{width}: at most {MAX_PIXELS} pixels are read")
    pixels = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    if pixels is None:
        raise DataFault(f"a PNG of {len(data)} bytes does not decode")
    return np.asarray(pixels, np.uint16)
