"""Examining one file: open it, recognise its layout, divide it into episodes, probe its frames."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from penstock.errors import DataFault
from penstock_sampler.checks.findings import Findings
from penstock_sampler.index.episodes import FileEpisodes, read_episodes
from penstock_sampler.options import DataOptions
from penstock_sampler.sources.column import Column
from penstock_sampler.sources.files import FileIdentity
from penstock_sampler.sources.layout import FileLayout, read_layout
from penstock_sampler.sources.opening import HDF5_ERRORS, Hdf5File

__all__ = ["Examined", "examine", "examine_open"]

Edges = tuple[NDArray[np.uint8], NDArray[np.uint8]]
"""First and last frame of a camera, as they are stored."""


@dataclass(frozen=True)
class Examined:
    """A file that can be served.

    Attributes:
        identity: The file as it was examined.
        layout: Where everything is in it.
        episodes: Its episodes.
        edges: By camera, the first and the last frame.
    """

    identity: FileIdentity
    layout: FileLayout
    episodes: FileEpisodes
    edges: tuple[Edges, ...]


def examine(path: Path, options: DataOptions) -> Examined:
    """Examine one file.

    Raises:
        DataFault: It cannot be served; names dataset, value and what to do.
    """
    identity = FileIdentity.of(path)
    findings = Findings(str(path))
    with Hdf5File(path) as file:
        found = examine_open(file, identity, options, findings)
    findings.raise_fault()
    if found is None:  # every None leaves a fault, which was raised above; the types do not know
        raise DataFault(f"{path}: cannot be served", metadata={"file": str(path)})
    return found


def examine_open(
    file: Hdf5File, identity: FileIdentity, options: DataOptions, findings: Findings
) -> Examined | None:
    """Examine an open file, leaving a finding for every check; None when one is a fault."""
    try:
        layout = read_layout(file, options, findings)
        if layout is None:
            return None
        episodes = read_episodes(file, layout, findings)
        if episodes is None:
            return None
        edges = _probe_frames(file, layout, findings)
        if edges is None:
            return None
    except HDF5_ERRORS as error:
        findings.fail(
            "readable",
            f"HDF5 cannot read it ({error})",
            remedy="copy or record it again",
            reason="UNREADABLE",
        )
        return None
    return Examined(identity, layout, episodes, edges)


def _probe_frames(
    file: Hdf5File, layout: FileLayout, findings: Findings
) -> tuple[Edges, ...] | None:
    """Read the first and the last frame, which tells missing filters and sources."""
    found: list[Edges] = []
    last = layout.observations - 1
    for image in layout.images:
        column = file.column(image.dataset)
        try:
            frames = column.read(0, last + 1, step=max(1, last))
        except HDF5_ERRORS as error:
            row = last if _is_readable(column, 0) else 0
            findings.fail(
                f"{image.camera} camera",
                f"frame {row} of {image.dataset} cannot be read ({error})",
                remedy="copy or record the file again; if a filter is missing, rewrite the "
                "file with gzip or LZ4",
                reason="UNREADABLE",
                dataset=image.dataset,
            )
            return None
        found.append((frames[0], frames[-1]))
    return tuple(found)


def _is_readable(column: Column, row: int) -> bool:
    try:
        column.read(row, row + 1)
    except HDF5_ERRORS:
        return False
    return True
