"""Replicas of the sampler in this process, each over a folder of its own, and how to compare."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path

import h5py
import numpy as np
from penstock_sampler.backend import open_backend
from penstock_sampler.service import SamplerService

from penstock.batch import Batch
from penstock.server import RunningServer, ServerSettings, start
from penstock.targets import Target

__all__ = ["addresses", "assert_same", "replica", "share_out", "write_files"]

CAMERAS = ("left_image", "right_image", "global_image")


def write_files(
    folder: Path, rows: Iterable[int] = (30, 41, 25), size: tuple[int, int] = (12, 16)
) -> Path:
    """Files ``0.hdf5``, ``1.hdf5``, ... with noise; each ends terminal, and holds two episodes."""
    folder.mkdir(exist_ok=True)
    for number, count in enumerate(rows):
        rng = np.random.default_rng(number)
        with h5py.File(folder / f"{number}.hdf5", "w") as file:
            group = file.create_group("observations")
            group["joint"] = rng.normal(size=(count, 5)).astype(np.float32)
            for camera in CAMERAS:
                group[camera] = rng.integers(0, 256, (count, *size, 3), dtype=np.uint8)
            file["actions"] = rng.normal(size=(count, 4)).astype(np.float32)
            file["rewards"] = rng.normal(size=count).astype(np.float32)
            terminals = np.zeros(count, np.uint8)
            terminals[[count // 3, count - 1]] = 1
            file["terminals"] = terminals
    return folder


def share_out(source: Path, folder: Path, files: Iterable[int]) -> Path:
    """A folder with copies of some of the files."""
    folder.mkdir()
    for number in files:
        shutil.copy(source / f"{number}.hdf5", folder / f"{number}.hdf5")
    return folder


@contextlib.contextmanager
def replica(folder: Path, port: int = 0) -> Iterator[RunningServer]:
    """A replica that serves all files of a folder."""
    backend = open_backend(Target.parse(f"file://{folder}/*.hdf5"))
    try:
        service = SamplerService(backend, 8 << 20, 16)
        with start("sampler", ServerSettings(port=port), service.register) as server:
            yield server
    finally:
        backend.close()


def addresses(*targets: str) -> str:
    """One target that names several."""
    return "grpc://" + ",".join(target.removeprefix("grpc://") for target in targets)


def assert_same(ours: Batch, theirs: Batch) -> None:
    """Every byte of two batches is equal."""
    assert ours.transition_ids.tolist() == theirs.transition_ids.tolist()
    assert ours.frames.tobytes() == theirs.frames.tobytes()
    for name, values in ours.columns.items():
        assert values.tobytes() == theirs.columns[name].tobytes(), name
