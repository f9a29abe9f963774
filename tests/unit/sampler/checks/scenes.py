"""Drawn pictures of a robot's table for tests: wood, a grey arm, and things of other colours."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

Frames = NDArray[np.uint8]

WOOD, SKIN, SHEET, LEAF = (178, 132, 84), (214, 160, 126), (84, 132, 178), (70, 150, 62)
"""RGB; a sheet of that blue is wood with red and blue swapped."""


def table(
    frames: int,
    *,
    ground: Sequence[int] = WOOD,
    size: tuple[int, int] = (96, 128),
    seed: int = 0,
    things: Sequence[Sequence[int]] = (SKIN, LEAF),
) -> Frames:
    """RGB frames ``(frames, H, W, 3)``: shaded ground, a moving grey arm, some things, noise."""
    rng = np.random.default_rng(seed)
    height, width = size
    shade = (
        np.linspace(0.55, 1.15, width)[None, :, None] * np.linspace(0.9, 1.1, height)[:, None, None]
    )
    found = np.empty((frames, height, width, 3), np.uint8)
    for number in range(frames):
        image = shade * np.array(ground, np.float64)
        for place, colour in enumerate(things):
            centre = (width * (place + 1) // (len(things) + 1), height // 4)
            cv2.circle(image, centre, height // 8, [float(part) for part in colour], -1)
        left = width // 8 + number * width // (2 * frames)
        cv2.rectangle(
            image, (left, height // 2), (left + width // 8, height), (92.0, 92.0, 92.0), -1
        )
        found[number] = np.clip(image + rng.normal(0, 4, image.shape), 0, 255)
    return found


def swapped(frames: Frames) -> Frames:
    """The same frames with red and blue in each other's place."""
    return np.ascontiguousarray(frames[..., ::-1])


def through_jpeg(frames: Frames, quality: int = 90) -> Frames:
    """RGB frames as they come back from a camera that sends JPEG."""
    found = np.empty_like(frames)
    for number, frame in enumerate(frames):
        encoded = cv2.imencode(
            ".jpg", cv2.cvtColor(frame, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, quality]
        )[1]
        found[number] = cv2.cvtColor(cv2.imdecode(encoded, cv2.IMREAD_COLOR), cv2.COLOR_BGR2RGB)
    return found
