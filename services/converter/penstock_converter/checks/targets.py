"""What frames made of a recording are compared with: tables and videos, or HDF5 files."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Protocol

import h5py
import numpy as np
from numpy.typing import NDArray

from penstock_converter.checks.comparison import Verdict, compare_images, differing_numbers
from penstock_converter.checks.dataset import Dataset
from penstock_converter.checks.findings import Check
from penstock_converter.checks.hdf5_files import episode_file, row_datasets
from penstock_converter.checks.images import CameraImages, TableColumn, open_camera
from penstock_converter.mapping.model import Hdf5Output
from penstock_converter.messages.depth import decode_depth
from penstock_converter.messages.images import decode_image, image_source

__all__ = ["Hdf5Target", "LeRobotTarget", "Target"]


class Target(Protocol):
    """A form of the dataset."""

    def check_numbers(
        self, name: str, episode: int, frame: int, vector: NDArray[np.float64]
    ) -> None:
        """Compare a vector, (D,) as the messages have it."""
        ...

    def check_image(
        self, name: str, episode: int, frame: int, message: Any, *, depth: bool
    ) -> None:
        """Compare an image message."""
        ...

    def close(self) -> None:
        """Close files."""
        ...


class LeRobotTarget:
    """Tables and videos; has no place for an observation after the last row.

    Args:
        dataset: Its table of episodes is known.
        numbers: Takes what is wrong with numbers.
        images: Takes what is wrong with images.
        bound_db: Least PSNR of a frame of a video.
    """

    def __init__(self, dataset: Dataset, numbers: Check, images: Check, bound_db: float) -> None:
        self._dataset, self._numbers, self._images = dataset, numbers, images
        self._bound_db = bound_db
        self._columns: dict[str, TableColumn] = {}
        self._cameras: dict[str, CameraImages] = {}

    def check_numbers(
        self, name: str, episode: int, frame: int, vector: NDArray[np.float64]
    ) -> None:
        """Compare a vector, (D,) as the messages have it."""
        if self._has_no_row(episode, frame):
            return
        with self._numbers.guard(episode=episode, feature=name):
            if name not in self._columns:
                self._columns[name] = TableColumn(self._dataset, name)
            column = self._columns[name]
            found = np.asarray(column.value(episode, frame)).reshape(-1)
            dtype = self._dataset.features[name]["dtype"]
            self._numbers.count("vectors")
            problem = _other_vector(found, vector, dtype, "the table")
            if problem:
                file = self._dataset.relative(column.file(episode))
                self._numbers.fail(problem, file=file, episode=episode, frame=frame, feature=name)

    def check_image(
        self, name: str, episode: int, frame: int, message: Any, *, depth: bool
    ) -> None:
        """Compare an image message."""
        if self._has_no_row(episode, frame):
            return
        dataset, check = self._dataset, self._images
        if name not in self._cameras:
            self._cameras[name] = open_camera(dataset, name)
        camera = self._cameras[name]
        picture = next(camera.of(episode, [frame]))
        check.count("images")
        verdict = Verdict(picture.problem)
        if picture.pixels is not None:
            source = None if depth else image_source(message)
            if picture.data and source is not None:
                same = picture.data == source.data
                verdict = Verdict("" if same else "is another file than the recording has")
            else:
                expected = decode_depth(message) if depth else decode_image(message)
                bound_db = self._bound_db if dataset.is_video(name) else None
                verdict = compare_images(picture.pixels, expected, bound_db, "the recording", check)
        if verdict.problem:
            file = dataset.relative(camera.file(episode))
            note = check.fail if verdict.certain else check.warn
            note(verdict.problem, file=file, episode=episode, frame=frame, feature=name)

    def close(self) -> None:
        """Close files."""
        for part in (*self._columns.values(), *self._cameras.values()):
            part.close()

    def _has_no_row(self, episode: int, frame: int) -> bool:
        table = self._dataset.episodes
        return table is None or episode >= len(table) or frame >= table.length[episode]


class Hdf5Target:
    """HDF5 files, one an episode.

    Args:
        dataset: Names files.
        folder: Where they are.
        output: Which dataset is which feature.
        numbers: Takes what is wrong with numbers.
        images: Takes what is wrong with images.
    """

    def __init__(
        self, dataset: Dataset, folder: Path, output: Hdf5Output, numbers: Check, images: Check
    ) -> None:
        self._dataset, self._folder, self._output = dataset, folder, output
        self._numbers, self._images = numbers, images
        self._episode = -1
        self._file: h5py.File | None = None

    def check_numbers(
        self, name: str, episode: int, frame: int, vector: NDArray[np.float64]
    ) -> None:
        """Compare a vector, (D,) as the messages have it."""
        path = episode_file(self._folder, episode)
        file = self._dataset.relative(path)
        for key, feature in row_datasets(self._output).items():
            if feature != name:
                continue
            with self._numbers.guard(file=file, episode=episode, feature=key):
                stored: Any = self._open(episode)[key]
                if frame >= len(stored) and key != "observations/joint":
                    continue  # the observation after the last row
                found = np.asarray(stored[frame]).reshape(-1)
                self._numbers.count("vectors")
                problem = _other_vector(found, vector, found.dtype.name, key)
                if problem:
                    self._numbers.fail(
                        problem, file=file, episode=episode, frame=frame, feature=name
                    )

    def check_image(
        self, name: str, episode: int, frame: int, message: Any, *, depth: bool
    ) -> None:
        """Compare an image message."""
        file = self._dataset.relative(episode_file(self._folder, episode))
        expected: NDArray[Any] | None = None
        for key, feature in self._output.images.items():
            if feature != name:
                continue
            with self._images.guard(file=file, episode=episode, feature=name):
                if expected is None:
                    expected = decode_depth(message) if depth else decode_image(message)
                stored: Any = self._open(episode)[f"observations/{key}"]
                self._images.count("images")
                problem, _ = compare_images(
                    np.asarray(stored[frame]), expected, None, "the recording", self._images
                )
                if problem:
                    problem = f"{key} {problem}"
                    self._images.fail(
                        problem, file=file, episode=episode, frame=frame, feature=name
                    )

    def close(self) -> None:
        """Close files."""
        if self._file is not None:
            self._file.close()
        self._file, self._episode = None, -1

    def _open(self, episode: int) -> h5py.File:
        if self._file is None or self._episode != episode:
            self.close()
            self._file = h5py.File(episode_file(self._folder, episode), "r")
            self._episode = episode
        return self._file


def _other_vector(found: NDArray[Any], vector: NDArray[np.float64], dtype: str, where: str) -> str:
    if found.size != vector.size:
        return f"has {found.size} elements in {where}, {vector.size} in the recording"
    wrong = np.flatnonzero(differing_numbers(found, vector, dtype))
    if not len(wrong):
        return ""
    at = int(wrong[0])
    return f"element {at} is {found[at]} in {where}, {vector[at]:.9g} in the recording"
