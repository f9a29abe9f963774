"""A short film of a policy at work, as one animated PNG that a web page can hold."""

from __future__ import annotations

from collections.abc import Sequence
from io import BytesIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from two_arm_reach.evaluate import PolicyView, SelectAction
from two_arm_reach.simulator import CONTROL_PERIOD_S, TwoArmReach, episode_rng

__all__ = ["animate", "film"]

_ORDER = ("left", "global", "right")
_GAP_PIXELS = 4
_REST_FRAMES = 8


def film(
    select_action: SelectAction,
    *,
    episodes: Sequence[int],
    seed: int = 0,
    view: PolicyView | None = None,
    side_pixels: int = 192,
) -> list[NDArray[np.uint8]]:
    """Roll a policy out and look at it with all cameras, hand, scene, hand.

    The policy sees the robot as in :func:`two_arm_reach.evaluate.evaluate`; the film is drawn
    larger.

    Args:
        select_action: The policy.
        episodes: Which roll-outs of the evaluation to show, one after the other.
        seed: Seed of the evaluation.
        view: Image size and camera names of the policy.
        side_pixels: Side of one camera's picture in the film.

    Returns:
        Frames ``(side_pixels, W, 3) uint8``, ten a second; each roll-out rests on its last one.
    """
    view = view or PolicyView()
    frames: list[NDArray[np.uint8]] = []
    for episode in episodes:
        robot = TwoArmReach()
        robot.reset(episode_rng(seed, "evaluate", episode))
        frames.append(_frame(robot, side_pixels))
        while True:
            images, joint = view.batch([robot.observe(view.recorded_size)])
            outcome = robot.step(select_action(images, joint)[0])
            frames.append(_frame(robot, side_pixels))
            if outcome.ends_episode:
                break
        frames += [frames[-1]] * _REST_FRAMES
    return frames


def animate(frames: Sequence[NDArray[np.uint8]]) -> bytes:
    """Frames ``(H, W, 3) uint8`` RGB as an endless animated PNG in the robot's own time."""
    # Drawn scenes have few colours: a palette makes the file a fifth as large.
    pictures = [Image.fromarray(frame).quantize(64) for frame in frames]
    buffer = BytesIO()
    pictures[0].save(
        buffer,
        format="PNG",
        save_all=True,
        append_images=pictures[1:],
        duration=round(CONTROL_PERIOD_S * 1000),
        loop=0,
    )
    return buffer.getvalue()


def _frame(robot: TwoArmReach, side_pixels: int) -> NDArray[np.uint8]:
    images = robot.observe(side_pixels).images
    gap = np.full((side_pixels, _GAP_PIXELS, 3), 255, np.uint8)
    first, *others = [images[camera] for camera in _ORDER]
    return np.concatenate([first, *(part for other in others for part in (gap, other))], axis=1)
