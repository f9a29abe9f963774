"""The networks of LAPO: critic, variational autoencoder of actions, latent actor."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from penstock_trainer.encoders import EncoderSpec, ObservationEncoder

__all__ = ["Actor", "Critic", "LapoNetworks", "Vae", "mlp", "update_target"]

HIDDEN = (256, 256, 256)


def mlp(inputs: int, outputs: int, hidden: Sequence[int] = HIDDEN) -> nn.Sequential:
    """Linear layers with ReLU between them and none after the last."""
    layers: list[nn.Module] = []
    for width in hidden:
        layers += [nn.Linear(inputs, width), nn.ReLU()]
        inputs = width
    return nn.Sequential(*layers, nn.Linear(inputs, outputs))


class Critic(nn.Module):
    """Two action values and one state value, each ``(B, 1)``."""

    def __init__(self, state_dim: int, action_dim: int, hidden: Sequence[int] = HIDDEN) -> None:
        super().__init__()
        self.q1 = mlp(state_dim + action_dim, 1, hidden)
        self.q2 = mlp(state_dim + action_dim, 1, hidden)
        self.v = mlp(state_dim, 1, hidden)

    def both(self, state: Tensor, action: Tensor) -> tuple[Tensor, Tensor]:
        """Q1 and Q2 of ``state (B, S)`` and ``action (B, A)``."""
        pair = torch.cat([state, action], 1)
        return self.q1(pair), self.q2(pair)

    def first(self, state: Tensor, action: Tensor) -> Tensor:
        """Q1 alone."""
        return self.q1(torch.cat([state, action], 1))


class Vae(nn.Module):
    """Conditional autoencoder of actions; its latent space is twice as wide as an action."""

    def __init__(self, state_dim: int, action_dim: int, hidden: Sequence[int] = HIDDEN) -> None:
        super().__init__()
        self.latent_dim = 2 * action_dim
        self.encoder = mlp(state_dim + action_dim, 2 * self.latent_dim, hidden)
        self.decoder = mlp(state_dim + self.latent_dim, action_dim, hidden)

    def encode(self, state: Tensor, action: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and logarithm of the variance of z, each ``(B, 2A)``."""
        mean, log_variance = self.encoder(torch.cat([state, action], 1)).chunk(2, 1)
        return mean, log_variance

    def decode(self, state: Tensor, latent: Tensor) -> Tensor:
        """The action ``(B, A)`` that ``latent (B, 2A)`` stands for in ``state (B, S)``."""
        return self.decoder(torch.cat([state, latent], 1))


class Actor(nn.Module):
    """Policy in the latent space: ``zmax * tanh`` keeps it where the autoencoder was trained."""

    def __init__(
        self, state_dim: int, action_dim: int, zmax: float, hidden: Sequence[int] = HIDDEN
    ) -> None:
        super().__init__()
        self.zmax = zmax
        self.body = mlp(state_dim, 2 * action_dim, hidden)

    def forward(self, state: Tensor) -> Tensor:
        """State ``(B, S)`` to latent action ``(B, 2A)`` in ``[-zmax, zmax]``."""
        return self.zmax * torch.tanh(self.body(state))


class LapoNetworks(nn.Module):
    """All networks of LAPO, so that the targets are one copy of one module."""

    def __init__(
        self, spec: EncoderSpec, action_dim: int, zmax: float, hidden: Sequence[int] = HIDDEN
    ) -> None:
        super().__init__()
        self.encoder = ObservationEncoder(spec)
        state_dim = spec.output_dim
        self.critic = Critic(state_dim, action_dim, hidden)
        self.vae = Vae(state_dim, action_dim, hidden)
        self.actor = Actor(state_dim, action_dim, zmax, hidden)


@torch.no_grad()
def update_target(target: nn.Module, online: nn.Module, tau: float) -> None:
    """Move a target's parameters by ``tau`` towards the online ones; copy its buffers.

    Buffers are statistics, not weights: averaged or left behind they would describe a network
    that does not exist.
    """
    for slow, fast in zip(target.parameters(), online.parameters(), strict=True):
        slow.lerp_(fast, tau)
    for slow, fast in zip(target.buffers(), online.buffers(), strict=True):
        slow.copy_(fast)
