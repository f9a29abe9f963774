"""Decoding a rollout or a part of it while its bytes arrive."""

from __future__ import annotations

from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import numpy as np
from numpy.typing import NDArray

from penstock.errors import Corrupt
from penstock.native.rollouts import ROWS_OUT, table
from penstock.rollout_file.index import Index
from penstock.rollout_file.leaves import DTYPES, Leaves
from penstock.rollout_file.selection import Selected
from penstock.rollout_file.tables import BATCH_BYTES, borrowed_coder, lines_of

__all__ = ["Decoder"]


class Decoder:
    """Decodes the parts of a rollout that ``index.ranges(selection)`` tells.

    Its memory is that of the arrays, and of the parts of the file as they arrive.

    Args:
        index: Of the file.
        selection: A ``penstock.streams.Selection``; None for all.
        threads: How many decode. With one, ``feed`` itself does.

    Raises:
        InvalidInput: The selection names what is not there.
    """

    def __init__(
        self, index: Index, selection: Selected | None = None, *, threads: int = 1
    ) -> None:
        self._index = index
        self._wanted = index.wanted(selection)
        self._ranges = index.ranges(selection)
        self._range, self._fed = 0, 0
        sizes = index.sizes[self._wanted.segments]
        ends = np.cumsum(sizes)
        self._data = np.empty(int(sizes.sum()), np.uint8)
        self._stored = self._allocate()
        self._places = np.full(index.envs, -1, np.int64)
        self._places[self._wanted.envs] = np.arange(len(self._wanted.envs))
        self._table, self._order, self._jobs = self._plan(ends - sizes, ends)
        self._pool = ThreadPoolExecutor(threads, "penstock-decode") if threads > 1 else None
        self._running: deque[Future[None]] = deque()

    def feed(self, offset: int, data: bytes | bytearray | memoryview) -> None:
        """Take the next piece.

        Args:
            offset: Where in the file it lies: where the last one ended, or the next range begins.
            data: Its bytes, which are copied.

        Raises:
            Corrupt: It does not follow, or a segment is damaged.
        """
        view = memoryview(data).cast("B")
        while len(view):
            if self._range == len(self._ranges):
                raise Corrupt(f"{len(view)} bytes more came than were asked for", reason="RANGES")
            begin, size = self._ranges[self._range]
            if offset != begin + self._fed:
                message = f"bytes from {offset} on came, those from {begin + self._fed} were next"
                raise Corrupt(message, reason="RANGES")
            part = view[: size - self._fed]
            self._take(part)
            offset += len(part)
            view = view[len(part) :]
            self._fed += len(part)
            if self._fed == size:
                self._range, self._fed = self._range + 1, 0

    def finish(self) -> Leaves:
        """The arrays ``[env, time, ...]``, once all pieces came.

        Raises:
            Corrupt: Some are missing, or a segment is damaged.
        """
        if self._range != len(self._ranges):
            begin, size = self._ranges[self._range]
            message = f"the rollout ends early: bytes {begin + self._fed} to {begin + size} and "
            message += f"{len(self._ranges) - self._range - 1} further parts are missing"
            raise Corrupt(message, reason="RANGES")
        while self._running:
            self._running.popleft().result()
        if self._pool is not None:
            self._pool.shutdown()
        leaves: Leaves = {}
        for number, array in self._stored.items():
            field = self._index.fields[number]
            leaves[field.name] = array.astype(DTYPES[field.dtype], copy=False)
        return leaves

    def _allocate(self) -> dict[int, NDArray[Any]]:
        shape = len(self._wanted.envs), self._wanted.steps
        fields = [(number, self._index.fields[number]) for number in self._wanted.fields]
        return {
            number: np.empty((*shape, *field.shape), field.stored_dtype) for number, field in fields
        }

    def _take(self, part: memoryview) -> None:
        begin = self._data_bytes
        self._data[begin : begin + len(part)] = np.frombuffer(part, np.uint8)
        self._data_bytes += len(part)
        while self._jobs and self._jobs[0][0] <= self._data_bytes:
            _, job = self._jobs.popleft()
            if self._pool is None:
                self._decode(job)
            else:
                self._running.append(self._pool.submit(self._decode, job))
        # What has failed is said at once.
        while self._running and self._running[0].done():
            self._running.popleft().result()

    _data_bytes = 0

    def _decode(self, job: slice) -> None:
        lines = self._table[job]
        with borrowed_coder() as coder:
            done = coder.decode(lines)
        if done < len(lines):
            number = int(self._order[job.start + done])
            raise Corrupt(f"{self._index.place(number)} is damaged", reason="SEGMENT")

    def _plan(
        self, begins: NDArray[np.int64], ends: NDArray[np.int64]
    ) -> tuple[NDArray[np.void], NDArray[np.int64], deque[tuple[int, slice]]]:
        """What is to be decoded, which segments that is, and how much must be there for each part.

        A part holds whole environments, so that all that is rebuilt finds its base in it.
        """
        index, wanted = self._index, self._wanted
        chosen, found = wanted.segments, index.segments
        numbers = {field.name: number for number, field in enumerate(index.fields)}
        base = np.array([numbers[f.next_of or f.name] for f in index.fields], np.int64)
        field, first_env = found.field[chosen], found.first_env[chosen]
        raw = found.envs * found.steps
        raw = raw[chosen] * np.array([f.row_size_bytes for f in index.fields], np.int64)[field]
        part = _parts(first_env, raw)
        follows = base[field] != field
        order = np.lexsort((field, follows, found.first_step[chosen], base[field], first_env))
        lines = table(ROWS_OUT, len(chosen))
        lines["of"] = lines_of(index.fields, found)[chosen]
        lines["data"] = self._data.__array_interface__["data"][0] + begins
        lines["data_bytes"] = ends - begins
        lines["hash"] = index.hashes[chosen]
        lines["places"] = self._places.__array_interface__["data"][0] + 8 * first_env
        step = found.first_step[chosen]
        lines["first_step"] = np.maximum(wanted.first_step - step, 0)
        lines["end_step"] = np.minimum(wanted.first_step + wanted.steps - step, found.steps[chosen])
        row, address = np.zeros((2, len(index.fields)), np.int64)
        for number, array in self._stored.items():
            row[number] = index.fields[number].row_size_bytes
            address[number] = array.__array_interface__["data"][0]
        lines["env_stride"] = wanted.steps * row[field]
        offset = np.maximum(step - wanted.first_step, 0) * row[field]
        lines["out"] = np.where(address[field] > 0, address[field] + offset, 0)
        bounds = np.searchsorted(part, np.arange(int(part[-1]) + 2 if len(part) else 1))
        pieces = zip(bounds[:-1].tolist(), bounds[1:].tolist(), strict=True)
        jobs = deque((int(ends[end - 1]), slice(begin, end)) for begin, end in pieces)
        return lines[order], chosen[order], jobs


def _parts(first_env: NDArray[np.int64], raw: NDArray[np.int64]) -> NDArray[np.int64]:
    """Number each segment's part: as many environments as make a batch, ascending from 0."""
    if not len(raw):
        return first_env
    new_env = np.concatenate(([0], (np.diff(first_env) > 0).astype(np.int64)))
    group = np.cumsum(new_env)
    before = np.cumsum(np.bincount(group, raw)) - np.bincount(group, raw)
    part = (before // BATCH_BYTES).astype(np.int64)
    _, part = np.unique(part, return_inverse=True)
    return part.astype(np.int64)[group]
