"""One recording into episodes: two passes over the bag, blocks of rows to the outputs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from penstock.errors import Cancelled, DataFault
from penstock_converter.frames.choice import Choice, Frames, choose_frames, is_image
from penstock_converter.frames.stream import FrameMessages, stream_frames
from penstock_converter.frames.timeline import Timeline, read_timeline
from penstock_converter.jobs.lanes import Lane
from penstock_converter.mapping.model import Mapping, Part
from penstock_converter.messages.depth import decode_depth
from penstock_converter.messages.images import (
    EncodedImage,
    decode_image,
    image_size,
    image_source,
)
from penstock_converter.messages.numbers import NumberDecoder
from penstock_converter.messages.schema import FeatureSchema, Schema, dtype_of
from penstock_converter.outputs.sink import Block, EpisodeSink, Image
from penstock_converter.recordings.bag import Bag, open_bag

__all__ = ["Work", "convert_recording"]

_BROKEN = ("IMAGE_BROKEN", "IMAGE_FORMAT", "IMAGE_SIZE")
"""Reasons of images that are damaged or cut off, which ``rosbag.broken: hold`` replaces."""

_IMAGE_ROWS, _NUMBER_ROWS = 64, 1024
"""Rows of a block with and without image files; settings have no say, so that files are alike."""


class Work(NamedTuple):
    """What is to be made of one recording.

    Attributes:
        path: The recording.
        mapping: What becomes what.
        sinks: Outputs of the episode of a number; all are closed, or aborted.
        memory_bytes: Memory that this process may use; a small part of it goes to messages.
    """

    path: Path
    mapping: Mapping
    sinks: Callable[[int], Sequence[EpisodeSink]]
    memory_bytes: int


class _Item(NamedTuple):
    frame: int
    number: int
    message: Any


@dataclass
class _Held:
    """Frames of a camera that take the image before, because their own does not decode."""

    frames: int = 0
    first: str = ""

    def told(self, name: str) -> str:
        return f"{self.frames} frames of {name} take the image before; the first: {self.first}"


def convert_recording(
    work: Work,
    *,
    on_frame: Callable[[int, int, int], None],
    cancelled: Callable[[], bool],
) -> tuple[Choice, Schema]:
    """Convert one recording.

    Args:
        work: What is to be made.
        on_frame: Told frames handed on, frames in all, and images of a frame.
        cancelled: Asked before each frame.

    Returns:
        The episodes, and what their features look like.

    Raises:
        DataFault: The recording does not yield an episode; names bag, topic and frame.
        Cancelled: ``cancelled`` said so.
    """
    mapping, schema = work.mapping, Schema()
    settings = mapping.rosbag
    with open_bag(work.path, salvage=settings.salvage, definitions=settings.definitions) as bag:
        timeline = read_timeline(bag, mapping)
        check_features(bag, mapping, timeline)
        choice = choose_frames(timeline, mapping, str(bag.path))
        held = {name: _Held() for name in mapping.features}
        done = 0
        images = sum(is_image(timeline.kinds[part.topic]) for part in mapping.sources.values())

        def advance() -> None:
            nonlocal done
            if cancelled():
                raise Cancelled(f"{bag.path}: the conversion was cancelled")
            done += 1
            on_frame(done, choice.frames, images)

        for number, frames in enumerate(choice.episodes):
            with ExitStack() as stack:
                sinks = work.sinks(number)
                for sink in sinks:
                    stack.callback(sink.abort)
                _Episode(bag, timeline, frames, work, schema, sinks, held).run(advance)
                for sink in sinks:
                    sink.close()
                stack.pop_all()
        told = [found.told(name) for name, found in held.items() if found.frames]
        return choice.with_warnings([*bag.warnings, *told]), schema


def check_features(bag: Bag, mapping: Mapping, timeline: Timeline) -> None:
    """Compare what the mapping asks for with the types of messages.

    Raises:
        DataFault: A feature cannot be made of its messages.
    """
    for name, feature in mapping.features.items():
        for source, part in zip(mapping.keys(name), feature.sources, strict=True):
            kind = timeline.kinds[part.topic]
            dtype_of(name, mapping, kind)
            if not is_image(kind):
                continue
            if part.align == "interpolate":
                raise DataFault(
                    f"{bag.path}: feature {name} is a camera: images are not interpolated, "
                    "use nearest or hold",
                    reason="NOT_NUMBERS",
                )
            if feature.parts is not None:
                raise DataFault(
                    f"{bag.path}: {source} is a camera (topic {part.topic}): parts are numbers, "
                    "give an image a feature of its own",
                    reason="NOT_NUMBERS",
                )


class _Episode:
    def __init__(
        self,
        bag: Bag,
        timeline: Timeline,
        frames: Frames,
        work: Work,
        schema: Schema,
        sinks: Sequence[EpisodeSink],
        held: dict[str, _Held],
    ) -> None:
        self._bag, self._timeline, self._frames = bag, timeline, frames
        self._held = held
        self._mapping, self._memory_bytes = work.mapping, work.memory_bytes
        self._schema, self._sinks = schema, sinks
        self._dtypes: dict[str, str] = {}
        self._vectors: dict[str, _Vector] = {}
        self._lanes: dict[str, Lane[_Item, EncodedImage | None]] = {}
        for name, feature in self._mapping.features.items():
            kinds = [timeline.kinds[part.topic] for part in feature.sources]
            self._dtypes[name] = dtype_of(name, self._mapping, kinds[0])
            if is_image(kinds[0]):
                self._lanes[name] = Lane(name, self._camera(name))
            else:
                self._vectors[name] = _Vector(bag, name, self._mapping, kinds)

    def run(self, advance: Callable[[], None]) -> None:
        for sink in self._sinks:
            sink.begin(self._frames)
        rows = _IMAGE_ROWS if {"image", "depth"} & set(self._dtypes.values()) else _NUMBER_ROWS
        count = self._frames.count
        gathered: dict[str, list[NDArray[np.float64]]] = {name: [] for name in self._vectors}
        start = 0
        stream = stream_frames(
            self._bag, self._timeline, self._frames, self._mapping, self._memory_bytes
        )
        try:
            for frame in stream:
                numbers = self._take(frame)
                if frame.frame == count:
                    self._finish_observation(numbers)
                    continue
                for name, vector in numbers.items():
                    gathered[name].append(vector)
                if frame.frame + 1 in (start + rows, count):
                    self._flush(start, frame.frame + 1 - start, gathered)
                    start = frame.frame + 1
                advance()
        finally:
            stream.close()
            for lane in self._lanes.values():
                lane.close()

    def _take(self, frame: FrameMessages) -> dict[str, NDArray[np.float64]]:
        """Hand images to their lanes; return the vectors."""
        for name, lane in self._lanes.items():
            for number, data in frame.messages[name]:
                message = self._bag.decode(self._mapping.sources[name].topic, data)
                lane.put(_Item(frame.frame, number, message))
                if frame.frame == 0:
                    # The first image of each camera lays out files: one after the other, so that
                    # they come out the same whichever thread is faster.
                    lane.settle()
        numbers: dict[str, NDArray[np.float64]] = {}
        for name, vector in self._vectors.items():
            found = vector.of(frame, self._frames)
            if found is None:
                continue
            numbers[name] = found
            try:
                labels = vector.labels
                names = tuple(labels) if labels and len(labels) == len(found) else None
                feature = FeatureSchema(self._dtypes[name], found.shape, names)
                self._schema.settle(name, feature)
            except DataFault as error:
                source = self._mapping.keys(name)[0]
                number, _ = frame.messages[source][0]
                topic = self._mapping.sources[source].topic
                raise located(error, self._bag.path, topic, number) from error
        return numbers

    def _camera(self, name: str) -> Callable[[_Item], EncodedImage | None]:
        """What the lane of a camera does with each message."""
        topic = self._mapping.sources[name].topic
        dtype = self._dtypes[name]
        decode = decode_depth if dtype == "depth" else decode_image
        held = self._held[name] if self._mapping.rosbag.broken == "hold" else None
        last: tuple[int, Any] | None = None
        good: _Item | None = None

        def read(item: _Item, *, wanted: bool) -> tuple[Image, tuple[int, ...]]:
            nonlocal last
            source = image_source(item.message) if dtype != "depth" else None
            # Raw images have no file that could be passed on.
            if not wanted and source is not None:
                return Image(None, source), (*image_size(item.message), 3)
            if last is None or last[0] != item.number:
                last = (item.number, decode(item.message))
            pixels = last[1]
            return Image(pixels, source), (*pixels.shape[:2], 1 if dtype == "depth" else 3)

        def work(item: _Item) -> EncodedImage | None:
            nonlocal good
            wanted = any(sink.wants_pixels(name, item.frame) for sink in self._sinks)
            try:
                try:
                    image, shape = read(item, wanted=wanted)
                    good = item
                except DataFault as error:
                    if held is None or good is None or error.reason not in _BROKEN:
                        raise
                    held.first = held.first or f"message {item.number} of {topic}: {error.message}"
                    held.frames += 1
                    image, shape = read(good, wanted=wanted)
                self._schema.settle(name, FeatureSchema(dtype, shape))
                kept = [sink.image(name, item.frame, image) for sink in self._sinks]
            except DataFault as error:
                raise located(error, self._bag.path, topic, item.number) from error
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


class _Vector:
    """The vector of a feature, part by part."""

    def __init__(self, bag: Bag, name: str, mapping: Mapping, kinds: Sequence[str]) -> None:
        feature = mapping.features[name]
        self._labels = feature.labels
        self._labelled = any(given.labels for given in (feature, *feature.sources))
        self._width: int | None = None
        self._name, self._bag = name, bag
        self._parts = [
            _VectorPart(bag, source, part, NumberDecoder(source, part, kind))
            for source, part, kind in zip(mapping.keys(name), feature.sources, kinds, strict=True)
        ]

    @property
    def labels(self) -> list[str] | None:
        """Names of the elements; None where no part has any."""
        if self._labels is not None:
            return list(self._labels)
        if not any(part.decoder.labels for part in self._parts):
            return None
        return [label for part in self._parts for label in part.labels]

    def of(self, frame: FrameMessages, frames: Frames) -> NDArray[np.float64] | None:
        """The vector of a frame, (D,) float64; None where a part has no message."""
        if not all(frame.messages[part.source] for part in self._parts):
            return None
        vectors = [part.of(frame, frames) for part in self._parts]
        vector = vectors[0] if len(vectors) == 1 else np.concatenate(vectors)
        if self._width is None:
            self._width = len(vector)
            labels = self.labels
            if labels is not None and self._labelled and len(labels) != len(vector):
                raise DataFault(
                    f"{self._bag.path}: feature {self._name} has {len(vector)} elements and "
                    f"{len(labels)} labels",
                    reason="LABEL_COUNT",
                )
        return vector


class _VectorPart:
    def __init__(self, bag: Bag, source: str, part: Part, decoder: NumberDecoder) -> None:
        self._bag, self.source, self._topic, self.decoder = bag, source, part.topic, decoder
        self._decoded: dict[int, NDArray[np.float64]] = {}
        self._width: int | None = None

    @property
    def labels(self) -> list[str]:
        """Names of the elements, once a message was read; by topic where they have none."""
        return self.decoder.labels or [f"{self._topic}[{n}]" for n in range(self._width or 0)]

    def of(self, frame: FrameMessages, frames: Frames) -> NDArray[np.float64]:
        messages = frame.messages[self.source]
        vectors = [self._decode(number, data) for number, data in messages]
        # Only what the next frame may use again.
        self._decoded = {
            number: vector for (number, _), vector in zip(messages, vectors, strict=True)
        }
        if len(vectors) == 1:
            return vectors[0]
        weight = frames.tracks[self.source].weight[frame.frame]
        return vectors[0] + weight * (vectors[1] - vectors[0])

    def _decode(self, number: int, data: bytes) -> NDArray[np.float64]:
        known = self._decoded.get(number)
        if known is not None:
            return known
        try:
            vector = self.decoder(self._bag.decode(self._topic, data))
        except DataFault as error:
            raise located(error, self._bag.path, self._topic, number) from error
        if self._width not in (None, len(vector)):
            error = DataFault(
                f"{self.source} has {len(vector)} elements, but {self._width} before: repair the "
                "recording, or take elements that all messages have, e.g. field: position[0:7]",
                reason="SCHEMA_MISMATCH",
                metadata={"feature": self.source},
            )
            raise located(error, self._bag.path, self._topic, number)
        self._width = len(vector)
        return vector


def located(error: DataFault, path: Path, topic: str, number: int) -> DataFault:
    """``error`` with the message that it is about."""
    return DataFault(
        f"{path}: message {number} of topic {topic}: {error.message}",
        reason=error.reason,
        metadata={**error.metadata, "topic": topic, "message": str(number)},
    )
