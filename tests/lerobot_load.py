"""Opens a dataset with lerobot itself and writes what it gives; runs in lerobot's environment.

Usage: python lerobot_load.py DATASET OUT.npz [DATASET OUT.npz]...
"""

import os
import sys

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["HF_DATASETS_OFFLINE"] = "1"

import numpy as np
import torch
from lerobot.datasets.lerobot_dataset import LeRobotDataset


def main() -> None:
    torch.set_num_threads(1)
    arguments = sys.argv[1:]
    for root, out in zip(arguments[::2], arguments[1::2], strict=True):
        np.savez(out, **_contents(root))


def _contents(root: str) -> dict[str, np.ndarray]:
    dataset = LeRobotDataset("local/converted", root=root, video_backend="pyav")
    items = [dataset[index] for index in range(len(dataset))]
    arrays = {
        key: np.stack([item[key].numpy() for item in items])
        for key in items[0]
        if isinstance(items[0][key], torch.Tensor)
    }
    return {
        **arrays,
        "length": np.array(len(dataset)),
        "episodes": np.array(dataset.num_episodes),
        "fps": np.array(dataset.fps),
        "tasks": np.array([item["task"] for item in items]),
        "lengths": np.array([episode["length"] for episode in dataset.meta.episodes]),
        "state_mean": dataset.meta.stats.get("observation.state", {}).get("mean", np.empty(0)),
        "chunk": _chunk_of_actions(root, dataset.fps) if "action" in arrays else np.empty(0),
        "history": _history(root, dataset) if dataset.meta.video_keys else np.empty(0),
    }


def _chunk_of_actions(root: str, fps: int) -> np.ndarray:
    """Three actions from frame 0 on, as policies that predict chunks ask for them."""
    steps = {"action": [step / fps for step in range(3)]}
    dataset = LeRobotDataset(
        "local/converted", root=root, delta_timestamps=steps, video_backend="pyav"
    )
    return dataset[0]["action"].numpy()


def _history(root: str, dataset: LeRobotDataset) -> np.ndarray:
    """The last frame of the first video and the one before it, the last item first."""
    key = dataset.meta.video_keys[0]
    steps = {key: [-1 / dataset.fps, 0.0]}
    windows = LeRobotDataset(
        "local/converted", root=root, delta_timestamps=steps, video_backend="pyav"
    )
    order = [len(windows) - 1, 1, len(windows) // 2]
    return np.stack([windows[index][key].numpy() for index in order])


if __name__ == "__main__":
    main()
