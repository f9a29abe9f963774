"""LeRobot's loader: an image dataset (PNG in Parquet), current and next frame by delta timestamps.

Against LeRobot: a frame is decoded from PNG at every use (it was not made for random batches of raw
frames), and it comes as float32, which is brought back to uint8 in the workers. In its favour: few
transitions, all in memory.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from lerobot.datasets.lerobot_dataset import LeRobotDataset
from protocol import BATCH, SHAPE, PeerData, answer
from torch.utils.data import DataLoader, RandomSampler
from torchvision.transforms import v2

_CAMERAS = tuple(f"observation.images.{name}" for name in ("left", "right", "global"))
_FPS = 10
_REPO = "penstock/peers"


def write(folder: Path, data: PeerData) -> None:
    """One episode, which its own writer makes."""
    side = data.stored_shape[2]
    image = {"dtype": "image", "shape": (side, side, 3), "names": ["height", "width", "channels"]}
    dataset = LeRobotDataset.create(
        _REPO, _FPS, dict.fromkeys(_CAMERAS, image), root=folder / "dataset", use_videos=False
    )
    observations = data.observations
    for index in range(len(data.pairs) + 1):
        frames = dict(zip(_CAMERAS, observations[index], strict=True))
        dataset.add_frame({**frames, "task": "reach"})
    dataset.save_episode()
    dataset.finalize()


def collate(items: list[dict[str, torch.Tensor]]) -> torch.Tensor:
    """One array ``(256, 2, 3, 3, 224, 224) uint8``: channels come first, as LeRobot has them."""
    out = torch.empty((len(items), 2, 3, 3, 224, 224), dtype=torch.uint8)
    for place, item in enumerate(items):
        for camera, name in enumerate(_CAMERAS):
            out[place, :, camera] = item[name].mul_(255).round_()
    return out


def main() -> None:
    """Answer the driver."""
    data = PeerData.from_arguments()
    folder = data.prepared("lerobot", lambda folder: write(folder, data))
    dataset = LeRobotDataset(
        _REPO,
        root=folder / "dataset",
        image_transforms=None if data.resized else v2.Resize(SHAPE[2:4], antialias=False),
        delta_timestamps={name: [0.0, 1 / _FPS] for name in _CAMERAS},
    )
    count = len(data.pairs)
    transitions = torch.utils.data.Subset(dataset, range(count))
    loader = DataLoader(
        transitions,
        sampler=RandomSampler(transitions, replacement=True, num_samples=BATCH * 1000),
        batch_size=BATCH,
        num_workers=2,
        collate_fn=collate,
        persistent_workers=True,
    )

    def endless() -> Iterator[torch.Tensor]:
        while True:
            yield from loader

    answer(data, endless(), lambda batch: np.moveaxis(batch.numpy(), 3, -1))


if __name__ == "__main__":
    main()
