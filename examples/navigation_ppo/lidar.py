"""The lidar: rays from a point to cylinders that stand on the ground, and to the ground itself."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

__all__ = ["AZIMUTHS", "ELEVATIONS", "RANGE_M", "scan"]

AZIMUTHS = np.arange(36) * (2 * np.pi / 36)
"""``(36,)`` radians, counted from where the robot's frame points."""
ELEVATIONS = np.deg2rad(np.array([-15.0, -5.0, 5.0, 15.0]))
"""``(4,)`` radians above the horizon."""
RANGE_M = 4.0
"""How far the robot's own sees; a ray that meets nothing says exactly this."""

_SLOPE = np.tan(ELEVATIONS)
_LENGTH = 1 / np.cos(ELEVATIONS)
_FALLS = _SLOPE < 0


def scan(
    position: NDArray[np.float64],
    yaw: NDArray[np.float64],
    centre: NDArray[np.float64],
    radius: NDArray[np.float64],
    height: NDArray[np.float64],
    reach_m: float = RANGE_M,
) -> NDArray[np.float32]:
    """Measure the distance along each ray of each robot.

    Args:
        position: ``(envs, 3)`` metres; above the ground, which is at 0.
        yaw: ``(envs,)`` radians; where azimuth 0 points.
        centre: ``(envs, obstacles, 2)`` metres.
        radius: ``(envs, obstacles)`` metres.
        height: ``(envs, obstacles)`` metres, from the ground.
        reach_m: What is further away, along the ray, is not seen.

    Returns:
        ``(envs, 36, 4) float32`` metres, at most ``reach_m``.
    """
    ranges = np.full((len(position), len(AZIMUTHS), len(ELEVATIONS)), reach_m)
    to_ground = position[:, 2, None] / -np.sin(ELEVATIONS[_FALLS])
    ranges[..., _FALLS] = np.minimum(reach_m, to_ground)[:, None, :]

    # Most obstacles are out of range, and of those that are not, most rays pass by.
    offset = centre - position[:, None, :2]
    distance_squared = np.square(offset).sum(-1)
    env, obstacle = np.nonzero(distance_squared < np.square(reach_m + radius))
    dx, dy = offset[env, obstacle].T[:, :, None]
    gap = (distance_squared - np.square(radius))[env, obstacle][:, None]
    angle = yaw[:, None] + AZIMUTHS
    along = dx * np.cos(angle)[env] + dy * np.sin(angle)[env]
    half_chord_squared = np.square(along) - gap
    # From inside a cylinder (gap < 0) every ray hits it at once.
    hits = (half_chord_squared >= 0) & ((along > 0) | (gap < 0))
    pair, azimuth = np.nonzero(hits)
    along = along[pair, azimuth]
    half_chord = np.sqrt(half_chord_squared[pair, azimuth])
    enters = np.maximum(along - half_chord, 0)[:, None]
    leaves = (along + half_chord)[:, None]

    env, obstacle = env[pair], obstacle[pair]
    top = height[env, obstacle][:, None]
    above = position[env, 2][:, None]
    # A ray that comes in above the top may still fall on it before it is across.
    at_top = np.full((len(env), len(ELEVATIONS)), np.inf)
    at_top[:, _FALLS] = (above - top) / -_SLOPE[_FALLS]
    at_top[at_top > leaves] = np.inf
    horizontal = np.where(above + enters * _SLOPE <= top, enters, at_top)
    ray = (env * len(AZIMUTHS) + azimuth)[:, None] * len(ELEVATIONS) + np.arange(len(ELEVATIONS))
    np.minimum.at(ranges.reshape(-1), ray.reshape(-1), (horizontal * _LENGTH).reshape(-1))
    return ranges.astype(np.float32)
