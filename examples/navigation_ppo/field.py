"""The field: where robot and goal begin, which obstacles stand there, and which of them walk."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Self

import numpy as np
from numpy.typing import NDArray

__all__ = ["DRAWS", "FIELD_RADIUS_M", "MOVING", "OBSTACLES", "Fields", "lay_out"]

OBSTACLES = 26
"""Of each field; the first :data:`MOVING` of them walk, the others stand."""
MOVING = 6
FIELD_RADIUS_M = 7.0
"""Walkers turn back at its border; a robot that leaves it has lost."""

_START_RADIUS_M = 4.5
_CLEARANCE_M = 1.2
_LOWEST_M, _HIGHEST_M = 1.0, 1.6
_RADIUS_M = (0.2, 0.6)
_SPEED_M_S = (0.2, 0.8)
_TURN_RAD_S = 0.5
_LOW_SHARE = 0.3
_LOW_M = (0.4, 1.0)
_TALL_M = 4.0

DRAWS = 5 + OBSTACLES * 4 + MOVING * 3
"""Uniform random numbers that one field is laid out from."""

Floats = NDArray[np.float64]


@dataclass
class Fields:
    """One field for each environment. Lengths in metres.

    Attributes:
        start: ``(envs, 3)`` where the robot begins.
        goal: ``(envs, 3)`` where it shall go.
        centre: ``(envs, OBSTACLES, 2)`` axes of the upright cylinders.
        radius: ``(envs, OBSTACLES)``.
        height: ``(envs, OBSTACLES)`` from the ground.
        velocity: ``(envs, MOVING, 2)`` m/s of those that walk.
        turn: ``(envs, MOVING)`` rad/s: they walk in curves.
    """

    start: Floats
    goal: Floats
    centre: Floats
    radius: Floats
    height: Floats
    velocity: Floats
    turn: Floats

    def replace(self, envs: NDArray[np.intp], others: Self) -> None:
        """Put other fields in the place of those of ``envs``."""
        for part in fields(self):
            getattr(self, part.name)[envs] = getattr(others, part.name)

    def advance(self, seconds: float) -> None:
        """Let the walkers walk."""
        angle = self.turn * seconds
        cos, sin = np.cos(angle), np.sin(angle)
        x, y = self.velocity[..., 0], self.velocity[..., 1]
        velocity = np.stack((cos * x - sin * y, sin * x + cos * y), -1)
        centre = self.centre[:, :MOVING]
        # Out at the border the part of the velocity that leads outwards is turned round.
        outwards = (centre * velocity).sum(-1)
        distance_squared = np.square(centre).sum(-1)
        leaving = (distance_squared > FIELD_RADIUS_M**2) & (outwards > 0)
        bounce = np.where(leaving, 2 * outwards / np.maximum(distance_squared, 1), 0)
        self.velocity = velocity - bounce[..., None] * centre
        self.centre[:, :MOVING] = centre + self.velocity * seconds


def lay_out(draws: Floats) -> Fields:
    """Make fields of random numbers; a pure function of each row.

    Args:
        draws: ``(envs, DRAWS)`` from 0 to 1.
    """
    envs = len(draws)
    ends, obstacles, walks = np.split(draws, (5, 5 + OBSTACLES * 4), axis=1)
    bearing = ends[:, 0] * 2 * np.pi
    # The goal is not quite opposite.
    back = bearing + np.pi + _between(-0.4, 0.4, ends[:, 1])
    start, goal = (
        np.stack(
            (
                _START_RADIUS_M * np.cos(angle),
                _START_RADIUS_M * np.sin(angle),
                _between(_LOWEST_M, _HIGHEST_M, ends[:, at]),
            ),
            -1,
        )
        for angle, at in ((bearing, 2), (back, 3))
    )

    place = obstacles.reshape(envs, OBSTACLES, 4)
    distance = (FIELD_RADIUS_M - 1) * np.sqrt(place[..., 0])
    angle = place[..., 1] * 2 * np.pi
    centre = np.stack((distance * np.cos(angle), distance * np.sin(angle)), -1)
    radius = _between(*_RADIUS_M, place[..., 2])
    low = place[..., 3] < _LOW_SHARE
    height = np.where(low, _between(*_LOW_M, place[..., 3] / _LOW_SHARE), _TALL_M)
    for end in (start, goal):
        _keep_clear(centre, radius, end[:, None, :2])

    walk = walks.reshape(envs, MOVING, 3)
    speed, heading = _between(*_SPEED_M_S, walk[..., 0]), walk[..., 1] * 2 * np.pi
    return Fields(
        start=start,
        goal=goal,
        centre=centre,
        radius=radius,
        height=height,
        velocity=np.stack((speed * np.cos(heading), speed * np.sin(heading)), -1),
        turn=_between(-_TURN_RAD_S, _TURN_RAD_S, walk[..., 2]),
    )


def _between(low: float, high: float, draws: Floats) -> Floats:
    return low + (high - low) * draws


def _keep_clear(centre: Floats, radius: Floats, point: Floats) -> None:
    """Push obstacles straight away from a point, until there is room around it."""
    offset = centre - point
    distance = np.maximum(np.sqrt(np.square(offset).sum(-1)), 1e-6)
    needed = np.maximum(distance, radius + _CLEARANCE_M)
    centre[:] = point + offset * (needed / distance)[..., None]
