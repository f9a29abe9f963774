"""Measure a policy by roll-outs: mean and deviation of the return, and how often it succeeds.

All episodes run side by side, so that the policy is asked once a step for all that are still under
way. The robot's cameras record at one size and the policy sees another; the images go through the
same resize as those it was trained on (``cv2.INTER_LINEAR`` from the recorded size).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from two_arm_reach.cameras import CAMERAS
from two_arm_reach.simulator import HORIZON, Observation, TwoArmReach, episode_rng

__all__ = ["Evaluation", "PolicyView", "SelectAction", "evaluate"]

SelectAction = Callable[[Mapping[str, NDArray[np.uint8]], NDArray[np.float32]], NDArray[np.float32]]
"""Images by camera ``(B, H, W, 3) uint8`` and joints ``(B, 16)`` to actions ``(B, 16)``."""


@dataclass(frozen=True)
class PolicyView:
    """What a policy sees of the robot.

    Attributes:
        image_size: Height and width in pixels of the images it takes.
        recorded_size: Side in pixels at which the robot's cameras record.
        cameras: The policy's name of a camera to the robot's.
    """

    image_size: tuple[int, int] = (32, 32)
    recorded_size: int = 64
    cameras: tuple[tuple[str, str], ...] = tuple((camera, camera) for camera in CAMERAS)

    def batch(
        self, observations: list[Observation]
    ) -> tuple[dict[str, NDArray[np.uint8]], NDArray[np.float32]]:
        """Observations of ``B`` robots as the policy takes them."""
        height, width = self.image_size
        images = {
            name: np.stack(
                [
                    cv2.resize(seen.images[camera], (width, height), interpolation=cv2.INTER_LINEAR)
                    for seen in observations
                ]
            ).astype(np.uint8, copy=False)
            for name, camera in self.cameras
        }
        return images, np.stack([seen.joint for seen in observations])


@dataclass(frozen=True)
class Evaluation:
    """Outcome of ``E`` roll-outs.

    Attributes:
        returns: ``(E,) float64`` undiscounted returns.
        successes: ``(E,) bool``.
        lengths: ``(E,) int64`` control steps.
    """

    returns: NDArray[np.float64]
    successes: NDArray[np.bool_]
    lengths: NDArray[np.int64]

    @property
    def average_return(self) -> float:
        """Mean return over the episodes."""
        return float(self.returns.mean())

    @property
    def std_return(self) -> float:
        """Standard deviation of the return over the episodes."""
        return float(self.returns.std())

    @property
    def success_rate(self) -> float:
        """Share of the episodes that ended with both hands at their goals."""
        return float(self.successes.mean())


def evaluate(
    select_action: SelectAction,
    *,
    episodes: int = 100,
    seed: int = 0,
    view: PolicyView | None = None,
    on_step: Callable[[int], None] | None = None,
) -> Evaluation:
    """Roll a policy out.

    Args:
        select_action: The policy; it is asked for all running episodes at once.
        episodes: How many roll-outs. Episode ``i`` starts the same for every policy, and its
            initial state is none of those that were recorded.
        seed: Seed of the initial states.
        view: Image size and camera names of the policy.
        on_step: Called after each control step with the number of episodes that have ended.

    Raises:
        ValueError: The policy's actions have another shape than ``(B, 16)``, or are not finite.
    """
    view = view or PolicyView()
    robots = [TwoArmReach() for _ in range(episodes)]
    for episode, robot in enumerate(robots):
        robot.reset(episode_rng(seed, "evaluate", episode))
    returns = np.zeros(episodes)
    successes = np.zeros(episodes, np.bool_)
    running = np.arange(episodes)
    for _ in range(HORIZON):
        seen = [robots[episode].observe(view.recorded_size) for episode in running]
        images, joint = view.batch(seen)
        actions = np.asarray(select_action(images, joint), np.float32)
        if actions.shape != joint.shape or not np.isfinite(actions).all():
            raise ValueError(
                f"the policy gave actions of shape {actions.shape}, expected {joint.shape}, "
                "all of them finite"
            )
        outcomes = [
            robots[episode].step(action) for episode, action in zip(running, actions, strict=True)
        ]
        returns[running] += [outcome.reward for outcome in outcomes]
        successes[running] = [outcome.terminal for outcome in outcomes]
        running = running[[not outcome.ends_episode for outcome in outcomes]]
        if on_step:
            on_step(episodes - len(running))
        if not len(running):
            break
    lengths = np.array([robot.elapsed_steps for robot in robots], np.int64)
    return Evaluation(returns, successes, lengths)
