"""A tiny dataset on disk, and what the trainer's tests share."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch
from penstock_trainer.config import TrainSettings
from penstock_trainer.encoders import EncoderSpec
from penstock_trainer.normalise import Normaliser
from penstock_trainer.transitions import Transitions

CAMERAS = ("left", "right", "global")
SIDE, JOINTS, ACTIONS = 8, 3, 2


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> None:
    """Networks this small are slower on two."""
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Twenty episodes of 6 steps; the target action is written into the pixels."""
    folder = tmp_path_factory.mktemp("recordings")
    rng = np.random.default_rng(7)
    for episode in range(20):
        with h5py.File(folder / f"episode_{episode:02d}.hdf5", "w") as file:
            observations = file.create_group("observations")
            observations["joint"] = rng.normal(size=(7, JOINTS)).astype(np.float32)
            for camera in CAMERAS:
                observations[f"{camera}_image"] = rng.integers(
                    0, 256, (7, SIDE, SIDE, 3), dtype=np.uint8
                )
            file["actions"] = rng.uniform(-1, 1, (6, ACTIONS)).astype(np.float32)
            file["rewards"] = rng.uniform(-1, 0.5, 6).astype(np.float32)
            file["terminals"] = np.arange(6) == 5
    return f"file://{folder}/*.hdf5"


@pytest.fixture
def settings(dataset: str, tmp_path: Path) -> Callable[..., TrainSettings]:
    """Settings of a run that takes a second, with changes by name."""

    def make(**changes: Any) -> TrainSettings:
        values: dict[str, Any] = {
            "hdf5_path": dataset,
            "ExpID": "test",
            "results_dir": tmp_path / "results",
            "batch_size": 8,
            "max_timesteps": 12,
            "eval_freq": 4,
            "save_freq": 6,
            "log_freq": 2,
            "train_test_split": 0.7,
            "obs_feature_dim": 32,
            "precision": "fp32",
            "device": "cpu",
        }
        return TrainSettings(**{**values, **changes})

    return make


@pytest.fixture
def normaliser() -> Normaliser:
    """Statistics that differ in every column."""
    return Normaliser(
        joint_mean=torch.tensor([1.0, -2.0, 0.5]),
        joint_std=torch.tensor([2.0, 0.5, 1.0]),
        action_mean=torch.tensor([0.1, -0.3]),
        action_std=torch.tensor([0.5, 4.0]),
        action_min=torch.tensor([-1.0, -2.0]),
        action_max=torch.tensor([1.0, 3.0]),
        reward_min=-1.0,
        reward_max=0.5,
    )


@pytest.fixture
def encoder_spec() -> EncoderSpec:
    """A small CNN on 8 x 8 images of three cameras."""
    return EncoderSpec("cnn", CAMERAS, SIDE, SIDE, JOINTS, feature_dim=16)


@pytest.fixture
def transitions() -> Callable[[int], Transitions]:
    """Random transitions; every third one is terminal."""

    def make(size: int, seed: int = 0) -> Transitions:
        draw = torch.Generator().manual_seed(seed)
        shape = (size, len(CAMERAS), SIDE, SIDE, 3)

        def images() -> torch.Tensor:
            return torch.randint(0, 256, shape, generator=draw, dtype=torch.uint8)

        return Transitions(
            images=images(),
            joint=torch.randn(size, JOINTS, generator=draw),
            action=torch.randn(size, ACTIONS, generator=draw),
            reward=torch.randn(size, 1, generator=draw),
            going_on=(torch.arange(size)[:, None] % 3 != 0).float(),
            next_images=images(),
            next_joint=torch.randn(size, JOINTS, generator=draw),
        )

    return make
