"""Diagnosis of one file: what is in it, every check, and what to do."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import h5py

from penstock.errors import DataFault
from penstock_sampler.checks.colour_order import ColourProfile
from penstock_sampler.checks.findings import Findings
from penstock_sampler.checks.quality import check_images
from penstock_sampler.index.scan import FileScan, scan_open
from penstock_sampler.options import DataOptions
from penstock_sampler.sources.files import FileIdentity
from penstock_sampler.sources.opening import HDF5_ERRORS, Hdf5File

__all__ = ["Diagnosis", "Entry", "diagnose"]

_MAX_ENTRIES = 200


@dataclass(frozen=True)
class Entry:
    """A group or dataset of the file."""

    path: str
    description: str


@dataclass
class Diagnosis:
    """What was found out about one file.

    Attributes:
        findings: Every check.
        tree: Groups and datasets, at most 200.
        scan: What the sampler knows of it; None when it is refused.
        colours: Of each camera, in the order of the layout.
    """

    findings: Findings
    tree: list[Entry] = field(default_factory=list[Entry])
    scan: FileScan | None = None
    colours: list[ColourProfile] = field(default_factory=list[ColourProfile])

    @property
    def served(self) -> bool:
        """Whether the sampler would serve the file."""
        return not self.findings.faults


def diagnose(path: Path, options: DataOptions) -> Diagnosis:
    """Scan a file as the sampler does, and look at more of its frames; raises nothing about it."""
    diagnosis = Diagnosis(Findings(str(path)))
    findings = diagnosis.findings
    try:
        identity = FileIdentity.of(path)
        with Hdf5File(path) as file:
            findings.ok("opens", f"{identity.size_bytes} bytes")
            diagnosis.tree = _tree(file.full(), findings)
            diagnosis.scan = scan_open(file, identity, options, findings)
            if diagnosis.scan is not None:
                diagnosis.colours = check_images(file, diagnosis.scan.layout, findings)
    except DataFault as error:
        _note(findings, error.message, error.reason)
    except HDF5_ERRORS as error:
        _note(findings, f"HDF5 cannot read it ({error}): copy or record it again", "UNREADABLE")
    return diagnosis


def _note(findings: Findings, message: str, reason: str) -> None:
    what, _, remedy = message.removeprefix(f"{findings.file}: ").rpartition(": ")
    findings.fail("readable", what, remedy=remedy, reason=reason)


def _tree(file: h5py.File, findings: Findings) -> list[Entry]:
    entries: list[Entry] = []

    def visit(name: str, node: object) -> bool | None:
        if len(entries) >= _MAX_ENTRIES:
            entries.append(Entry("...", "more is not shown"))
            return True
        if isinstance(node, h5py.Dataset):
            entries.append(Entry(name, f"{node.shape} {node.dtype}, {_storage(node)}"))
        else:
            entries.append(Entry(name, "group"))
        return None

    try:
        file.visititems(visit)
    except HDF5_ERRORS as error:
        findings.warn(
            "tree",
            f"not all of it can be listed ({error})",
            remedy="copy or record it again, unless the damaged part is not needed",
            reason="UNREADABLE",
        )
    return entries


def _storage(dataset: h5py.Dataset) -> str:
    if dataset.is_virtual:
        return f"virtual, {len(dataset.virtual_sources())} sources"
    if dataset.external:
        return f"external, {len(dataset.external)} files"
    if dataset.chunks is None:
        return "contiguous"
    filters = dataset.id.get_create_plist()
    names = [
        filters.get_filter(index)[3].decode(errors="replace") or str(filters.get_filter(index)[0])
        for index in range(filters.get_nfilters())
    ]
    return f"chunks {dataset.chunks}" + (f", {' + '.join(names)}" if names else "")
