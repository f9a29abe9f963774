"""A rollout says what happened, step by step, and joins up with itself."""

import numpy as np
import pytest
from navigation_ppo.collecting import collect, collect_random, mediocre_policy, random_policy
from navigation_ppo.journal import checksum
from navigation_ppo.navigation import NavigationEnvs


@pytest.fixture(scope="module")
def rollout():
    return collect_random(64, 40, 0)


def test_every_leaf_is_by_env_and_time(rollout):
    leaves = {name: leaf for name, leaf in rollout.items() if isinstance(leaf, np.ndarray)}
    for part in (rollout["observation"], rollout["next"]["observation"]):
        leaves = {**part, **leaves}
        assert sum(leaf[0, 0].nbytes for leaf in part.values()) == 820
    assert {leaf.shape[:2] for leaf in leaves.values()} == {(64, 40)}
    assert rollout["action"].shape == (64, 40, 3)
    for name in ("done", "terminated", "truncated", "success"):
        assert rollout[name].dtype == np.bool_


def test_next_is_what_is_sensed_next_unless_an_episode_ended(rollout):
    goes_on = ~rollout["done"][:, :-1]
    assert 0 < (~goes_on).sum() < goes_on.sum()
    for name, sensed in rollout["observation"].items():
        led_to = rollout["next"]["observation"][name]
        np.testing.assert_array_equal(led_to[:, :-1][goes_on], sensed[:, 1:][goes_on])
    # Where one has ended the next one begins at rest, far from its goal.
    begun = rollout["observation"]["state"][:, 1:][~goes_on]
    assert not begun[:, 5:].any()
    assert begun[:, 3].min() > 8


def test_episodes_are_at_different_ages(rollout):
    # Not all environments begin, or end, in the same step.
    per_step = rollout["done"].sum(0)
    assert per_step.max() < 16
    assert (per_step > 0).sum() > 10


def test_the_same_seed_gives_the_same_rollout():
    assert checksum(collect_random(8, 5, 1)) == checksum(collect_random(8, 5, 1))
    assert checksum(collect_random(8, 5, 1)) != checksum(collect_random(8, 5, 2))


def test_two_rollouts_are_as_one_of_twice_the_length():
    def policy():
        return mediocre_policy(np.random.default_rng(0))

    at_once = collect(NavigationEnvs(8, 0), policy(), 40)
    envs, act = NavigationEnvs(8, 0), policy()
    parts = [collect(envs, act, 20) for _ in range(2)]
    for name in ("action", "reward", "episode_return", "done"):
        np.testing.assert_array_equal(
            np.concatenate([part[name] for part in parts], 1), at_once[name]
        )


def test_log_prob_is_that_of_a_normal_density():
    observation = NavigationEnvs(1000, 0).observe()
    action, log_prob = random_policy(np.random.default_rng(0))(observation)
    density = np.prod(np.exp(-(action.astype(float) ** 2) / 2) / np.sqrt(2 * np.pi), axis=-1)
    np.testing.assert_allclose(np.exp(log_prob), density, rtol=1e-4)


def test_hand_written_policies_stay_below_the_bar():
    def success(policy):
        rollout = collect(NavigationEnvs(64, 0), policy(np.random.default_rng(0)), 200)
        return rollout["success"].sum() / rollout["done"].sum()

    assert success(random_policy) < 0.02
    assert 0.5 < success(mediocre_policy) < 0.78
