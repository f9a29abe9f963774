"""Pictures of a dataset, for people: what cameras saw, and how numbers went."""

from __future__ import annotations

from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any

import cv2
import h5py
import numpy as np
from numpy.typing import NDArray

from penstock.disk import full_disk_named
from penstock_converter.checks.curves import Series, thin_curves
from penstock_converter.checks.dataset import Dataset, batch_rows
from penstock_converter.checks.findings import Check
from penstock_converter.checks.hdf5_files import episode_file, row_datasets
from penstock_converter.checks.images import TableColumn, open_camera
from penstock_converter.checks.plots import plot_vector
from penstock_converter.checks.sheet import draw_sheet, draw_tile

__all__ = ["draw_pictures"]

_EPISODES, _FRAMES = 3, 3
"""Episodes of a picture, and images of each."""


def draw_pictures(dataset: Dataset, hdf5: Path | None, folder: Path, check: Check) -> list[Path]:
    """Draw a contact sheet of each camera and a plot of each vector.

    Args:
        dataset: What is drawn; its HDF5 files where it has no tables.
        hdf5: Folder of the HDF5 files.
        folder: Where the pictures go; made if needed.
        check: Takes what could not be drawn, as warnings.

    Returns:
        The pictures.
    """
    folder.mkdir(parents=True, exist_ok=True)
    drawn: list[Path] = []
    sheets, plots = _of_lerobot(dataset) if dataset.episodes is not None else ({}, {})
    if not sheets and not plots and hdf5 is not None:
        sheets, plots = _of_hdf5(dataset, hdf5)
    for name, draw in {**sheets, **plots}.items():
        path = folder / f"{name.replace('/', '.')}.png"
        try:
            image = draw()
            with full_disk_named(f"writing {path}"):
                _save(image, path)
        except Exception as error:  # noqa: BLE001 - what is broken is told by other checks
            check.warn(f"cannot be drawn: {type(error).__name__}: {error}", feature=name)
            continue
        check.count("pictures")
        drawn.append(path)
    return drawn


Jobs = dict[str, Callable[[], NDArray[np.uint8]]]


def _of_lerobot(dataset: Dataset) -> tuple[Jobs, Jobs]:
    assert dataset.episodes is not None  # noqa: S101 - the caller knows
    lengths = dataset.episodes.length
    episodes = _spread(len(lengths), _EPISODES)

    def sheet(name: str) -> NDArray[np.uint8]:
        camera = open_camera(dataset, name)
        rows: list[list[NDArray[np.uint8]]] = []
        try:
            for episode in episodes:
                frames = _spread(int(lengths[episode]), _FRAMES)
                rows.append(
                    [
                        draw_tile(
                            picture.pixels,
                            _caption(episode, picture.frame, dataset.fps),
                            picture.problem,
                        )
                        for picture in camera.of(episode, frames)
                    ]
                )
        finally:
            camera.close()
        return draw_sheet(_title(dataset, name), rows)

    def series(name: str) -> list[Series]:
        column = TableColumn(dataset, name)
        try:
            return [
                (episode, *thin_curves(column.blocks(episode, length), length))
                for episode, length in zip(episodes, lengths[episodes].tolist(), strict=True)
            ]
        finally:
            column.close()

    def plot(name: str) -> NDArray[np.uint8]:
        names = dataset.features[name].get("names")
        return plot_vector(name, series(name), dataset.fps, _labels(names))

    own = ("frame_index", "episode_index", "index", "task_index", "timestamp")
    numbers = [name for name in dataset.numbers if name not in own]
    return (
        {name: lambda name=name: sheet(name) for name in dataset.cameras},
        {name: lambda name=name: plot(name) for name in numbers if dataset.fps},
    )


def _of_hdf5(dataset: Dataset, folder: Path) -> tuple[Jobs, Jobs]:
    count = len(list(folder.glob("episode_*.hdf5")))
    episodes = _spread(count, _EPISODES)
    mapping = dataset.mapping
    output = mapping.outputs.hdf5 if mapping is not None else None
    if mapping is None or output is None or not count:
        return {}, {}
    fps = mapping.fps

    def sheet(key: str) -> NDArray[np.uint8]:
        rows: list[list[NDArray[np.uint8]]] = []
        for episode in episodes:
            with h5py.File(episode_file(folder, episode), "r") as file:
                stored: Any = file[f"observations/{key}"]
                rows.append(
                    [
                        draw_tile(np.asarray(stored[frame]), _caption(episode, frame, fps), "")
                        for frame in _spread(len(stored), _FRAMES)
                    ]
                )
        return draw_sheet(f"{key}: {mapping.task}", rows)

    def plot(key: str) -> NDArray[np.uint8]:
        found: list[Series] = []
        for episode in episodes:
            with h5py.File(episode_file(folder, episode), "r") as file:
                stored: Any = file[key]
                found.append((episode, *thin_curves(_hdf5_blocks(stored), len(stored))))
        return plot_vector(key, found, fps, None)

    return (
        {key: lambda key=key: sheet(key) for key in output.images},
        {key: lambda key=key: plot(key) for key in row_datasets(output)},
    )


def _hdf5_blocks(stored: Any) -> Generator[tuple[int, NDArray[Any]], None, None]:
    """Numbers of an HDF5 dataset, (n, D), and the row that each block begins with."""
    width = int(np.prod(stored.shape[1:]))
    rows = batch_rows(width)
    for start in range(0, len(stored), rows):
        block = np.asarray(stored[start : start + rows])
        yield start, block.reshape(len(block), width)


def _spread(count: int, most: int) -> list[int]:
    if not count:
        return []
    return np.unique(np.linspace(0, count - 1, most).round().astype(np.int64)).tolist()


def _caption(episode: int, frame: int, fps: int) -> str:
    time = f", {frame / fps:.2f} s" if fps else ""
    return f"episode {episode}, frame {frame}{time}"


def _title(dataset: Dataset, name: str) -> str:
    height, width, channels = dataset.shape(name)
    kind = dataset.features[name]["dtype"] if channels > 1 else "depth in mm"
    return f"{name}: {height}x{width}, {kind}"


def _labels(names: Any) -> list[str] | None:
    return [str(name) for name in names] if isinstance(names, list) else None


def _save(image: NDArray[np.uint8], path: Path) -> None:
    done, data = cv2.imencode(".png", image)
    if not done:
        raise RuntimeError(f"a picture of shape {image.shape} cannot be written as PNG")
    part = path.with_name(f".{path.name}.part")
    try:
        part.write_bytes(data.tobytes())
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)
