"""Reads the frames of a batch from cached files of this machine, in threads, right into place."""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from penstock.batch import Batch
from penstock.client.sampler.local import LocalFrames
from penstock.client.sampler.transfer import TransferStatistics
from penstock.cores import usable_cores
from penstock.errors import Cancelled, PenstockError
from penstock.frame_file import FrameFile, Piece, read_pieces
from penstock.union import Located, Union

__all__ = ["LocalReader", "LocalReading"]

MOST_THREADS = 8
_THREADS_PER_CORE = 2
"""Files that are not in the system's page cache make threads wait for the disk."""
_TASKS_PER_THREAD = 3
_LEAST_TASK_BYTES = 1 << 20

_Faults = dict[int, PenstockError]
"""What is wrong with a file, by its number."""


@dataclass
class LocalReading:
    """Frames that are being read: nobody else may write to them until they are finished.

    Attributes:
        rows: ``(n,) bool``: which rows of the batch get their frames here.
        numbers: ``(n,) int64``: number of each row's file.
        files: By their numbers.
        row_bytes: Of the frames of one row.
        tasks: Parts of the work.
    """

    rows: NDArray[np.bool_]
    numbers: NDArray[np.int64]
    files: Mapping[int, FrameFile] = field(default_factory=dict[int, FrameFile])
    row_bytes: int = 0
    tasks: list[Future[_Faults]] = field(default_factory=list[Future[_Faults]])


class LocalReader:
    """Reads batches; safe to use from several threads.

    Args:
        local: The files; closed by :meth:`close`.
        transfer: Where what is read is counted.
        threads: That read and decode; None for two for each core of this process, at most 8.
    """

    def __init__(
        self, local: LocalFrames, transfer: TransferStatistics, threads: int | None = None
    ) -> None:
        self._local, self._transfer = local, transfer
        usual = min(MOST_THREADS, _THREADS_PER_CORE * usable_cores())
        self._threads = usual if threads is None else threads
        self._pool = ThreadPoolExecutor(self._threads, "penstock-local")

    def start(self, union: Union, ids: NDArray[np.int64], out: Batch) -> LocalReading:
        """Begin to read the frames of those rows whose file is cached here.

        Args:
            union: The dataset.
            ids: ``(n,) int64``, in range.
            out: A batch of ``n`` rows, contiguous.

        Raises:
            Cancelled: This was closed.
        """
        located = union.locate(ids)
        reading = LocalReading(np.zeros(len(ids), np.bool_), located.file)
        if not out.frames.size:
            return reading
        height, width = out.frames.shape[3:5]
        reading.files = self._local.find(np.unique(located.file).tolist(), height, width)
        reading.rows = np.isin(located.file, list(reading.files))
        reading.row_bytes = out.frames[0].nbytes
        # Neighbours in a file are read at once.
        order = np.lexsort((located.row, located.file))
        order = order[reading.rows[order]]
        try:
            for part in self._parts(order, reading.row_bytes):
                task = self._pool.submit(_read, reading.files, located, part, out.frames)
                reading.tasks.append(task)
        except RuntimeError as error:
            raise Cancelled("the sampler was closed while a batch was being read") from error
        return reading

    def finish(self, reading: LocalReading) -> NDArray[np.bool_]:
        """Wait until all is read; returns which rows are to be fetched after all, ``(n,) bool``."""
        wait(reading.tasks)
        faults: _Faults = {}
        for task in reading.tasks:
            faults |= task.result()
        for number, error in faults.items():
            self._local.damaged(reading.files[number], error)
        damaged = reading.rows & np.isin(reading.numbers, list(faults))
        size_bytes = int(reading.rows.sum() - damaged.sum()) * reading.row_bytes
        self._transfer.add(local_bytes=size_bytes, raw_bytes=size_bytes)
        return damaged

    def close(self) -> None:
        """End the threads and let go of all files."""
        self._pool.shutdown()
        self._local.close()

    def _parts(self, order: NDArray[np.int64], row_bytes: int) -> list[NDArray[np.int64]]:
        most = 1 + len(order) * row_bytes // _LEAST_TASK_BYTES
        parts = min(len(order), self._threads * _TASKS_PER_THREAD, most)
        return np.array_split(order, parts) if parts else []


def _read(
    files: Mapping[int, FrameFile],
    located: Located,
    places: NDArray[np.int64],
    out: NDArray[np.uint8],
) -> _Faults:
    """Read rows of a batch, ``(k,)``, sorted by file."""
    edges = np.flatnonzero(np.diff(located.file[places])) + 1
    groups = np.split(places, edges)
    numbers = [int(located.file[group[0]]) for group in groups]
    pieces = [
        Piece(files[number], located.row[group], located.next_row[group], group)
        for number, group in zip(numbers, groups, strict=True)
    ]
    return {numbers[piece]: error for piece, error in read_pieces(pieces, out).items()}
