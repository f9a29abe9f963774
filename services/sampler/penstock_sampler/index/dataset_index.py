"""The index of a dataset: metadata, an episode table, statistics. No frame is kept.

Files are scanned one by one; one that cannot be served is refused with its reason and the rest
goes on. Joints, actions and rewards are kept on disk and read from there.
"""

from __future__ import annotations

import contextlib
import logging
from collections import Counter
from collections.abc import Iterable, Sequence
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
from penstock_sampler.checks.findings import WarningCount
from penstock_sampler.index.discovery import FoundFile
from penstock_sampler.index.entry_store import IndexStore
from penstock_sampler.index.helpers import Helpers
from penstock_sampler.index.record_store import RecordStore
from penstock_sampler.index.scalars import RecordShape
from penstock_sampler.index.scan import FileScan
from penstock_sampler.index.splits import split_keys
from penstock_sampler.options import DataOptions
from penstock_sampler.sources.files import FileIdentity
from penstock_sampler.sources.layout import FileLayout

__all__ = ["DatasetIndex", "IndexedFile", "Located", "build_index"]

# The standard library's: embedded in a training script, only warnings show, on standard error.
log = logging.getLogger(__name__)

_SHOWN_REASONS = 3


@dataclass(frozen=True, slots=True)
class IndexedFile:
    """A served file.

    Attributes:
        identity: The file as it was indexed.
        layout: Where everything is in it.
        self_contained: Whether all of it lies in this file.
    """

    identity: FileIdentity
    layout: FileLayout
    self_contained: bool = True


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
        records: Joints, actions and rewards.
    """

    info: DatasetInfo
    episodes: EpisodeTable
    files: tuple[IndexedFile, ...]
    records: RecordStore
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

    def read_records(self, located: Located) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Records ``joint | action | reward`` of current and next rows, ``(n, J + A + 1)`` both.

        Raises:
            DataFault: The records are damaged and the file cannot be read again; names it.
        """
        return self.records.read(located.file, located.row, located.next_row)

    def close(self) -> None:
        """Release the records."""
        self.records.close()


def build_index(
    found: Iterable[FoundFile],
    options: DataOptions,
    spool_dir: Path | None = None,
    index_dir: Path | None = None,
    max_open: int = 64,
) -> DatasetIndex:
    """Scan all files.

    Args:
        found: Files, ascending by id.
        options: Cameras and image order.
        spool_dir: Folder of the temporary file for scalars; None for the system's.
        index_dir: Folder where what is found out stays for the next time; None forgets it.
        max_open: Files of that folder that are open at a time.

    Raises:
        DataFault: No file can be served; names the first reasons.
        LimitExceeded: There is no room for the temporary file.
    """
    entries = _open_entries(index_dir, options)
    records = RecordStore(options, spool_dir, entries, max_open)
    try:
        return _build(tuple(found), records, Helpers(entries, options))
    except BaseException:
        records.close()
        raise


def _open_entries(index_dir: Path | None, options: DataOptions) -> IndexStore | None:
    if index_dir is None:
        return None
    try:
        return IndexStore(index_dir, options)
    except OSError as error:
        log.warning(
            "%s cannot be used (%s): every start reads the data again; name a folder that can be "
            "written to in the setting cache_dir (--cache-dir or PENSTOCK_CACHE_DIR)",
            index_dir,
            error.strerror,
        )
        return None


def _build(found: Sequence[FoundFile], records: RecordStore, helpers: Helpers) -> DatasetIndex:
    refused: dict[str, DataFault] = {}
    scanned: list[tuple[FoundFile, FileScan]] = []
    with contextlib.closing(helpers.each([file.path for file in found])) as paths:
        for file, path in zip(found, paths, strict=True):
            try:
                scanned.append((file, records.scan(path)))
            except DataFault as error:
                refused[file.file_id] = error
    scanned = _keep_majority(scanned, refused)
    if not scanned:
        raise _nothing_left(refused)
    layout = scanned[0][1].layout
    records.serve(RecordShape(layout.joint_dim, layout.action_dim), [scan for _, scan in scanned])
    episodes = _episode_table(scanned)
    info = _describe(scanned, refused)
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
    files = tuple(
        IndexedFile(scan.identity, scan.layout, scan.self_contained) for _, scan in scanned
    )
    return DatasetIndex(info, episodes, files, records, episodes.first_transition)


def _keep_majority(
    scanned: list[tuple[FoundFile, FileScan]], refused: dict[str, DataFault]
) -> list[tuple[FoundFile, FileScan]]:
    """Refuse files whose vectors have another width than most files'."""
    if not scanned:
        return scanned
    widths = [(scan.layout.joint_dim, scan.layout.action_dim) for _, scan in scanned]
    # Counter keeps the order of first sight, so the first file decides a tie.
    usual = Counter(widths).most_common(1)[0][0]
    kept: list[tuple[FoundFile, FileScan]] = []
    for (file, scan), width in zip(scanned, widths, strict=True):
        if width == usual:
            kept.append((file, scan))
            continue
        refused[file.file_id] = DataFault(
            f"{file.path}: joint and actions have widths {width[0]} and {width[1]}, most files "
            f"have {usual[0]} and {usual[1]}: serve it as a dataset of its own",
            reason="WIDTH_MISMATCH",
            metadata={"file": str(file.path)},
        )
    return kept


def _episode_table(files: list[tuple[FoundFile, FileScan]]) -> EpisodeTable:
    parts = [scan.episodes for _, scan in files]
    counts = [len(part.length) for part in parts]
    return EpisodeTable(
        file=np.repeat(np.arange(len(parts), dtype=np.int32), counts),
        first_row=np.concatenate([part.first_row for part in parts]),
        length=np.concatenate([part.length for part in parts]),
        outcome=np.concatenate([part.outcome for part in parts]),
        split_key=np.concatenate(
            [split_keys(file.file_id, scan.episodes.number) for file, scan in files]
        ),
    )


def _describe(
    served: list[tuple[FoundFile, FileScan]], refused: dict[str, DataFault]
) -> DatasetInfo:
    for name in COLUMNS:
        left_out = sum(scan.left_out[name] for _, scan in served)
        if left_out:
            log.warning(
                "%s: %d rows have a value that is not finite; statistics leave them out",
                name,
                left_out,
            )
    _log_warnings(served)
    layout = served[0][1].layout
    info = describe(
        [_data_file(file, scan) for file, scan in served],
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


def _log_warnings(served: list[tuple[FoundFile, FileScan]]) -> None:
    """One line for each kind of warning, not for each file."""
    warnings = WarningCount()
    for file, scan in served:
        warnings.add(file.file_id, scan.warnings)
    for kind in warnings.kinds():
        if kind.example.reason != "NOT_FINITE":  # its rows were counted already
            log.warning(
                "%s in %d of %d files, first in %s (%s): %s",
                kind.example.reason,
                kind.count,
                len(served),
                kind.first,
                kind.example.message,
                kind.example.remedy,
            )


def _data_file(file: FoundFile, scan: FileScan) -> DataFile:
    layout, episodes = scan.layout, scan.episodes
    return DataFile(
        file.file_id,
        scan.identity.size_bytes,
        layout.rows,
        digest=scan.digest,
        transitions=int(episodes.length.sum(dtype=np.int64)),
        episodes=len(episodes.length),
        dropped_rows=len(episodes.dropped),
        cameras=tuple(Camera(image.camera, image.height, image.width) for image in layout.images),
        moments=scan.moments,
    )


def _nothing_left(refused: dict[str, DataFault]) -> DataFault:
    shown = "; ".join(error.message for error in list(refused.values())[:_SHOWN_REASONS])
    return DataFault(
        f"none of {len(refused)} files can be served: {shown}",
        reason=next(iter(refused.values())).reason if refused else "NO_FILES",
    )
