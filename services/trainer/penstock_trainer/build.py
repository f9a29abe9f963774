"""Builds networks and learners from settings, or from what a checkpoint says they were."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import torch

from penstock.dataset import DatasetInfo
from penstock.errors import Corrupt, InvalidInput
from penstock_trainer.algorithm import ActingPolicy, Algorithm, NetworkSpec
from penstock_trainer.bc import BehaviourCloning, BehaviourCloningPolicy
from penstock_trainer.config import TrainSettings
from penstock_trainer.encoders import EncoderSpec, resolve_kind
from penstock_trainer.hardware import wants_bfloat16
from penstock_trainer.lapo import Lapo, LapoOptions, LapoPolicy
from penstock_trainer.normalise import Normaliser, value_range

__all__ = ["acting_policy", "learner", "network_spec", "spec_from_state", "spec_to_state"]


def network_spec(
    settings: TrainSettings, info: DatasetInfo, image_size: tuple[int, int], device: torch.device
) -> NetworkSpec:
    """Shapes of the networks that ``settings`` ask for on this dataset.

    Args:
        settings: The run.
        info: Gives cameras and widths.
        image_size: Height and width of the images as the sampler sends them.
        device: Decides on bfloat16 where the settings leave it open.
    """
    height, width = image_size
    kind = resolve_kind(settings.encoder, len(info.cameras), height, width)
    encoder = EncoderSpec(
        kind=kind,
        cameras=info.camera_names,
        height=height,
        width=width,
        joint_dim=info.joint_dim,
        feature_dim=settings.obs_feature_dim,
        bfloat16=kind != "none" and wants_bfloat16(settings.precision, device),
    )
    return NetworkSpec(encoder, info.action_dim, settings.zmax)


def learner(
    settings: TrainSettings, spec: NetworkSpec, normaliser: Normaliser, device: torch.device
) -> Algorithm:
    """A learner with fresh weights.

    Raises:
        InvalidInput: Pretrained weights do not go with the encoder.
        DataFault: Pretrained weights cannot be read.
    """
    if settings.algo == "bc":
        cloning = BehaviourCloning(spec, settings.lr, settings.seed, device)
        if settings.encoder_weights is not None:
            cloning.networks.encoder.load_pretrained(settings.encoder_weights)
        return cloning
    low, high = value_range(normaliser.reward_min, normaliser.reward_max, settings.discount)
    options = LapoOptions(
        variant=settings.algo,
        discount=settings.discount,
        expectile=settings.expectile,
        kl_beta=settings.kl_beta,
        tau=settings.tau,
        doubleq_min=settings.doubleq_min,
        lr=settings.lr,
        value_min=low,
        value_max=high,
    )
    lapo = Lapo(spec, options, settings.seed, device)
    if settings.encoder_weights is not None:
        lapo.online.encoder.load_pretrained(settings.encoder_weights)
        lapo.target.encoder.load_state_dict(lapo.online.encoder.state_dict())
    return lapo


def acting_policy(
    algo: str, spec: NetworkSpec, state: dict[str, Any], device: torch.device
) -> ActingPolicy:
    """The acting part of a learner's state.

    Raises:
        Corrupt: The state is not one of ``algo`` with these shapes.
        InvalidInput: There is no such algorithm.
    """
    kinds = {"bc": BehaviourCloningPolicy, "lapo": LapoPolicy, "lapo-v1": LapoPolicy}
    if algo not in kinds:
        raise InvalidInput(f"algo is {algo!r}: this version acts with {sorted(kinds)}")
    try:
        return kinds[algo](spec, state, device)
    except (KeyError, RuntimeError) as error:
        raise Corrupt(f"checkpoint holds no {algo} policy of that shape: {error}") from error


def spec_to_state(spec: NetworkSpec) -> dict[str, Any]:
    """Plain values for a checkpoint."""
    return asdict(spec)


def spec_from_state(state: Mapping[str, Any]) -> NetworkSpec:
    """Read what :func:`spec_to_state` gave.

    Raises:
        Corrupt: A field is missing or unknown.
    """
    try:
        fields: dict[str, Any] = {**state, "encoder": EncoderSpec(**state["encoder"])}
        return NetworkSpec(**fields)
    except (KeyError, TypeError) as error:
        raise Corrupt(f"network shapes in the checkpoint are not understood: {error}") from error
