"""One recording into episodes: two passes over the bag, blocks of rows to the outputs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack, closing
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from penstock.allocator import heap_given_back
from penstock.errors import Cancelled, DataFault
from penstock.failpoints import failpoint
from penstock_converter.frames.choice import Choice, Frames, choose_frames, is_image
from penstock_converter.frames.stream import FrameMessages, stream_frames
from penstock_converter.frames.timeline import Timeline, read_timeline
from penstock_converter.jobs.camera import Camera, Item
from penstock_converter.jobs.garbage import rare_collections
from penstock_converter.jobs.vectors import Vector
from penstock_converter.mapping.model import Mapping
from penstock_converter.messages.schema import Schema, dtype_of
from penstock_converter.outputs.sink import Block, EpisodeSink
from penstock_converter.recordings.bag import Bag, open_bag

__all__ = ["Work", "convert_recording"]

_IMAGE_ROWS, _NUMBER_ROWS = 64, 1024
"""Rows of a block with and without image files; settings have no say, so that files are alike."""

_NUMBERS_TOGETHER, _NUMBERS_BYTES = 64, 1 << 20
"""Frames, or bytes of messages, whose numbers are decoded together."""


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
    with (
        rare_collections(),
        heap_given_back(),
        open_bag(work.path, salvage=settings.salvage, definitions=settings.definitions) as bag,
    ):
        timeline = read_timeline(bag, mapping)
        check_features(bag, mapping, timeline)
        choice = choose_frames(timeline, mapping, str(bag.path))
        timeline = timeline.without_stamps()
        cameras, vectors = _sources(bag, mapping, timeline, schema)
        done, frames_in_all = 0, choice.frames

        def advance() -> None:
            nonlocal done
            if cancelled():
                raise Cancelled(f"{bag.path}: the conversion was cancelled")
            failpoint("converter.stage.frame")
            done += 1
            on_frame(done, frames_in_all, len(cameras))

        for number, frames in enumerate(choice.episodes):
            with ExitStack() as stack:
                sinks = work.sinks(number)
                for sink in sinks:
                    stack.callback(sink.abort)
                stream = stream_frames(bag, timeline, frames, mapping, work.memory_bytes)
                with closing(stream), closing(_Episode(frames, cameras, vectors, sinks)) as episode:
                    for frame in stream:
                        episode.take(frame, bag, schema)
                        if frame.frame < frames.count:
                            advance()
                for sink in sinks:
                    sink.close()
                stack.pop_all()
        told = [warning for camera in cameras.values() for warning in camera.warnings]
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


def _sources(
    bag: Bag, mapping: Mapping, timeline: Timeline, schema: Schema
) -> tuple[dict[str, Camera], dict[str, Vector]]:
    """What takes the messages of each feature."""
    cameras: dict[str, Camera] = {}
    vectors: dict[str, Vector] = {}
    for name, feature in mapping.features.items():
        kinds = [timeline.kinds[part.topic] for part in feature.sources]
        if is_image(kinds[0]):
            cameras[name] = Camera(bag.path, name, mapping, kinds[0], schema)
        else:
            vectors[name] = Vector(bag, name, mapping, kinds, schema)
    return cameras, vectors


class _Episode:
    """Puts frames together and hands blocks of them to the outputs."""

    def __init__(
        self,
        frames: Frames,
        cameras: dict[str, Camera],
        vectors: dict[str, Vector],
        sinks: Sequence[EpisodeSink],
    ) -> None:
        self._frames, self._cameras, self._vectors, self._sinks = frames, cameras, vectors, sinks
        for sink in sinks:
            sink.begin(frames)
        self._lanes = {name: camera.lane(sinks) for name, camera in cameras.items()}
        in_tables = any(camera.in_tables for camera in cameras.values())
        self._rows = _IMAGE_ROWS if in_tables else _NUMBER_ROWS
        self._gathered: dict[str, list[NDArray[np.float64]]] = {name: [] for name in vectors}
        self._sources = [source for vector in vectors.values() for source in vector.sources]
        self._waiting: list[FrameMessages] = []
        self._waiting_bytes = 0
        self._start = 0

    def close(self) -> None:
        """End the threads."""
        for lane in self._lanes.values():
            lane.close()

    def take(self, frame: FrameMessages, bag: Bag, schema: Schema) -> None:
        """Take the next frame."""
        for name, lane in self._lanes.items():
            for number, data in frame.messages[name]:
                message = bag.decode(self._cameras[name].topic, data)
                lane.put(Item(frame.frame, number, message))
                if frame.frame == 0:
                    # The first image of each camera lays out files: one after the other, so that
                    # they come out the same whichever thread is faster.
                    lane.settle()
        if frame.frame == self._frames.count:
            self._finish_observation(frame)
            return
        # Not its images, which are larger by far.
        numbers = {source: frame.messages[source] for source in self._sources}
        self._waiting.append(FrameMessages(frame.frame, numbers))
        self._waiting_bytes += sum(len(data) for pairs in numbers.values() for _, data in pairs)
        if len(self._waiting) == _NUMBERS_TOGETHER or self._waiting_bytes > _NUMBERS_BYTES:
            self._decode_numbers()
        if frame.frame + 1 in (self._start + self._rows, self._frames.count):
            self._flush(frame.frame + 1 - self._start, schema)

    def _decode_numbers(self) -> None:
        if self._waiting:
            for name, vector in self._vectors.items():
                self._gathered[name].append(vector.rows(self._waiting, self._frames))
        self._waiting.clear()
        self._waiting_bytes = 0

    def _flush(self, count: int, schema: Schema) -> None:
        self._decode_numbers()
        files = {name: lane.take(count) for name, lane in self._lanes.items()}
        numbers = {name: np.concatenate(rows) for name, rows in self._gathered.items()}
        for vectors in self._gathered.values():
            vectors.clear()
        block = Block(self._start, count, numbers, files)
        self._start += count
        for sink in self._sinks:
            sink.rows(block, schema)

    def _finish_observation(self, frame: FrameMessages) -> None:
        numbers = {
            name: vector.rows([frame], self._frames)[0]
            for name, vector in self._vectors.items()
            if all(frame.messages[source] for source in vector.sources)
        }
        for name, lane in self._lanes.items():
            if self._frames.tracks[name].first[self._frames.count] >= 0:
                lane.take(1)
        for sink in self._sinks:
            sink.observation_after(numbers)
