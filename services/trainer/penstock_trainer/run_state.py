"""The whole state of a run: what it takes to go on as if nothing had happened."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self

import structlog
import torch

from penstock.disk import full_disk_named
from penstock.errors import Corrupt, InvalidInput
from penstock.plan import Plan
from penstock_trainer.algorithm import Algorithm, NetworkSpec
from penstock_trainer.build import spec_from_state, spec_to_state
from penstock_trainer.config import TrainSettings
from penstock_trainer.normalise import Normaliser
from penstock_trainer.policy import STATE_KIND

__all__ = ["Checkpoint", "Standing", "write_model"]

log = structlog.get_logger(__name__)

_FORMAT = 1

_FREE_TO_CHANGE = frozenset(
    {
        "ExpID",
        "checkpoints",
        "device",
        "eval_freq",
        "eval_transitions",
        "hdf5_path",
        "load_model",
        "log_freq",
        "max_timesteps",
        "precision",
        "prefetch",
        "results_dir",
        "save_freq",
        "threads",
    }
)
"""Settings that do not change what a step does; a change of any other one is said."""


@dataclass
class Standing:
    """Where a run stands.

    Attributes:
        step: Optimiser steps done; the plan's next step has the same number.
        seconds: Time spent in training, over all its processes.
        best_score: Highest ``val_score`` so far, minus infinity before the first.
        best_step: Step of the best model, 0 before the first evaluation; see ``Run.evaluate``.
    """

    step: int = 0
    seconds: float = 0.0
    best_score: float = -float("inf")
    best_step: int = 0


@dataclass(frozen=True)
class Checkpoint:
    """A run's state, as one tree of plain values and tensors.

    Attributes:
        state: The tree.
    """

    state: dict[str, Any]

    @classmethod
    def take(
        cls,
        settings: TrainSettings,
        spec: NetworkSpec,
        plan: Plan,
        dataset_version: str,
        normaliser: Normaliser,
        algorithm: Algorithm,
        standing: Standing,
    ) -> Self:
        """Gather the state; tensors are those of the learner itself, not copies."""
        return cls(
            {
                "kind": STATE_KIND,
                "format": _FORMAT,
                "step": standing.step,
                "seconds": standing.seconds,
                "best": {"score": standing.best_score, "step": standing.best_step},
                "settings": settings.model_dump(mode="json"),
                "networks": spec_to_state(spec),
                "plan": plan.to_dict(),
                "dataset_version": dataset_version,
                "normaliser": normaliser.state_dict(),
                "algorithm": algorithm.state_dict(),
            }
        )

    @classmethod
    def read(cls, state: Any, name: str) -> Self:
        """Check what was loaded from ``name``.

        Raises:
            Corrupt: It is no state of a training run, or one of a later version.
        """
        if not isinstance(state, Mapping) or state.get("kind") != STATE_KIND:
            raise Corrupt(
                f"{name} is no checkpoint of a training run: name one that `penstock train` saved"
            )
        if state.get("format") != _FORMAT:
            raise Corrupt(
                f"{name} has format {state.get('format')!r}, this version reads {_FORMAT}: "
                "use the version of Penstock that wrote it"
            )
        return cls(dict(state))

    @property
    def standing(self) -> Standing:
        """Where the run stood."""
        best = self.state["best"]
        return Standing(
            int(self.state["step"]), float(self.state["seconds"]), best["score"], best["step"]
        )

    def spec_for(self, wanted: NetworkSpec, *, precision: str) -> NetworkSpec:
        """The shapes to go on with: those of the checkpoint.

        Args:
            wanted: What settings and dataset ask for now.
            precision: With ``auto`` the checkpoint's arithmetic is kept.

        Raises:
            InvalidInput: They differ; names the field and both values.
        """
        stored = spec_from_state(self.state["networks"])
        if precision == "auto":
            encoder = replace(wanted.encoder, bfloat16=stored.encoder.bfloat16)
            wanted = replace(wanted, encoder=encoder)
        before = _flat(spec_to_state(stored))
        now = _flat(spec_to_state(wanted))
        for name, value in now.items():
            if before.get(name) != value and name != "encoder.bfloat16":
                raise InvalidInput(
                    f"the checkpoint's networks have {name} {before.get(name)!r}, settings and "
                    f"dataset now ask for {value!r}: start a new ExpID, or use what it was "
                    "trained with",
                    field=name,
                )
        return wanted

    def restore(
        self, algorithm: Algorithm, settings: TrainSettings, plan: Plan, dataset_version: str
    ) -> Standing:
        """Put the state into a learner, and say what is not as it was.

        Raises:
            InvalidInput: The checkpoint is of another algorithm.
            Corrupt: The state does not fit the learner.
        """
        before = self.state["settings"]
        if before["algo"] != settings.algo:
            raise InvalidInput(
                f"the checkpoint is of algo {before['algo']!r}, not {settings.algo!r}: start a "
                "new ExpID",
                field="algo",
            )
        try:
            algorithm.load_state_dict(self.state["algorithm"])
        except (KeyError, RuntimeError, ValueError) as error:
            raise Corrupt(f"checkpoint does not fit its own networks: {error}") from error
        now = settings.model_dump(mode="json")
        changed = {
            name: [before.get(name), value]
            for name, value in now.items()
            if name not in _FREE_TO_CHANGE and before.get(name) != value
        }
        if changed:
            algorithm.set_learning_rate(settings.lr)
            log.warning("settings_changed", **changed)
        if self.state["dataset_version"] != dataset_version:
            log.warning(
                "dataset_changed",
                before=self.state["dataset_version"],
                now=dataset_version,
                effect="batches differ from here on; the normalisation stays",
            )
        if self.state["plan"] != plan.to_dict():
            log.warning("plan_changed", before=self.state["plan"], now=plan.to_dict())
        return self.standing


def write_model(path: Path, state: dict[str, Any]) -> None:
    """Write a state so that the file is whole or not there, whatever happens meanwhile.

    Raises:
        LimitExceeded: The disk is full.
    """
    part = path.with_name(f"{path.name}.part")
    try:
        with full_disk_named(f"writing {path}"), part.open("wb") as file:
            torch.save(state, file)
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def _flat(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in tree.items():
        if isinstance(value, Mapping):
            flat |= _flat(value, f"{prefix}{name}.")
        else:
            # a tuple comes back from some formats as a list
            flat[f"{prefix}{name}"] = tuple(value) if isinstance(value, list) else value
    return flat
