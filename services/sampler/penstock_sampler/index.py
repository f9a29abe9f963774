"""The index of a dataset: metadata, an episode table, statistics. No frame is kept.

Files are examined one by one; one that cannot be served is refused with its reason and the rest
goes on. A second pass reads joints, actions and rewards in blocks: into the scalar store, into the
statistics, and into the digest that is the dataset's version.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from penstock.dataset import (
    COLUMNS,
    Camera,
    DataFile,
    DatasetInfo,
    EpisodeTable,
    Outcome,
    RefusedFile,
    describe,
)
from penstock.errors import DataFault, InvalidInput
from penstock_sampler.discovery import FoundFile
from penstock_sampler.examine import Examined, examine
from penstock_sampler.files import FileIdentity
from penstock_sampler.options import DataOptions
from penstock_sampler.scalars import ScalarStore
from penstock_sampler.scan import FileScan, scan_file
from penstock_sampler.splits import split_keys

__all__ = ["DatasetIndex", "IndexedFile", "Located", "build_index"]

# The standard library's: embedded in a training script, only warnings show, on standard error.
log = logging.getLogger(__name__)

_SHOWN_REASONS = 3


@dataclass(frozen=True)
class IndexedFile:
    """A served file.

    Attributes:
        identity: The file as it was indexed.
        examined: Its layout and episodes.
        first_record: Row of its first observation in the scalar store.
    """

    identity: FileIdentity
    examined: Examined
    first_record: int


@dataclass(frozen=True)
class Located:
    """Where transitions are, each ``(n,)``; ``file`` indexes ``DatasetIndex.files``."""

    file: NDArray[np.int32]
    row: NDArray[np.int64]
    next_row: NDArray[np.int64]
    terminal: NDArray[np.bool_]


@dataclass(frozen=True)
class DatasetIndex:
    """Everything but the frames.

    Attributes:
        info: The dataset as clients see it.
        episodes: The episode table.
        files: Served files, in the order of ``info.files``.
        scalars: Joints, actions and rewards.
    """

    info: DatasetInfo
    episodes: EpisodeTable
    files: tuple[IndexedFile, ...]
    scalars: ScalarStore
    _first_transition: NDArray[np.int64]

    def locate(self, ids: NDArray[np.int64]) -> Located:
        """Find transitions, ``(n,) int64``.

        Raises:
            InvalidInput: An id is out of range.
        """
        outside = np.flatnonzero((ids < 0) | (ids >= self.info.transitions))
        if len(outside):
            raise InvalidInput(
                f"transition id {int(ids[outside[0]])}: ids go from 0 to "
                f"{self.info.transitions - 1}",
                field="transition_ids",
            )
        episode = np.searchsorted(self._first_transition, ids, side="right") - 1
        place = ids - self._first_transition[episode]
        row = self.episodes.first_row[episode] + place
        terminal = (self.episodes.outcome[episode] == Outcome.TERMINAL) & (
            place == self.episodes.length[episode] - 1
        )
        return Located(self.episodes.file[episode], row, row + ~terminal, terminal)


def build_index(
    found: Iterable[FoundFile], options: DataOptions, spool_dir: Path | None = None
) -> DatasetIndex:
    """Examine and scan all files.

    Args:
        found: Files, ascending by id.
        options: Cameras and image order.
        spool_dir: Folder of the temporary file for scalars; None for the system's.

    Raises:
        DataFault: No file can be served; names the first reasons.
        LimitExceeded: There is no room for the temporary file.
    """
    refused: dict[str, DataFault] = {}
    accepted: list[tuple[FoundFile, Examined]] = []
    for file in found:
        try:
            accepted.append((file, examine(file.path, options)))
        except DataFault as error:
            refused[file.file_id] = error
    accepted = _keep_majority(accepted, refused)
    if not accepted:
        raise _nothing_left(refused)
    layout = accepted[0][1].layout
    scalars = ScalarStore(layout.joint_dim, layout.action_dim, spool_dir)
    try:
        return _scan_all(accepted, refused, scalars)
    except BaseException:
        scalars.close()
        raise


def _scan_all(
    accepted: list[tuple[FoundFile, Examined]],
    refused: dict[str, DataFault],
    scalars: ScalarStore,
) -> DatasetIndex:
    served: list[tuple[FoundFile, IndexedFile, FileScan]] = []
    for file, examined in accepted:
        first_record = scalars.rows
        try:
            scan = scan_file(file.path, examined, scalars)
        except DataFault as error:
            scalars.truncate(first_record)
            refused[file.file_id] = error
            continue
        served.append((file, IndexedFile(examined.identity, examined, first_record), scan))
    if not served:
        raise _nothing_left(refused)
    episodes = _episode_table([(file, entry.examined) for file, entry, _ in served])
    info = _describe(served, refused)
    for file_id, error in refused.items():
        log.warning("file %s is refused (%s): %s", file_id, error.reason, error.message)
    log.info(
        "dataset %s: %d files, %d refused, %d episodes, %d transitions, %d rows without a next "
        "observation dropped",
        info.version,
        len(info.files),
        len(info.refused),
        info.episodes,
        info.transitions,
        info.dropped_rows,
    )
    return DatasetIndex(
        info, episodes, tuple(entry for _, entry, _ in served), scalars, episodes.first_transition
    )


def _keep_majority(
    accepted: list[tuple[FoundFile, Examined]], refused: dict[str, DataFault]
) -> list[tuple[FoundFile, Examined]]:
    """Refuse files whose vectors have another width than most files'."""
    if not accepted:
        return accepted
    widths = [(entry.layout.joint_dim, entry.layout.action_dim) for _, entry in accepted]
    # Counter keeps the order of first sight, so the first file decides a tie.
    usual = Counter(widths).most_common(1)[0][0]
    kept: list[tuple[FoundFile, Examined]] = []
    for (file, entry), width in zip(accepted, widths, strict=True):
        if width == usual:
            kept.append((file, entry))
            continue
        refused[file.file_id] = DataFault(
            f"{file.path}: joint and actions have widths {width[0]} and {width[1]}, most files "
            f"have {usual[0]} and {usual[1]}: serve it as a dataset of its own",
            reason="WIDTH_MISMATCH",
            metadata={"file": str(file.path)},
        )
    return kept


def _episode_table(files: list[tuple[FoundFile, Examined]]) -> EpisodeTable:
    parts = [entry.episodes for _, entry in files]
    counts = [len(part.length) for part in parts]
    return EpisodeTable(
        file=np.repeat(np.arange(len(parts), dtype=np.int32), counts),
        first_row=np.concatenate([part.first_row for part in parts]),
        length=np.concatenate([part.length for part in parts]),
        outcome=np.concatenate([part.outcome for part in parts]),
        split_key=np.concatenate(
            [split_keys(file.file_id, entry.episodes.number) for file, entry in files]
        ),
    )


def _describe(
    served: list[tuple[FoundFile, IndexedFile, FileScan]], refused: dict[str, DataFault]
) -> DatasetInfo:
    for name in COLUMNS:
        left_out = sum(scan.statistics[name].left_out for _, _, scan in served)
        if left_out:
            log.warning(
                "%s: %d rows have a value that is not finite; statistics leave them out",
                name,
                left_out,
            )
    layout = served[0][1].examined.layout
    info = describe(
        [_data_file(file, entry, scan) for file, entry, scan in served],
        [
            RefusedFile(file_id, refused[file_id].reason, refused[file_id].message)
            for file_id in sorted(refused)
        ],
        joint_dim=layout.joint_dim,
        action_dim=layout.action_dim,
    )
    for place, camera in enumerate(info.cameras):
        others = sum(file.cameras[place] != camera for file in info.files)
        if others:
            log.warning(
                "%s camera: %d of %d files store another size than %dx%d and are resized to it",
                camera.name,
                others,
                len(info.files),
                camera.height,
                camera.width,
            )
    return info


def _data_file(file: FoundFile, entry: IndexedFile, scan: FileScan) -> DataFile:
    layout, episodes = entry.examined.layout, entry.examined.episodes
    return DataFile(
        file.file_id,
        entry.identity.size_bytes,
        layout.rows,
        digest=scan.digest,
        transitions=int(episodes.length.sum(dtype=np.int64)),
        episodes=len(episodes.length),
        dropped_rows=len(episodes.dropped),
        cameras=tuple(Camera(image.camera, image.height, image.width) for image in layout.images),
        moments={name: column.moments for name, column in scan.statistics.items()},
    )


def _nothing_left(refused: dict[str, DataFault]) -> DataFault:
    shown = "; ".join(error.message for error in list(refused.values())[:_SHOWN_REASONS])
    return DataFault(
        f"none of {len(refused)} files can be served: {shown}",
        reason=next(iter(refused.values())).reason if refused else "NO_FILES",
    )
