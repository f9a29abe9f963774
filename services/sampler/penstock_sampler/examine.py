"""Examining one file: open it, recognise its layout, divide it into episodes, probe its frames."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import h5py

from penstock.errors import DataFault
from penstock_sampler.episodes import FileEpisodes, read_episodes
from penstock_sampler.files import FileIdentity
from penstock_sampler.findings import Findings
from penstock_sampler.layout import FileLayout, read_layout
from penstock_sampler.opening import HDF5_ERRORS, dataset_at, open_hdf5
from penstock_sampler.options import DataOptions

__all__ = ["Examined", "examine", "examine_open"]


@dataclass(frozen=True)
class Examined:
    """A file that can be served."""

    identity: FileIdentity
    layout: FileLayout
    episodes: FileEpisodes


def examine(path: Path, options: DataOptions) -> Examined:
    """Examine one file.

    Raises:
        DataFault: It cannot be served; names dataset, value and what to do.
    """
    identity = FileIdentity.of(path)
    findings = Findings(str(path))
    with open_hdf5(path) as file:
        found = examine_open(file, options, findings)
    findings.raise_fault()
    if found is None:  # every None leaves a fault, which was raised above; the types do not know
        raise DataFault(f"{path}: cannot be served", metadata={"file": str(path)})
    return Examined(identity, *found)


def examine_open(
    file: h5py.File, options: DataOptions, findings: Findings
) -> tuple[FileLayout, FileEpisodes] | None:
    """Examine an open file, leaving a finding for every check; None when one is a fault."""
    try:
        layout = read_layout(file, options, findings)
        if layout is None:
            return None
        episodes = read_episodes(file, layout, findings)
        if episodes is None or not _probe_frames(file, layout, findings):
            return None
    except HDF5_ERRORS as error:
        findings.fail(
            "readable",
            f"HDF5 cannot read it ({error})",
            remedy="copy or record it again",
            reason="UNREADABLE",
        )
        return None
    return layout, episodes


def _probe_frames(file: h5py.File, layout: FileLayout, findings: Findings) -> bool:
    """Read the first and the last frame, which tells missing filters and sources."""
    for image in layout.images:
        dataset = dataset_at(file, image.dataset)
        for row in (0, layout.observations - 1):
            try:
                dataset[row]
            except HDF5_ERRORS as error:
                findings.fail(
                    f"{image.camera} camera",
                    f"frame {row} of {image.dataset} cannot be read ({error})",
                    remedy="copy or record the file again; if a filter is missing, rewrite the "
                    "file with gzip or LZ4",
                    reason="UNREADABLE",
                    dataset=image.dataset,
                )
                return False
    return True
