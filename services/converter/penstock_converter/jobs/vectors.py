"""The vector of a feature, frame by frame, from one topic or from parts of several."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from penstock.errors import DataFault
from penstock_converter.frames.choice import Frames
from penstock_converter.frames.stream import FrameMessages
from penstock_converter.jobs.camera import located
from penstock_converter.mapping.model import Mapping, Part
from penstock_converter.messages.numbers import NumberDecoder
from penstock_converter.messages.schema import FeatureSchema, Schema, dtype_of
from penstock_converter.recordings.bag import Bag

__all__ = ["Vector"]


class Vector:
    """The vector of a feature, part by part.

    Args:
        bag: The recording.
        name: The feature.
        mapping: What becomes what.
        kinds: Types of the messages of its parts.
        schema: Learns what vectors look like.
    """

    def __init__(
        self, bag: Bag, name: str, mapping: Mapping, kinds: Sequence[str], schema: Schema
    ) -> None:
        feature = mapping.features[name]
        self._schema, self._dtype = schema, dtype_of(name, mapping, kinds[0])
        self._labels = feature.labels
        self._labelled = any(given.labels for given in (feature, *feature.sources))
        self._settled = False
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
        """The vector of a frame, (D,) float64; None where a part has no message.

        Raises:
            DataFault: The messages hold no such numbers, or other ones than before.
        """
        if not all(frame.messages[part.source] for part in self._parts):
            return None
        vectors = [part.of(frame, frames) for part in self._parts]
        vector = vectors[0] if len(vectors) == 1 else np.concatenate(vectors)
        if not self._settled:
            self._settle(frame, vector)
        return vector

    def _settle(self, frame: FrameMessages, vector: NDArray[np.float64]) -> None:
        """Learn what vectors look like; parts refuse whatever is unlike their first message."""
        labels = self.labels
        if labels is not None and self._labelled and len(labels) != len(vector):
            raise DataFault(
                f"{self._bag.path}: feature {self._name} has {len(vector)} elements and "
                f"{len(labels)} labels",
                reason="LABEL_COUNT",
            )
        names = tuple(labels or ())
        feature = FeatureSchema(
            self._dtype, vector.shape, names if len(names) == len(vector) else None
        )
        try:
            self._schema.settle(self._name, feature)
        except DataFault as error:
            first = self._parts[0]
            number, _ = frame.messages[first.source][0]
            raise located(error, self._bag.path, first.topic, number) from error
        self._settled = True


class _VectorPart:
    def __init__(self, bag: Bag, source: str, part: Part, decoder: NumberDecoder) -> None:
        self._bag, self.source, self.topic, self.decoder = bag, source, part.topic, decoder
        self._decoded: dict[int, NDArray[np.float64]] = {}
        self._width: int | None = None

    @property
    def labels(self) -> list[str]:
        """Names of the elements, once a message was read; by topic where they have none."""
        return self.decoder.labels or [f"{self.topic}[{n}]" for n in range(self._width or 0)]

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
            message = self._bag.decode(self.topic, data, header=self.decoder.reads_header)
            vector = self.decoder(message)
        except DataFault as error:
            raise located(error, self._bag.path, self.topic, number) from error
        if self._width not in (None, len(vector)):
            error = DataFault(
                f"{self.source} has {len(vector)} elements, but {self._width} before: repair the "
                "recording, or take elements that all messages have, e.g. field: position[0:7]",
                reason="SCHEMA_MISMATCH",
                metadata={"feature": self.source},
            )
            raise located(error, self._bag.path, self.topic, number)
        self._width = len(vector)
        return vector
