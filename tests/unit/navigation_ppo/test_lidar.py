"""Each ray ends at the first solid thing on its way, as marching along it finds it."""

import math

import numpy as np
import pytest
from navigation_ppo.lidar import AZIMUTHS, ELEVATIONS, RANGE_M, scan

STEP_M = 0.004
NEAR_M = 1e-4


def one(position, yaw=0.0, centre=(0.0, 0.0), radius=0.5, height=4.0):
    """What a single robot measures in front of a single cylinder."""
    return scan(
        np.array([position], float),
        np.array([yaw]),
        np.array([[centre]], float),
        np.array([[radius]]),
        np.array([[height]]),
    )[0]


def scene(seed, obstacles=8):
    dice = np.random.default_rng(seed)
    centre = dice.uniform(-4, 4, (obstacles, 2))
    radius = dice.uniform(0.1, 0.9, obstacles)
    height = dice.uniform(0.2, 3, obstacles)
    while True:
        position = np.array([*dice.uniform(-3, 3, 2), dice.uniform(0.2, 2.8)])
        if not solid(position, centre, radius, height):
            return position, dice.uniform(-4, 4), centre, radius, height


def solid(points, centre, radius, height):
    """Whether points ``(..., 3)`` lie in a cylinder or in the ground."""
    across = np.hypot(*np.moveaxis(points[..., None, :2] - centre, -1, 0))
    return ((across < radius) & (points[..., 2, None] < height)).any(-1) | (points[..., 2] < 0)


def on_a_surface(point, centre, radius, height):
    across, z = np.hypot(*(point[:2] - centre).T), point[2]
    side = (abs(across - radius) < NEAR_M) & (z < height + NEAR_M)
    top = (across < radius + NEAR_M) & (abs(z - height) < NEAR_M)
    return side.any() or top.any() or abs(z) < NEAR_M


@pytest.mark.parametrize("seed", range(12))
def test_every_ray_ends_at_the_first_surface(seed):
    position, yaw, *cylinders = scene(seed)
    measured = scan(position[None], np.array([yaw]), *(part[None] for part in cylinders))[0]
    for i, azimuth in enumerate(AZIMUTHS):
        for j, elevation in enumerate(ELEVATIONS):
            ray = np.array(
                [
                    math.cos(elevation) * math.cos(yaw + azimuth),
                    math.cos(elevation) * math.sin(yaw + azimuth),
                    math.sin(elevation),
                ]
            )
            distance = float(measured[i, j])
            on_the_way = np.arange(0, distance - NEAR_M, STEP_M)[:, None]
            assert not solid(position + on_the_way * ray, *cylinders).any()
            if distance < RANGE_M:
                assert on_a_surface(position + distance * ray, *cylinders)


def test_scenes_hold_every_kind_of_hit():
    kinds = set()
    for seed in range(12):
        position, yaw, centre, radius, height = scene(seed)
        ranges = scan(position[None], np.array([yaw]), centre[None], radius[None], height[None])[0]
        for j, elevation in enumerate(ELEVATIONS):
            at = position[2] + ranges[:, j] * math.sin(elevation)
            kinds |= {"ground"} if (abs(at) < NEAR_M).any() else set()
            tops = np.abs(at[:, None] - height) < NEAR_M
            kinds |= {"top"} if tops.any() else set()
            sides = (ranges[:, j] < RANGE_M) & (at > NEAR_M) & ~tops.any(-1)
            kinds |= {"side"} if sides.any() else {"nothing"}
    assert kinds == {"ground", "top", "side", "nothing"}


def test_a_wall_in_front_is_as_far_as_it_is():
    ranges = one((-2.5, 0, 1.2), radius=0.5)
    assert ranges.shape == (36, 4)
    assert ranges.dtype == np.float32
    # 2 m to the surface, level; a ray that rises by 15 degrees is longer by 1 / cos.
    np.testing.assert_allclose(ranges[0, 3], 2 / math.cos(math.radians(15)), rtol=1e-6)
    assert ranges[18, 3] == RANGE_M  # behind


def test_azimuths_turn_with_the_frame():
    # The cylinder is to the east; a frame that looks north has it at its right, azimuth 270.
    ranges = one((-2, 0, 1), yaw=math.pi / 2)
    assert ranges[:, 2].argmin() == 27


def test_a_ray_passes_over_a_low_obstacle():
    ranges = one((-2, 0, 1.5), height=0.5)
    assert (ranges[:, 1:] == RANGE_M).all()


def test_inside_an_obstacle_every_ray_is_short():
    assert not one((0.1, 0, 1)).any()


def test_out_of_range_nothing_is_seen_but_the_ground():
    ranges = one((-20, 0, 0.5))
    assert (ranges[:, 2:] == RANGE_M).all()
    np.testing.assert_allclose(ranges[:, 0], 0.5 / math.sin(math.radians(15)), rtol=1e-6)
