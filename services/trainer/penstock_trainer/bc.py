"""Behaviour cloning: regress the recorded actions, good and bad alike. The baseline to beat."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812 - its name everywhere
from torch import Tensor, nn

from penstock_trainer.algorithm import NetworkSpec, adam, seeded
from penstock_trainer.encoders import ObservationEncoder
from penstock_trainer.networks import mlp
from penstock_trainer.transitions import Transitions

__all__ = ["BehaviourCloning", "BehaviourCloningPolicy"]


class _Networks(nn.Module):
    def __init__(self, spec: NetworkSpec) -> None:
        super().__init__()
        self.encoder = ObservationEncoder(spec.encoder)
        self.head = mlp(spec.encoder.output_dim, spec.action_dim, spec.hidden)

    def forward(self, images: Tensor, joint: Tensor) -> Tensor:
        return self.head(self.encoder(images, joint))


class BehaviourCloning:
    """The learner: one network, one optimiser, no noise.

    Args:
        spec: Shapes of the network.
        lr: Learning rate.
        seed: Fixes the initial weights.
        device: Where everything lives.
    """

    metric_names = ("action_loss",)

    def __init__(self, spec: NetworkSpec, lr: float, seed: int, device: torch.device) -> None:
        self.spec = spec
        with seeded(seed):
            self.networks = _Networks(spec).to(device)
        self.optimiser = adam(self.networks.parameters(), lr)

    def update(self, batch: Transitions) -> dict[str, Tensor]:
        """One step of mean squared error in z-scored actions."""
        loss = F.mse_loss(self.networks(batch.images, batch.joint), batch.action)
        self.optimiser.zero_grad()
        loss.backward()
        self.optimiser.step()
        return {"action_loss": loss.detach()}

    @torch.no_grad()
    def validate(self, batch: Transitions) -> dict[str, Tensor]:
        """Per-transition squared error ``(B,)`` in z-scored actions."""
        action = self.networks(batch.images, batch.joint)
        return {"error": (action - batch.action).square().mean(1)}

    def state_dict(self) -> dict[str, Any]:
        """All that a run needs to go on bit for bit."""
        return {"networks": self.networks.state_dict(), "optimiser": self.optimiser.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over what :meth:`state_dict` gave."""
        self.networks.load_state_dict(state["networks"])
        self.optimiser.load_state_dict(state["optimiser"])

    def set_learning_rate(self, lr: float) -> None:
        """Go on with another learning rate than the loaded optimiser had."""
        for group in self.optimiser.param_groups:
            group["lr"] = lr


class BehaviourCloningPolicy:
    """The acting part of behaviour cloning."""

    def __init__(self, spec: NetworkSpec, state: dict[str, Any], device: torch.device) -> None:
        self.networks = _Networks(spec)
        self.networks.load_state_dict(state["networks"])
        self.networks.to(device).eval()

    @torch.no_grad()
    def act(self, images: Tensor, joint: Tensor) -> Tensor:
        """Normalised action ``(B, A)`` for images ``(B, C, H, W, 3)`` and z-scored joints."""
        return self.networks(images, joint)
