"""What learns: a small network from all that is sensed to an action and a value."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from navigation_ppo.lidar import AZIMUTHS, ELEVATIONS, RANGE_M
from navigation_ppo.navigation import ACTION_DIM, SEEN

__all__ = ["ActorCritic"]

_DIRECTIONS = 8
"""Channels of the convolution over azimuths."""
_STATE, _WALKER = 8, 10
_STATE_SCALE = torch.tensor([1.0, 1.0, 1.0, 0.1, 1.0, 0.5, 0.5, 1.0])
_WALKER_SCALE = torch.tensor([1.0, 1.0, 1.0, 0.3, 0.5, 1.0, 1.0, 1.0, 2.0, 0.5])
_FIRST_LOG_STD = -0.5


class ActorCritic(nn.Module):
    """Actor and critic over one trunk.

    ``direction`` is left out: everything else is in the goal frame, where it says nothing.
    Distances are scaled by constants, so there are no statistics to carry along.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        # The same filters for every azimuth: an obstacle on the left looks as one on the right.
        self.rays = nn.Conv1d(
            len(ELEVATIONS), _DIRECTIONS, 5, stride=2, padding=2, padding_mode="circular"
        )
        seen = _DIRECTIONS * len(AZIMUTHS) // 2 + _STATE + SEEN * _WALKER
        self.trunk = nn.Sequential(
            nn.Linear(seen, width), nn.Tanh(), nn.Linear(width, width), nn.Tanh()
        )
        self.mean = nn.Linear(width, ACTION_DIM)
        self.value = nn.Linear(width, 1)
        self.log_std = nn.Parameter(torch.full((ACTION_DIM,), _FIRST_LOG_STD))
        for layer in (self.trunk[0], self.trunk[2]):
            _orthogonal(layer, math.sqrt(2))
        _orthogonal(self.mean, 0.01)
        _orthogonal(self.value, 1.0)

    def forward(self, observation: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Mean of the action ``(n, 3)`` and value ``(n,)`` of observations ``(n, ...)``."""
        nearness = 1 - observation["lidar"].squeeze(1).transpose(1, 2) / RANGE_M
        rays = torch.relu(self.rays(nearness)).flatten(1)
        state = observation["state"] * _STATE_SCALE
        walkers = (observation["obstacles"] * _WALKER_SCALE).flatten(1)
        features = self.trunk(torch.cat((rays, state, walkers), -1))
        return self.mean(features), self.value(features).squeeze(-1)

    def log_prob(self, mean: Tensor, action: Tensor) -> Tensor:
        """Logarithm of the density of actions ``(n, 3)`` around means ``(n, 3)``; ``(n,)``."""
        scaled = (action - mean) * torch.exp(-self.log_std)
        return (-scaled.square() / 2 - self.log_std - math.log(2 * math.pi) / 2).sum(-1)

    def entropy(self) -> Tensor:
        """Of the distribution of actions, which is the same everywhere."""
        return (self.log_std + (1 + math.log(2 * math.pi)) / 2).sum()


def _orthogonal(layer: nn.Module, gain: float) -> None:
    if isinstance(layer, nn.Linear):
        nn.init.orthogonal_(layer.weight, gain)
        nn.init.zeros_(layer.bias)
