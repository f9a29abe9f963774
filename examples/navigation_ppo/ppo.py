"""PPO (Schulman et al. 2017, arXiv:1707.06347) on one rollout at a time, top to bottom.

A rollout may come from weights that are some versions old. So the objective is the decoupled one
(Hilton et al. 2021, arXiv:2110.00641): it is clipped around the weights that learning begins from,
and what they would have done less, or more, often than those that acted weighs less, or more.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from navigation_ppo.collecting import Act, Rollout
from navigation_ppo.navigation import ACTION_DIM, Observation
from navigation_ppo.network import ActorCritic
from navigation_ppo.settings import Settings

__all__ = ["Learner", "advantages", "dice_of", "policy_of"]


def advantages(
    reward: Tensor,
    value: Tensor,
    next_value: Tensor,
    terminated: Tensor,
    done: Tensor,
    *,
    gamma: float,
    gae_lambda: float,
) -> Tensor:
    """Generalised advantage estimates (Schulman et al. 2016, arXiv:1506.02438).

    An episode that was cut, by the horizon or by the rollout's end, is worth its next value there;
    one that has terminated is worth nothing more.

    Args:
        reward: ``(envs, steps)``; so are all others.
        value: Of what was sensed before each step.
        next_value: Of what was sensed after it.
        terminated: No future.
        done: The next step belongs to another episode.
        gamma: Discount of a step.
        gae_lambda: Between one step's error (0) and the whole return (1).
    """
    error = reward + gamma * next_value * ~terminated - value
    result = torch.empty_like(error)
    ahead = torch.zeros_like(error[:, 0])
    for step in reversed(range(error.shape[1])):
        ahead = error[:, step] + gamma * gae_lambda * ahead * ~done[:, step]
        result[:, step] = ahead
    return result


def dice_of(*seeds: int) -> torch.Generator:
    """Random numbers that depend on all of these and nothing else."""
    mixed = np.random.SeedSequence(seeds).generate_state(1, np.uint64)
    return torch.Generator().manual_seed(int(mixed[0]))


def policy_of(network: ActorCritic, dice: torch.Generator) -> Act:
    """Draws actions from a network."""

    @torch.inference_mode()
    def act(observation: Observation) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        sensed = {name: torch.from_numpy(array) for name, array in observation.items()}
        mean, _ = network(sensed)
        action = mean + torch.randn(mean.shape, generator=dice) * network.log_std.exp()
        return action.numpy(), network.log_prob(mean, action).numpy()

    return act


class Learner:
    """Network and optimizer, and how far they are.

    Attributes:
        network: What learns.
        trained: Rollouts that it has learned from; its version.
        outcomes: Return and success of the last episodes that ended, ``[[return, success], ...]``.
    """

    def __init__(self, settings: Settings) -> None:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(settings.seed)
            self.network = ActorCritic(settings.width)
        self._optimizer = torch.optim.Adam(
            self.network.parameters(), lr=settings.learning_rate, eps=1e-5
        )
        self._settings = settings
        self.trained = 0
        self.outcomes = np.zeros((0, 2), np.float32)

    @property
    def success(self) -> float:
        """Share of the last episodes that reached the goal; 0 until there are enough of them."""
        enough = len(self.outcomes) >= self._settings.judged
        return float(self.outcomes[:, 1].mean()) if enough else 0.0

    @property
    def mean_return(self) -> float:
        """Of the last episodes; not a number before any has ended."""
        return float(self.outcomes[:, 0].mean()) if len(self.outcomes) else float("nan")

    def learn(self, rollout: Rollout) -> dict[str, float]:
        """Learn from a rollout; says how it went."""
        settings, network = self._settings, self.network
        for group in self._optimizer.param_groups:
            group["lr"] = settings.learning_rate_at(self.trained)
        self._note_outcomes(rollout)

        observation = _tensors(rollout["observation"])
        action = torch.from_numpy(rollout["action"]).view(-1, ACTION_DIM)
        with torch.no_grad():
            mean, value = network(observation)
            _, next_value = network(_tensors(rollout["next"]["observation"]))
            log_prob = network.log_prob(mean, action)
            acted = torch.from_numpy(rollout["log_prob"]).view(-1)
            weight = (log_prob - acted).exp().clamp(max=settings.max_weight)
        reward = torch.from_numpy(rollout["reward"])
        value, next_value = value.view_as(reward), next_value.view_as(reward)
        advantage = advantages(
            reward,
            value,
            next_value,
            torch.from_numpy(rollout["terminated"]),
            torch.from_numpy(rollout["done"]),
            gamma=settings.gamma,
            gae_lambda=settings.gae_lambda,
        )

        target = (advantage + value).view(-1)
        advantage = advantage.view(-1)
        advantage = (advantage - advantage.mean()) / (advantage.std() + 1e-8)

        # Of the version alone, so that a run that was broken off goes on as it would have.
        dice = dice_of(settings.seed, self.trained)
        sums: dict[str, float] = {}
        updates = 0
        for _ in range(settings.epochs):
            for rows in torch.randperm(len(action), generator=dice).chunk(settings.minibatches):
                mean, value = network({name: part[rows] for name, part in observation.items()})
                log_ratio = network.log_prob(mean, action[rows]) - log_prob[rows]
                ratio = log_ratio.exp()
                clipped = ratio.clamp(1 - settings.clip, 1 + settings.clip)
                gain = torch.minimum(ratio * advantage[rows], clipped * advantage[rows])
                gain = (weight[rows] * gain).mean()
                value_loss = (value - target[rows]).square().mean() / 2
                entropy = network.entropy()
                loss = settings.value_weight * value_loss - gain - settings.entropy_weight * entropy
                self._optimizer.zero_grad()
                loss.backward()
                nn.utils.clip_grad_norm_(network.parameters(), settings.max_grad_norm)
                self._optimizer.step()

                updates += 1
                figures = {
                    "value_loss": value_loss,
                    "entropy": entropy,
                    "kl": ((ratio - 1) - log_ratio).mean(),
                    "clipped": (ratio != clipped).float().mean(),
                }
                for name, figure in figures.items():
                    sums[name] = sums.get(name, 0.0) + figure.item()
        self.trained += 1
        return {name: total / updates for name, total in sums.items()}

    def state(self) -> dict[str, Any]:
        """All that is needed to go on from here."""
        return {
            "network": self.network.state_dict(),
            "optimizer": self._optimizer.state_dict(),
            "trained": self.trained,
            "outcomes": self.outcomes,
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from where :meth:`state` was taken."""
        self.network.load_state_dict(state["network"])
        self._optimizer.load_state_dict(state["optimizer"])
        self.trained = state["trained"]
        self.outcomes = state["outcomes"]

    def _note_outcomes(self, rollout: Rollout) -> None:
        done = rollout["done"]
        # By time, not by environment: the last ones are to be kept.
        ended = np.stack(
            (rollout["episode_return"].T[done.T], rollout["success"].T[done.T]), -1
        ).astype(np.float32)
        self.outcomes = np.concatenate((self.outcomes, ended))[-self._settings.judged :]


def _tensors(observation: Observation) -> dict[str, Tensor]:
    """``(envs, steps, ...)`` as ``(envs * steps, ...)``."""
    return {name: torch.from_numpy(array).flatten(0, 1) for name, array in observation.items()}
