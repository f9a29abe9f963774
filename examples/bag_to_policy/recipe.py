"""What the demo does, in numbers: how much it records, how it trains, how it measures."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass

from penstock import Plan

__all__ = ["ALGORITHMS", "IMAGE_SIZE", "Recipe", "run_name"]

ALGORITHMS = {"bc": "behaviour cloning", "lapo": "LAPO"}
IMAGE_SIZE = (32, 32)
"""Height and width in pixels that policies see; the cameras record twice that."""

_BATCH_SIZE = 64
_SPLIT = 0.9


@dataclass(frozen=True)
class Recipe:
    """Amounts and seeds of one run of the demo.

    Attributes:
        episodes: Episodes to record.
        bc_steps: Optimiser steps of behaviour cloning.
        lapo_steps: Optimiser steps of LAPO.
        checkpoints: Checkpoints of each training; each is a point of the learning curve.
        rollouts: Roll-outs that a policy is measured by.
        seed: Seed of recording, training and measuring.
    """

    episodes: int = 1000
    bc_steps: int = 2000
    lapo_steps: int = 6000
    checkpoints: int = 6
    rollouts: int = 100
    seed: int = 0

    def training_options(self, algorithm: str) -> dict[str, object]:
        """Options of the trainer for ``bc`` or ``lapo``."""
        steps = {"bc": self.bc_steps, "lapo": self.lapo_steps}[algorithm]
        every = -(-steps // self.checkpoints)
        options: dict[str, object] = {
            "algo": algorithm,
            "batch_size": _BATCH_SIZE,
            "max_timesteps": steps,
            "eval_freq": every,
            "save_freq": every,
            "lr": 5e-4,
            "image_size": "x".join(str(side) for side in IMAGE_SIZE),
            "train_test_split": _SPLIT,
            "seed": self.seed,
        }
        if algorithm == "lapo":
            options |= {
                "discount": 0.95,
                "tau": 0.01,
                "expectile": 0.9,
                "kl_beta": 1.0,
                "zmax": 2.0,
                "lr_decay_from": 0.66,
            }
        return options

    def plan(self) -> Plan:
        """The plan by which both trainings draw their batches."""
        return Plan(seed=self.seed, batch_size=_BATCH_SIZE, split="train", train_fraction=_SPLIT)


def run_name(algorithm: str, options: Mapping[str, object], dataset_version: str) -> str:
    """Name of a training: another recipe or other data make another training.

    So a second run of the demo finds what it has trained, and trains what is new.
    """
    content = json.dumps([dataset_version, dict(options)], sort_keys=True)
    return f"{algorithm}-{hashlib.sha256(content.encode()).hexdigest()[:8]}"
