"""The same training in one process, without a wire: what the two processes must match."""

from __future__ import annotations

from collections.abc import Callable

from navigation_ppo.collecting import collect
from navigation_ppo.navigation import NavigationEnvs
from navigation_ppo.ppo import Learner, dice_of, policy_of
from navigation_ppo.settings import Settings

__all__ = ["train_alone"]


def train_alone(settings: Settings, on_rollout: Callable[[Learner], None]) -> Learner:
    """Collect and learn in turn.

    Args:
        settings: Of the run.
        on_rollout: Called after each rollout.
    """
    envs, learner = NavigationEnvs(settings.envs, settings.seed), Learner(settings)
    while learner.trained < settings.rollouts:
        act = policy_of(learner.network, dice_of(settings.seed, 0, learner.trained))
        learner.learn(collect(envs, act, settings.steps))
        on_rollout(learner)
    return learner
