"""The simulated robot: two planar arms that must reach one goal each, seen by three cameras.

Sixteen joints, eight an arm; only the first two of each arm move its hand, the others are there
because a real robot has them. The action is sixteen joint velocities in [-1, 1]. Where the goals
are is in the pixels alone: the joint vector says nothing about them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

from two_arm_reach.cameras import draw

__all__ = [
    "ACTION_DIM",
    "CONTROL_PERIOD_S",
    "HORIZON",
    "JOINT_NAMES",
    "MAX_JOINT_STEP",
    "MOVING_JOINTS",
    "REACH_DISTANCE",
    "Observation",
    "Outcome",
    "TwoArmReach",
    "elbow_and_hand",
    "episode_rng",
]

ACTION_DIM = 16
HORIZON = 30
"""Control steps after which an episode is cut."""
CONTROL_PERIOD_S = 0.1
MAX_JOINT_STEP = 0.15
"""Radians that a joint turns in one control step at full velocity."""
REACH_DISTANCE = 0.10
"""Metres within which a hand counts as at its goal."""
SUCCESS_REWARD = 1.0

BASES = np.array([[-0.45, -0.55], [0.45, -0.55]])
UPPER_ARM, FOREARM = 0.55, 0.45
MOVING_JOINTS = np.array([[0, 1], [8, 9]])
"""``(arm, 2)``: shoulder and elbow, the joints that move a hand."""

_PARTS = ("shoulder", "elbow", "forearm", "wrist", "thumb", "index", "middle", "ring")
JOINT_NAMES = tuple(f"{side}_{part}" for side in ("left", "right") for part in _PARTS)

_STREAMS = MappingProxyType({"record": 0, "behaviour": 1, "clock": 2, "evaluate": 3})


@dataclass(frozen=True)
class Observation:
    """What the robot senses at one instant.

    Attributes:
        images: Camera name to ``(S, S, 3) uint8`` RGB.
        joint: ``(16,) float32`` joint angles in radians.
    """

    images: Mapping[str, NDArray[np.uint8]]
    joint: NDArray[np.float32]


@dataclass(frozen=True)
class Outcome:
    """What one control step led to; ``terminal`` is success, ``truncated`` the horizon."""

    reward: float
    terminal: bool
    truncated: bool

    @property
    def ends_episode(self) -> bool:
        """Whether the robot has to be reset before the next step."""
        return self.terminal or self.truncated


def episode_rng(seed: int, stream: str, episode: int) -> np.random.Generator:
    """Random numbers of one purpose in one episode, the same on every machine and in any order.

    Args:
        seed: Seed of the whole run.
        stream: ``record`` or ``evaluate`` (initial states), ``behaviour`` or ``clock``.
        episode: Number of the episode.
    """
    sequence = np.random.SeedSequence(seed, spawn_key=(_STREAMS[stream], episode))
    return np.random.default_rng(sequence)


def elbow_and_hand(joint: NDArray[np.float64], arm: int) -> tuple[NDArray[np.float64], ...]:
    """Elbow and hand of an arm by forward kinematics.

    Args:
        joint: ``(16,)`` angles in radians.
        arm: 0 is left, 1 is right.

    Returns:
        Two points ``(2,)`` in metres.
    """
    shoulder_angle, elbow_angle = joint[MOVING_JOINTS[arm]]
    forearm_angle = shoulder_angle + elbow_angle
    elbow = BASES[arm] + UPPER_ARM * np.array([np.cos(shoulder_angle), np.sin(shoulder_angle)])
    hand = elbow + FOREARM * np.array([np.cos(forearm_angle), np.sin(forearm_angle)])
    return elbow, hand


class TwoArmReach:
    """One robot. ``reset`` places it and its goals, ``step`` moves it, ``observe`` looks.

    Drawing is apart from moving because whoever only needs returns does not pay for pixels.

    Attributes:
        joint: ``(16,) float64`` angles in radians.
        goals: ``(3, 2) float64`` in metres: the left hand's, the right hand's, a distractor.
        elapsed_steps: Control steps since the reset.
    """

    def __init__(self) -> None:
        self.joint = np.zeros(ACTION_DIM)
        self.goals = np.zeros((3, 2))
        self.elapsed_steps = 0

    def reset(self, rng: np.random.Generator) -> None:
        """Start an episode: a new pose, new goals within reach, a distractor beside them."""
        self.elapsed_steps = 0
        self.joint = rng.normal(0.0, 0.1, ACTION_DIM)
        for shoulder, elbow in MOVING_JOINTS:
            self.joint[shoulder] = np.pi / 2 + rng.uniform(-0.6, 0.6)
            self.joint[elbow] = rng.uniform(-1.2, 1.2)
        arms = (0, 1, int(rng.integers(2)))
        self.goals = np.stack([_reachable_point(arm, rng) for arm in arms])

    def step(self, action: NDArray[np.floating]) -> Outcome:
        """Turn every joint by its velocity for one control period.

        Args:
            action: ``(16,)`` velocities; what lies outside [-1, 1] is held to it, as a drive does.

        Returns:
            The reward: 1 when both hands are at their goals, else minus their mean distance in
            metres.
        """
        self.joint = self.joint + MAX_JOINT_STEP * np.clip(action, -1.0, 1.0)
        self.elapsed_steps += 1
        distances = self.goal_distances()
        reached = bool(distances.max() < REACH_DISTANCE)
        reward = SUCCESS_REWARD if reached else -float(distances.mean())
        return Outcome(reward, reached, self.elapsed_steps >= HORIZON and not reached)

    def goal_distances(self) -> NDArray[np.float64]:
        """``(2,)`` metres from each hand to its own goal."""
        hands = np.stack([elbow_and_hand(self.joint, arm)[1] for arm in (0, 1)])
        return np.linalg.norm(hands - self.goals[:2], axis=1)

    def observe(self, image_size: int) -> Observation:
        """Joint angles and one ``(image_size, image_size, 3)`` image of each camera."""
        limbs = [np.stack([BASES[arm], *elbow_and_hand(self.joint, arm)]) for arm in (0, 1)]
        return Observation(draw(limbs, self.goals, image_size), self.joint.astype(np.float32))


def _reachable_point(arm: int, rng: np.random.Generator) -> NDArray[np.float64]:
    radius = rng.uniform(0.35, 0.9)
    angle = rng.uniform(0.15 * np.pi, 0.85 * np.pi)
    return BASES[arm] + radius * np.array([np.cos(angle), np.sin(angle)])
