"""Writes datasets with lerobot itself, to be checked; runs in lerobot's environment.

Usage: python lerobot_make.py FOLDER
"""

import os
import sys
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["HF_DATASETS_OFFLINE"] = "1"

import numpy as np
from lerobot.datasets.lerobot_dataset import LeRobotDataset

LENGTHS = (7, 130, 20)


def main() -> None:
    for kind in ("video", "image"):
        _make(Path(sys.argv[1]) / kind, kind)


def _make(root: Path, kind: str) -> None:
    features = {
        "observation.images.cam": {
            "dtype": kind,
            "shape": (96, 128, 3),
            "names": ["height", "width", "channels"],
        },
        "observation.state": {"dtype": "float32", "shape": (3,), "names": ["a", "b", "c"]},
        "action": {"dtype": "float32", "shape": (2,), "names": None},
        "next.done": {"dtype": "bool", "shape": (1,), "names": None},
        "map": {"dtype": "float32", "shape": (2, 3), "names": None},
    }
    dataset = LeRobotDataset.create(
        "local/made", 30, features, root=root, robot_type="made_up", use_videos=kind == "video"
    )
    generator = np.random.default_rng(0)
    for episode, length in enumerate(LENGTHS):
        for frame in range(length):
            image = np.full((96, 128, 3), 60 + frame % 100, np.uint8)
            image[:, : frame % 128] = (200, 30, 80)
            dataset.add_frame(
                {
                    "observation.images.cam": image,
                    "observation.state": generator.normal(size=3).astype(np.float32),
                    "action": np.array([frame, -frame], np.float32),
                    "next.done": np.array([frame == length - 1]),
                    "map": generator.normal(size=(2, 3)).astype(np.float32),
                    "task": "second" if episode == 1 else "first",
                }
            )
        dataset.save_episode()
    dataset.finalize()


if __name__ == "__main__":
    main()
