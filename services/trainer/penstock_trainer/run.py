"""A run, put together: data, plan, learner, and where it stands."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Self

import torch

from penstock import CheckpointClient, Plan, SamplerClient
from penstock_trainer.algorithm import Algorithm, NetworkSpec
from penstock_trainer.build import learner, network_spec
from penstock_trainer.config import TrainSettings
from penstock_trainer.evaluate import HeldOut
from penstock_trainer.hardware import choose_device
from penstock_trainer.normalise import Normaliser
from penstock_trainer.reports import write_params
from penstock_trainer.run_state import Checkpoint, Standing
from penstock_trainer.start import find_start

__all__ = ["Run"]


@dataclass
class Run:
    """Everything that a training loop moves.

    Attributes:
        settings: As the user gave them.
        sampler: Where transitions come from.
        plan: Which transitions make up a step.
        device: Where the learner lives.
        spec: Shapes of its networks.
        normaliser: Of the dataset the run began with, on the device.
        algorithm: The learner.
        held_out: Transitions to evaluate on; None if all episodes are learned from.
        at: Where the run stands.
    """

    settings: TrainSettings
    sampler: SamplerClient
    plan: Plan
    device: torch.device
    spec: NetworkSpec
    normaliser: Normaliser
    algorithm: Algorithm
    held_out: HeldOut | None
    at: Standing

    @classmethod
    def assemble(
        cls, settings: TrainSettings, sampler: SamplerClient, store: CheckpointClient
    ) -> Self:
        """Begin from scratch, or from the checkpoint that ``load_model`` names.

        Raises:
            InvalidInput: Settings do not fit each other, the dataset, or the checkpoint.
            AlreadyExists: The run has checkpoints and ``load_model`` is empty.
            NotFound: There is no such checkpoint.
        """
        device = choose_device(settings.device)
        info = sampler.info
        plan = Plan(
            seed=settings.seed,
            batch_size=settings.batch_size,
            split="train" if settings.train_test_split < 1 else "all",
            train_fraction=settings.train_test_split,
            sampling=settings.sampling,
            num_traj=settings.num_traj,
        )
        sampler.view(plan)  # a plan that does not fit fails here, before anything is written
        held_out = None
        if settings.train_test_split < 1:
            held_out = HeldOut(sampler, plan, settings.eval_transitions)
        start = find_start(settings, store)
        store.take_over(settings.ExpID)  # whoever starts a run last is the one that writes it
        spec = network_spec(settings, info, sampler.spec.resolve(info), device)
        if start:
            spec = start.spec_for(spec, precision=settings.precision)
            normaliser = Normaliser.from_state(start.state["normaliser"]).to(device)
        else:
            normaliser = Normaliser.from_dataset(info, settings.reward_scale).to(device)
        algorithm = learner(settings, spec, normaliser, device)
        at = start.restore(algorithm, settings, plan, info.version) if start else Standing()
        return cls(settings, sampler, plan, device, spec, normaliser, algorithm, held_out, at)

    def checkpoint(self, seconds: float) -> dict[str, Any]:
        """The state as it is now; tensors are the learner's own, not copies."""
        self.at.seconds = seconds
        return Checkpoint.take(
            self.settings,
            self.spec,
            self.plan,
            self.sampler.info.version,
            self.normaliser,
            self.algorithm,
            self.at,
        ).state

    def evaluate(self) -> dict[str, float]:
        """Measure the learner on held-out episodes, and note whether it is the best so far.

        Scores level off long before policies do. By the one-standard-error rule (Hastie et al.,
        "The elements of statistical learning", 7.10) all scores within one standard error of the
        highest count as equal, and of equals the one that has trained longest is the best.
        """
        if self.held_out is None:
            return {}
        figures = self.held_out.measure(self.algorithm, self.normaliser, self.device)
        score, error = figures["val_score"], figures["val_score_error"]
        self.at.best_score = max(self.at.best_score, score)
        if score >= self.at.best_score - error:
            self.at.best_step = self.at.step
        return figures

    def write_params(self) -> None:
        """Write ``params.json``."""
        info, encoder = self.sampler.info, self.spec.encoder
        write_params(
            self.settings.run_dir / "params.json",
            {
                "settings": self.settings.model_dump(mode="json"),
                "dataset": {
                    "version": info.version,
                    "transitions": info.transitions,
                    "episodes": info.episodes,
                    "files": len(info.files),
                    "refused_files": len(info.refused),
                    "train_transitions": self.sampler.view(self.plan).transitions,
                    "held_out_transitions": self.held_out.transitions if self.held_out else 0,
                    "cameras": info.camera_names,
                    "image_size": [encoder.height, encoder.width],
                },
                "encoder": encoder.kind,
                "bfloat16": encoder.bfloat16,
                "device": str(self.device),
                "resumed_from_step": self.at.step,
            },
        )
