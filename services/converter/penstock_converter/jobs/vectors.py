"""The vectors of a feature, some frames at a time, from one topic or from parts of several."""

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
    """The vectors of a feature, part by part.

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

    @property
    def sources(self) -> list[str]:
        """Of its parts."""
        return [part.source for part in self._parts]

    def rows(self, found: Sequence[FrameMessages], frames: Frames) -> NDArray[np.float64]:
        """The vectors of frames for which every part has a message, (N, D) float64.

        Raises:
            DataFault: The messages hold no such numbers, or other ones than before.
        """
        parts = [part.rows(found, frames) for part in self._parts]
        rows = parts[0] if len(parts) == 1 else np.concatenate(parts, axis=1)
        if not self._settled:
            self._settle(found[0], rows[0])
        return rows

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
        self._width: int | None = None

    @property
    def labels(self) -> list[str]:
        """Names of the elements, once a message was read; by topic where they have none."""
        return self.decoder.labels or [f"{self.topic}[{n}]" for n in range(self._width or 0)]

    def rows(self, found: Sequence[FrameMessages], frames: Frames) -> NDArray[np.float64]:
        messages = [frame.messages[self.source] for frame in found]
        # Frames share messages where these are fewer, or are blended.
        different = dict(pair for pairs in messages for pair in pairs)
        place = {number: row for row, number in enumerate(different)}
        vectors = self._decode_all(different)
        rows = vectors[[place[pairs[0][0]] for pairs in messages]]
        blended = [row for row, pairs in enumerate(messages) if len(pairs) > 1]
        if blended:
            second = vectors[[place[messages[row][1][0]] for row in blended]]
            numbers = [found[row].frame for row in blended]
            weight = frames.tracks[self.source].weight[numbers]
            rows[blended] += weight[:, np.newaxis] * (second - rows[blended])
        return rows

    def _decode_all(self, messages: dict[int, bytes]) -> NDArray[np.float64]:
        """The vectors of messages by their numbers, (N, D)."""
        if self.decoder.per_joint and self._width is not None:
            states = self._bag.decode_alike(self.topic, list(messages.values()))
            rows = None if states is None else self.decoder.rows(states)
            if rows is not None and rows.shape[1] == self._width:
                return rows
        return np.stack([self._decode(number, data) for number, data in messages.items()])

    def _decode(self, number: int, data: bytes) -> NDArray[np.float64]:
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
