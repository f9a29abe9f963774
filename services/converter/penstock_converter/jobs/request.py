"""What is to be converted, and whether it was done before. Light: nothing here decodes anything."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path

from penstock.errors import AlreadyExists, InvalidInput
from penstock_converter.jobs.outcome import Outcome, fingerprint, read_outcome
from penstock_converter.mapping.model import Mapping

__all__ = ["HDF5_FOLDER", "Job", "existing_outcome"]

HDF5_FOLDER = "hdf5"


@dataclass(frozen=True)
class Job:
    """What is to be converted.

    Attributes:
        bags: Recordings, one episode each, in this order.
        mapping: What becomes what.
        out: Folder of the LeRobot dataset and of the report.
        hdf5: Folder of the HDF5 files; default ``hdf5`` in ``out``.
        overwrite: Replace a dataset that was made from other recordings or another mapping.
        workers: Processes that convert recordings; default: as cores and memory allow.
        names: What recordings are called in the report; default: their paths.
    """

    bags: tuple[Path, ...]
    mapping: Mapping
    out: Path
    hdf5: Path | None = None
    overwrite: bool = False
    workers: int | None = None
    names: tuple[str, ...] = ()

    def name(self, index: int) -> str:
        """What a recording is called."""
        return self.names[index] if self.names else str(self.bags[index])


def existing_outcome(job: Job) -> Outcome | None:
    """What the output says if it is what this job would make; None if there is work to do.

    Raises:
        AlreadyExists: The output holds something else, and may not be replaced.
        InvalidInput: ``hdf5`` is given but the mapping has no such output, or the two folders
            lie in each other.
    """
    if job.hdf5 is not None and job.mapping.outputs.hdf5 is None:
        raise InvalidInput(
            "an HDF5 folder is given, but the mapping has no outputs.hdf5: say there which "
            "features are joint, actions, rewards and terminals",
            field="hdf5",
        )
    if job.hdf5 is not None:
        apart, out = job.hdf5.resolve(), job.out.resolve()
        if apart.is_relative_to(out) or out.is_relative_to(apart):
            raise InvalidInput(
                f"dataset {job.out} and HDF5 folder {job.hdf5} lie in each other: name folders "
                f"side by side, or leave the second out, then it is {job.out / HDF5_FOLDER}",
                field="hdf5",
            )
    wanted = fingerprint(job.bags, job.mapping)
    found: list[Outcome | None] = []
    for folder in (job.out, *([job.hdf5] if job.hdf5 else [])):
        outcome = read_outcome(folder)
        found.append(outcome if outcome and outcome.fingerprint == wanted else None)
        if outcome is None and folder.exists() and (folder.is_file() or any(folder.iterdir())):
            raise AlreadyExists(
                f"{folder}: is there and was not made by a conversion: choose another folder, or "
                "remove it yourself",
                reason="OUTPUT_FOREIGN",
            )
        if outcome is not None and outcome.fingerprint != wanted and not job.overwrite:
            raise AlreadyExists(
                f"{folder}: holds a dataset of other recordings or another mapping: choose "
                "another folder, or ask for it to be replaced (--overwrite)",
                reason="OUTPUT_DIFFERS",
            )
    first = found[0]
    if first is None or None in found or not _is_whole(job, first):
        return None
    return replace(first, reused=True)


def _is_whole(job: Job, outcome: Outcome) -> bool:
    """Whether nobody has removed parts of a dataset since it was published."""
    outputs = job.mapping.outputs
    if outputs.lerobot is not None:
        try:
            info = json.loads((job.out / "meta" / "info.json").read_text("utf-8"))
        except (OSError, ValueError):
            return False
        if info.get("total_episodes") != len(outcome.converted):
            return False
    if outputs.hdf5 is not None:
        folder = job.hdf5 or job.out / HDF5_FOLDER
        return len(list(folder.glob("episode_*.hdf5"))) == len(outcome.converted)
    return True
