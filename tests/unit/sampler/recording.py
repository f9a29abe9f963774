"""Small recordings for tests: arrays by path, and a writer."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import h5py
import numpy as np

CAMERAS = ("left_image", "right_image", "global_image")
SIZE = (6, 8)


def arrays(
    rows: int = 10,
    *,
    observations: int | None = None,
    form: str = "A",
    cameras: Iterable[str] = CAMERAS,
    order: str = "hwc",
    size: tuple[int, int] = SIZE,
    joint_dim: int = 4,
    action_dim: int = 3,
    terminals: Iterable[int] = (),
    seed: int = 0,
) -> dict[str, Any]:
    """Arrays of a recording by their path; N+1 observations unless told otherwise."""
    rng = np.random.default_rng(seed)
    observations = rows + 1 if observations is None else observations
    prefix = "observations/" if form == "A" else ""
    shape = (*size, 3) if order == "hwc" else (3, *size)
    flags = np.zeros(rows, np.bool_)
    flags[list(terminals)] = True
    found: dict[str, Any] = {
        f"{prefix}joint": rng.normal(size=(observations, joint_dim)).astype(np.float32),
        "actions": rng.normal(size=(rows, action_dim)).astype(np.float32),
        "rewards": rng.normal(size=rows).astype(np.float32),
        "terminals": flags,
    }
    for camera in cameras:
        found[prefix + camera] = rng.integers(0, 256, (observations, *shape), np.uint8)
    return found


def write(path: Path, contents: Mapping[str, Any], **options: Any) -> Path:
    """Write arrays to an HDF5 file; options go to every dataset with more than one axis."""
    with h5py.File(path, "w") as file:
        for name, given in contents.items():
            values = np.asarray(given)
            file.create_dataset(name, data=values, **(options if values.ndim > 1 else {}))
    return path
