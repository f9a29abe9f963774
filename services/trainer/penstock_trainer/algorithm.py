"""What an algorithm is to the training loop, and what algorithms have in common."""

from __future__ import annotations

import contextlib
from collections.abc import Generator, Iterable
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from penstock_trainer.encoders import EncoderSpec
from penstock_trainer.networks import HIDDEN
from penstock_trainer.transitions import Transitions

__all__ = ["ActingPolicy", "Algorithm", "NetworkSpec", "adam", "seeded"]


@dataclass(frozen=True)
class NetworkSpec:
    """Everything that fixes the shapes of an algorithm's networks.

    Attributes:
        encoder: Shape of the observation encoder.
        action_dim: Width of an action.
        zmax: Bound of latent actions (LAPO).
        hidden: Widths of the hidden layers of every head.
    """

    encoder: EncoderSpec
    action_dim: int
    zmax: float = 2.0
    hidden: tuple[int, ...] = HIDDEN


class Algorithm(Protocol):
    """A learner; it draws its noise from a generator of its own, so nothing else can shift it."""

    @property
    def metric_names(self) -> tuple[str, ...]:
        """Keys of what :meth:`update` returns."""
        ...

    def update(self, batch: Transitions) -> dict[str, Tensor]:
        """One step; scalars by ``metric_names``, left on the device."""
        ...

    def validate(self, batch: Transitions) -> dict[str, Tensor]:
        """Per-transition measures ``(B,)`` of held-out data; changes nothing, draws nothing."""
        ...

    def state_dict(self) -> dict[str, Any]:
        """All that a run needs to go on bit for bit."""
        ...

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over what :meth:`state_dict` gave."""
        ...

    def set_learning_rate(self, lr: float) -> None:
        """Go on with another learning rate than the loaded optimisers had."""
        ...


class ActingPolicy(Protocol):
    """The part of an algorithm that a robot needs."""

    def act(self, images: Tensor, joint: Tensor) -> Tensor:
        """Normalised action ``(B, A)`` for images ``(B, C, H, W, 3)`` and z-scored joints."""
        ...


def adam(parameters: Iterable[nn.Parameter], lr: float) -> torch.optim.Adam:
    """Adam in its fused form, which updates all parameters in one pass."""
    return torch.optim.Adam(list(parameters), lr, fused=True)


@contextlib.contextmanager
def seeded(seed: int) -> Generator[None]:
    """Draw initial weights from ``seed`` and leave the process's generator as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield
