"""Encoders, heads and target updates."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from penstock_trainer.encoders import EncoderSpec, ObservationEncoder, SmallCnn, resolve_kind
from penstock_trainer.networks import Actor, update_target
from torch import nn

from penstock.errors import DataFault, InvalidInput, NotFound


def frames(size: int, cameras: int, side: int) -> torch.Tensor:
    draw = torch.Generator().manual_seed(1)
    return torch.randint(0, 256, (size, cameras, side, side, 3), generator=draw, dtype=torch.uint8)


def test_target_parameters_move_by_tau_and_buffers_are_copied():
    online = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
    target = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
    before = {k: v.clone() for k, v in target.state_dict().items()}
    online(torch.randn(16, 2) * 3 + 5)  # running statistics leave their initial values
    update_target(target, online, 0.25)
    for name, value in target.named_parameters():
        expected = 0.75 * before[name] + 0.25 * dict(online.named_parameters())[name]
        torch.testing.assert_close(value, expected)
    for name, value in target.named_buffers():
        assert torch.equal(value, dict(online.named_buffers())[name])
    assert not torch.equal(target[1].running_mean, before["1.running_mean"])


def test_latent_actions_stay_within_zmax():
    actor = Actor(3, 2, zmax=1.25)
    latent = actor(1e6 * torch.randn(100, 3)).detach()
    assert latent.shape == (100, 4)
    assert float(latent.abs().max()) <= 1.25
    assert float(latent.abs().max()) > 1.2


@pytest.mark.parametrize(("height", "width"), [(8, 8), (32, 32), (64, 64), (48, 96), (33, 17)])
def test_small_cnn_takes_any_size(height, width):
    features = SmallCnn(height, width)(torch.rand(2, 3, height, width))
    assert features.shape == (2, 128)


@pytest.mark.parametrize("kind", ["cnn", "resnet18-gn", "resnet18-frozen"])
def test_a_sample_is_encoded_the_same_alone_and_in_a_batch(kind):
    encoder = ObservationEncoder(EncoderSpec(kind, ("a", "b"), 32, 32, 3, feature_dim=8))
    images, joint = frames(4, 2, 32), torch.randn(4, 3)
    with torch.no_grad():
        together = encoder(images, joint)
        alone = encoder(images[2:3], joint[2:3])
    assert together.shape == (4, 8)
    torch.testing.assert_close(together[2:3], alone, rtol=1e-4, atol=1e-5)


def test_every_camera_has_an_encoder_of_its_own_and_matters(encoder_spec):
    encoder = ObservationEncoder(encoder_spec)
    images, joint = frames(3, 3, 8), torch.randn(3, 3)
    features = encoder(images, joint)
    for camera in range(3):
        changed = images.clone()
        changed[:, camera] = 255 - changed[:, camera]
        assert not torch.equal(encoder(changed, joint), features)
    swapped = encoder(images[:, [1, 0, 2]], joint)
    assert not torch.equal(swapped, features)


def test_encoder_gives_the_features_of_plain_float_images(encoder_spec):
    encoder = ObservationEncoder(encoder_spec)
    images, joint = frames(2, 3, 8), torch.randn(2, 3)
    parts = [encoder.joints(joint)]
    for camera in range(3):
        floats = torch.tensor(images[:, camera].numpy().transpose(0, 3, 1, 2) / 255.0)
        parts.append(encoder.cameras[camera](floats.float()))
    torch.testing.assert_close(encoder(images, joint), encoder.fusion(torch.cat(parts, 1)))


def test_frozen_normalisation_has_nothing_to_learn():
    encoder = ObservationEncoder(EncoderSpec("resnet18-frozen", ("a",), 32, 32, 3))
    assert not [name for name, _ in encoder.named_parameters() if ".bn" in name]


def test_without_cameras_the_joints_are_the_features():
    encoder = ObservationEncoder(EncoderSpec("none", (), 0, 0, joint_dim=5))
    joint = torch.randn(2, 5)
    assert torch.equal(encoder(torch.empty(2, 0, 0, 0, 3, dtype=torch.uint8), joint), joint)
    assert encoder.spec.output_dim == 5


def test_bfloat16_trunks_give_nearly_the_same_features_in_float32(encoder_spec):
    exact = ObservationEncoder(encoder_spec)
    fast = ObservationEncoder(replace(encoder_spec, bfloat16=True))
    fast.load_state_dict(exact.state_dict())
    images, joint = frames(4, 3, 8), torch.randn(4, 3)
    features = fast(images, joint)
    assert features.dtype == torch.float32
    torch.testing.assert_close(features, exact(images, joint), rtol=0.05, atol=0.02)


@pytest.mark.parametrize(
    ("kind", "cameras", "side", "expected"),
    [
        ("auto", 3, 32, "cnn"),
        ("auto", 3, 224, "resnet18-gn"),
        ("auto", 0, 0, "none"),
        ("cnn", 1, 224, "cnn"),
        ("none", 3, 32, "none"),
    ],
)
def test_auto_picks_the_encoder_by_what_there_is(kind, cameras, side, expected):
    assert resolve_kind(kind, cameras, side, side) == expected


def test_camera_encoder_without_cameras_is_refused():
    with pytest.raises(InvalidInput, match="no cameras"):
        resolve_kind("cnn", 0, 0, 0)


def test_pretrained_weights_start_every_camera(tmp_path: Path):
    from torchvision.models import resnet18

    original = resnet18()
    torch.save(original.state_dict(), tmp_path / "resnet18.pt")
    encoder = ObservationEncoder(EncoderSpec("resnet18-frozen", ("a", "b"), 32, 32, 3))
    encoder.load_pretrained(tmp_path / "resnet18.pt")
    for camera in encoder.cameras:
        assert torch.equal(camera.trunk.layer3[0].conv1.weight, original.layer3[0].conv1.weight)


def test_weights_of_another_network_are_refused_by_name(tmp_path: Path, encoder_spec):
    path = tmp_path / "other.pt"
    torch.save({"weight": torch.zeros(2)}, path)
    encoder = ObservationEncoder(EncoderSpec("resnet18-gn", ("a",), 32, 32, 3))
    with pytest.raises(DataFault, match=r"other\.pt.*not a ResNet18"):
        encoder.load_pretrained(path)
    with pytest.raises(InvalidInput, match="encoder_weights"):
        ObservationEncoder(encoder_spec).load_pretrained(path)


def test_weights_that_are_missing_or_a_pickle_are_refused(tmp_path: Path):
    encoder = ObservationEncoder(EncoderSpec("resnet18-gn", ("a",), 32, 32, 3))
    with pytest.raises(NotFound, match=r"no file .*gone\.pt"):
        encoder.load_pretrained(tmp_path / "gone.pt")
    torch.save(torch.nn.Linear(1, 1), tmp_path / "whole.pt")
    with pytest.raises(DataFault, match=r"whole\.pt is a pickle that holds torch\.nn"):
        encoder.load_pretrained(tmp_path / "whole.pt")
