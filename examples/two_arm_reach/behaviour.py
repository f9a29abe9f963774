"""The behaviour that was recorded: an operator of mixed skill, each arm on its own.

In every episode an arm is good (it goes to its own goal), mistaken (it goes to the distractor or
to the other arm's goal) or random. Both arms are good in about one episode of six, so copying the
data teaches little, while the parts of the data that are good teach a lot.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from two_arm_reach.simulator import (
    ACTION_DIM,
    BASES,
    FOREARM,
    MAX_JOINT_STEP,
    MOVING_JOINTS,
    UPPER_ARM,
    TwoArmReach,
    episode_rng,
)

__all__ = ["Behaviour", "BehaviourMix", "EpisodeSummary", "inverse_kinematics", "replay"]

_GOOD, _WRONG_GOAL, _RANDOM = range(3)
_DISTRACTOR = 2
_LEAST_REACH = 0.15


@dataclass(frozen=True)
class BehaviourMix:
    """Probability with which an arm behaves each way in an episode; they add up to one."""

    good: float = 0.40
    wrong_goal: float = 0.35
    random: float = 0.25


@dataclass(frozen=True)
class EpisodeSummary:
    """Length, undiscounted return and success of one episode."""

    steps: int
    episode_return: float
    success: bool


class Behaviour:
    """Draws the actions of one episode of ``robot``, whose goals it knows.

    Args:
        robot: A robot that has been reset.
        rng: Source of the arms' moods and of the noise.
        mix: How often an arm is good, mistaken or random.
    """

    def __init__(
        self, robot: TwoArmReach, rng: np.random.Generator, mix: BehaviourMix | None = None
    ) -> None:
        self._robot = robot
        self._rng = rng
        mix = mix or BehaviourMix()
        self._mood = rng.choice(3, size=2, p=(mix.good, mix.wrong_goal, mix.random))
        self._aim = np.stack([self._choose_goal(arm) for arm in (0, 1)])
        self._gain = rng.uniform(0.4, 1.0, 2)
        self._drift = np.zeros(ACTION_DIM)

    def act(self) -> NDArray[np.float64]:
        """The next action, ``(16,)`` in [-1, 1]."""
        self._drift = 0.8 * self._drift + 0.35 * self._rng.normal(size=ACTION_DIM)
        action = 0.6 * self._drift
        for arm, moving in enumerate(MOVING_JOINTS):
            if self._mood[arm] == _RANDOM:
                action[moving] = 1.5 * self._drift[moving]
                continue
            pose = inverse_kinematics(self._aim[arm], arm, self._robot.joint)
            turn = self._gain[arm] * (pose - self._robot.joint[moving]) / MAX_JOINT_STEP
            action[moving] = np.clip(turn, -1.0, 1.0) + 0.25 * self._rng.normal(size=2)
        return np.clip(action, -1.0, 1.0)

    def _choose_goal(self, arm: int) -> NDArray[np.float64]:
        if self._mood[arm] == _GOOD:
            return self._robot.goals[arm]
        return self._robot.goals[_DISTRACTOR if self._rng.random() < 0.5 else 1 - arm]


def inverse_kinematics(
    point: NDArray[np.float64], arm: int, joint: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Shoulder and elbow angles that bring a hand to a point, or as near as the arm reaches.

    Of the two ways to bend the elbow, the one that is nearer to the present pose is taken.

    Args:
        point: ``(2,)`` metres.
        arm: 0 is left, 1 is right.
        joint: ``(16,)`` present angles in radians.

    Returns:
        ``(2,)`` radians.
    """
    x, y = point - BASES[arm]
    reach = float(np.clip(np.hypot(x, y), _LEAST_REACH, UPPER_ARM + FOREARM - 1e-3))
    cosine = (reach**2 - UPPER_ARM**2 - FOREARM**2) / (2 * UPPER_ARM * FOREARM)
    bend = float(np.arccos(np.clip(cosine, -1.0, 1.0)))
    present = joint[MOVING_JOINTS[arm]]
    poses: list[NDArray[np.float64]] = []
    for elbow in (bend, -bend):
        across = np.arctan2(FOREARM * np.sin(elbow), UPPER_ARM + FOREARM * np.cos(elbow))
        turn = np.arctan2(y, x) - across - present[0]
        shoulder = present[0] + (turn + np.pi) % (2 * np.pi) - np.pi
        poses.append(np.array([shoulder, elbow]))
    return min(poses, key=lambda pose: float(np.abs(pose - present).max()))


def replay(seed: int, episode: int) -> EpisodeSummary:
    """Run one recorded episode again without drawing it, to know how it went."""
    robot = TwoArmReach()
    robot.reset(episode_rng(seed, "record", episode))
    behaviour = Behaviour(robot, episode_rng(seed, "behaviour", episode))
    episode_return = 0.0
    while True:
        outcome = robot.step(behaviour.act())
        episode_return += outcome.reward
        if outcome.ends_episode:
            return EpisodeSummary(robot.elapsed_steps, episode_return, outcome.terminal)
