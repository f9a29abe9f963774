"""The images of one camera, from message to outputs, over all episodes of a recording."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from penstock.allocator import hold_in_heap
from penstock.errors import DataFault
from penstock_converter.jobs.lanes import DirectLane, Lane
from penstock_converter.mapping.model import Mapping
from penstock_converter.messages.compressed import COMPRESSED_IMAGE
from penstock_converter.messages.depth import FarPixels, decode_depth, depth_file
from penstock_converter.messages.images import EncodedImage, decode_image, image_source
from penstock_converter.messages.schema import FeatureSchema, Schema, dtype_of
from penstock_converter.outputs.sink import EpisodeSink, Image

__all__ = ["BROKEN", "Camera", "CameraLane", "Item", "located"]

BROKEN = ("IMAGE_BROKEN", "IMAGE_FORMAT", "IMAGE_SIZE")
"""Reasons of images that are damaged or cut off, which ``rosbag.broken: hold`` replaces."""


class Item(NamedTuple):
    """A message for a frame: number of the frame, of the message in its topic, and the message."""

    frame: int
    number: int
    message: Any


CameraLane = Lane[Item, EncodedImage | None] | DirectLane[Item, EncodedImage | None]


class Camera:
    """Decodes images as far as outputs want them, and counts what a person should know.

    Args:
        bag: The recording, for messages.
        name: The feature.
        mapping: What becomes what.
        kind: Type of the messages.
        schema: Learns what images look like.
    """

    def __init__(self, bag: Path, name: str, mapping: Mapping, kind: str, schema: Schema) -> None:
        self._bag, self._name, self._mapping, self._schema = bag, name, mapping, schema
        self._dtype = dtype_of(name, mapping, kind)
        self._passes_on = _passes_on(name, mapping, kind, self._dtype)
        self.topic = mapping.sources[name].topic
        self._depth = self._dtype == "depth"
        self._far = FarPixels()
        self._held, self._first_held = 0, ""
        self._shape: tuple[int, ...] | None = None
        # Of the episode at work: what was decoded last, and the last message that decoded.
        self._last: tuple[int, Any] | None = None
        self._good: Item | None = None

    def lane(self, sinks: Sequence[EpisodeSink]) -> CameraLane:
        """Where messages of the next episode go."""
        self._last = self._good = None

        def work(item: Item) -> EncodedImage | None:
            return self._take(item, sinks)

        return DirectLane(work) if self._passes_on else Lane(self._name, work)

    @property
    def in_tables(self) -> bool:
        """Whether its images are files in the rows."""
        return self._dtype in ("image", "depth")

    @property
    def warnings(self) -> list[str]:
        """What a person should look at, over all episodes."""
        told = self._far.warnings(self._name)
        if self._held:
            told.append(
                f"{self._held} frames of {self._name} take the image before; the first: "
                f"{self._first_held}"
            )
        return told

    def _take(self, item: Item, sinks: Sequence[EpisodeSink]) -> EncodedImage | None:
        wanted = any(sink.wants_pixels(self._name, item.frame) for sink in sinks)
        try:
            image, shape = self._read_or_hold(item, wanted=wanted)
            if shape != self._shape:
                self._schema.settle(self._name, FeatureSchema(self._dtype, shape))
                self._shape = shape
                hold_in_heap(math.prod(shape) * (2 if self._depth else 1))
            kept = [sink.image(self._name, item.frame, image) for sink in sinks]
        except DataFault as error:
            raise located(error, self._bag, self.topic, item.number) from error
        return next((file for file in kept if file is not None), None)

    def _read_or_hold(self, item: Item, *, wanted: bool) -> tuple[Image, tuple[int, ...]]:
        try:
            read = self._read(item, wanted=wanted)
        except DataFault as error:
            holds = self._mapping.rosbag.broken == "hold"
            if not holds or self._good is None or error.reason not in BROKEN:
                raise
            if not self._held:
                self._first_held = f"message {item.number} of topic {self.topic}: {error.message}"
            self._held += 1
            return self._read(self._good, wanted=wanted)
        self._good = item
        return read

    def _read(self, item: Item, *, wanted: bool) -> tuple[Image, tuple[int, ...]]:
        """An image and its shape; raw images have no file that could be passed on undecoded."""
        channels = 1 if self._depth else 3
        source = (depth_file if self._depth else image_source)(item.message)
        if not wanted and source is not None:
            return Image(None, source), (source.height, source.width, channels)
        if self._last is None or self._last[0] != item.number:
            pixels: Any = (decode_depth if self._depth else decode_image)(item.message)
            if self._depth:
                self._far.add(pixels)
            self._last = (item.number, pixels)
        pixels = self._last[1]
        return Image(pixels, source), (*pixels.shape[:2], channels)


def _passes_on(name: str, mapping: Mapping, kind: str, dtype: str) -> bool:
    """Whether hardly any image is decoded, as its files are kept as they came."""
    lerobot, hdf5 = mapping.outputs.lerobot, mapping.outputs.hdf5
    return (
        kind == COMPRESSED_IMAGE
        and (hdf5 is None or name not in hdf5.images.values())
        and lerobot is not None
        and lerobot.samples_images
        and (dtype == "image" or (dtype == "video" and lerobot.codec == "copy"))
    )


def located(error: DataFault, path: Path, topic: str, number: int) -> DataFault:
    """``error`` with the message that it is about."""
    return DataFault(
        f"{path}: message {number} of topic {topic}: {error.message}",
        reason=error.reason,
        metadata={**error.metadata, "topic": topic, "message": str(number)},
    )
