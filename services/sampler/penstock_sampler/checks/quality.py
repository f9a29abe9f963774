"""Warnings about values: data that can be served, but that a user would want to know about."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from penstock.dataset import Outcome
from penstock_sampler.checks.colour_order import ColourProfile, check_colours, sample_pixels
from penstock_sampler.checks.findings import Findings
from penstock_sampler.index.episodes import FileEpisodes
from penstock_sampler.index.examine import Examined
from penstock_sampler.index.statistics import RunningStatistics
from penstock_sampler.sources.images import ImageColumn
from penstock_sampler.sources.layout import FileLayout
from penstock_sampler.sources.opening import Hdf5File

__all__ = [
    "check_edges",
    "check_episodes",
    "check_images",
    "check_last_joint",
    "check_scalars",
]

_SAMPLED_FRAMES = 16
_COLOUR_FRAMES = 4
"""Of these, how many are looked at in any case; the others only while the picture is still."""
_FLAT_SPAN = 1e-4
"""A dimension whose values span less than this share of their size hardly moves."""
_LISTED = 8


def check_images(file: Hdf5File, layout: FileLayout, findings: Findings) -> list[ColourProfile]:
    """Look at frames of every camera: flat, still or dark ones, and the order of channels.

    This is the closer look of ``penstock doctor``; it replaces what :func:`check_edges` found.

    Returns:
        Colours of each camera, in the order of the layout.
    """
    findings.withdraw("FLAT_IMAGES", "FROZEN_IMAGES")
    profiles = [
        _check_camera(file, image, layout.observations, findings) for image in layout.images
    ]
    check_colours(profiles, findings)
    return profiles


def check_edges(examined: Examined, findings: Findings) -> None:
    """Warn about cameras whose first and last frame are one flat colour, or are equal."""
    for image, (first, last) in zip(examined.layout.images, examined.edges, strict=True):
        frames = 1 if examined.layout.observations == 1 else 2
        if _is_flat(first) and _is_flat(last):
            _note_flat(image, findings, frames)
        elif frames > 1 and np.array_equal(first, last):
            _note_frozen(image, findings, frames)


def check_episodes(
    layout: FileLayout, episodes: FileEpisodes, statistics: RunningStatistics, findings: Findings
) -> None:
    """Warn about episodes that hardly can be meant, and about several without any reward."""
    first, terminal = episodes.first_row, episodes.outcome == Outcome.TERMINAL
    # An episode of one row that is terminal, right after another terminal row.
    repeated = np.flatnonzero(
        terminal[1:]
        & terminal[:-1]
        & (episodes.length[1:] == 1)
        & (first[1:] == first[:-1] + episodes.length[:-1])
    )
    if len(repeated):
        findings.warn(
            "episode lengths",
            f"{len(repeated)} of {len(first)} episodes are one row that follows a terminal row "
            f"(the first is row {int(first[repeated[0] + 1])})",
            remedy=f"set {layout.terminal} in the last row of an episode only, unless episodes of "
            "one step are meant",
            reason="REPEATED_TERMINALS",
            dataset=layout.terminal,
        )
    if len(first) > 1 and episodes.outcome[-1] == Outcome.OPEN:
        findings.warn(
            "episode lengths",
            f"the last episode, from row {int(first[-1])} to {layout.rows - 1}, has no end as the "
            "others have",
            remedy=f"set {layout.terminal} or truncateds in its last row; until then it counts as "
            "open, neither terminal nor cut",
            reason="OPEN_EPISODE",
            dataset=layout.terminal,
        )
    # A single episode without reward may be one that failed.
    reward = statistics.moments["reward"]
    if len(first) > 1 and reward.count and not (reward.min.any() or reward.max.any()):
        findings.warn(
            "reward values",
            f"every reward of {len(first)} episodes is 0",
            remedy="check that the recorder writes rewards: without any, only imitation is left",
            reason="NO_REWARD",
            dataset=layout.reward,
        )


def check_scalars(statistics: RunningStatistics, findings: Findings) -> None:
    """Warn about values that are not finite, and about dimensions that hardly move."""
    for name, moments in statistics.moments.items():
        left_out = statistics.left_out[name]
        if left_out:
            findings.warn(
                f"{name} values",
                f"{left_out} of {left_out + moments.count} rows of {name} have NaN or infinite "
                "values",
                remedy="clean or cut them: they are served as they are, statistics leave them out",
                reason="NOT_FINITE",
            )
        if not moments.count:
            continue
        if name == "reward":
            low, high = float(moments.min[0]), float(moments.max[0])
            if not left_out:
                findings.ok("reward values", f"finite, from {low:g} to {high:g}")
            continue
        size = np.maximum(np.abs(moments.min), np.abs(moments.max))
        flat = np.flatnonzero(
            moments.max - moments.min <= _FLAT_SPAN * np.maximum(size, _FLAT_SPAN)
        )
        if len(flat):
            listed = ", ".join(str(index) for index in flat[:_LISTED].tolist())
            more = ", ..." if len(flat) > _LISTED else ""
            findings.warn(
                f"{name} values",
                f"{len(flat)} of {len(size)} dimensions of {name} hardly move ({listed}{more})",
                remedy="check that the recorder wrote them; normalisation cannot scale them",
                reason="NEAR_CONSTANT",
            )
        elif not left_out:
            findings.ok(f"{name} values", f"finite, all {len(size)} dimensions move")


def check_last_joint(joint: NDArray[np.float32], findings: Findings) -> None:
    """Warn about values that are not finite in observation N of N+1, ``(joint_dim,)``.

    It is only ever a next observation, so statistics do not count it.
    """
    if not np.isfinite(joint).all():
        findings.warn(
            "joint values",
            "the last row of joint, the next observation of the last action, has NaN or infinite "
            "values",
            remedy="clean or cut it: it is served as it is",
            reason="LAST_NOT_FINITE",
        )


def _check_camera(
    file: Hdf5File, image: ImageColumn, observations: int, findings: Findings
) -> ColourProfile:
    rows = np.unique(np.linspace(0, observations - 1, _SAMPLED_FRAMES).astype(np.int64)).tolist()
    coloured = set(rows[:: max(1, (len(rows) - 1) // (_COLOUR_FRAMES - 1))])
    column = file.column(image.dataset)
    first: NDArray[np.uint8] | None = None
    flat_rows: list[int] = []
    pixels: list[NDArray[np.uint8]] = []
    looked, same, brightest = 0, True, 0
    for row in rows:
        # Once the picture has changed, only the frames for colours are left to look at.
        if row not in coloured and not (same and first is not None):
            continue
        frame: NDArray[np.uint8] = column.read(row, row + 1)[0]
        first = frame if first is None else first
        looked += 1
        same = same and np.array_equal(frame, first)
        brightest = max(brightest, int(frame.max()))
        if _is_flat(frame):
            flat_rows.append(row)
        if row in coloured:
            pixels.append(sample_pixels(frame, image.order))
    if len(flat_rows) == looked:
        _note_flat(image, findings, looked)
    elif same and looked > 1:
        _note_frozen(image, findings, looked)
    elif flat_rows:
        listed = ", ".join(str(row) for row in flat_rows[:_LISTED])
        findings.warn(
            _check(image),
            f"{image.dataset}: {len(flat_rows)} of {looked} frames looked at are one flat "
            f"value, at row {listed}",
            remedy="check the camera and its topic, and cut these rows",
            reason="FLAT_IMAGES",
            dataset=image.dataset,
        )
    elif brightest <= 1:
        findings.warn(
            _check(image),
            f"{image.dataset}: no value of {looked} frames looked at is above 1",
            remedy="scale images to 0..255 before they become uint8",
            reason="DARK_IMAGES",
            dataset=image.dataset,
        )
    else:
        findings.ok(
            _check(image), f"{looked} frames looked at, none is flat or dark", dataset=image.dataset
        )
    return ColourProfile.of(image.camera, image.dataset, np.concatenate(pixels))


def _is_flat(frame: NDArray[np.uint8]) -> bool:
    """Whether all of it is one value."""
    values = frame.reshape(-1)
    # Few frames end as they begin; the others need not be gone through.
    return bool(values[0] == values[-1]) and bool((values == values[0]).all())


def _check(image: ImageColumn) -> str:
    return f"{image.camera} camera"


def _note_flat(image: ImageColumn, findings: Findings, frames: int) -> None:
    findings.warn(
        _check(image),
        f"{image.dataset}: each of {frames} frames looked at is one flat value",
        remedy="check the camera and its topic",
        reason="FLAT_IMAGES",
        dataset=image.dataset,
    )


def _note_frozen(image: ImageColumn, findings: Findings, frames: int) -> None:
    findings.warn(
        _check(image),
        f"{image.dataset}: all {frames} frames looked at are equal",
        remedy="check that the camera ran during the recording",
        reason="FROZEN_IMAGES",
        dataset=image.dataset,
    )
