"""Policies out of the checkpointer: the best one of a training, and how training went."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from penstock_trainer.policy import Policy
from two_arm_reach.evaluate import Evaluation, PolicyView, evaluate

from bag_to_policy.pictures import Curve
from penstock import CheckpointClient

__all__ = ["Rollouts", "fetch_policy", "return_curve", "view_of"]


@dataclass(frozen=True)
class Rollouts:
    """How policies are measured: how many roll-outs, from which initial states."""

    episodes: int
    seed: int

    def of(self, policy: Policy) -> Evaluation:
        """Roll a policy out."""
        return evaluate(
            policy.select_action, episodes=self.episodes, seed=self.seed, view=view_of(policy)
        )


def view_of(policy: Policy) -> PolicyView:
    """What a policy sees of the robot; its cameras have the robot's names."""
    return PolicyView(
        image_size=policy.image_size, cameras=tuple((name, name) for name in policy.cameras)
    )


def fetch_policy(checkpoints: CheckpointClient, run: str, which: str | int) -> Policy:
    """Load a policy of a training.

    Args:
        checkpoints: The checkpointer.
        run: Name of the training.
        which: A tag such as ``best``, or a step.

    Raises:
        NotFound: There is no such checkpoint.
    """
    state: Any = checkpoints.load(run, which)
    return Policy.from_checkpoint(state)


def return_curve(
    checkpoints: CheckpointClient, run: str, rollouts: Rollouts, on_point: Callable[[], None]
) -> Curve:
    """Mean return of each checkpoint of a training.

    Args:
        checkpoints: The checkpointer.
        run: Name of the training.
        rollouts: How each is measured.
        on_point: Called after each point.
    """
    steps = [checkpoint.step for checkpoint in checkpoints.list(run)]
    returns: list[float] = []
    for step in steps:
        returns.append(rollouts.of(fetch_policy(checkpoints, run, step)).average_return)
        on_point()
    return steps, returns
