"""How long a batch takes embedded, against the plain h5py and OpenCV loop it is equal to.

Run: ``python benchmarks/sampler_batch.py --batch-size 256 --image-size 224 224``. Prints medians of
wall and CPU time, which share two cores with whatever else runs; trust the ratio.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import cv2
import h5py
import numpy as np

from penstock import Batch, Plan, SamplerClient, open_sampler

CAMERAS = ("left_image", "right_image", "global_image")


def write_noisy_files(folder: Path, files: int, rows: int) -> None:
    """Recordings of 256x256 noise, which neither compresses nor repeats, as camera images."""
    rng = np.random.default_rng(0)
    for number in range(files):
        with h5py.File(folder / f"{number}.hdf5", "w") as file:
            file["observations/joint"] = rng.normal(size=(rows + 1, 16)).astype(np.float32)
            for camera in CAMERAS:
                shape = (rows + 1, 256, 256, 3)
                file[f"observations/{camera}"] = rng.integers(0, 256, shape, np.uint8)
            file["actions"] = rng.normal(size=(rows, 16)).astype(np.float32)
            file["rewards"] = rng.normal(size=rows).astype(np.float32)
            file["terminals"] = np.arange(rows) == rows - 1


def read_plainly(
    handles: list[h5py.File], rows: int, ids: np.ndarray, size: tuple[int, int]
) -> np.ndarray:
    """The same batch, one image at a time; episodes end with their file."""
    out = np.empty((len(ids), 2, len(CAMERAS), *size, 3), np.uint8)
    for place, transition in enumerate(ids.tolist()):
        file, row = divmod(transition, rows)
        observations, actions = handles[file]["observations"], handles[file]["actions"]
        following = min(row + 1, rows - 1)
        for slot, index in enumerate((row, following)):
            observations["joint"][index]
            for camera, name in enumerate(CAMERAS):
                out[place, slot, camera] = cv2.resize(observations[name][index], size[::-1])
        actions[row], handles[file]["rewards"][row], handles[file]["terminals"][row]
    return out


def measure(run: Callable[[int], object], repeats: int) -> tuple[float, float]:
    """Medians of wall and CPU seconds after one run to warm up."""
    run(0)
    walls: list[float] = []
    cpus: list[float] = []
    for step in range(1, repeats + 1):
        wall, cpu = time.perf_counter(), time.process_time()
        run(step)
        walls.append(time.perf_counter() - wall)
        cpus.append(time.process_time() - cpu)
    return statistics.median(walls), statistics.median(cpus)


def main() -> None:
    """Measure both and print the ratio."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--batch-size", type=int, default=256)
    parser.add_argument("--image-size", type=int, nargs=2, default=(224, 224))
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--files", type=int, default=8)
    parser.add_argument("--rows", type=int, default=100)
    options = parser.parse_args()
    cv2.setNumThreads(1)
    size = tuple(options.image_size)
    plan = Plan(batch_size=options.batch_size, split="all")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_noisy_files(folder, options.files, options.rows)
        handles = [h5py.File(folder / f"{number}.hdf5") for number in range(options.files)]

        with open_sampler(f"file://{folder}/*.hdf5", image_size=size) as sampler:
            ids = sampler.view(plan).transition_ids

            def embedded(step: int, client: SamplerClient = sampler) -> Batch:
                return client.sample(plan, step)

            def plainly(step: int) -> np.ndarray:
                return read_plainly(handles, options.rows, ids(step), size)

            np.testing.assert_array_equal(embedded(0).frames, plainly(0))
            ours, theirs = measure(embedded, options.repeats), measure(plainly, options.repeats)
        for handle in handles:
            handle.close()
    print(f"{'':<14}{'wall ms':>9}{'CPU ms':>9}")
    print(f"{'embedded':<14}{ours[0] * 1e3:>9.0f}{ours[1] * 1e3:>9.0f}")
    print(f"{'h5py + cv2':<14}{theirs[0] * 1e3:>9.0f}{theirs[1] * 1e3:>9.0f}")
    print(f"{'ratio':<14}{theirs[0] / ours[0]:>9.2f}{theirs[1] / ours[1]:>9.2f}")


if __name__ == "__main__":
    main()
