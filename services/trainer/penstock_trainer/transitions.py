"""A batch on the training device: bytes travel as they are, normalisation happens there."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Self

import torch
from numpy.typing import NDArray
from torch import Tensor

from penstock.batch import Batch
from penstock.torch import as_tensor
from penstock_trainer.normalise import Normaliser

__all__ = ["Transitions"]


@dataclass(frozen=True)
class Transitions:
    """``B`` transitions as the algorithms read them.

    Attributes:
        images: ``(B, C, H, W, 3) uint8``.
        joint: ``(B, J) float32``, z-scored.
        action: ``(B, A) float32``, z-scored.
        reward: ``(B, 1) float32``, scaled.
        going_on: ``(B, 1) float32``: 0 where the environment ended the episode, else 1.
        next_images: ``(B, C, H, W, 3) uint8``.
        next_joint: ``(B, J) float32``, z-scored.
    """

    images: Tensor
    joint: Tensor
    action: Tensor
    reward: Tensor
    going_on: Tensor
    next_images: Tensor
    next_joint: Tensor

    @classmethod
    def from_batch(cls, batch: Batch, normaliser: Normaliser, device: torch.device) -> Self:
        """Move ``batch`` to ``device`` and normalise it there."""

        def move(array: NDArray[Any]) -> Tensor:
            # asynchronous only from pinned memory; from any other it is an ordinary copy
            return as_tensor(array).to(device, non_blocking=True)

        frames = move(batch.frames)
        going_on = 1.0 - move(batch.terminal).to(torch.float32)
        return cls(
            images=frames[:, 0],
            joint=normaliser.joint(move(batch.joint)),
            action=normaliser.action(move(batch.action)),
            reward=move(batch.reward)[:, None] * normaliser.reward_scale,
            going_on=going_on[:, None],
            next_images=frames[:, 1],
            next_joint=normaliser.joint(move(batch.next_joint)),
        )

    def __len__(self) -> int:
        return len(self.action)
