"""Warnings about values: data that can be served, but that a user would want to know about."""

from __future__ import annotations

import h5py
import numpy as np

from penstock_sampler.examine import Examined
from penstock_sampler.findings import Findings
from penstock_sampler.images import ImageColumn
from penstock_sampler.opening import dataset_at
from penstock_sampler.statistics import RunningStatistics

__all__ = ["check_images", "check_scalars"]

_SAMPLED_FRAMES = 16
_FLAT_SPAN = 1e-4
"""A dimension whose values span less than this share of their size hardly moves."""
_LISTED = 8


def check_images(file: h5py.File, examined: Examined, findings: Findings) -> None:
    """Warn about cameras that show one flat colour, or whose picture never changes."""
    for image in examined.layout.images:
        _check_camera(file, image, examined.layout.observations, findings)


def check_scalars(statistics: dict[str, RunningStatistics], findings: Findings) -> None:
    """Warn about values that are not finite, and about dimensions that hardly move."""
    for name, column in statistics.items():
        if column.left_out:
            total = column.left_out + column.moments.count
            findings.warn(
                f"{name} values",
                f"{column.left_out} of {total} rows of {name} have NaN or infinite values",
                remedy="clean or cut them: they are served as they are, statistics leave them out",
                reason="NOT_FINITE",
            )
        if name == "reward" or not column.moments.count:
            continue
        found = column.moments.statistics()
        size = np.maximum(np.abs(found.min), np.abs(found.max))
        flat = np.flatnonzero(found.max - found.min <= _FLAT_SPAN * np.maximum(size, _FLAT_SPAN))
        if len(flat):
            listed = ", ".join(str(index) for index in flat[:_LISTED].tolist())
            more = ", ..." if len(flat) > _LISTED else ""
            findings.warn(
                f"{name} values",
                f"{len(flat)} of {len(size)} dimensions of {name} hardly move ({listed}{more})",
                remedy="check that the recorder wrote them; normalisation cannot scale them",
                reason="NEAR_CONSTANT",
            )
        elif not column.left_out:
            findings.ok(f"{name} values", f"finite, all {len(size)} dimensions move")


def _check_camera(
    file: h5py.File, image: ImageColumn, observations: int, findings: Findings
) -> None:
    rows = np.unique(np.linspace(0, observations - 1, _SAMPLED_FRAMES).astype(np.int64)).tolist()
    dataset = dataset_at(file, image.dataset)
    first = np.asarray(dataset[rows[0]])
    flat, same = True, True
    for row in rows:
        frame = np.asarray(dataset[row])
        flat = flat and frame.min() == frame.max()
        same = same and np.array_equal(frame, first)
        if not (flat or same):
            break
    check = f"{image.camera} camera"
    if flat:
        findings.warn(
            check,
            f"{image.dataset}: each of {len(rows)} frames looked at is one flat value",
            remedy="check the camera and its topic",
            reason="FLAT_IMAGES",
            dataset=image.dataset,
        )
    elif same and len(rows) > 1:
        findings.warn(
            check,
            f"{image.dataset}: all {len(rows)} frames looked at are equal",
            remedy="check that the camera ran during the recording",
            reason="FROZEN_IMAGES",
            dataset=image.dataset,
        )
