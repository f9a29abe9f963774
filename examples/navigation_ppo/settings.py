"""Every number of a run, and the bar that it must pass."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["BAR_SUCCESS", "Settings"]

BAR_SUCCESS = 0.8
"""Share of episodes that must reach the goal, of the last :attr:`Settings.judged` that ended.

Random actions and untrained networks reach it never, flying straight at the goal in one episode of
four, and the hand-written policy of :func:`~navigation_ppo.collecting.mediocre_policy` in seven of
ten.
"""


@dataclass(frozen=True, kw_only=True)
class Settings:
    """One run.

    Attributes:
        seed: Of environments, network, actions and minibatches.
        envs: Environments of a collector.
        steps: Steps of each in a rollout.
        rollouts: Rollouts to train on; then the run is over.
        epochs: Passes over a rollout.
        minibatches: Of each pass.
        learning_rate: At the beginning; falls to a tenth, linearly.
        gamma: Discount of a step.
        gae_lambda: Between one step's error (0) and the whole return (1).
        clip: How far the ratio of the densities counts.
        max_weight: Most that a step weighs which newer weights would have taken more often.
        value_weight: Of the value's loss.
        entropy_weight: Of the entropy's.
        max_grad_norm: Gradients are scaled down to this.
        width: Of the network.
        judged: Episodes that the success is taken over, the last ones that ended.
    """

    seed: int = 0
    envs: int = 128
    steps: int = 64
    rollouts: int = 60
    epochs: int = 5
    minibatches: int = 8
    learning_rate: float = 7e-4
    gamma: float = 0.98
    gae_lambda: float = 0.95
    clip: float = 0.2
    max_weight: float = 2.0
    value_weight: float = 0.5
    entropy_weight: float = 0.002
    max_grad_norm: float = 0.5
    width: int = 128
    judged: int = 400

    def learning_rate_at(self, rollout: int) -> float:
        """The rate for the rollout that so many were trained on before."""
        return self.learning_rate * max(0.1, 1 - 0.9 * rollout / self.rollouts)
