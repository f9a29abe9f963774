"""Settings of a training run, with the names that the source system gave them."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, field_validator

from penstock.config import Settings
from penstock.errors import InvalidInput
from penstock.server import ServerSettings
from penstock.targets import Target

__all__ = [
    "DEFAULT_PORT",
    "EXP_ID",
    "EncoderKind",
    "TrainSettings",
    "TrainerSettings",
    "parse_options",
]

DEFAULT_PORT = 50052

EncoderKind = Literal["auto", "cnn", "resnet18-gn", "resnet18-frozen", "none"]
"""What looks at the images, see :mod:`encoders`."""

EXP_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
"""What may name a run: it becomes a folder here and a run in the checkpointer."""


class TrainSettings(Settings):
    """One training run, from its data to its last checkpoint."""

    hdf5_path: str = Field(
        "", description="Sampler target to learn from: grpc://host:50051 or 'file:///data/*.hdf5'."
    )
    ExpID: str = Field(
        "0001", description="Name of the run: its results folder and its checkpoints."
    )
    checkpoints: str = Field(
        "",
        description="Checkpointer target, e.g. grpc://host:50053; empty keeps checkpoints in the "
        "folder 'checkpoints' below the results folder.",
    )
    results_dir: Path = Field(Path("results"), description="Folder that results go below.")

    algo: Literal["lapo", "lapo-v1", "bc"] = Field(
        "lapo",
        description="lapo learns from images best; lapo-v1 keeps the published order of updates; "
        "bc is behaviour cloning.",
    )
    batch_size: int = Field(256, ge=1, le=65536, description="Transitions in a step.")
    max_timesteps: int = Field(100_000, ge=1, description="Optimiser steps of the whole run.")
    eval_freq: int = Field(1000, ge=1, description="Steps between evaluations on held-out data.")
    save_freq: int = Field(5000, ge=1, description="Steps between checkpoints.")
    log_freq: int = Field(100, ge=1, description="Steps between reports of progress.")

    discount: float = Field(0.99, ge=0, lt=1, description="Weight of the next step's value.")
    expectile: float = Field(
        0.9,
        gt=0,
        lt=1,
        description="Weight of transitions that are better than the policy; the others get the "
        "rest to 1.",
    )
    kl_beta: float = Field(1.0, ge=0, description="Weight of the autoencoder's KL term.")
    tau: float = Field(0.005, gt=0, le=1, description="Share that target networks move per step.")
    doubleq_min: float = Field(
        1.0, ge=0, le=1, description="Weight of the lower of the two action values."
    )
    zmax: float = Field(2.0, gt=0, description="Bound of the policy's latent actions.")
    lr: float = Field(2e-4, gt=0, description="Learning rate of every optimiser.")
    lr_decay_from: float = Field(
        1.0,
        ge=0,
        le=1,
        description="Share of the run after which the learning rate falls linearly to zero; 1 "
        "keeps it. Steadies the last policies.",
    )
    reward_scale: float = Field(1.0, gt=0, description="What recorded rewards are multiplied by.")

    obs_feature_dim: int = Field(256, ge=1, le=65536, description="Width of the fused features.")
    encoder: EncoderKind = Field(
        "auto",
        description="auto takes the small CNN up to 96 pixels and resnet18-gn above; none learns "
        "from the joints alone.",
    )
    encoder_weights: Path | None = Field(
        None, description="State dict of a torchvision ResNet18 that every camera starts from."
    )
    precision: Literal["auto", "bf16", "fp32"] = Field(
        "auto",
        description="Arithmetic of the camera trunks; auto takes bf16 where the hardware has it. "
        "Heads and losses are always fp32.",
    )
    image_size: tuple[int, int] | None = Field(
        None, description="Height and width of the images in pixels; as stored if not given."
    )

    train_test_split: float = Field(
        0.9,
        gt=0,
        le=1,
        description="Share of the episodes to learn from; the rest is held out. 1 holds out none, "
        "and then there is no best model.",
    )
    num_traj: int | None = Field(
        None, ge=1, description="Only the first so many episodes; all if not given."
    )
    eval_transitions: int = Field(
        2048, ge=1, description="Held-out transitions that an evaluation looks at."
    )
    prefetch: int = Field(4, ge=1, le=64, description="Batches that may wait for their use.")
    sampling: Literal["uniform", "epoch"] = Field(
        "uniform", description="Draw with replacement, or walk through exact epochs."
    )

    load_model: str = Field(
        "",
        description="Where to go on from: 'latest' (from scratch if the run has no checkpoint), a "
        "step, a tag such as 'best', or a file.",
    )
    device: str = Field("auto", description="auto, cpu, cuda or cuda:N.")
    seed: int = Field(0, ge=0, lt=2**63, description="Fixes batches, initial weights and noise.")
    threads: int = Field(
        1,
        ge=0,
        description="CPU threads of torch; small networks are fastest on one. 0 leaves torch its "
        "own choice.",
    )

    @field_validator("ExpID")
    @classmethod
    def _name_is_safe(cls, value: str) -> str:
        if not EXP_ID.fullmatch(value):
            raise ValueError(f"a run's name matches {EXP_ID.pattern}")
        return value

    @field_validator("hdf5_path", "checkpoints")
    @classmethod
    def _target_parses(cls, value: str) -> str:
        if value:
            try:
                Target.parse(value)
            except InvalidInput as error:
                raise ValueError(error.message) from error
        return value

    def lr_at(self, step: int) -> float:
        """Learning rate of the update that makes step ``step + 1``."""
        decay_from = self.lr_decay_from * self.max_timesteps
        if step < decay_from:
            return self.lr
        return self.lr * (self.max_timesteps - step) / max(1.0, self.max_timesteps - decay_from)

    @property
    def run_dir(self) -> Path:
        """Folder of this run's results."""
        return self.results_dir / f"Exp{self.ExpID}" / "multimodal_robot"

    @property
    def checkpoint_target(self) -> str:
        """Where checkpoints go."""
        return self.checkpoints or f"file://{(self.results_dir / 'checkpoints').absolute()}"


class TrainerSettings(ServerSettings):
    """Settings of the trainer as a service; options of a run come with its request."""

    port: int = Field(
        DEFAULT_PORT, ge=0, le=65535, description="Port to listen on; 0 picks a free one."
    )
    state_dir: Path = Field(
        Path("trainer-state"), description="Folder that remembers queued and running trainings."
    )
    results_dir: Path = Field(Path("results"), description="Folder that results go below.")
    hdf5_path: str = Field(
        "", description="Sampler target of trainings that name none, e.g. grpc://sampler:50051."
    )
    checkpoints: str = Field(
        "",
        description="Checkpointer target of trainings that name none, e.g. grpc://host:50053; "
        "empty keeps checkpoints below the results folder.",
    )
    device: str = Field("auto", description="Device of trainings that name none.")
    threads: int = Field(
        1, ge=0, description="CPU threads of torch; 0 leaves torch its own choice."
    )


def parse_options(options: dict[str, str]) -> TrainSettings:
    """Settings from texts, as a request carries them; names may be written with '-' or '_'.

    Raises:
        InvalidInput: An option is unknown, or its value does not fit.
    """
    values: dict[str, Any] = {}
    for name, text in options.items():
        key = name.replace("-", "_")
        if key == "image_size":
            sides = text.replace("x", " ").replace(",", " ").strip("()[] ").split()
            values[key] = tuple(sides)
        elif text == "None":
            continue  # how a client in Python writes an option that is not given
        else:
            values[key] = text
    return TrainSettings.load(None, values)
