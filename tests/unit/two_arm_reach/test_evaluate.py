"""Roll-outs measure what a policy is worth."""

import io
from collections.abc import Mapping

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from two_arm_reach.behaviour import inverse_kinematics
from two_arm_reach.clip import animate, film
from two_arm_reach.evaluate import PolicyView, SelectAction, evaluate
from two_arm_reach.simulator import TwoArmReach, episode_rng

SEED = 4

Images = Mapping[str, NDArray[np.uint8]]
Joint = NDArray[np.float32]


def stay(images: Images, joint: Joint) -> Joint:
    return np.zeros_like(joint)


def know_the_goals(episodes: int) -> SelectAction:
    """A policy that cheats: it knows the goals of the episode that a joint vector belongs to."""
    robots = [TwoArmReach() for _ in range(episodes)]
    for episode, robot in enumerate(robots):
        robot.reset(episode_rng(SEED, "evaluate", episode))
    idle = np.stack([robot.joint[2:8] for robot in robots])

    def act(images: Images, joint: Joint) -> Joint:
        action = np.zeros_like(joint)
        for row, angles in enumerate(joint.astype(float)):
            episode = int(np.argmin(np.abs(idle - angles[2:8]).sum(1)))
            for arm, moving in enumerate(([0, 1], [8, 9])):
                pose = inverse_kinematics(robots[episode].goals[arm], arm, angles)
                action[row, moving] = np.clip((pose - angles[moving]) / 0.15, -1, 1)
        return action

    return act


def test_a_policy_that_knows_the_goals_nearly_always_succeeds() -> None:
    known = evaluate(know_the_goals(30), episodes=30, seed=SEED)
    idle = evaluate(stay, episodes=30, seed=SEED)
    assert known.success_rate > 0.9
    assert idle.success_rate < 0.1
    assert known.average_return > idle.average_return + 8
    assert known.lengths.max() <= 30
    assert np.all(idle.lengths[~idle.successes] == 30)


def test_figures_are_those_of_one_episode_after_the_other() -> None:
    together = evaluate(stay, episodes=5, seed=SEED)
    expected = []
    for episode in range(5):
        robot = TwoArmReach()
        robot.reset(episode_rng(SEED, "evaluate", episode))
        expected.append(sum(robot.step(np.zeros(16)).reward for _ in range(30)))
    np.testing.assert_allclose(together.returns, expected)
    assert together.average_return == pytest.approx(np.mean(expected))
    assert together.std_return == pytest.approx(np.std(expected))


def test_a_policy_sees_the_recorded_size_resized_bilinearly_under_its_own_names() -> None:
    seen = {}

    def look(images: Images, joint: Joint) -> Joint:
        seen.update(images)
        return stay(images, joint)

    view = PolicyView((24, 32), recorded_size=64, cameras=(("global_image", "global"),))
    evaluate(look, episodes=1, seed=SEED, view=view)
    assert set(seen) == {"global_image"}
    robot = TwoArmReach()
    robot.reset(episode_rng(SEED, "evaluate", 0))
    for _ in range(29):  # the last look is before the thirtieth step
        robot.step(np.zeros(16))
    drawn = robot.observe(64).images["global"]
    expected = cv2.resize(drawn, (32, 24), interpolation=cv2.INTER_LINEAR)
    np.testing.assert_array_equal(seen["global_image"][0], expected)


def test_finished_episodes_are_asked_no_more() -> None:
    sizes = []
    policy = know_the_goals(20)

    def count(images: Images, joint: Joint) -> Joint:
        sizes.append(len(joint))
        return policy(images, joint)

    result = evaluate(count, episodes=20, seed=SEED)
    expected = [int((result.lengths > step).sum()) for step in range(result.lengths.max())]
    assert sizes == expected


@pytest.mark.parametrize("bad", [np.zeros(16), np.full((2, 16), np.nan), np.zeros((2, 7))])
def test_actions_of_a_wrong_shape_or_without_a_value_are_refused(bad: NDArray[np.float64]) -> None:
    with pytest.raises(ValueError, match=r"expected \(2, 16\), all of them finite"):
        evaluate(lambda images, joint: bad, episodes=2)


def test_a_clip_shows_the_evaluated_episodes_frame_by_frame() -> None:
    result = evaluate(know_the_goals(2), episodes=2, seed=SEED)
    frames = film(know_the_goals(2), episodes=[0, 1], seed=SEED, side_pixels=64)
    assert len(frames) == result.lengths.sum() + 2 * (1 + 8)
    robot = TwoArmReach()
    robot.reset(episode_rng(SEED, "evaluate", 0))
    np.testing.assert_array_equal(frames[0][:, 68:132], robot.observe(64).images["global"])


def test_an_animation_opens_with_as_many_frames_at_ten_a_second() -> None:
    frames = film(stay, episodes=[0], seed=SEED, side_pixels=64)
    distinct = [frames[0], *(255 - frame for frame in frames[:3])][:2]
    with Image.open(io.BytesIO(animate(distinct))) as animation:
        assert animation.n_frames == 2
        assert animation.info["duration"] == 100
        assert animation.size == (200, 64)
