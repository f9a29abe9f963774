"""Evaluation without a robot: what a learner makes of episodes it has never seen.

Held-out episodes are chosen by the plan's split, whole episodes at a time, and the transitions
looked at are the same in every evaluation of a run. Nothing random is drawn and no state changes,
so that a run with evaluations learns exactly what one without them does.
"""

from __future__ import annotations

import numpy as np
import torch

from penstock import SamplerClient
from penstock.errors import InvalidInput
from penstock.plan import Plan
from penstock_trainer.algorithm import Algorithm
from penstock_trainer.normalise import Normaliser
from penstock_trainer.transitions import Transitions

__all__ = ["EVALUATION_NAMES", "HeldOut", "summarise"]

EVALUATION_NAMES = (
    "val_score",
    "val_score_error",
    "val_action_error",
    "val_good_action_error",
    "val_advantage_share",
    "val_td_error",
    "val_policy_q",
)
"""Keys of an evaluation; behaviour cloning has no critic and gives the first three alone."""


class HeldOut:
    """The held-out transitions of a run.

    Args:
        sampler: Where they come from.
        plan: The plan of the training; only its split changes.
        limit: Most transitions to look at.

    Raises:
        InvalidInput: The split leaves no episode out.
    """

    def __init__(self, sampler: SamplerClient, plan: Plan, limit: int) -> None:
        values = plan.to_dict() | {"split": "val", "sampling": "uniform", "rank": 0, "world": 1}
        try:
            view = sampler.view(Plan.from_dict(values | {"batch_size": 1}))
        except InvalidInput as error:
            raise InvalidInput(
                f"train_test_split {plan.train_fraction} holds out no episode of "
                f"{sampler.info.episodes}: lower it, or set it to 1 to train without evaluation",
                field="train_test_split",
            ) from error
        self.transitions = min(limit, view.transitions)
        size = min(plan.batch_size, self.transitions)
        steps = -(-self.transitions // size)
        view = sampler.view(Plan.from_dict(values | {"batch_size": size, "sampling": "epoch"}))
        ids = np.concatenate([view.transition_ids(step) for step in range(steps)])
        ids = ids[: self.transitions]
        self._parts = np.array_split(ids, steps)
        starts = sampler.episodes.first_transition
        self._episodes = torch.from_numpy(np.searchsorted(starts, ids, side="right"))
        self._sampler = sampler

    def measure(
        self, algorithm: Algorithm, normaliser: Normaliser, device: torch.device
    ) -> dict[str, float]:
        """Evaluate a learner.

        Returns:
            The figures of :func:`summarise`.
        """
        parts: dict[str, list[torch.Tensor]] = {}
        for ids in self._parts:
            batch = Transitions.from_batch(self._sampler.fetch(ids), normaliser, device)
            for name, values in algorithm.validate(batch).items():
                parts.setdefault(name, []).append(values.cpu())
        measures = {name: torch.cat(values) for name, values in parts.items()}
        return summarise(measures, self._episodes)


def summarise(measures: dict[str, torch.Tensor], episodes: torch.Tensor) -> dict[str, float]:
    """Per-transition measures ``(N,)`` to the figures of an evaluation.

    ``val_score`` selects the best model; greater is better. Behaviour cloning is judged by its
    error on held-out actions. For an algorithm with a critic that error says little, because the
    data also holds what a good policy must not do. There the score is the policy's gain: how much
    more the target critic expects of the policy's actions than of those recorded in the same
    states. The difference cancels the drift of all values that goes with learning; the lower of
    two averaged critics and the bounds of possible returns hold back what is over-estimated.

    Args:
        measures: What :meth:`Algorithm.validate` gave.
        episodes: ``(N,) int64``, the episode of each transition.

    Returns:
        ``val_score`` and its standard error ``val_score_error``; ``val_action_error``, mean squared
        error of the policy's actions in z-scores; and where there is a critic
        ``val_good_action_error`` (on transitions with a positive advantage alone, if there are
        any), ``val_advantage_share``, ``val_td_error`` (mean squared) and ``val_policy_q`` (mean
        value of the policy's actions).
    """
    error = measures["error"]
    figures: dict[str, float] = {"val_action_error": float(error.mean())}
    if "policy_q" not in measures:
        return _scored(-error, episodes) | figures
    good = measures["advantage"] > 0
    if good.any():
        figures["val_good_action_error"] = float(error[good].mean())
    figures["val_advantage_share"] = float(good.float().mean())
    figures["val_td_error"] = float(measures["td_error"].mean())
    figures["val_policy_q"] = float(measures["policy_q"].mean())
    return _scored(measures["policy_q"] - measures["data_q"], episodes) | figures


def _scored(values: torch.Tensor, episodes: torch.Tensor) -> dict[str, float]:
    """Mean and its standard error; transitions of one episode are not independent of each other.

    The error is the cluster-robust one (Liang and Zeger, "Longitudinal data analysis using
    generalized linear models", Biometrika 1986) with episodes as clusters.
    """
    values = values.double()
    mean = values.mean()
    sums = torch.zeros(int(episodes.max()) + 1, dtype=values.dtype)
    sums.index_add_(0, episodes, values - mean)
    return {
        "val_score": float(mean),
        "val_score_error": float(sums.square().sum().sqrt() / len(values)),
    }
