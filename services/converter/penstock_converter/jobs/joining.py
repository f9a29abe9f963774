"""Staged recordings into one dataset: in their order, copied and never encoded again."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path

from penstock.errors import DataFault
from penstock_converter.jobs.request import HDF5_FOLDER
from penstock_converter.jobs.stages import HDF5_FILE, Staged
from penstock_converter.jobs.staging import new_folder
from penstock_converter.mapping.model import Mapping
from penstock_converter.messages.schema import Schema
from penstock_converter.outputs.lerobot import LeRobotWriter, StagedEpisode

__all__ = ["join"]

_SCRATCH = ".scratch"


def join(
    staged: Sequence[Staged | None],
    mapping: Mapping,
    dataset: Path,
    hdf5: Path | None,
    on_recording: Callable[[int, int, DataFault | None], None],
) -> int:
    """Make the dataset.

    Args:
        staged: Recordings in order; None where one was refused.
        mapping: What becomes what.
        dataset: Empty folder of the LeRobot dataset.
        hdf5: Empty folder of the HDF5 files; default: one in ``dataset``.
        on_recording: Told the number of a recording and of its first episode, or why it is not
            part of the dataset.

    Returns:
        Frames in all.
    """
    schema, joined = _agreeing(staged, on_recording)
    episodes = [
        (recording.episode(number), length)
        for recording in joined
        for number, length in enumerate(recording.lengths)
    ]
    outputs = mapping.outputs
    if outputs.hdf5 is not None:
        folder = hdf5 if hdf5 is not None else new_folder(dataset / HDF5_FOLDER)
        for number, (episode, _) in enumerate(episodes):
            _link(episode / HDF5_FILE, folder / f"episode_{number:06d}.hdf5")
    if outputs.lerobot is not None:
        scratch = new_folder(dataset / _SCRATCH)
        with closing(LeRobotWriter(dataset, scratch, mapping, outputs.lerobot, schema)) as writer:
            for episode, length in episodes:
                writer.add(StagedEpisode(episode, length))
            writer.finish()
        shutil.rmtree(scratch)
    return sum(length for _, length in episodes)


def _agreeing(
    staged: Sequence[Staged | None], on_recording: Callable[[int, int, DataFault | None], None]
) -> tuple[Schema, list[Staged]]:
    """Recordings whose features look like those of the first one."""
    schema = Schema()
    joined: list[Staged] = []
    episodes = 0
    for index, recording in enumerate(staged):
        if recording is None:
            continue
        try:
            merged = schema.fork()
            for name, feature in recording.schema.features.items():
                merged.settle(name, feature)
        except DataFault as error:
            on_recording(index, -1, error)
            continue
        schema = merged
        on_recording(index, episodes, None)
        joined.append(recording)
        episodes += len(recording.lengths)
    return schema, joined


def _link(source: Path, target: Path) -> None:
    """Give a file a second name, or a copy where the disk has no such thing."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)
