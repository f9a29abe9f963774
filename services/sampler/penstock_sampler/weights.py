"""Weight columns: datasets at the root of a file with one weight a row, for weighted plans.

An index checks and hashes them; their values wait in their files until a plan asks for a column.
"""

from __future__ import annotations

import logging
import tempfile
import threading
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import xxhash
from numpy.typing import NDArray

from penstock.dataset import EpisodeTable
from penstock.errors import LimitExceeded, NotFound
from penstock_sampler.checks.findings import Findings
from penstock_sampler.index.episodes import row_blocks
from penstock_sampler.sources.column_checks import (
    check_storage,
    find_dataset,
    is_single_column,
)
from penstock_sampler.sources.files import FileIdentity, OpenFile, OpenFiles
from penstock_sampler.sources.opening import HDF5_ERRORS, Hdf5File

__all__ = ["WeightStore", "hash_weights"]

log = logging.getLogger(__name__)

_BLOCK_ROWS = 65_536
_KINDS = "biuf"


def hash_weights(
    file: Hdf5File, names: Sequence[str], rows: int, findings: Findings
) -> list[bytes] | None:
    """Check the weight columns of a file, leaving a finding for each.

    Args:
        file: The open file.
        names: Datasets at its root, ``(rows,)`` or ``(rows, 1)``.
        rows: Of its action dataset.
        findings: Of this file.

    Returns:
        A hash of name and values as float32 of each column; None when one has a fault.
    """
    hashes = [_hash_column(file, name, rows, findings) for name in names]
    found = [value for value in hashes if value is not None]
    return found if len(found) == len(names) else None


def _hash_column(file: Hdf5File, name: str, rows: int, findings: Findings) -> bytes | None:
    column = find_dataset(file, name, (name,), findings)
    if column is None or not check_storage(column, name, findings):
        return None
    if not is_single_column(column) or column.rows != rows:
        findings.fail(
            name,
            f"{name} has shape {column.shape}: expected ({rows},) or ({rows}, 1), a weight for "
            "each row of actions",
            remedy="write one weight a row",
            reason="ROW_COUNT_MISMATCH" if is_single_column(column) else "WRONG_RANK",
            dataset=name,
        )
        return None
    if column.dtype.kind not in _KINDS:
        findings.fail(
            name,
            f"{name} has dtype {column.dtype}: expected float32 or other numbers",
            remedy="write it as float32",
            reason="WRONG_DTYPE",
            dataset=name,
        )
        return None
    digest = xxhash.xxh3_128(name.encode("utf-8", "surrogateescape") + b"\0")
    for start, stop in row_blocks(column, rows, _BLOCK_ROWS):
        try:
            stored = column.read(start, stop).reshape(-1)
        except HDF5_ERRORS as error:
            findings.fail(
                name,
                f"{name}[{start}:{stop}] cannot be read ({error})",
                remedy="copy or record the file again",
                reason="UNREADABLE",
                dataset=name,
            )
            return None
        values = _as_float32(stored)
        wrong = np.flatnonzero(~((values >= 0) & (values < np.inf)))
        if len(wrong):
            row = int(wrong[0])
            findings.fail(
                name,
                f"{name}[{start + row}] is {stored[row]}: expected a finite weight, at least 0",
                remedy="mend it, or take the column out of the setting weight_columns",
                reason="WRONG_VALUE",
                dataset=name,
            )
            return None
        digest.update(values.data)
    findings.ok(name, f"{column.described}, weights", dataset=name)
    return digest.digest()


def _as_float32(stored: NDArray[np.generic]) -> NDArray[np.float32]:
    # A float64 beyond float32 becomes infinite, and is refused as such.
    with np.errstate(over="ignore"):
        return np.ascontiguousarray(stored, np.float32)


class WeightStore:
    """Weights of all transitions by id, one unnamed file for each column that was asked for.

    Safe to use from several threads.

    Args:
        names: The weight columns of this dataset.
        identities: Its files, in the order of the episode table.
        episodes: Its episodes.
        files: Open files; not closed here.
        spool_dir: Folder of the unnamed files; None for the system's.
    """

    def __init__(
        self,
        names: Sequence[str],
        identities: Sequence[FileIdentity],
        episodes: EpisodeTable,
        files: OpenFiles,
        spool_dir: Path | None = None,
    ) -> None:
        self._names, self._identities = tuple(names), identities
        self._episodes, self._files = episodes, files
        self._directory = str(spool_dir or tempfile.gettempdir())
        self._columns: dict[str, NDArray[np.float32]] = {}
        self._lock = threading.Lock()

    def column(self, name: str) -> NDArray[np.float32]:
        """``(transitions,) float32``, read-only, finite and not negative; memory of a file.

        The first call reads the column from all files; later ones cost nothing.

        Raises:
            NotFound: There is no such column; names those there are.
            DataFault: A file cannot be read any more; names it.
            LimitExceeded: There is no room for the unnamed file.
        """
        if name not in self._names:
            known = ", ".join(self._names) or "none"
            raise NotFound(
                f"weight column {name!r}: this dataset has {known}: name it in the setting "
                "weight_columns (--weight-columns or PENSTOCK_WEIGHT_COLUMNS)",
                reason="NO_WEIGHTS",
            )
        with self._lock:
            if name not in self._columns:
                self._columns[name] = self._read(name)
            return self._columns[name]

    def _read(self, name: str) -> NDArray[np.float32]:
        count = 0
        try:
            # The mapping keeps the space of the file; its descriptor is not needed any longer.
            with tempfile.TemporaryFile(dir=self._directory) as spool:
                for number, identity in enumerate(self._identities):
                    for values in self._of_file(number, identity, name):
                        spool.write(values.data)
                        count += len(values)
                spool.flush()
                if not count:
                    return _sealed(np.empty(0, np.float32))
                mapped = np.memmap(spool, np.float32, mode="r", shape=(count,))
        except OSError as error:
            raise LimitExceeded(
                f"weight column {name!r} needs 4 bytes a transition in a temporary file in "
                f"{self._directory}, which cannot be written ({error.strerror}): free space "
                "there, or name a folder with room in the setting spool_dir (--spool-dir or "
                "PENSTOCK_SPOOL_DIR)",
                reason="DISK_FULL",
            ) from error
        log.info("weight column %s: %d weights of %d files", name, count, len(self._identities))
        return _sealed(mapped.view(np.ndarray))

    def _of_file(
        self, number: int, identity: FileIdentity, name: str
    ) -> Iterator[NDArray[np.float32]]:
        begin, end = np.searchsorted(self._episodes.file, [number, number + 1])
        first = self._episodes.first_row[begin:end]
        last = first + self._episodes.length[begin:end]
        rows = int(last[-1]) if len(last) else 0
        blocks = self._files.read(
            identity, lambda file: list(row_blocks(file.column(name), rows, _BLOCK_ROWS))
        )
        for start, stop in blocks:
            stored = self._files.read(
                identity, partial(_read_block, name=name, start=start, stop=stop)
            )
            row = np.arange(start, stop)
            episode = np.searchsorted(first, row, side="right") - 1
            yield stored[(episode >= 0) & (row < last[episode])]
        self._files.close_hdf5(identity)


def _read_block(file: OpenFile, name: str, start: int, stop: int) -> NDArray[np.float32]:
    return _as_float32(file.column(name).read(start, stop).reshape(-1))


def _sealed(values: NDArray[np.float32]) -> NDArray[np.float32]:
    values.flags.writeable = False
    return values
