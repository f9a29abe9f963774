"""Staged recordings into one dataset: in their order, copied and never encoded again."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any, NamedTuple

from penstock.errors import DataFault
from penstock.failpoints import failpoint
from penstock_converter.jobs.request import hdf5_name
from penstock_converter.jobs.stages import HDF5_FILE, Staged
from penstock_converter.jobs.staging import new_folder
from penstock_converter.mapping.model import Mapping
from penstock_converter.messages.schema import Schema
from penstock_converter.outputs.appending import WriterState
from penstock_converter.outputs.lerobot import LeRobotWriter, StagedEpisode
from penstock_converter.outputs.shards import link_or_copy

__all__ = ["Grown", "Places", "join"]

_SCRATCH = ".scratch"


class Places(NamedTuple):
    """Folders of a dataset and of its HDF5 files."""

    dataset: Path
    hdf5: Path


class Grown(NamedTuple):
    """A dataset that is appended to: its folders, its episodes, and what its writer left."""

    places: Places
    episodes: int
    state: dict[str, Any]


def join(
    staged: Sequence[Staged | None],
    mapping: Mapping,
    places: Places,
    on_recording: Callable[[int, int, DataFault | None], None],
    grown: Grown | None = None,
) -> dict[str, Any]:
    """Make the dataset.

    Args:
        staged: Recordings in order; None where one was refused.
        mapping: What becomes what.
        places: Folders to fill, empty.
        on_recording: Told the number of a recording and of its first episode, or why it is not
            part of the dataset.
        grown: The dataset that is appended to.

    Returns:
        What appending to it needs one day.
    """
    schema, joined = _agreeing(staged, grown, on_recording)
    begin = grown.episodes if grown is not None else 0
    state: dict[str, Any] = {"schema": schema.to_json()}
    episodes = [
        (recording.episode(number), length)
        for recording in joined
        for number, length in enumerate(recording.lengths)
    ]
    outputs = mapping.outputs
    if outputs.hdf5 is not None:
        places.hdf5.mkdir(exist_ok=True)
        files = [episode / HDF5_FILE for episode, _ in episodes]
        if grown is not None:
            files = [grown.places.hdf5 / hdf5_name(number) for number in range(begin)] + files
        for number, file in enumerate(files):
            link_or_copy(file, places.hdf5 / hdf5_name(number))
            failpoint("converter.join.linked")
    if outputs.lerobot is not None:
        dataset = places.dataset
        scratch = new_folder(dataset / _SCRATCH)
        with closing(LeRobotWriter(dataset, scratch, mapping, outputs.lerobot, schema)) as writer:
            if grown is not None:
                writer.resume(grown.places.dataset, WriterState.from_json(grown.state))
            for episode, length in episodes:
                writer.add(StagedEpisode(episode, length))
                failpoint("converter.join.added")
            state = writer.finish().to_json()
            failpoint("converter.join.finished")
        shutil.rmtree(scratch)
    return state


def _agreeing(
    staged: Sequence[Staged | None],
    grown: Grown | None,
    on_recording: Callable[[int, int, DataFault | None], None],
) -> tuple[Schema, list[Staged]]:
    """Recordings whose features look like those of the dataset, or of the first one."""
    schema = Schema.from_json(grown.state["schema"]) if grown is not None else Schema()
    joined: list[Staged] = []
    episodes = grown.episodes if grown is not None else 0
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
