"""Recordings that were converted and wait to be joined: a folder each, complete or not there."""

from __future__ import annotations

import hashlib
import json
import os
import secrets
import shutil
from collections.abc import Callable, Collection, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from penstock.errors import PenstockError
from penstock.failpoints import failpoint
from penstock.library_pages import let_go_of_libraries
from penstock_converter.jobs.durable import replace_synced, sync_folder, sync_tree, writing_out
from penstock_converter.jobs.outcome import BagOutcome, fingerprint, identify
from penstock_converter.jobs.recording import Work, convert_recording
from penstock_converter.mapping.model import Mapping
from penstock_converter.messages.schema import Schema
from penstock_converter.outputs.lerobot_episode import LeRobotEpisode
from penstock_converter.outputs.sink import EpisodeSink

__all__ = ["HDF5_FILE", "RECORDINGS", "Staged", "Stages", "stage_key"]

RECORDINGS = "recordings"
"""Folder of all stages, in that of a conversion."""

HDF5_FILE = "episode.hdf5"
_RECORD, _REFUSAL = "staged.json", "refused.json"


@dataclass(frozen=True)
class Staged:
    """A recording that waits to be joined.

    Attributes:
        outcome: What became of it.
        schema: What its features look like.
        lengths: Rows of each episode.
        folder: Where its episodes are.
    """

    outcome: BagOutcome
    schema: Schema
    lengths: tuple[int, ...]
    folder: Path

    def episode(self, number: int) -> Path:
        """Folder of an episode."""
        return _episode_folder(self.folder, number)


class Stages:
    """All recordings that wait, by key.

    Several processes may stage at the same time, the same recording too: each works in a folder of
    its own, which gets its name when it is complete and synced.

    Attributes:
        folder: Where they are kept; made if needed.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(exist_ok=True)

    def find(self, key: str) -> Staged | None:
        """The recording of that key, if it is complete."""
        folder = self.folder / key
        try:
            content: dict[str, Any] = json.loads((folder / _RECORD).read_text("utf-8"))
            outcome = BagOutcome(**content["outcome"])
            schema = Schema.from_json(content["schema"])
            return Staged(outcome, schema, tuple(content["lengths"]), folder)
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            return None

    def refuse(self, key: str, token: str, error: PenstockError) -> None:
        """Note why a recording cannot be staged, for the conversion that ``token`` stands for."""
        folder = self.folder / key
        folder.mkdir(exist_ok=True)
        partial = folder / f"{_REFUSAL}.{secrets.token_hex(4)}"
        content = {"token": token, "reason": error.reason, "message": error.message}
        partial.write_text(json.dumps(content), "utf-8")
        replace_synced(partial, folder / _REFUSAL)

    def refusal(self, key: str, token: str) -> PenstockError | None:
        """Why a recording was refused by the same conversion; None if it was not.

        What others found is no reason: they may have run with less memory, or another version.
        """
        try:
            content = json.loads((self.folder / key / _REFUSAL).read_text("utf-8"))
            if content["token"] != token:
                return None
            return PenstockError(content["message"], reason=content["reason"])
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def __bool__(self) -> bool:
        """Whether any recording is complete."""
        return any(self.find(entry.name) is not None for entry in self.folder.iterdir())

    def keep_only(self, keys: Collection[str]) -> None:
        """Remove what an earlier conversion of something else left, and what is incomplete."""
        for entry in self.folder.iterdir():
            if entry.name not in keys or self.find(entry.name) is None:
                self.remove(entry.name)

    def remove(self, key: str) -> None:
        """Remove a recording; one that was removed in part counts as incomplete."""
        folder = self.folder / key
        with suppress(OSError):
            (folder / _RECORD).unlink()
        shutil.rmtree(folder, ignore_errors=True)

    def convert(
        self,
        key: str,
        bag: Path,
        name: str,
        mapping: Mapping,
        *,
        memory_bytes: int,
        on_frame: Callable[[int, int, int], None],
        cancelled: Callable[[], bool],
    ) -> Staged:
        """Convert a recording.

        Args:
            key: See ``stage_key``.
            bag: The recording.
            name: What it is called in reports.
            mapping: What becomes what.
            memory_bytes: That this process may use.
            on_frame: See ``convert_recording``.
            cancelled: Asked before each frame.

        Raises:
            DataFault: The recording does not yield an episode.
            Cancelled: ``cancelled`` said so.
        """
        let_go_of_libraries()
        attempt = self.folder / f".{key}.{secrets.token_hex(4)}"
        attempt.mkdir()
        failpoint("converter.stage.begun")
        try:

            def sinks(number: int) -> Sequence[EpisodeSink]:
                return _sinks(_episode_folder(attempt, number), mapping, bag.name)

            work = Work(bag, mapping, sinks, memory_bytes)
            with writing_out(attempt):
                choice, schema = convert_recording(work, on_frame=on_frame, cancelled=cancelled)
            outcome = BagOutcome(
                name,
                state="converted",
                episodes=len(choice.episodes),
                frames=choice.frames,
                images=choice.frames * sum(f.is_image for f in schema.features.values()),
                next_observation=choice.episodes[-1].observations > choice.episodes[-1].count,
                dropped=choice.dropped,
                warnings=list(choice.warnings),
            )
            lengths = [frames.count for frames in choice.episodes]
            content = {
                "outcome": asdict(outcome),
                "schema": schema.to_json(),
                "lengths": lengths,
            }
            failpoint("converter.stage.written")
            sync_tree(attempt)
            partial = attempt / f"{_RECORD}.partial"
            partial.write_text(json.dumps(content), "utf-8")
            replace_synced(partial, attempt / _RECORD)
            failpoint("converter.stage.described")
            sync_folder(attempt)
            self._publish(attempt, key)
        finally:
            shutil.rmtree(attempt, ignore_errors=True)
        staged = self.find(key)
        assert staged is not None  # noqa: S101 - just published
        return staged

    def _publish(self, attempt: Path, key: str) -> None:
        final = self.folder / key
        if self.find(key) is not None:
            return  # somebody else has made the same
        shutil.rmtree(final, ignore_errors=True)
        attempt.rename(final)
        failpoint("converter.stage.renamed")
        sync_folder(self.folder)


def stage_key(bag: Path, mapping: Mapping) -> str:
    """Name of a recording's stage: changes with its files, its place and the mapping."""
    # Two recordings in different places may be alike by name, size and time.
    place = hashlib.sha256(os.fsencode(bag.resolve())).hexdigest()
    return fingerprint([identify(bag), place], mapping)


def _episode_folder(folder: Path, number: int) -> Path:
    return folder / f"episode_{number:06d}"


def _sinks(folder: Path, mapping: Mapping, source: str) -> list[EpisodeSink]:
    folder.mkdir()
    sinks: list[EpisodeSink] = []
    outputs = mapping.outputs
    if outputs.hdf5 is not None:
        from penstock_converter.outputs.hdf5 import Hdf5Episode  # noqa: PLC0415 - h5py is large

        sinks.append(Hdf5Episode(folder / HDF5_FILE, mapping, outputs.hdf5, source))
    if outputs.lerobot is not None:
        sinks.append(LeRobotEpisode(folder, mapping, outputs.lerobot))
    return sinks
