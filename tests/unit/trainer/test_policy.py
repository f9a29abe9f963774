"""A policy out of a checkpoint."""

from __future__ import annotations

import io

import numpy as np
import pytest
import torch
from penstock_trainer.algorithm import NetworkSpec
from penstock_trainer.bc import BehaviourCloning
from penstock_trainer.build import spec_to_state
from penstock_trainer.lapo import Lapo, LapoOptions
from penstock_trainer.policy import Policy

from penstock.errors import Corrupt, InvalidInput

CPU = torch.device("cpu")


@pytest.fixture
def learner(encoder_spec, transitions):
    lapo = Lapo(NetworkSpec(encoder_spec, 2, hidden=(16,)), LapoOptions(tau=0.3, lr=0.01), 1, CPU)
    for seed in range(3):
        lapo.update(transitions(8, seed))
    return lapo


def state_of(learner, normaliser, algo="lapo", step=7):
    return {
        "kind": "penstock.trainer",
        "step": step,
        "settings": {"algo": algo},
        "networks": spec_to_state(learner.spec),
        "normaliser": normaliser.state_dict(),
        "algorithm": learner.state_dict(),
    }


@pytest.fixture
def observation():
    rng = np.random.default_rng(0)
    images = {
        name: rng.integers(0, 256, (4, 8, 8, 3), dtype=np.uint8)
        for name in ("global", "left", "right")
    }
    return images, rng.normal(size=(4, 3)).astype(np.float32)


def test_policy_survives_a_file_and_acts_as_the_equation_says(learner, normaliser, observation):
    file = io.BytesIO()
    torch.save(state_of(learner, normaliser), file)
    file.seek(0)
    policy = Policy.from_checkpoint(torch.load(file, weights_only=True))
    images, joint = observation
    frames = torch.tensor(np.stack([images[n] for n in ("left", "right", "global")], 1))
    with torch.no_grad():
        s = learner.online.encoder(
            frames, (torch.tensor(joint) - normaliser.joint_mean) / normaliser.joint_std
        )
        z = 2.0 * torch.tanh(learner.online.actor.body(s))
        a = learner.target.vae.decoder(torch.cat([s, z], 1))
        expected = a * normaliser.action_std + normaliser.action_mean
        expected = torch.minimum(
            torch.maximum(expected, normaliser.action_min), normaliser.action_max
        )
    np.testing.assert_allclose(policy.select_action(images, joint), expected, atol=1e-6)
    assert policy.step == 7
    assert policy.cameras == ("left", "right", "global")
    assert policy.image_size == (8, 8)


def test_one_observation_gives_one_action(learner, normaliser, observation):
    policy = Policy.from_checkpoint(state_of(learner, normaliser))
    images, joint = observation
    batch = policy.select_action(images, joint)
    single = policy.select_action({name: image[1] for name, image in images.items()}, joint[1])
    assert single.shape == (2,)
    np.testing.assert_allclose(single, batch[1], atol=1e-5)


def test_behaviour_cloning_acts_with_its_network(
    encoder_spec, transitions, normaliser, observation
):
    cloning = BehaviourCloning(NetworkSpec(encoder_spec, 2, hidden=(16,)), 0.01, 1, CPU)
    cloning.update(transitions(8))
    policy = Policy.from_checkpoint(state_of(cloning, normaliser, algo="bc"))
    images, joint = observation
    frames = torch.tensor(np.stack([images[n] for n in ("left", "right", "global")], 1))
    with torch.no_grad():
        expected = normaliser.robot_action(
            cloning.networks(frames, normaliser.joint(torch.tensor(joint)))
        )
    np.testing.assert_allclose(policy.select_action(images, joint), expected, atol=1e-6)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda i, j: ({"left": i["left"], "right": i["right"]}, j), "cameras"),
        (lambda i, j: (i | {"wrist": i["left"]}, j), "wrist"),
        (lambda i, j: (i | {"left": i["left"][:, :4]}, j), "'left'.*uint8"),
        (lambda i, j: (i | {"left": i["left"].astype(np.float32)}, j), "'left' is float32"),
        (lambda i, j: (i | {"left": i["left"][:2]}, j), "'left'"),
        (lambda i, j: (i, j[:, :2]), "joint has shape"),
    ],
)
def test_observation_that_does_not_fit_is_named(learner, normaliser, observation, change, message):
    policy = Policy.from_checkpoint(state_of(learner, normaliser))
    with pytest.raises(InvalidInput, match=message):
        policy.select_action(*change(*observation))


def test_what_is_no_checkpoint_of_a_run_is_refused(learner, normaliser):
    with pytest.raises(Corrupt, match="kind is None"):
        Policy.from_checkpoint({"weights": torch.zeros(1)})
    state = state_of(learner, normaliser)
    state["algorithm"]["online"].popitem()
    with pytest.raises(Corrupt, match="lapo policy"):
        Policy.from_checkpoint(state)
    state = state_of(learner, normaliser)
    state["networks"]["encoder"]["unheard"] = 1
    with pytest.raises(Corrupt, match="unheard"):
        Policy.from_checkpoint(state)
