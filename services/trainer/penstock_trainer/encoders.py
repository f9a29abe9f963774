"""Encoders: what the robot sees and how it stands, fused into one feature vector.

Each camera has an encoder of its own: a small CNN for small images, or a ResNet18 (He et al.,
"Deep residual learning for image recognition", CVPR 2016) whose batch statistics cannot drift,
because its normalisation is by groups (Wu and He, "Group normalization", ECCV 2018) or frozen.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from penstock import load_checkpoint
from penstock.errors import DataFault, InvalidInput
from penstock_trainer.config import EncoderKind

__all__ = ["EncoderSpec", "ObservationEncoder", "SmallCnn", "resolve_kind"]

_SMALL_SIDE = 96
"""Images up to this side, in pixels, get the small CNN by default."""
_CAMERA_FEATURES = 128
_JOINT_FEATURES = 128
_FUSION_WIDTH = 512
_GROUP_CHANNELS = 16


@dataclass(frozen=True)
class EncoderSpec:
    """Everything that fixes an encoder's shape.

    Attributes:
        kind: One of ``cnn``, ``resnet18-gn``, ``resnet18-frozen``, ``none`` (the joint vector
            itself is the feature vector; images are not looked at).
        cameras: Camera names, in the order of the camera axis.
        height: Image height in pixels.
        width: Image width in pixels.
        joint_dim: Width of the joint vector.
        feature_dim: Width of the fused feature vector; ignored by ``none``.
        bfloat16: Camera trunks compute in bfloat16; fusion and heads stay in float32.
    """

    kind: EncoderKind
    cameras: tuple[str, ...]
    height: int
    width: int
    joint_dim: int
    feature_dim: int = 256
    bfloat16: bool = False

    @property
    def output_dim(self) -> int:
        """Width of what the encoder returns."""
        return self.joint_dim if self.kind == "none" else self.feature_dim


def resolve_kind(kind: EncoderKind, cameras: int, height: int, width: int) -> EncoderKind:
    """Settle ``auto``: no cameras ``none``, small images ``cnn``, else ``resnet18-gn``.

    Raises:
        InvalidInput: A camera encoder is asked for and the dataset has no cameras.
    """
    if kind == "auto":
        if cameras == 0:
            return "none"
        return "cnn" if max(height, width) <= _SMALL_SIDE else "resnet18-gn"
    if kind != "none" and cameras == 0:
        raise InvalidInput(
            f"encoder is {kind!r} but the dataset has no cameras: use encoder 'none'",
            field="encoder",
        )
    return kind


class SmallCnn(nn.Module):
    """Strided convolutions down to about 4 x 4 places, then one linear layer.

    Args:
        height: Image height in pixels.
        width: Image width in pixels.
        features: Width of the result.
        channels: Width of the first layer.
    """

    def __init__(
        self, height: int, width: int, features: int = _CAMERA_FEATURES, channels: int = 16
    ) -> None:
        super().__init__()
        layers: list[nn.Module] = [nn.Conv2d(3, channels, 5, 2, 2), nn.ReLU()]
        rows, columns, inputs = -(-height // 2), -(-width // 2), channels
        while max(rows, columns) > 4:  # noqa: PLR2004 - 4 x 4 places keep where a thing is
            layers += [nn.Conv2d(inputs, 2 * channels, 3, 2, 1), nn.ReLU()]
            rows, columns, inputs = -(-rows // 2), -(-columns // 2), 2 * channels
        self.trunk = nn.Sequential(*layers)
        self.head = nn.Linear(inputs * rows * columns, features)

    def forward(self, images: Tensor) -> Tensor:
        """Images ``(B, 3, H, W)`` in [0, 1] to features ``(B, features)``."""
        return torch.relu(self.head(self.trunk(images - 0.5).flatten(1)))


class ResNetEncoder(nn.Module):
    """ResNet18 of torchvision with a linear head; see the module for its normalisation."""

    mean: Tensor
    std: Tensor

    def __init__(self, *, frozen: bool, features: int = _CAMERA_FEATURES) -> None:
        super().__init__()
        # Imported here: torchvision takes a second, and the small CNN does without.
        from torchvision.models import resnet18  # noqa: PLC0415
        from torchvision.ops import FrozenBatchNorm2d  # noqa: PLC0415

        self.trunk = resnet18(norm_layer=FrozenBatchNorm2d if frozen else _group_norm)
        self.trunk.fc = nn.Linear(512, features)
        self.register_buffer("mean", torch.tensor([0.485, 0.456, 0.406]).view(1, 3, 1, 1))
        self.register_buffer("std", torch.tensor([0.229, 0.224, 0.225]).view(1, 3, 1, 1))

    def forward(self, images: Tensor) -> Tensor:
        """Images ``(B, 3, H, W)`` in [0, 1] to features ``(B, features)``."""
        return torch.relu(self.trunk((images - self.mean) / self.std))

    def load_pretrained(self, path: Path) -> None:
        """Start from the weights of a torchvision ResNet18; its classifier is left out.

        Raises:
            NotFound, Corrupt: The file is not there, or damaged.
            DataFault: It is no state dict of a ResNet18, or holds pickled objects.
        """
        weights = load_checkpoint(path)
        own = self.trunk.state_dict()
        if not isinstance(weights, dict):
            raise DataFault(f"encoder weights {path}: holds {type(weights).__name__}, not a dict")
        kept = {
            name: value
            for name, value in weights.items()
            if not name.startswith("fc.") and not name.endswith("num_batches_tracked")
        }
        # With group norm the running statistics of the original have no place.
        kept = {name: value for name, value in kept.items() if name in own or "running" not in name}
        try:
            missing, unexpected = self.trunk.load_state_dict(kept, strict=False)
        except RuntimeError as error:
            raise DataFault(f"encoder weights {path}: not a ResNet18: {error}") from error
        missing = [name for name in missing if not name.startswith("fc.")]
        if missing or unexpected:
            raise DataFault(
                f"encoder weights {path}: not a ResNet18: missing {missing[:3]}, unknown "
                f"{unexpected[:3]}: give a state dict of torchvision.models.resnet18"
            )


class ObservationEncoder(nn.Module):
    """One encoder per camera and one for the joints, fused to ``spec.output_dim`` features."""

    def __init__(self, spec: EncoderSpec) -> None:
        super().__init__()
        self.spec = spec
        self.cameras = nn.ModuleList()
        self.joints, self.fusion = nn.Identity(), nn.Identity()
        if spec.kind == "none":
            return
        for _ in spec.cameras:
            if spec.kind == "cnn":
                self.cameras.append(SmallCnn(spec.height, spec.width))
            else:
                self.cameras.append(ResNetEncoder(frozen=spec.kind == "resnet18-frozen"))
        self.joints = nn.Sequential(
            nn.Linear(spec.joint_dim, _JOINT_FEATURES),
            nn.ReLU(),
            nn.Linear(_JOINT_FEATURES, _JOINT_FEATURES),
        )
        fused = _CAMERA_FEATURES * len(spec.cameras) + _JOINT_FEATURES
        self.fusion = nn.Sequential(
            nn.Linear(fused, _FUSION_WIDTH),
            nn.ReLU(),
            nn.Linear(_FUSION_WIDTH, spec.feature_dim),
            nn.ReLU(),
        )

    def forward(self, images: Tensor, joint: Tensor) -> Tensor:
        """Encode a batch.

        Args:
            images: ``(B, C, H, W, 3) uint8``; on the device it is widened, not before.
            joint: ``(B, J) float32``, normalised.

        Returns:
            ``(B, spec.output_dim) float32``.
        """
        if self.spec.kind == "none":
            return joint
        dtype = torch.bfloat16 if self.spec.bfloat16 else torch.float32
        parts = [self.joints(joint)]
        with torch.autocast(images.device.type, torch.bfloat16, enabled=self.spec.bfloat16):
            for index, encoder in enumerate(self.cameras):
                # Stored rows are channels-last already: the permutation is free.
                view = images[:, index].permute(0, 3, 1, 2)
                pixels = view.to(dtype, memory_format=torch.channels_last).div(255)
                parts.append(encoder(pixels).float())
        return self.fusion(torch.cat(parts, 1))

    def load_pretrained(self, path: Path) -> None:
        """Start every camera's ResNet18 from the same weights.

        Raises:
            InvalidInput: This encoder has no ResNet18.
            NotFound, Corrupt, DataFault: The file is not there, is damaged, or does not fit.
        """
        for encoder in self.cameras:
            if not isinstance(encoder, ResNetEncoder):
                break
            encoder.load_pretrained(path)
        else:
            if len(self.cameras):
                return
        raise InvalidInput(
            f"encoder_weights is {path} but the encoder is {self.spec.kind!r}: weights are for "
            "resnet18-gn and resnet18-frozen",
            field="encoder_weights",
        )


def _group_norm(channels: int) -> nn.GroupNorm:
    return nn.GroupNorm(channels // _GROUP_CHANNELS, channels)
