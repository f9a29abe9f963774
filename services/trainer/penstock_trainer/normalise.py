"""Normalisation: states and actions as z-scores, rewards scaled, values bounded by the rewards."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

import structlog
import torch
from torch import Tensor

from penstock.dataset import DatasetInfo
from penstock.errors import Corrupt, DataFault

__all__ = ["Normaliser", "value_range"]

log = structlog.get_logger(__name__)

_CONSTANT_STD = 1e-4
"""A column that varies less than this is constant: dividing by it would amplify noise."""

_FIELDS = (
    "joint_mean",
    "joint_std",
    "action_mean",
    "action_std",
    "action_min",
    "action_max",
)


@dataclass(frozen=True)
class Normaliser:
    """Statistics of a dataset, as tensors on one device.

    Attributes:
        joint_mean: ``(J,) float32``.
        joint_std: ``(J,) float32``, 1 where a column is constant.
        action_mean: ``(A,) float32``.
        action_std: ``(A,) float32``, 1 where a column is constant.
        action_min: ``(A,) float32``, least action that was recorded.
        action_max: ``(A,) float32``.
        reward_min: Least reward, scaled.
        reward_max: Greatest reward, scaled.
        reward_scale: What recorded rewards are multiplied by.
    """

    joint_mean: Tensor
    joint_std: Tensor
    action_mean: Tensor
    action_std: Tensor
    action_min: Tensor
    action_max: Tensor
    reward_min: float
    reward_max: float
    reward_scale: float = 1.0

    @classmethod
    def from_dataset(cls, info: DatasetInfo, reward_scale: float = 1.0) -> Self:
        """Take the statistics that the sampler gives.

        Raises:
            DataFault: Statistics are missing or not finite; names the column.
        """
        for name in ("joint", "action", "reward"):
            if name not in info.statistics:
                raise DataFault(
                    f"the sampler gives no statistics of {name!r} "
                    f"(it has {sorted(info.statistics)}): training cannot normalise",
                    reason="STATISTICS_MISSING",
                )
            column = info.statistics[name]
            for part in (column.mean, column.std, column.min, column.max):
                if not torch.isfinite(torch.as_tensor(part)).all():
                    raise DataFault(
                        f"statistics of {name!r} are not finite: the recordings hold NaN or "
                        "infinite values; find them with `penstock doctor FILE`",
                        reason="STATISTICS_NOT_FINITE",
                    )
        joint, action = info.statistics["joint"], info.statistics["action"]
        reward = info.statistics["reward"]
        ends = sorted(
            (float(reward.min.min()) * reward_scale, float(reward.max.max()) * reward_scale)
        )
        return cls(
            joint_mean=_tensor(joint.mean),
            joint_std=_scale("joint", _tensor(joint.std)),
            action_mean=_tensor(action.mean),
            action_std=_scale("action", _tensor(action.std)),
            action_min=_tensor(action.min),
            action_max=_tensor(action.max),
            reward_min=ends[0],
            reward_max=ends[1],
            reward_scale=reward_scale,
        )

    def joint(self, raw: Tensor) -> Tensor:
        """Joint vectors ``(B, J)`` in the robot's units to z-scores."""
        return (raw - self.joint_mean) / self.joint_std

    def action(self, raw: Tensor) -> Tensor:
        """Actions ``(B, A)`` in the robot's units to z-scores."""
        return (raw - self.action_mean) / self.action_std

    def robot_action(self, normalised: Tensor) -> Tensor:
        """Z-scores ``(B, A)`` to the robot's units, clipped to what was ever recorded."""
        raw = normalised * self.action_std + self.action_mean
        return torch.clamp(raw, self.action_min, self.action_max)

    def to(self, device: torch.device | str) -> Normaliser:
        """The same on another device."""
        moved = {name: getattr(self, name).to(device) for name in _FIELDS}
        return Normaliser(
            **moved,
            reward_min=self.reward_min,
            reward_max=self.reward_max,
            reward_scale=self.reward_scale,
        )

    def state_dict(self) -> dict[str, Any]:
        """Plain values for a checkpoint."""
        return {
            **{name: getattr(self, name).cpu() for name in _FIELDS},
            "reward_min": self.reward_min,
            "reward_max": self.reward_max,
            "reward_scale": self.reward_scale,
        }

    @classmethod
    def from_state(cls, state: Mapping[str, Any]) -> Self:
        """Read what :meth:`state_dict` wrote.

        Raises:
            Corrupt: A field is missing.
        """
        names = (*_FIELDS, "reward_min", "reward_max", "reward_scale")
        missing = [name for name in names if name not in state]
        if missing:
            raise Corrupt(f"normaliser in the checkpoint lacks {missing}")
        return cls(**{name: state[name] for name in names})


def value_range(reward_min: float, reward_max: float, discount: float) -> tuple[float, float]:
    """Least and greatest discounted return that rewards in ``[reward_min, reward_max]`` allow.

    An episode may end at any step. With rewards of both signs the range is
    ``[reward_min, reward_max] / (1 - discount)``; if all are positive, the worst return is one
    reward, not an endless sum of the least one; if all are negative, the best is.
    """
    horizon = 1.0 / (1.0 - discount)
    low = reward_min * horizon if reward_min < 0 else reward_min
    high = reward_max * horizon if reward_max > 0 else reward_max
    return low, high


def _tensor(values: Any) -> Tensor:
    return torch.as_tensor(values, dtype=torch.float32).clone()


def _scale(name: str, std: Tensor) -> Tensor:
    constant = std < _CONSTANT_STD
    if constant.any():
        log.warning(
            "constant_columns",
            column=name,
            columns=torch.nonzero(constant).flatten().tolist(),
            effect="centred, not scaled",
        )
    return torch.where(constant, torch.ones_like(std), std)
