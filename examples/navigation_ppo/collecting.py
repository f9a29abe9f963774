"""Rollouts: what a policy did in all environments for some steps, as nested arrays.

Each leaf is ``[env, time, ...]``, so a rollout can be pushed as it is:

``observation/*``, ``next/observation/*``
    Sensed before and after the step; after the last step of an episode it is the end of that one,
    never the beginning of the next.
``action (3,) float32``, ``log_prob () float32``
    What was drawn, and the logarithm of its density.
``reward``, ``episode_return`` ``() float32``; ``done``, ``terminated``, ``truncated``, ``success``
    ``() bool``: see :class:`~navigation_ppo.navigation.Step`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from navigation_ppo.lidar import AZIMUTHS, RANGE_M
from navigation_ppo.navigation import ACTION_DIM, NavigationEnvs, Observation

__all__ = ["Act", "Rollout", "collect", "collect_random", "mediocre_policy", "random_policy"]

Rollout = dict[str, Any]
"""Nested dictionaries of arrays ``[env, time, ...]``."""

Act = Callable[[Observation], tuple[NDArray[np.float32], NDArray[np.float32]]]
"""Draws actions ``(envs, 3)`` and gives the logarithm of their densities ``(envs,)``."""

_MEDIOCRE_STD = 0.4
_WARM_UP_STEPS = 60


def collect(envs: NavigationEnvs, act: Act, steps: int) -> Rollout:
    """Let a policy act; the environments stay where they come to."""
    sensed: list[Observation] = []
    led_to: list[Observation] = []
    rows: dict[str, list[NDArray[Any]]] = {}
    for _ in range(steps):
        observation = envs.observe()
        action, log_prob = act(observation)
        step = envs.step(action)
        sensed.append(observation)
        led_to.append(step.observation)
        row = {
            "action": action,
            "log_prob": log_prob,
            "reward": step.reward,
            "episode_return": step.episode_return,
            "done": step.done,
            "terminated": step.terminated,
            "truncated": step.truncated,
            "success": step.success,
        }
        for name, array in row.items():
            rows.setdefault(name, []).append(array)
    return {
        "observation": _over_time(sensed),
        "next": {"observation": _over_time(led_to)},
    } | {name: np.stack(arrays, axis=1) for name, arrays in rows.items()}


def collect_random(envs: int, steps: int, seed: int, *, reach_m: float = RANGE_M) -> Rollout:
    """A rollout of a mediocre policy, its episodes at different ages; the same for the same seed.

    About 820 bytes of observation a step, and as much again of next observation.

    Args:
        envs: Environments.
        steps: Steps of each.
        seed: Of environments and policy.
        reach_m: How far the lidar sees.
    """
    simulated = NavigationEnvs(envs, seed, reach_m=reach_m)
    act = mediocre_policy(np.random.default_rng([seed, 1]))
    for _ in range(_WARM_UP_STEPS):
        simulated.step(act(simulated.observe())[0])
    return collect(simulated, act, steps)


def mediocre_policy(dice: np.random.Generator) -> Act:
    """Goes to the goal, shies away from what is near, and trembles as a policy that explores."""

    def act(observation: Observation) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        nearness = 1 - observation["lidar"][:, 0].min(-1) / RANGE_M
        push = np.square(nearness)[:, :, None] * np.stack((np.cos(AZIMUTHS), np.sin(AZIMUTHS)), -1)
        mean = 0.8 * observation["state"][:, :3]
        mean[:, :2] -= 0.15 * push.sum(1)
        return _drawn(mean, _MEDIOCRE_STD, dice)

    return act


def random_policy(dice: np.random.Generator) -> Act:
    """Knows nothing: normal actions around 0."""

    def act(observation: Observation) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        mean = np.zeros((len(observation["state"]), ACTION_DIM), np.float32)
        return _drawn(mean, 1.0, dice)

    return act


def _drawn(
    mean: NDArray[np.float32], std: float, dice: np.random.Generator
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    noise = dice.standard_normal(mean.shape, np.float32)
    density = -np.square(noise) / 2 - np.log(std) - np.log(2 * np.pi) / 2
    return (mean + std * noise).astype(np.float32), density.sum(-1).astype(np.float32)


def _over_time(observations: list[Observation]) -> Observation:
    return {
        name: np.stack([observation[name] for observation in observations], axis=1)
        for name in observations[0]
    }
