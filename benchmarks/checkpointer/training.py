"""The training loop whose state is saved: a policy that learns, its EMA target, and Adam.

36 M parameters in 291 tensors; with the target and Adam's two moments and step of each that makes
1455 tensors and 578 MB. The encoder has 87 % of them. What is learnt is synthetic, but it is
learnt, so that weights, target and moments have the statistics of trained ones.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

__all__ = ["EMA_DECAY", "LEARNING_RATE", "Training", "size_bytes", "tensors_of"]

LEARNING_RATE, EMA_DECAY = 1e-4, 0.995
_WIDTH, _HEADS = 360, 6
_ENCODER_BLOCKS, _POLICY_BLOCKS = 20, 3
_PATCH, _TOKENS, _ACTION = 192, 8, 7
_BATCH = 8
_NOISE = 0.05


class Block(nn.Module):
    """A transformer block, normalised first."""

    def __init__(self, width: int = _WIDTH) -> None:
        super().__init__()
        self.attention_norm = nn.LayerNorm(width)
        self.query_key_value = nn.Linear(width, 3 * width)
        self.attention_out = nn.Linear(width, width)
        self.mlp_norm = nn.LayerNorm(width)
        self.mlp_in = nn.Linear(width, 4 * width)
        self.mlp_out = nn.Linear(4 * width, width)

    def forward(self, tokens: Tensor) -> Tensor:
        """Give ``(B, T, width)`` for the same."""
        batch, count, width = tokens.shape
        parts = self.query_key_value(self.attention_norm(tokens)).chunk(3, dim=-1)
        heads = [part.reshape(batch, count, _HEADS, -1).transpose(1, 2) for part in parts]
        attended = nn.functional.scaled_dot_product_attention(*heads)
        attended = attended.transpose(1, 2).reshape(batch, count, width)
        tokens = tokens + self.attention_out(attended)
        hidden = nn.functional.gelu(self.mlp_in(self.mlp_norm(tokens)))
        return tokens + self.mlp_out(hidden)


class Encoder(nn.Module):
    """Patches of an image, ``(B, T, patch)``, to tokens."""

    def __init__(self) -> None:
        super().__init__()
        self.patches = nn.Linear(_PATCH, _WIDTH)
        self.position = nn.Parameter(0.02 * torch.randn(_TOKENS, _WIDTH))
        self.blocks = nn.Sequential(*(Block() for _ in range(_ENCODER_BLOCKS)))

    def forward(self, patches: Tensor) -> Tensor:
        """Encode them."""
        return self.blocks(self.patches(patches) + self.position)


class Policy(nn.Module):
    """Encoder, a few blocks and a head that gives actions, ``(B, 7)``."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = Encoder()
        self.blocks = nn.Sequential(*(Block() for _ in range(_POLICY_BLOCKS)), nn.LayerNorm(_WIDTH))
        self.head = nn.Sequential(
            nn.Linear(_WIDTH, 256),
            nn.LayerNorm(256),
            nn.GELU(),
            nn.Linear(256, 256),
            nn.LayerNorm(256),
            nn.GELU(),
            nn.Linear(256, _ACTION),
        )

    def forward(self, patches: Tensor) -> Tensor:
        """Give the actions."""
        return self.head(self.blocks(self.encoder(patches)).mean(1))


class Training:
    """Steps of a training run.

    Attributes:
        model: What learns.
        steps: Done so far.
        losses: Of each.
        forward_backward_ms: Of each.
    """

    def __init__(self) -> None:
        torch.manual_seed(0)
        self.model = Policy()
        self._ema = AveragedModel(self.model, multi_avg_fn=get_ema_multi_avg_fn(EMA_DECAY))
        self._optimizer = torch.optim.Adam(self.model.parameters(), lr=LEARNING_RATE, fused=True)
        self._teacher = torch.randn(_PATCH, _ACTION) / _PATCH**0.5
        self.steps = 0
        self.losses: list[float] = []
        self.forward_backward_ms: list[float] = []

    def step(self, before_optimizer: Callable[[], None] = lambda: None) -> float:
        """Learn from one batch.

        Args:
            before_optimizer: Called when the gradients are there.

        Returns:
            Seconds that the optimizer's step and what was before it took.
        """
        begun_s = time.perf_counter()
        patches = torch.randn(_BATCH, _TOKENS, _PATCH)
        target = torch.tanh(2 * patches.mean(1) * _TOKENS**0.5 @ self._teacher)
        target += _NOISE * torch.randn_like(target)
        loss = nn.functional.mse_loss(self.model(patches), target)
        self._optimizer.zero_grad()
        loss.backward()
        ready_s = time.perf_counter()
        before_optimizer()
        self._optimizer.step()
        stepped_s = time.perf_counter()
        self._ema.update_parameters(self.model)
        self.losses.append(loss.item())
        self.forward_backward_ms.append(1e3 * (ready_s - begun_s))
        self.steps += 1
        return stepped_s - ready_s

    def run(self, steps: int) -> float:
        """Do so many steps; seconds that they took."""
        begun_s = time.perf_counter()
        for _ in range(steps):
            self.step()
        return time.perf_counter() - begun_s

    def state(self) -> dict[str, Any]:
        """What a checkpoint holds; it looks at the live tensors."""
        return {
            "model": self.model.state_dict(),
            "ema": self._ema.module.state_dict(),
            "optimizer": self._optimizer.state_dict(),
            "step": self.steps,
        }

    def freeze_encoder(self) -> None:
        """From now on the encoder, its target and its moments stay as they are."""
        self.model.encoder.requires_grad_(requires_grad=False)
        self._optimizer.zero_grad()
        self._ema.module.encoder.load_state_dict(self.model.encoder.state_dict())


def tensors_of(state: Any) -> list[Tensor]:
    """All tensors of a state."""
    if isinstance(state, Tensor):
        return [state]
    children = state.values() if isinstance(state, dict) else state
    if not isinstance(state, (dict, list, tuple)):
        return []
    return [tensor for child in children for tensor in tensors_of(child)]


def size_bytes(state: Any) -> int:
    """Bytes of all tensors of a state."""
    return sum(tensor.nbytes for tensor in tensors_of(state))
