"""What the three cameras see: one looks at the whole scene, one rides on each hand.

The left goal is red, the right goal blue, the distractor green. A hand camera sees no arm, only
what lies around its hand.
"""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

__all__ = ["CAMERAS", "draw"]

CAMERAS = ("left", "right", "global")

GOAL_RADIUS = 0.13
LIMB_WIDTH = 0.05
HAND_VIEW, SCENE_VIEW = 0.55, 1.45
"""Metres from the middle of an image to its edge."""

_BACKGROUND = 90
_GOAL_COLOURS = ((220, 40, 40), (40, 40, 220), (40, 190, 40))
_UPPER_ARM_COLOUR, _FOREARM_COLOUR = (230, 230, 230), (190, 190, 120)
_SUBPIXEL_BITS = 4


def draw(
    limbs: Sequence[NDArray[np.float64]], goals: NDArray[np.float64], image_size: int
) -> dict[str, NDArray[np.uint8]]:
    """Draw the scene for every camera.

    Args:
        limbs: Of each arm ``(3, 2)``: base, elbow and hand in metres.
        goals: ``(3, 2)``: left, right and distractor in metres.
        image_size: Side of the square images in pixels.

    Returns:
        Camera name to ``(image_size, image_size, 3) uint8`` RGB.
    """
    left_hand, right_hand = (limb[2] for limb in limbs)
    return {
        "left": _view(left_hand, HAND_VIEW, (), goals, image_size),
        "right": _view(right_hand, HAND_VIEW, (), goals, image_size),
        "global": _view(np.zeros(2), SCENE_VIEW, limbs, goals, image_size),
    }


def _view(
    center: NDArray[np.float64],
    half_width: float,
    limbs: Sequence[NDArray[np.float64]],
    goals: NDArray[np.float64],
    image_size: int,
) -> NDArray[np.uint8]:
    image = np.full((image_size, image_size, 3), _BACKGROUND, np.uint8)
    scale = image_size / (2 * half_width)
    subpixel = 1 << _SUBPIXEL_BITS

    def pixel(point: NDArray[np.float64]) -> tuple[int, int]:
        x, y = np.round(((point - center) * (1, -1) * scale + image_size / 2) * subpixel)
        return int(x), int(y)

    width = max(1, int(LIMB_WIDTH * scale))
    for base, elbow, hand in limbs:
        for start, end, colour in (
            (base, elbow, _UPPER_ARM_COLOUR),
            (elbow, hand, _FOREARM_COLOUR),
        ):
            cv2.line(image, pixel(start), pixel(end), colour, width, cv2.LINE_AA, _SUBPIXEL_BITS)
    radius = int(GOAL_RADIUS * scale * subpixel)
    # The distractor is drawn first so that it never hides a goal.
    for goal, colour in zip(goals[::-1], _GOAL_COLOURS[::-1], strict=True):
        cv2.circle(image, pixel(goal), radius, colour, -1, cv2.LINE_AA, _SUBPIXEL_BITS)
    return image
