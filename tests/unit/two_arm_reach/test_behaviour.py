"""The recorded operator is as good, and as bad, as documented."""

import numpy as np
import pytest
from two_arm_reach.behaviour import Behaviour, BehaviourMix, inverse_kinematics, replay
from two_arm_reach.simulator import TwoArmReach, elbow_and_hand, episode_rng


def roll_out(episode: int, mix: BehaviourMix) -> bool:
    robot = TwoArmReach()
    robot.reset(episode_rng(0, "record", episode))
    behaviour = Behaviour(robot, episode_rng(0, "behaviour", episode), mix)
    while True:
        outcome = robot.step(behaviour.act())
        if outcome.ends_episode:
            return outcome.terminal


def success_rate(mix: BehaviourMix) -> float:
    return float(np.mean([roll_out(episode, mix) for episode in range(60)]))


@pytest.mark.parametrize("arm", [0, 1])
def test_inverse_kinematics_brings_the_hand_to_the_point(arm: int) -> None:
    rng = np.random.default_rng(0)
    for episode in range(50):
        robot = TwoArmReach()
        robot.reset(rng)
        joint = robot.joint.copy()
        pose = inverse_kinematics(robot.goals[arm], arm, joint)
        joint[8 * arm : 8 * arm + 2] = pose
        hand = elbow_and_hand(joint, arm)[1]
        np.testing.assert_allclose(hand, robot.goals[arm], atol=1e-9, err_msg=f"{episode}")


def test_inverse_kinematics_points_at_what_is_out_of_reach() -> None:
    joint = np.zeros(16)
    joint[0] = 1.0
    joint[:2] = inverse_kinematics(np.array([-0.45, 3.0]), 0, joint)
    hand = elbow_and_hand(joint, 0)[1]
    np.testing.assert_allclose(hand, [-0.45, 0.45], atol=0.05)  # straight up from (-0.45, -0.55)


def test_good_arms_succeed_and_mistaken_or_random_ones_hardly_ever() -> None:
    assert success_rate(BehaviourMix(1.0, 0.0, 0.0)) > 0.85
    assert success_rate(BehaviourMix(0.0, 1.0, 0.0)) < 0.1
    assert success_rate(BehaviourMix(0.0, 0.0, 1.0)) < 0.1


def test_the_mix_gives_the_documented_returns() -> None:
    summaries = [replay(7, episode) for episode in range(300)]
    assert np.mean([s.episode_return for s in summaries]) == pytest.approx(-14.1, abs=1.5)
    assert np.mean([s.success for s in summaries]) == pytest.approx(0.20, abs=0.07)
    assert np.mean([s.steps for s in summaries]) == pytest.approx(26.3, abs=1.0)


def test_replay_repeats_itself() -> None:
    assert replay(3, 11) == replay(3, 11)
