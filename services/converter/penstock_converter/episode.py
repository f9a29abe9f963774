"""One recording into one episode: two passes over the bag, blocks of rows to the outputs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from penstock.errors import Cancelled, DataFault
from penstock_converter.bag import Bag, open_bag
from penstock_converter.frames import Frames, choose_frames, is_image
from penstock_converter.images import EncodedImage, Pixels, decode_image, image_source
from penstock_converter.lanes import Lane
from penstock_converter.mapping import Mapping
from penstock_converter.numbers import NumberDecoder
from penstock_converter.schema import Schema, dtype_of
from penstock_converter.stream import FrameMessages, stream_frames
from penstock_converter.timeline import read_timeline

__all__ = ["Block", "EpisodeSink", "convert_episode"]

_IMAGE_ROWS, _NUMBER_ROWS = 64, 1024
"""Rows of a block with and without image files; settings have no say, so that files are alike."""


@dataclass
class Block:
    """Rows that follow each other.

    Attributes:
        start: Number of the first row.
        numbers: (n, D) float64 by feature.
        files: n image files by feature, for outputs that keep them in tables.
    """

    start: int
    count: int = 0
    numbers: dict[str, NDArray[np.float64]] = field(default_factory=dict)
    files: dict[str, list[EncodedImage | None]] = field(default_factory=dict)


class EpisodeSink(Protocol):
    """An output that takes one episode."""

    def begin(self, frames: Frames) -> None:
        """Learn how long the episode is."""
        ...

    def pixels(
        self, feature: str, frame: int, pixels: Pixels, source: EncodedImage | None
    ) -> EncodedImage | None:
        """Take one image; called on the thread of the camera, in the order of frames.

        Returns:
            The file to keep in the table, for outputs that do so.
        """
        ...

    def rows(self, block: Block, schema: Schema) -> None:
        """Take rows; all their images have been taken."""
        ...

    def observation_after(self, numbers: dict[str, NDArray[np.float64]]) -> None:
        """Take the observation after the last row; its images have been taken."""
        ...

    def close(self) -> None:
        """The episode is complete."""
        ...

    def abort(self) -> None:
        """The episode is not to be; leave nothing of it."""
        ...


class _Item(NamedTuple):
    frame: int
    number: int
    message: Any


def convert_episode(
    path: Path,
    mapping: Mapping,
    schema: Schema,
    sinks: Sequence[EpisodeSink],
    *,
    on_frame: Callable[[int, int, int], None],
    cancelled: Callable[[], bool],
) -> Frames:
    """Convert one recording.

    Args:
        path: The recording.
        mapping: What becomes what.
        schema: Features of the dataset, extended by what this episode settles.
        sinks: Outputs; all are closed when this returns and aborted when it raises.
        on_frame: Told frames handed on, frames in all, and images of a frame.
        cancelled: Asked before each frame.

    Raises:
        DataFault: The recording does not yield an episode; names bag, topic and frame.
        Cancelled: ``cancelled`` said so.
    """
    with ExitStack() as stack:
        for sink in sinks:
            stack.callback(sink.abort)
        with open_bag(path) as bag:
            frames = _Conversion(bag, mapping, schema, sinks).run(on_frame, cancelled)
        for sink in sinks:
            sink.close()
        stack.pop_all()
    return frames


class _Conversion:
    def __init__(
        self, bag: Bag, mapping: Mapping, schema: Schema, sinks: Sequence[EpisodeSink]
    ) -> None:
        self._bag, self._mapping, self._schema, self._sinks = bag, mapping, schema, sinks
        self._timeline = read_timeline(bag, mapping)
        self._dtypes: dict[str, str] = {}
        self._decoders: dict[str, NumberDecoder] = {}
        self._decoded: dict[str, dict[int, NDArray[np.float64]]] = {}
        self._lanes: dict[str, Lane[_Item, EncodedImage | None]] = {}
        for name, feature in mapping.features.items():
            kind = self._timeline.kinds[feature.topic]
            self._dtypes[name] = dtype_of(name, mapping, kind)
            if is_image(kind):
                if feature.align == "interpolate":
                    raise DataFault(
                        f"{bag.path}: feature {name} is a camera: images are not interpolated, "
                        "use nearest or hold",
                        reason="NOT_NUMBERS",
                    )
                self._lanes[name] = Lane(name, self._camera(name))
            else:
                self._decoders[name] = NumberDecoder(name, feature, kind)
        self._frames = choose_frames(self._timeline, mapping, str(bag.path))

    def run(
        self, on_frame: Callable[[int, int, int], None], cancelled: Callable[[], bool]
    ) -> Frames:
        for sink in self._sinks:
            sink.begin(self._frames)
        rows = _IMAGE_ROWS if "image" in self._dtypes.values() else _NUMBER_ROWS
        count = self._frames.count
        gathered: dict[str, list[NDArray[np.float64]]] = {name: [] for name in self._decoders}
        start = 0
        stream = stream_frames(self._bag, self._timeline, self._frames, self._mapping)
        try:
            for frame in stream:
                if cancelled():
                    raise Cancelled(f"{self._bag.path}: the conversion was cancelled")
                numbers = self._take(frame)
                if frame.frame == count:
                    self._finish_observation(numbers)
                    continue
                for name, vector in numbers.items():
                    gathered[name].append(vector)
                if frame.frame + 1 in (start + rows, count):
                    self._flush(start, frame.frame + 1 - start, gathered)
                    start = frame.frame + 1
                on_frame(frame.frame + 1, count, len(self._lanes))
        finally:
            stream.close()
            for lane in self._lanes.values():
                lane.close()
        return self._frames

    def _take(self, frame: FrameMessages) -> dict[str, NDArray[np.float64]]:
        """Hand images to their lanes; return the vectors."""
        numbers: dict[str, NDArray[np.float64]] = {}
        for name, messages in frame.messages.items():
            if not messages:
                continue
            topic = self._mapping.features[name].topic
            if name in self._lanes:
                number, data = messages[0]
                message = self._bag.decode(topic, data)
                self._lanes[name].put(_Item(frame.frame, number, message))
                if frame.frame == 0:
                    # The first image of each camera lays out files: one after the other, so that
                    # they come out the same whichever thread is faster.
                    self._lanes[name].settle()
                continue
            vectors = [self._vector(name, number, data) for number, data in messages]
            numbers[name] = vectors[0]
            if len(vectors) > 1:
                weight = self._frames.tracks[name].weight[frame.frame]
                numbers[name] = vectors[0] + weight * (vectors[1] - vectors[0])
            # Only what the next frame may use again.
            self._decoded[name] = {
                number: vector for (number, _), vector in zip(messages, vectors, strict=True)
            }
        return numbers

    def _vector(self, name: str, number: int, data: bytes) -> NDArray[np.float64]:
        known = self._decoded.get(name, {}).get(number)
        if known is not None:
            return known
        topic = self._mapping.features[name].topic
        decoder = self._decoders[name]
        try:
            vector = decoder(self._bag.decode(topic, data))
            self._schema.settle(name, self._dtypes[name], vector.shape, decoder.labels)
        except DataFault as error:
            raise _located(error, self._bag.path, topic, number) from error
        return vector

    def _camera(self, name: str) -> Callable[[_Item], EncodedImage | None]:
        """What the lane of a camera does with each message."""
        topic = self._mapping.features[name].topic
        last: tuple[int, Pixels] | None = None

        def work(item: _Item) -> EncodedImage | None:
            nonlocal last
            try:
                if last is None or last[0] != item.number:
                    last = (item.number, decode_image(item.message))
                pixels = last[1]
                self._schema.settle(name, self._dtypes[name], pixels.shape)
                source = image_source(item.message)
                kept = [sink.pixels(name, item.frame, pixels, source) for sink in self._sinks]
            except DataFault as error:
                raise _located(error, self._bag.path, topic, item.number) from error
            return next((file for file in kept if file is not None), None)

        return work

    def _flush(
        self, start: int, count: int, gathered: dict[str, list[NDArray[np.float64]]]
    ) -> None:
        files = {name: lane.take(count) for name, lane in self._lanes.items()}
        numbers = {name: np.stack(vectors) for name, vectors in gathered.items()}
        for vectors in gathered.values():
            vectors.clear()
        block = Block(start, count, numbers, files)
        for sink in self._sinks:
            sink.rows(block, self._schema)

    def _finish_observation(self, numbers: dict[str, NDArray[np.float64]]) -> None:
        for name, lane in self._lanes.items():
            if self._frames.tracks[name].first[self._frames.count] >= 0:
                lane.take(1)
        for sink in self._sinks:
            sink.observation_after(numbers)


def _located(error: DataFault, path: Path, topic: str, number: int) -> DataFault:
    return DataFault(
        f"{path}: message {number} of topic {topic}: {error.message}",
        reason=error.reason,
        metadata={**error.metadata, "topic": topic, "message": str(number)},
    )
