"""The robot moves, rewards and draws as documented."""

import math

import numpy as np
import pytest
from two_arm_reach.cameras import CAMERAS
from two_arm_reach.simulator import (
    HORIZON,
    MOVING_JOINTS,
    TwoArmReach,
    elbow_and_hand,
    episode_rng,
)


def robot_of(episode: int, seed: int = 0) -> TwoArmReach:
    robot = TwoArmReach()
    robot.reset(episode_rng(seed, "record", episode))
    return robot


def test_hand_lies_where_trigonometry_puts_it() -> None:
    joint = np.zeros(16)
    joint[0], joint[1] = math.pi / 2, -math.pi / 2  # upper arm straight up, forearm to the right
    elbow, hand = elbow_and_hand(joint, 0)
    np.testing.assert_allclose(elbow, [-0.45, 0.0], atol=1e-12)
    np.testing.assert_allclose(hand, [0.0, 0.0], atol=1e-12)


def test_same_seed_and_episode_start_the_same_whatever_ran_before() -> None:
    first = robot_of(3)
    robot_of(0)
    again = robot_of(3)
    np.testing.assert_array_equal(first.joint, again.joint)
    np.testing.assert_array_equal(first.goals, again.goals)
    assert not np.array_equal(robot_of(4).goals, first.goals)
    assert not np.array_equal(robot_of(3, seed=1).goals, first.goals)


def test_evaluation_starts_from_states_that_were_not_recorded() -> None:
    recorded, evaluated = TwoArmReach(), TwoArmReach()
    recorded.reset(episode_rng(0, "record", 5))
    evaluated.reset(episode_rng(0, "evaluate", 5))
    assert not np.array_equal(recorded.goals, evaluated.goals)


def test_only_four_joints_move_the_hands() -> None:
    robot = robot_of(0)
    before = robot.goal_distances()
    action = np.ones(16)
    action[MOVING_JOINTS.ravel()] = 0.0
    robot.step(action)
    np.testing.assert_array_equal(robot.goal_distances(), before)
    for moving in MOVING_JOINTS.ravel():
        nudged = robot_of(0)
        nudged.step(np.eye(16)[moving])
        assert not np.array_equal(nudged.goal_distances(), before)


def test_velocities_beyond_the_limit_turn_no_faster() -> None:
    limit, beyond = robot_of(1), robot_of(1)
    limit.step(np.full(16, 1.0))
    beyond.step(np.full(16, 7.0))
    np.testing.assert_array_equal(limit.joint, beyond.joint)


def test_reward_is_minus_the_mean_distance_until_both_hands_are_there() -> None:
    robot = robot_of(2)
    hands = np.stack([elbow_and_hand(robot.joint, arm)[1] for arm in (0, 1)])
    robot.goals[:2] = hands + np.array([[0.3, 0.0], [0.0, 0.5]])
    outcome = robot.step(np.zeros(16))
    assert outcome.reward == pytest.approx(-0.4)
    assert not outcome.terminal
    robot.goals[:2] = hands + np.array([[0.09, 0.0], [0.0, 0.2]])
    assert not robot.step(np.zeros(16)).terminal
    robot.goals[:2] = hands + np.array([[0.09, 0.0], [0.0, -0.09]])
    outcome = robot.step(np.zeros(16))
    assert outcome.reward == 1.0
    assert outcome.terminal
    assert not outcome.truncated


def test_an_episode_is_cut_after_thirty_steps() -> None:
    robot = robot_of(0)
    robot.goals += 10.0
    truncated = [robot.step(np.zeros(16)).truncated for _ in range(HORIZON)]
    assert truncated == [False] * 29 + [True]


def test_goals_are_in_the_pixels_and_not_in_the_joints() -> None:
    robot, moved = robot_of(0), robot_of(0)
    moved.goals[0] += [0.15, -0.1]
    seen, seen_moved = robot.observe(64), moved.observe(64)
    np.testing.assert_array_equal(seen.joint, seen_moved.joint)
    assert not np.array_equal(seen.images["global"], seen_moved.images["global"])
    # Poses and goals are drawn apart: over many episodes they tell nothing of each other.
    joints = np.stack([robot_of(episode).joint for episode in range(2000)])
    goals = np.stack([robot_of(episode).goals.ravel() for episode in range(2000)])
    correlation = np.corrcoef(joints.T, goals.T)[:16, 16:]
    assert np.abs(correlation).max() < 0.1


@pytest.mark.parametrize(("camera", "goal"), [("left", 0), ("right", 1)])
def test_a_hand_camera_shows_its_goal_in_the_middle_once_reached(camera: str, goal: int) -> None:
    robot = robot_of(0)
    robot.goals[:] = 5.0
    robot.goals[goal] = elbow_and_hand(robot.joint, goal)[1]
    image = robot.observe(64).images[camera]
    assert tuple(image[32, 32]) == [(220, 40, 40), (40, 40, 220)][goal]
    assert tuple(image[0, 0]) == (90, 90, 90)


def test_scene_camera_puts_right_to_the_right_and_up_to_the_top() -> None:
    robot = robot_of(0)
    robot.goals[:] = [[-1.0, 1.0], [1.0, 1.0], [1.0, -1.2]]
    image = robot.observe(64).images["global"].astype(int)
    scale = 64 / 2.9
    for (x, y), colour in zip(
        robot.goals, [(220, 40, 40), (40, 40, 220), (40, 190, 40)], strict=True
    ):
        assert tuple(image[round(32 - y * scale), round(32 + x * scale)]) == colour


def test_every_camera_gives_the_size_asked_for() -> None:
    images = robot_of(0).observe(48).images
    assert tuple(images) == CAMERAS
    assert all(image.shape == (48, 48, 3) and image.dtype == np.uint8 for image in images.values())
