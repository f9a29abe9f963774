"""The robot moves, senses, crashes, arrives and begins anew as documented."""

import math

import numpy as np
import pytest
from navigation_ppo.field import FIELD_RADIUS_M, MOVING, OBSTACLES
from navigation_ppo.navigation import (
    CRASH_REWARD,
    GOAL_REWARD,
    HORIZON,
    REACH_M,
    STEP_REWARD,
    NavigationEnvs,
)

SHAPES = {"state": (8,), "lidar": (1, 36, 4), "direction": (1, 3), "obstacles": (5, 10)}


def actions(steps, envs, seed=0):
    return np.random.default_rng(seed).normal(0.3, 0.7, (steps, envs, 3)).astype(np.float32)


def empty(count=1, seed=0):
    """Environments whose obstacles are out of the way."""
    envs = NavigationEnvs(count, seed)
    envs.fields.centre += 100
    envs.fields.velocity *= 0
    return envs


def forward(envs, speed=1.0):
    """An action straight to the goal, as long as nothing has led off that line."""
    return np.tile(np.array([speed, 0, 0], np.float32), (len(envs), 1))


def test_observations_have_the_documented_fields():
    envs = NavigationEnvs(7, 0)
    observed, stepped = envs.observe(), envs.step(actions(1, 7)[0]).observation
    for sensed in (observed, stepped):
        assert {name: array.shape[1:] for name, array in sensed.items()} == SHAPES
        assert {array.dtype for array in sensed.values()} == {np.dtype(np.float32)}
        assert sum(array.nbytes for array in sensed.values()) == 7 * 820


def test_together_and_one_by_one_is_the_same():
    taken = actions(150, 5)
    together = NavigationEnvs(5, 3)
    alone = [NavigationEnvs(1, 3, first=env) for env in range(5)]
    ended = 0
    for action in taken:
        step = together.step(action)
        ended += step.done.sum()
        singles = [envs.step(action[env : env + 1]) for env, envs in enumerate(alone)]
        for name in ("reward", "terminated", "truncated", "success", "episode_return"):
            expected = np.concatenate([getattr(single, name) for single in singles])
            np.testing.assert_array_equal(getattr(step, name), expected)
        for name, array in step.observation.items():
            expected = np.concatenate([single.observation[name] for single in singles])
            np.testing.assert_array_equal(array, expected)
    assert ended > 5


def test_seeds_tell_runs_apart_and_repeat_them():
    def ran(seed):
        envs = NavigationEnvs(4, seed)
        return [envs.step(action).observation["state"] for action in actions(80, 4)]

    np.testing.assert_array_equal(ran(1), ran(1))
    assert not np.array_equal(ran(1), ran(2))
    assert not np.array_equal(ran((1, 0)), ran((1, 1)))


def test_what_was_handed_out_stays_as_it_was():
    envs = NavigationEnvs(4, 0)
    before = envs.observe()
    copies = {name: array.copy() for name, array in before.items()}
    for action in actions(100, 4):
        envs.step(action)
    for name, array in before.items():
        np.testing.assert_array_equal(array, copies[name])


def test_an_end_is_observed_before_the_robot_begins_anew():
    envs = empty()
    for _ in range(HORIZON):
        step = envs.step(forward(envs))
        if step.done:
            break
        for name, array in envs.observe().items():
            np.testing.assert_array_equal(array, step.observation[name])
    assert step.success
    # Close to the goal in what the step led to; far from another one in what comes next.
    assert np.hypot(*step.observation["state"][0, 3:5]) < REACH_M
    assert envs.observe()["state"][0, 3] > 8
    assert not envs.observe()["state"][0, 5:].any()
    assert envs.elapsed[0] == 0


def test_velocity_follows_by_bounded_acceleration():
    envs = empty()
    speeds = []
    for _ in range(6):
        step = envs.step(forward(envs))
        speeds.append(step.observation["state"][0, 5])
    # 6 m/s2 for 0.1 s is 0.6 m/s a step, up to the 2 m/s that were asked for.
    np.testing.assert_allclose(speeds, [0.6, 1.2, 1.8, 2.0, 2.0, 2.0], rtol=1e-5)


def test_the_robot_comes_closer_by_as_much_as_it_has_moved():
    envs = empty()
    envs.fields.goal[:, 2] = envs.position[:, 2]
    start = float(envs.observe()["state"][0, 3])
    rewards = [envs.step(forward(envs)).reward[0] for _ in range(4)]
    # Mean speeds 0.3, 0.9, 1.5, 1.9 m/s for 0.1 s each.
    np.testing.assert_allclose(np.array(rewards) - STEP_REWARD, [0.03, 0.09, 0.15, 0.19], rtol=1e-4)
    np.testing.assert_allclose(envs.observe()["state"][0, 3], start - 0.46, rtol=1e-5)


def test_actions_are_in_the_goal_frame():
    envs = empty(16)
    before = envs.position.copy()
    step = envs.step(np.tile(np.array([0, 1, 0], np.float32), (16, 1)))
    moved = envs.position - before
    direction = step.observation["direction"][:, 0]
    # To the left of the way to the goal: turned by 90 degrees, counter-clockwise.
    left = np.stack((-direction[:, 1], direction[:, 0]), -1)
    left /= np.hypot(*left.T)[:, None]
    np.testing.assert_allclose(moved[:, :2], 0.03 * left, atol=1e-6)


def test_a_crash_ends_the_episode_and_costs():
    envs = empty()
    ahead = envs.fields.goal[0, :2] - envs.position[0, :2]
    envs.fields.centre[0, -1] = envs.position[0, :2] + ahead / np.hypot(*ahead) * 1.5
    envs.fields.radius[0, -1], envs.fields.height[0, -1] = 0.5, 4.0
    for _ in range(30):
        step = envs.step(forward(envs))
        if step.done[0]:
            break
    assert step.terminated[0]
    assert not step.success[0]
    assert step.reward[0] < CRASH_REWARD + 0.5
    # It stopped a robot's radius, and at most one step at full speed, from the surface.
    assert 0.15 - 0.2 < step.observation["lidar"][0, 0, 0, 2] < 0.16


def test_a_low_obstacle_is_flown_over():
    envs = empty()
    ahead = envs.fields.goal[0, :2] - envs.position[0, :2]
    envs.fields.centre[0, -1] = envs.position[0, :2] + ahead / np.hypot(*ahead) * 1.5
    envs.fields.radius[0, -1], envs.fields.height[0, -1] = 0.5, 0.5
    while not (step := envs.step(forward(envs))).done[0]:
        pass
    assert step.success[0]
    assert step.reward[0] > GOAL_REWARD


def test_who_leaves_the_field_has_lost():
    envs = empty()
    while not (step := envs.step(-forward(envs))).done[0]:
        pass
    assert step.terminated[0]
    assert not step.success[0]


def test_who_is_late_is_cut_off_and_may_still_have_a_future():
    envs = empty()
    steps = [envs.step(forward(envs, 0.0)) for _ in range(HORIZON)]
    assert not any(step.done[0] for step in steps[:-1])
    assert steps[-1].truncated[0]
    assert not steps[-1].terminated[0]


def test_returns_add_up_from_the_beginning_of_each_episode():
    envs = NavigationEnvs(8, 1)
    sums, ended = np.zeros(8), 0
    for action in actions(200, 8):
        step = envs.step(action)
        sums += step.reward
        np.testing.assert_allclose(step.episode_return, sums, atol=1e-4)
        sums[step.done] = 0
        ended += step.done.sum()
    assert ended > 8


def test_obstacles_leave_room_around_start_and_goal():
    fields = NavigationEnvs(200, 0).fields
    for end in (fields.start, fields.goal):
        gap = np.hypot(*(fields.centre - end[:, None, :2]).transpose(2, 0, 1)) - fields.radius
        # Making room at the goal may push one back towards the start, never close to it.
        assert gap.min() > 1


def test_walkers_walk_and_come_back_from_the_border():
    fields = NavigationEnvs(50, 0).fields
    standing = fields.centre[:, MOVING:].copy()
    speed = np.hypot(*fields.velocity.transpose(2, 0, 1))
    farthest = 0.0
    for _ in range(600):
        before = fields.centre[:, :MOVING].copy()
        fields.advance(0.1)
        moved = np.hypot(*(fields.centre[:, :MOVING] - before).transpose(2, 0, 1))
        np.testing.assert_allclose(moved, 0.1 * speed, rtol=1e-9)
        farthest = max(farthest, np.hypot(*fields.centre[:, :MOVING].transpose(2, 0, 1)).max())
    assert FIELD_RADIUS_M - 1 < farthest < FIELD_RADIUS_M + 0.2
    np.testing.assert_array_equal(fields.centre[:, MOVING:], standing)
    assert standing.shape == (50, OBSTACLES - MOVING, 2)


@pytest.mark.parametrize("env", range(8))
def test_the_nearest_walkers_are_sensed_nearest_first(env):
    envs = NavigationEnvs(8, 5)
    sensed, fields = envs.observe(), envs.fields
    x, y, z = envs.position[env]
    towards = sensed["direction"][env, 0].astype(float)
    yaw = math.atan2(towards[1], towards[0])
    rows = []
    for walker in range(MOVING):
        dx, dy = fields.centre[env, walker] - (x, y)
        radius, height = fields.radius[env, walker], fields.height[env, walker]
        gap = math.hypot(dx, dy) - radius
        if gap > 5:
            continue
        up = height / 2 - z
        length = math.sqrt(dx * dx + dy * dy + up * up)
        bearing = math.atan2(dy, dx) - yaw
        level = math.hypot(dx, dy) / length
        vx, vy = fields.velocity[env, walker]
        speed, course = math.hypot(vx, vy), math.atan2(vy, vx) - yaw
        rows.append(
            [
                *(level * math.cos(bearing), level * math.sin(bearing), up / length),
                *(gap, height - z),
                *(speed * math.cos(course), speed * math.sin(course), 0),
                *(radius, height),
            ]
        )
    expected = np.zeros((5, 10))
    for at, row in enumerate(sorted(rows, key=lambda row: row[3])[:5]):
        expected[at] = row
    np.testing.assert_allclose(sensed["obstacles"][env], expected, atol=1e-5)
