"""Warnings about values: data that can be served, but that a user would want to know about."""

from __future__ import annotations

import numpy as np

from penstock_sampler.examine import Examined
from penstock_sampler.findings import Findings
from penstock_sampler.images import ImageColumn
from penstock_sampler.layout import FileLayout
from penstock_sampler.opening import Hdf5File
from penstock_sampler.statistics import RunningStatistics

__all__ = ["check_edges", "check_images", "check_scalars"]

_SAMPLED_FRAMES = 16
_FLAT_SPAN = 1e-4
"""A dimension whose values span less than this share of their size hardly moves."""
_LISTED = 8


def check_images(file: Hdf5File, layout: FileLayout, findings: Findings) -> None:
    """Warn about cameras that show one flat colour, or whose picture never changes."""
    for image in layout.images:
        _check_camera(file, image, layout.observations, findings)


def check_edges(examined: Examined, findings: Findings) -> None:
    """Warn about cameras whose first and last frame are one flat colour, or are equal."""
    for image, (first, last) in zip(examined.layout.images, examined.edges, strict=True):
        flat = all(frame.min() == frame.max() for frame in (first, last))
        frames = 1 if examined.layout.observations == 1 else 2
        _note_still(image, findings, frames, flat=flat, same=np.array_equal(first, last))


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
        if name == "reward" or not moments.count:
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


def _check_camera(
    file: Hdf5File, image: ImageColumn, observations: int, findings: Findings
) -> None:
    rows = np.unique(np.linspace(0, observations - 1, _SAMPLED_FRAMES).astype(np.int64)).tolist()
    dataset = file.dataset(image.dataset)
    first = np.asarray(dataset[rows[0]])
    flat, same = True, True
    for row in rows:
        frame = np.asarray(dataset[row])
        flat = flat and frame.min() == frame.max()
        same = same and np.array_equal(frame, first)
        if not (flat or same):
            break
    _note_still(image, findings, len(rows), flat=flat, same=same)


def _note_still(
    image: ImageColumn, findings: Findings, frames: int, *, flat: bool, same: bool
) -> None:
    check = f"{image.camera} camera"
    if flat:
        findings.warn(
            check,
            f"{image.dataset}: each of {frames} frames looked at is one flat value",
            remedy="check the camera and its topic",
            reason="FLAT_IMAGES",
            dataset=image.dataset,
        )
    elif same and frames > 1:
        findings.warn(
            check,
            f"{image.dataset}: all {frames} frames looked at are equal",
            remedy="check that the camera ran during the recording",
            reason="FROZEN_IMAGES",
            dataset=image.dataset,
        )
