"""The pieces of PPO say what their formulas say."""

import copy
import math

import numpy as np
import pytest
import torch
from navigation_ppo.collecting import collect
from navigation_ppo.journal import checksum
from navigation_ppo.navigation import NavigationEnvs
from navigation_ppo.network import ActorCritic
from navigation_ppo.ppo import Learner, advantages, dice_of, policy_of
from navigation_ppo.settings import Settings

SETTINGS = Settings(envs=8, steps=16, rollouts=4, epochs=2, minibatches=2, width=16, judged=10)


def rolled_out(network, seed=0):
    envs = NavigationEnvs(SETTINGS.envs, seed)
    return collect(envs, policy_of(network, dice_of(seed)), SETTINGS.steps)


def same(one, other):
    return all(torch.equal(a, b) for a, b in zip(one.values(), other.values(), strict=True))


def test_advantages_are_the_weighted_sums_of_all_errors_to_come():
    dice = np.random.default_rng(0)
    envs, steps, gamma, gae_lambda = 5, 30, 0.9, 0.8
    reward, value, next_value = dice.normal(size=(3, envs, steps))
    terminated = dice.random((envs, steps)) < 0.1
    done = terminated | (dice.random((envs, steps)) < 0.1)

    expected = np.zeros((envs, steps))
    for env in range(envs):
        for first in range(steps):
            weight = 1.0
            for step in range(first, steps):
                future = 0.0 if terminated[env, step] else next_value[env, step]
                error = reward[env, step] + gamma * future - value[env, step]
                expected[env, first] += weight * error
                weight *= gamma * gae_lambda
                if done[env, step]:
                    break

    result = advantages(
        *(torch.from_numpy(part) for part in (reward, value, next_value, terminated, done)),
        gamma=gamma,
        gae_lambda=gae_lambda,
    )
    np.testing.assert_allclose(result.numpy(), expected, atol=1e-12)


def test_log_prob_and_entropy_are_those_of_torch():
    network = ActorCritic(8)
    mean, action = torch.randn(2, 20, 3, generator=dice_of(0))
    normal = torch.distributions.Normal(mean, network.log_std.exp())
    torch.testing.assert_close(network.log_prob(mean, action), normal.log_prob(action).sum(-1))
    torch.testing.assert_close(network.entropy(), normal.entropy()[0].sum())


def test_the_density_that_was_collected_is_the_one_that_learning_begins_from():
    learner = Learner(SETTINGS)
    rollout = rolled_out(learner.network)
    observation = {
        name: torch.from_numpy(part).flatten(0, 1) for name, part in rollout["observation"].items()
    }
    mean, _ = learner.network(observation)
    again = learner.network.log_prob(mean, torch.from_numpy(rollout["action"]).flatten(0, 1))
    np.testing.assert_allclose(
        again.detach().numpy(), rollout["log_prob"].reshape(-1), rtol=1e-4, atol=1e-4
    )


def test_an_obstacle_elsewhere_around_the_robot_is_seen_by_the_same_filters():
    network = ActorCritic(8)
    lidar = torch.rand(1, 4, 36, generator=dice_of(1))
    turned = lidar.roll(2, dims=-1)  # two azimuths: one step of the filters
    torch.testing.assert_close(network.rays(turned), network.rays(lidar).roll(1, dims=-1))


def test_learning_makes_good_actions_more_likely():
    learner = Learner(SETTINGS)
    rollout = rolled_out(learner.network)
    # Whatever goes up is good, whatever goes down is bad.
    rollout["reward"] = rollout["action"][..., 2].copy()

    def upwards():
        return rolled_out(learner.network)["action"][..., 2].mean()

    before = upwards()
    for _ in range(3):
        learner.learn(rollout)
    assert upwards() > before


def test_a_learner_that_was_restored_goes_on_as_if_nothing_had_been():
    learner = Learner(SETTINGS)
    rollouts = [rolled_out(learner.network, seed) for seed in range(3)]
    for rollout in rollouts[:2]:
        learner.learn(rollout)
    saved = copy.deepcopy(learner.state())
    learner.learn(rollouts[2])

    other = Learner(SETTINGS)
    other.restore(saved)
    assert other.trained == 2
    other.learn(rollouts[2])
    assert same(other.network.state_dict(), learner.network.state_dict())
    np.testing.assert_array_equal(other.outcomes, learner.outcomes)


def test_the_last_episodes_are_judged_and_no_fewer():
    learner = Learner(SETTINGS)
    rollout = rolled_out(learner.network)
    rollout["done"][:] = False
    rollout["done"][:4, 3], rollout["done"][4:, 9] = True, True
    rollout["success"] = rollout["done"].copy()
    rollout["success"][:4] = False
    learner.learn(rollout)
    assert len(learner.outcomes) == 8
    assert learner.success == 0  # too few to say
    learner.learn(rollout)
    # The last ten of sixteen: two failures of the first rollout's four successes come before.
    assert learner.success == pytest.approx(6 / 10)


def test_the_learning_rate_falls_to_a_tenth():
    assert SETTINGS.learning_rate_at(0) == SETTINGS.learning_rate
    assert SETTINGS.learning_rate_at(4) == pytest.approx(SETTINGS.learning_rate / 10)


def test_seeds_tell_dice_apart():
    drawn = {torch.rand(1, generator=dice_of(*seeds)).item() for seeds in ((0, 1), (1, 0), (0,))}
    assert len(drawn) == 3


def test_the_same_seed_collects_and_learns_the_same():
    learners = [Learner(SETTINGS) for _ in range(2)]
    rollouts = [rolled_out(learner.network) for learner in learners]
    assert checksum(rollouts[0]) == checksum(rollouts[1])
    figures = [learner.learn(rollout) for learner, rollout in zip(learners, rollouts, strict=True)]
    assert figures[0] == figures[1]
    assert all(math.isfinite(figure) for figure in figures[0].values())
    assert same(*(learner.network.state_dict() for learner in learners))
