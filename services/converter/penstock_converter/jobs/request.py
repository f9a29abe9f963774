"""What is to be converted, and whether it was done before. Light: nothing here decodes anything."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

from penstock.errors import AlreadyExists, InvalidInput
from penstock_converter.jobs.outcome import (
    REPORT_NAME,
    Outcome,
    fingerprint,
    identify,
    read_outcome,
)
from penstock_converter.jobs.staging import restore
from penstock_converter.mapping.model import Mapping

__all__ = ["HDF5_FOLDER", "Job", "Plan", "hdf5_name", "plan_job"]

HDF5_FOLDER = "hdf5"


@dataclass(frozen=True)
class Job:
    """What is to be converted.

    Attributes:
        bags: Recordings, in this order.
        mapping: What becomes what.
        out: Folder of the LeRobot dataset and of the report.
        hdf5: Folder of the HDF5 files; default ``hdf5`` in ``out``.
        overwrite: Replace a dataset that was made from other recordings or another mapping.
        append: Add to the dataset that is there what it does not have yet.
        workers: Processes that convert recordings; default: as cores and memory allow.
        names: What recordings are called in the report; default: their paths.
    """

    bags: tuple[Path, ...]
    mapping: Mapping
    out: Path
    hdf5: Path | None = None
    overwrite: bool = False
    append: bool = False
    workers: int | None = None
    names: tuple[str, ...] = ()

    def name(self, index: int) -> str:
        """What a recording is called."""
        return self.names[index] if self.names else str(self.bags[index])

    @cached_property
    def identities(self) -> tuple[str, ...]:
        """Digests of the recordings."""
        return tuple(identify(bag) for bag in self.bags)

    @property
    def fingerprint(self) -> str:
        """Digest of what is asked for."""
        return fingerprint(self.identities, self.mapping)

    def only(self, chosen: Sequence[int]) -> Job:
        """The same for some of the recordings, by number."""
        return replace(
            self,
            bags=tuple(self.bags[index] for index in chosen),
            names=tuple(self.name(index) for index in chosen),
        )


@dataclass(frozen=True)
class Plan:
    """What there is to do.

    Attributes:
        job: What is to be converted; of a dataset that grows, the recordings that are new.
        present: What the output says, if it is what the job would make: nothing is to be done.
        previous: What the output says of a dataset that grows.
    """

    job: Job
    present: Outcome | None = None
    previous: Outcome | None = None


def hdf5_name(episode: int) -> str:
    """Name of the HDF5 file of an episode."""
    return f"episode_{episode:06d}.hdf5"


def plan_job(job: Job) -> Plan:
    """Look at the output, and say what there is to do.

    Raises:
        AlreadyExists: The output holds something else, and may not be replaced, or cannot grow.
        InvalidInput: ``hdf5`` is given but the mapping has no such output, or the two folders
            lie in each other.
    """
    _check_folders(job)
    folders = (job.out, *([job.hdf5] if job.hdf5 else []))
    for folder in folders:
        restore(folder)
    found = [_found(folder) for folder in folders]
    first = found[0]
    if first is not None and _is_whole(job, first):
        if first.fingerprint == job.fingerprint and _agree(found):
            return Plan(job, present=replace(first, reused=True))
        if job.append:
            return _growth(job, first)
    if job.append and first is not None:
        raise AlreadyExists(
            f"{job.out}: has lost files since it was made, so nothing is appended: make it again "
            "from all recordings (--overwrite)",
            reason="OUTPUT_DAMAGED",
        )
    wanted = job.fingerprint
    if not job.overwrite and any(outcome and outcome.fingerprint != wanted for outcome in found):
        raise AlreadyExists(
            f"{job.out}: holds a dataset of other recordings or another mapping: choose another "
            "folder, ask for it to be replaced (--overwrite), or to grow (--append)",
            reason="OUTPUT_DIFFERS",
        )
    return Plan(job)


def _check_folders(job: Job) -> None:
    if job.hdf5 is None:
        return
    if job.mapping.outputs.hdf5 is None:
        raise InvalidInput(
            "an HDF5 folder is given, but the mapping has no outputs.hdf5: say there which "
            "features are joint, actions, rewards and terminals",
            field="hdf5",
        )
    apart, out = job.hdf5.resolve(), job.out.resolve()
    if apart.is_relative_to(out) or out.is_relative_to(apart):
        raise InvalidInput(
            f"dataset {job.out} and HDF5 folder {job.hdf5} lie in each other: name folders "
            f"side by side, or leave the second out, then it is {job.out / HDF5_FOLDER}",
            field="hdf5",
        )


def _found(folder: Path) -> Outcome | None:
    outcome = read_outcome(folder)
    if outcome is None and folder.exists() and (folder.is_file() or any(folder.iterdir())):
        raise AlreadyExists(
            f"{folder}: is there and was not made by a conversion: choose another folder, or "
            "remove it yourself",
            reason="OUTPUT_FOREIGN",
        )
    return outcome


def _agree(found: Sequence[Outcome | None]) -> bool:
    """Whether all folders are of one conversion."""
    return len({outcome.fingerprint if outcome else None for outcome in found}) == 1


def _growth(job: Job, previous: Outcome) -> Plan:
    """What is to be appended."""
    if Mapping.model_validate(previous.mapping).without_speed() != job.mapping.without_speed():
        raise AlreadyExists(
            f"{job.out}: was made with another mapping, see {REPORT_NAME} there: append with the "
            "same, or choose another folder",
            reason="OUTPUT_DIFFERS",
        )
    there = {bag.identity for bag in previous.converted}
    new = [index for index, identity in enumerate(job.identities) if identity not in there]
    if not new:
        return Plan(job, present=replace(previous, reused=True))
    again = {job.identities[index] for index in new}
    # One that was refused is tried again.
    kept = [bag for bag in previous.bags if bag.identity not in again]
    return Plan(job.only(new), previous=replace(previous, bags=kept))


def _is_whole(job: Job, outcome: Outcome) -> bool:
    """Whether nobody has removed parts of a dataset since it was published."""
    outputs = job.mapping.outputs
    episodes = sum(bag.episodes for bag in outcome.converted)
    if outputs.lerobot is not None:
        try:
            info = json.loads((job.out / "meta" / "info.json").read_text("utf-8"))
        except (OSError, ValueError):
            return False
        if info.get("total_episodes") != episodes:
            return False
    if outputs.hdf5 is not None:
        folder = job.hdf5 or job.out / HDF5_FOLDER
        return all((folder / hdf5_name(number)).exists() for number in range(episodes))
    return True
