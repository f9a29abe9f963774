"""One file, opened once: its layout and episodes, then its joints, actions and rewards by block."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import xxhash
from numpy.typing import NDArray

from penstock.errors import DataFault
from penstock.moments import Moments
from penstock_sampler.checks.findings import Finding, Findings
from penstock_sampler.checks.quality import (
    check_edges,
    check_episodes,
    check_last_joint,
    check_scalars,
)
from penstock_sampler.index.episodes import FileEpisodes, row_blocks
from penstock_sampler.index.examine import Examined, examine_open
from penstock_sampler.index.scalars import RecordShape, RecordWriter
from penstock_sampler.index.statistics import RunningStatistics
from penstock_sampler.options import DataOptions
from penstock_sampler.sources.files import FileIdentity, unreadable
from penstock_sampler.sources.layout import FileLayout
from penstock_sampler.sources.opening import HDF5_ERRORS, Hdf5File
from penstock_sampler.weights import hash_weights

__all__ = ["FileScan", "RecordStart", "scan_file", "scan_open"]

_BLOCK_BYTES = 4 << 20
_HEAD_BYTES = 64 << 10


@dataclass(frozen=True, slots=True)
class FileScan:
    """What the index knows of a file.

    Attributes:
        identity: The file as it was read.
        layout: Where everything is in it.
        episodes: Its episodes.
        digest: Hash of size, head, layout, episodes, scalars, weights and two frames of each
            camera: equal for copies, another one for a file that was changed in place.
        moments: Keys ``joint``, ``action``, ``reward``; over servable transitions.
        left_out: By the same keys, servable transitions with a value that is not finite.
        warnings: What the user should know, as far as it is cheap to find out.
        self_contained: Whether all data lies in this file; false for external and virtual datasets
            and links, whose sources may change without it.
    """

    identity: FileIdentity
    layout: FileLayout
    episodes: FileEpisodes
    digest: bytes
    moments: dict[str, Moments]
    left_out: dict[str, int]
    warnings: tuple[Finding, ...] = ()
    self_contained: bool = True


class RecordStart(Protocol):
    """Gives the writer of a file's records, once it is known that the file can be served."""

    def __call__(self, shape: RecordShape, *, self_contained: bool) -> RecordWriter:
        """Start to write.

        Args:
            shape: Widths of the vectors.
            self_contained: See :class:`FileScan`.
        """
        ...


def scan_file(path: Path, options: DataOptions, start: RecordStart | None = None) -> FileScan:
    """Examine one file and read all its scalars.

    Args:
        path: The file.
        options: Cameras and image order.
        start: Gives the writer of its records; None writes none.

    Raises:
        DataFault: It cannot be served; names dataset, value and what to do. Or it was written to
            meanwhile.
        OSError: Its records cannot be written.
    """
    identity = FileIdentity.of(path)
    findings = Findings(str(path))
    with Hdf5File(path) as file:
        scan = scan_open(file, identity, options, findings, start)
    findings.raise_fault()
    if scan is None:  # every None leaves a fault, which was raised above; the types do not know
        raise DataFault(f"{path}: cannot be served", metadata={"file": str(path)})
    if FileIdentity.of(path) != identity:
        raise DataFault(
            f"{path}: was written to while it was read: close it there first",
            reason="BUSY",
            metadata={"file": str(path)},
        )
    return scan


def scan_open(
    file: Hdf5File,
    identity: FileIdentity,
    options: DataOptions,
    findings: Findings,
    start: RecordStart | None = None,
) -> FileScan | None:
    """Scan an open file, leaving a finding for every check; None when one is a fault.

    Raises:
        OSError: Its records cannot be written.
    """
    found = examine_open(file, identity, options, findings)
    if found is None:
        return None
    layout = found.layout
    weights = hash_weights(file, options.weight_columns, layout.rows, findings)
    if weights is None:
        return None
    shape = RecordShape(layout.joint_dim, layout.action_dim)
    self_contained = file.is_self_contained()
    writer = start(shape, self_contained=self_contained) if start else None
    widths = {"joint": layout.joint_dim, "action": layout.action_dim, "reward": 1}
    statistics = RunningStatistics(widths)
    hashes = {name: xxhash.xxh3_128() for name in widths}
    for first, last in _blocks(file, layout):
        columns = _read(file, layout, first, last, findings)
        if columns is None:
            return None
        if writer:
            writer.append(columns["joint"], columns["action"], columns["reward"][:, 0])
        for name, values in columns.items():
            hashes[name].update(values.data)
        statistics.add(_servable(columns, found.episodes.dropped, first))
        if last > layout.rows:
            check_last_joint(columns["joint"][-1], findings)
    if writer:
        writer.finish()
    check_edges(found, findings)
    check_scalars(statistics, findings)
    check_episodes(layout, found.episodes, statistics, findings)
    return FileScan(
        identity,
        layout,
        found.episodes,
        _digest(found, [hashes[name].digest() for name in widths] + weights),
        statistics.moments,
        statistics.left_out,
        tuple(findings.warnings),
        self_contained,
    )


def _blocks(file: Hdf5File, layout: FileLayout) -> list[tuple[int, int]]:
    row_bytes = 8 * (layout.joint_dim + layout.action_dim + 1)
    rows = max(1, _BLOCK_BYTES // row_bytes)
    return list(row_blocks(file.column(layout.joint), layout.observations, rows))


def _read(
    file: Hdf5File, layout: FileLayout, start: int, stop: int, findings: Findings
) -> dict[str, NDArray[np.float32]] | None:
    """Each column, ``(rows, width)``; None with a fault when one cannot be read."""
    columns: dict[str, NDArray[np.float32]] = {}
    # Observation N of an N+1 layout has no action.
    last = min(stop, layout.rows)
    for name, path, end in (
        ("joint", layout.joint, stop),
        ("action", layout.action, last),
        ("reward", layout.reward, last),
    ):
        try:
            found = file.column(path).read(start, end)
        except HDF5_ERRORS as error:
            findings.fail(
                path,
                f"{path}[{start}:{end}] cannot be read ({error})",
                remedy="copy or record the file again",
                reason="UNREADABLE",
                dataset=path,
            )
            return None
        # Not -1: observation N may be alone in the last block, with no row of the others.
        width = math.prod(found.shape[1:])
        rows = found.reshape(end - start, width)
        if rows.dtype != np.float32:
            # A float64 beyond float32 becomes infinite, and is counted by the statistics as such.
            with np.errstate(over="ignore"):
                rows = rows.astype(np.float32)
        columns[name] = np.ascontiguousarray(rows)
    return columns


def _servable(
    columns: dict[str, NDArray[np.float32]], dropped: NDArray[np.int64], start: int
) -> dict[str, NDArray[np.float32]]:
    rows = len(columns["action"])
    first, end = np.searchsorted(dropped, (start, start + rows))
    if first == end:
        return {name: values[:rows] for name, values in columns.items()}
    kept = np.ones(rows, np.bool_)
    kept[dropped[first:end] - start] = False
    return {name: values[:rows][kept] for name, values in columns.items()}


def _digest(found: Examined, columns: list[bytes]) -> bytes:
    digest = xxhash.xxh3_128()
    try:
        with found.identity.path.open("rb", buffering=0) as raw:
            digest.update(raw.read(_HEAD_BYTES))
    except OSError as error:
        raise unreadable(found.identity, error.strerror) from error
    digest.update(f"{found.identity.size_bytes} {found.layout}".encode("utf-8", "surrogateescape"))
    episodes = found.episodes
    for column in (episodes.first_row, episodes.length, episodes.outcome):
        digest.update(column.data)
    # The columns by their own hashes: blocks of another size give the same digest.
    for column in columns:
        digest.update(column)
    for frames in found.edges:
        for frame in frames:
            digest.update(frame.data)
    return digest.digest()
