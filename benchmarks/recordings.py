"""Recordings to measure on: frames as a camera gives them, and frames as a renderer gives them.

A camera's frame is a textured scene with textured objects that move, blurred by a lens, plus the
noise of a sensor (standard deviation 2 levels). The noise is what defeats dictionary coders: LZ4
gains 0-10 % on it. A rendered frame is the same scene in flat shades without noise, where any codec
looks good. Constant or purely random images would tell nothing about either.
"""

from __future__ import annotations

import argparse
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import cv2
import h5py
import numpy as np
from numpy.typing import NDArray

__all__ = ["CAMERAS", "CAMERA_SET", "MANY_SET", "RENDERED_SET", "ROWS", "DataSet", "frames"]

Kind = Literal["camera", "rendered"]

DATA = Path(__file__).parent / "data"
CAMERAS = ("left_image", "right_image", "global_image")
ROWS = 1000
SIDE = 256
EPISODE_ROWS = 250
STATE_DIM = 16
SENSOR_SIGMA = 2.0
_OBJECTS = 6
_SKY, _FLOOR = (200, 190, 180), (150, 150, 160)


@dataclass(frozen=True)
class DataSet:
    """A folder of recordings that is written once and kept.

    Attributes:
        name: Folder below ``benchmarks/data``.
        kind: What the frames look like.
        files: How many HDF5 files.
        rows: Transitions of each; one observation more.
        side: Height and width of the images, in pixels.
    """

    name: str
    kind: Kind
    files: int
    rows: int = ROWS
    side: int = SIDE

    @property
    def folder(self) -> Path:
        """Where the files are."""
        return DATA / self.name

    @property
    def target(self) -> str:
        """The target that names all of its files."""
        return f"file://{self.folder}/*.hdf5"

    def paths(self) -> list[Path]:
        """The files, which are written first if they are not there."""
        paths = [self.folder / f"{number:04d}.hdf5" for number in range(self.files)]
        missing = [path for path in paths if not path.exists()]
        if missing:
            print(f"writing {len(missing)} recordings to {self.folder} ...", flush=True)
            self.folder.mkdir(parents=True, exist_ok=True)
        for path in missing:
            staged = path.with_suffix(".part")
            _write(staged, self, seed=int(path.stem))
            staged.rename(path)
        return paths


CAMERA_SET = DataSet("camera", "camera", files=6)
RENDERED_SET = DataSet("rendered", "rendered", files=2)
MANY_SET = DataSet("many", "rendered", files=1000, rows=20, side=32)


def frames(kind: Kind, count: int, seed: int, side: int = SIDE) -> NDArray[np.uint8]:
    """Consecutive frames of one camera, ``(count, side, side, 3) uint8``.

    Args:
        kind: With sensor noise and texture, or flat.
        count: Number of frames.
        seed: Fixes scene, objects and noise.
        side: Height and width in pixels.
    """
    rng = np.random.default_rng(seed)
    textured = kind == "camera"
    scene = _scene(rng, side, textured=textured)
    sprites = [_sprite(rng, side, textured=textured, number=i) for i in range(_OBJECTS)]
    place = rng.uniform(0.1, 0.6, (_OBJECTS, 2)) * side
    speed = rng.normal(0.0, 0.006, (_OBJECTS, 2)) * side
    noise = np.rint(rng.normal(0.0, SENSOR_SIGMA, (2 * side, 2 * side, 3))).astype(np.int16)
    out = np.empty((count, side, side, 3), np.uint8)
    for index in range(count):
        frame = scene.copy()
        for (row, column), (colours, mask) in zip(place.astype(int), sprites, strict=True):
            spot = frame[row : row + len(mask), column : column + mask.shape[1]]
            shown = mask[: spot.shape[0], : spot.shape[1]]
            spot[shown] = colours[: spot.shape[0], : spot.shape[1]][shown]
        if textured:
            frame = cv2.GaussianBlur(frame, (3, 3), 0.6)
            down, right = rng.integers(0, side, 2)
            grain = noise[down : down + side, right : right + side]
            frame = np.clip(frame.astype(np.int16) + grain, 0, 255).astype(np.uint8)
        out[index] = frame
        place += speed
        away = (place < 0) | (place > 0.7 * side)
        speed[away] *= -1
        place = np.clip(place, 0, 0.7 * side)
    return out


def _fractal(rng: np.random.Generator, side: int, octaves: int = 5) -> NDArray[np.float32]:
    """Smooth noise in several octaves, about unit variance, ``(side, side, 3) float32``."""
    total = np.zeros((side, side, 3), np.float32)
    for octave in range(octaves):
        cells = 4 * 2**octave
        coarse = rng.normal(size=(cells, cells, 3)).astype(np.float32)
        total += cv2.resize(coarse, (side, side), interpolation=cv2.INTER_CUBIC) / 1.7**octave
    return total


def _scene(rng: np.random.Generator, side: int, *, textured: bool) -> NDArray[np.uint8]:
    if textured:
        return np.clip(110 + 28 * _fractal(rng, side), 0, 255).astype(np.uint8)
    scene = np.empty((side, side, 3), np.uint8)
    scene[: side // 2], scene[side // 2 :] = _SKY, _FLOOR
    rows, columns = np.mgrid[0 : side - side // 2, 0:side]
    scene[side // 2 :][(rows * 20 // side + columns * 12 // side) % 2 == 0] = (130, 110, 90)
    return scene


def _sprite(
    rng: np.random.Generator, side: int, *, textured: bool, number: int
) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
    """Colours and outline of an object."""
    height, width = (rng.uniform(0.1, 0.3, 2) * side).astype(int)
    colour = rng.uniform(30, 225, 3).astype(np.float32)
    shade = np.linspace(0.8, 1.15, height, dtype=np.float32)[:, None, None]
    colours = np.broadcast_to(colour, (height, width, 3)) * (1.0 if textured else shade)
    if textured:
        colours = colours + 12 * _fractal(rng, side)[:height, :width]
    mask = np.zeros((height, width), np.uint8)
    if number % 2:
        axes = (int(width) // 2, int(height) // 2)
        cv2.ellipse(mask, (int(width) // 2, int(height) // 2), axes, 0.0, 0, 360, 255, -1)
    else:
        mask[:] = 255
    return np.clip(colours, 0, 255).astype(np.uint8), mask > 0


def _write(path: Path, data: DataSet, seed: int) -> None:
    rng = np.random.default_rng(seed)
    terminals = np.arange(1, data.rows + 1) % EPISODE_ROWS == 0
    terminals[-1] = True
    with h5py.File(path, "w") as file:
        for number, camera in enumerate(CAMERAS):
            images = frames(data.kind, data.rows + 1, 10 * seed + number, data.side)
            file.create_dataset(f"observations/{camera}", data=images)
        joint = rng.normal(size=(data.rows + 1, STATE_DIM)).astype(np.float32)
        file["observations/joint"] = joint
        file["actions"] = rng.normal(size=(data.rows, STATE_DIM)).astype(np.float32)
        file["rewards"] = rng.normal(size=data.rows).astype(np.float32)
        file["terminals"] = terminals


def main() -> None:
    """Write the data sets, or remove them."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--remove", action="store_true", help="Remove all data instead.")
    if parser.parse_args().remove:
        shutil.rmtree(DATA, ignore_errors=True)
        return
    cv2.setNumThreads(1)
    for data in (CAMERA_SET, RENDERED_SET, MANY_SET):
        data.paths()


if __name__ == "__main__":
    main()
