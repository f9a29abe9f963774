"""torch DataLoader over h5py: two workers, each of which makes whole batches.

Tuned as the documentation advises: a batch sampler with ``batch_size=None``, so that a worker fills
one array and nothing is collated again; persistent workers; handles opened in the worker.
"""

from __future__ import annotations

import h5py
import torch
from protocol import BATCH, SHAPE, PeerData, answer, resize
from torch.utils.data import BatchSampler, DataLoader, Dataset, RandomSampler

CAMERAS = ("left_image", "right_image", "global_image")


class Transitions(Dataset[torch.Tensor]):
    """Map-style: an index is a list of transitions, a value their batch."""

    def __init__(self, data: PeerData) -> None:
        self._pairs = data.pairs
        self._path = data.folder / ("resized.hdf5" if data.resized else "source/0000.hdf5")
        self._cameras: list[h5py.Dataset] = []

    def __len__(self) -> int:
        return len(self._pairs)

    def __getitem__(self, indices: list[int]) -> torch.Tensor:
        if not self._cameras:  # in the worker: handles must not cross a fork
            file = h5py.File(self._path)
            self._cameras = [file[f"observations/{camera}"] for camera in CAMERAS]
        out = torch.empty((len(indices), *SHAPE), dtype=torch.uint8)
        frames = out.numpy()
        for place, index in enumerate(indices):
            now, then = self._pairs[index]
            for camera, images in enumerate(self._cameras):
                resize(images[now : then + 1], frames[place, :, camera])
        return out


def main() -> None:
    """Answer the driver."""
    dataset = Transitions(data := PeerData.from_arguments())
    sampler = RandomSampler(dataset, replacement=True, num_samples=BATCH * 100_000)
    loader = DataLoader(
        dataset,
        sampler=BatchSampler(sampler, BATCH, drop_last=True),
        batch_size=None,
        num_workers=2,
        persistent_workers=True,
        prefetch_factor=2,
    )
    answer(data, iter(loader), lambda batch: batch.numpy())


if __name__ == "__main__":
    main()
