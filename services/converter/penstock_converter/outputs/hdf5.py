"""HDF5 files as the sampler reads them: observations in a group, one file an episode."""

from __future__ import annotations

import math
import os
import threading
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from penstock.errors import DataFault
from penstock_converter.frames.choice import Frames
from penstock_converter.mapping.model import Hdf5Output, Mapping
from penstock_converter.messages.images import EncodedImage
from penstock_converter.messages.schema import Schema
from penstock_converter.outputs.sink import Block, Image

__all__ = ["Hdf5Episode"]

_METADATA_BYTES = 1 << 18
"""Room for all that is no data: headers of a few datasets, and attributes."""


class Hdf5Episode:
    """Writes one episode.

    ``observations/joint`` (N, J) float32 and ``observations/<image>`` (N, H, W, 3) uint8, or N + 1
    of them when there is an observation after the last row; ``actions`` (N, A) float32,
    ``rewards`` (N,) float32, ``terminals`` (N,) bool; ``truncateds`` (N,) bool where frames were
    left out between rows. Datasets are contiguous, so that an image is one read.

    Args:
        path: File to write.
        mapping: Which feature is what.
        output: The part of it for HDF5.
        source: Name of the recording, kept as an attribute.
    """

    def __init__(self, path: Path, mapping: Mapping, output: Hdf5Output, source: str) -> None:
        self._path, self._output = path, output
        self._frames: Frames | None = None
        # Cameras come on their own threads; making a dataset is more than one call of HDF5.
        self._lock = threading.Lock()
        self._file = h5py.File(path, "w", libver="v110")
        self._reserved_bytes = 0
        try:
            self._reserve(_METADATA_BYTES)
        except OSError:
            self._file.close()
            raise
        self._file.attrs.update({"source": source, "fps": mapping.fps, "task": mapping.task})
        self._group = self._file.create_group("observations")
        self._images: dict[str, list[str]] = {}
        for dataset, feature in output.images.items():
            self._images.setdefault(feature, []).append(dataset)

    def begin(self, frames: Frames) -> None:
        """Learn how long the episode is."""
        self._frames = frames

    def wants_pixels(self, feature: str, frame: int) -> bool:
        """All images that are datasets are decoded."""
        del frame
        return feature in self._images

    def image(self, feature: str, frame: int, image: Image) -> EncodedImage | None:
        """Write one image."""
        pixels: Any = image.pixels
        for name in self._images.get(feature, ()):
            with self._lock:
                dataset: Any = self._group.get(name)
                if dataset is None:
                    shape = (self._expected.observations, *pixels.shape)
                    dataset = self._create(f"observations/{name}", shape, pixels.dtype)
                dataset[frame] = pixels
        return None

    def rows(self, block: Block, schema: Schema) -> None:
        """Write rows of numbers."""
        del schema
        output, count = self._output, self._expected.count
        numbers = block.numbers
        for feature in self._images:
            if feature in numbers:
                raise DataFault(
                    f"outputs.hdf5.images names {feature}, which is no camera",
                    reason="NOT_AN_IMAGE",
                )
        joint = self._vectors("joint", output.joint, numbers, np.float32)
        self._write("observations/joint", self._expected.observations, block.start, joint)
        actions = self._vectors("actions", output.actions, numbers, np.float32)
        self._write("actions", count, block.start, actions)
        rewards = self._scalars("rewards", output.rewards, numbers)
        self._write("rewards", count, block.start, rewards.astype(np.float32))
        terminals = self._scalars("terminals", output.terminals, numbers)
        self._write("terminals", count, block.start, terminals != 0)

    def observation_after(self, numbers: dict[str, NDArray[np.float64]]) -> None:
        """Write the joints of the observation after the last row."""
        joint = numbers[self._output.joint][None].astype(np.float32)
        self._write("observations/joint", self._expected.observations, self._expected.count, joint)

    def close(self) -> None:
        """Finish the file."""
        if self._expected.cut_after.any():
            self._write("truncateds", self._expected.count, 0, self._expected.cut_after)
        self._file.flush()
        size_bytes = self._file.id.get_filesize()
        self._file.close()
        os.truncate(self._path, size_bytes)

    def abort(self) -> None:
        """Let go of the file."""
        self._file.close()

    @property
    def _expected(self) -> Frames:
        assert self._frames is not None  # noqa: S101 - begin comes first
        return self._frames

    def _vectors(
        self, role: str, name: str, numbers: dict[str, NDArray[np.float64]], dtype: Any
    ) -> NDArray[Any]:
        if name not in numbers:
            raise DataFault(
                f"outputs.hdf5.{role} is {name}, which is a camera: name a feature of numbers",
                reason="NOT_NUMBERS",
            )
        return numbers[name].astype(dtype)

    def _scalars(
        self, role: str, name: str, numbers: dict[str, NDArray[np.float64]]
    ) -> NDArray[np.float64]:
        values = self._vectors(role, name, numbers, np.float64)
        if values.shape[1] != 1:
            raise DataFault(
                f"outputs.hdf5.{role} is {name}, which has {values.shape[1]} elements: one number "
                "a frame is needed, choose it by field, e.g. data[0]",
                reason="NOT_A_SCALAR",
            )
        return values[:, 0]

    def _write(self, name: str, length: int, start: int, values: NDArray[Any]) -> None:
        with self._lock:
            dataset: Any = self._file.get(name)
            if dataset is None:
                shape = (length, *values.shape[1:])
                dataset = self._create(name, shape, values.dtype)
            dataset[start : start + len(values)] = values

    def _create(self, name: str, shape: tuple[int, ...], dtype: np.dtype[Any]) -> h5py.Dataset:
        """Make a dataset on space that is there for sure.

        HDF5 writes late, and crashes the process when it meets a full disk while closing: so the
        disk is asked first.
        """
        self._reserve(math.prod(shape) * dtype.itemsize)
        return self._file.create_dataset(name, shape, dtype)

    def _reserve(self, size_bytes: int) -> None:
        self._reserved_bytes += size_bytes
        with self._path.open("r+b") as file:
            os.posix_fallocate(file.fileno(), 0, self._reserved_bytes)
