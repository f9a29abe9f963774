"""What every output of an episode does, and the blocks of rows that it takes."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from penstock_converter.frames.choice import Frames
from penstock_converter.messages.images import EncodedImage
from penstock_converter.messages.schema import Schema

__all__ = ["Block", "EpisodeSink", "Image"]


class Image(NamedTuple):
    """One image on its way to the outputs.

    Attributes:
        pixels: (H, W, 3) uint8, or (H, W) uint16 millimetres; None where no output wants them.
        source: The file that it came as; None for raw images.
    """

    pixels: NDArray[Any] | None
    source: EncodedImage | None


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

    def wants_pixels(self, feature: str, frame: int) -> bool:
        """Whether an image must be decoded; called on the thread of the camera."""
        ...

    def image(self, feature: str, frame: int, image: Image) -> EncodedImage | None:
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
        """The episode is not to be; let go of files, which somebody else removes."""
        ...
