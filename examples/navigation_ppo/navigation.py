"""The task: a robot flies through a field of obstacles to a goal. Many of them, in NumPy.

The robot is a point that keeps :data:`ROBOT_RADIUS_M` away from everything. It is told a velocity
and follows it as fast as its acceleration allows. All that it senses and is told is in the *goal
frame*: x leads from the start to the goal, level, y to the left of that, z up.

What it senses, all ``float32``:

``state (8,)``
    Unit vector to the goal (3), level distance to it in m, how much higher it is in m, velocity in
    m/s (3).
``lidar (1, 36, 4)``
    Distance in m along 36 azimuths, from x to the left, and 4 elevations.
``direction (1, 3)``
    Unit vector from the start to the goal, in the world: what turns the goal frame into it.
``obstacles (5, 10)``
    The five nearest that walk, nearest first: unit vector to the middle (3), level distance to the
    surface in m, how much higher the top is in m, velocity in m/s (3), radius and height in m.
    Zeros where there is none within :data:`SIGHT_M`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from navigation_ppo.field import DRAWS, FIELD_RADIUS_M, MOVING, Fields, Floats, lay_out
from navigation_ppo.lidar import RANGE_M, scan

__all__ = ["ACTION_DIM", "HORIZON", "NavigationEnvs", "Observation", "Step"]

ACTION_DIM = 3
HORIZON = 120
"""Steps after which an episode is cut."""
PERIOD_S = 0.1
TOP_SPEED_M_S = np.array([2.0, 2.0, 1.0])
"""Of the three axes: what an action of 1 asks for."""
ACCELERATION_M_S2 = 6.0
"""By which the velocity follows, at most: its level part and its vertical one, each by itself."""
LOWEST_M, HIGHEST_M = 0.3, 2.5
"""Height that the robot keeps to by itself."""
ROBOT_RADIUS_M = 0.15
REACH_M = 0.5
"""Distance at which the goal counts as reached."""
SIGHT_M = 5.0
SEEN = 5
"""Walkers that are sensed, at most."""

GOAL_REWARD = 5.0
CRASH_REWARD = -5.0
"""For touching an obstacle or leaving the field; each metre towards the goal earns 1 besides."""
STEP_REWARD = -0.01

Observation = dict[str, NDArray[np.float32]]


@dataclass(frozen=True)
class Step:
    """What one step led to, in each environment.

    Attributes:
        observation: What is sensed after it: the end of the episode, where it has ended.
        reward: ``(envs,) float32``.
        terminated: ``(envs,) bool``: at the goal, or crashed.
        truncated: ``(envs,) bool``: out of time.
        success: ``(envs,) bool``: at the goal.
        episode_return: ``(envs,) float32``: sum of the rewards of the episode so far.
    """

    observation: Observation
    reward: NDArray[np.float32]
    terminated: NDArray[np.bool_]
    truncated: NDArray[np.bool_]
    success: NDArray[np.bool_]
    episode_return: NDArray[np.float32]

    @property
    def done(self) -> NDArray[np.bool_]:
        """Whether the episode has ended; ``(envs,) bool``."""
        return self.terminated | self.truncated


class NavigationEnvs:
    """Environments that are stepped together and begin anew by themselves.

    What an environment does depends on the seed, its number and its actions alone: not on how many
    others there are.

    Args:
        count: Environments.
        seed: Of all of them; several numbers are one seed together.
        first: Number of the first one.
        reach_m: How far the lidar sees.

    Attributes:
        fields: The present fields.
        position: ``(envs, 3)`` metres.
        velocity: ``(envs, 3)`` m/s, in the world.
        elapsed: ``(envs,)`` steps of the present episode.
    """

    def __init__(
        self,
        count: int,
        seed: int | Sequence[int],
        *,
        first: int = 0,
        reach_m: float = RANGE_M,
    ) -> None:
        self._reach_m = reach_m
        self._dice = [
            np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(first + env,)))
            for env in range(count)
        ]
        everyone = np.arange(count)
        self.fields = self._new_fields(everyone)
        self.position = self.fields.start.copy()
        self.velocity = np.zeros((count, 3))
        self.elapsed = np.zeros(count, np.int64)
        self._yaw = np.zeros(count)
        self._episode_return = np.zeros(count)
        self._begin(everyone)
        self._observation = self._sense(everyone)

    def __len__(self) -> int:
        return len(self._dice)

    def observe(self) -> Observation:
        """What is sensed now: at the beginning of an episode, where the last one has ended."""
        return dict(self._observation)

    def step(self, action: NDArray[np.float32]) -> Step:
        """Move everything by one step, and begin anew where an episode ends.

        Args:
            action: ``(envs, 3)``: velocity in the goal frame as a share of the top speed; clipped
                to [-1, 1].
        """
        remaining = self._to_goal(self.position)
        self._move(action)
        self.fields.advance(PERIOD_S)
        self.elapsed += 1

        distance = self._to_goal(self.position)
        crashed = self._crashed()
        success = (distance < REACH_M) & ~crashed
        terminated = success | crashed
        truncated = (self.elapsed >= HORIZON) & ~terminated
        reward = remaining - distance + STEP_REWARD + success * GOAL_REWARD + crashed * CRASH_REWARD
        self._episode_return += reward
        # A new dictionary of new arrays: what was handed out before stays as it was.
        observation = self._sense(np.arange(len(self)))
        step = Step(
            observation=observation,
            reward=reward.astype(np.float32),
            terminated=terminated,
            truncated=truncated,
            success=success,
            episode_return=self._episode_return.astype(np.float32),
        )
        self._observation = self._begin_anew(np.nonzero(step.done)[0], observation)
        return step

    def _move(self, action: NDArray[np.float32]) -> None:
        asked = np.clip(action.astype(np.float64), -1, 1) * TOP_SPEED_M_S
        wanted = _turned(asked, self._yaw)
        most = ACCELERATION_M_S2 * PERIOD_S
        before = self.velocity
        change = wanted - before
        change[:, :2] *= (most / np.maximum(_level(change), most))[:, None]
        change[:, 2] = np.clip(change[:, 2], -most, most)
        self.velocity = before + change
        self.position += (before + self.velocity) / 2 * PERIOD_S
        height = self.position[:, 2]
        self.velocity[(height < LOWEST_M) | (height > HIGHEST_M), 2] = 0
        self.position[:, 2] = np.clip(height, LOWEST_M, HIGHEST_M)

    def _crashed(self) -> NDArray[np.bool_]:
        fields, height = self.fields, self.position[:, 2, None]
        gap = _level(fields.centre - self.position[:, None, :2]) - fields.radius
        touches = (gap < ROBOT_RADIUS_M) & (height - fields.height < ROBOT_RADIUS_M)
        return touches.any(-1) | (_level(self.position) > FIELD_RADIUS_M)

    def _to_goal(self, position: Floats) -> Floats:
        return np.sqrt(np.square(self.fields.goal - position).sum(-1))

    def _new_fields(self, envs: NDArray[np.intp]) -> Fields:
        return lay_out(np.stack([self._dice[env].random(DRAWS) for env in envs]))

    def _begin(self, envs: NDArray[np.intp]) -> None:
        """Put the robots of ``envs`` at the start of their fields."""
        self.position[envs] = self.fields.start[envs]
        self.velocity[envs] = 0
        self.elapsed[envs] = 0
        self._episode_return[envs] = 0
        way = self.fields.goal[envs] - self.fields.start[envs]
        self._yaw[envs] = np.arctan2(way[:, 1], way[:, 0])

    def _begin_anew(self, envs: NDArray[np.intp], sensed: Observation) -> Observation:
        """New episodes in ``envs``; what is sensed then, and elsewhere what was sensed."""
        if not len(envs):
            return sensed
        self.fields.replace(envs, self._new_fields(envs))
        self._begin(envs)
        anew = {name: array.copy() for name, array in sensed.items()}
        for name, array in self._sense(envs).items():
            anew[name][envs] = array
        return anew

    def _sense(self, envs: NDArray[np.intp]) -> Observation:
        fields, position, yaw = self.fields, self.position[envs], self._yaw[envs]
        to_goal = fields.goal[envs] - position
        way = fields.goal[envs] - fields.start[envs]
        state = (
            _turned(_unit(to_goal), -yaw),
            _level(to_goal)[:, None],
            to_goal[:, 2:],
            _turned(self.velocity[envs], -yaw),
        )
        cylinders = fields.centre[envs], fields.radius[envs], fields.height[envs]
        lidar = scan(position, yaw, *cylinders, self._reach_m)
        return {
            "state": np.concatenate(state, -1).astype(np.float32),
            "lidar": lidar[:, None],
            "direction": _unit(way)[:, None].astype(np.float32),
            "obstacles": self._walkers(envs, position, yaw).astype(np.float32),
        }

    def _walkers(self, envs: NDArray[np.intp], position: Floats, yaw: Floats) -> Floats:
        """``(len(envs), SEEN, 10)``: those that walk, nearest first."""
        fields = self.fields
        centre, velocity = fields.centre[envs, :MOVING], fields.velocity[envs]
        radius, height = fields.radius[envs, :MOVING], fields.height[envs, :MOVING]
        offset = np.concatenate((centre, height[..., None] / 2), -1) - position[:, None]
        gap = _level(offset) - radius
        turn_back = -yaw[:, None]
        rows = np.concatenate(
            (
                _turned(_unit(offset), turn_back),
                gap[..., None],
                (height - position[:, 2, None])[..., None],
                _turned(np.pad(velocity, ((0, 0), (0, 0), (0, 1))), turn_back),
                radius[..., None],
                height[..., None],
            ),
            -1,
        )
        rows[gap > SIGHT_M] = 0
        nearest = np.argsort(gap, axis=-1, kind="stable")[:, :SEEN]
        return np.take_along_axis(rows, nearest[..., None], axis=1)


def _level(vector: Floats) -> Floats:
    """Length of the level part, over the last axis."""
    return np.sqrt(np.square(vector[..., :2]).sum(-1))


def _unit(vector: Floats) -> Floats:
    length = np.sqrt(np.square(vector).sum(-1, keepdims=True))
    return vector / np.maximum(length, 1e-9)


def _turned(vector: Floats, yaw: Floats) -> Floats:
    """Vectors ``(..., 3)`` turned to the left about z by ``yaw (...)``."""
    cos, sin = np.cos(yaw), np.sin(yaw)
    x, y = vector[..., 0], vector[..., 1]
    return np.stack((cos * x - sin * y, sin * x + cos * y, vector[..., 2]), -1)
