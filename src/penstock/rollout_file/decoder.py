"""Decoding a rollout or a part of it while its bytes arrive."""

from __future__ import annotations

from typing import Any

import numpy as np
import xxhash
from numpy.typing import NDArray

from penstock.errors import Corrupt
from penstock.rollout_file.index import Index
from penstock.rollout_file.leaves import DTYPES, Leaves
from penstock.rollout_file.segments import decode_next, decode_segment
from penstock.rollout_file.selection import Selected

__all__ = ["Decoder"]


class Decoder:
    """Decodes the parts of a rollout that ``index.ranges(selection)`` tells.

    Args:
        index: Of the file.
        selection: A ``penstock.streams.Selection``; None for all.
        threads: How many decode.

    Raises:
        InvalidInput: The selection names what is not there.
    """

    def __init__(
        self, index: Index, selection: Selected | None = None, *, threads: int = 1
    ) -> None:
        self._index, self._threads = index, threads
        self._wanted = index.wanted(selection)
        self._ranges = index.ranges(selection)
        self._data: dict[int, bytearray] = {begin: bytearray() for begin, _ in self._ranges}
        self._at = 0

    def feed(self, offset: int, data: bytes | bytearray | memoryview) -> None:
        """Take the next piece.

        Args:
            offset: Where in the file it lies: where the last one ended, or the next range begins.
            data: Its bytes; may not span two ranges.

        Raises:
            Corrupt: It does not follow, or a segment is damaged.
        """
        view = memoryview(data).cast("B")
        while len(view):
            if self._at == len(self._ranges):
                raise Corrupt(f"{len(view)} bytes more than were asked for", reason="RANGES")
            begin, size = self._ranges[self._at]
            have = self._data[begin]
            if offset != begin + len(have):
                message = f"bytes at {offset} came, {begin + len(have)} were next"
                raise Corrupt(message, reason="RANGES")
            part = view[: size - len(have)]
            have += part
            offset += len(part)
            view = view[len(part) :]
            if len(have) == size:
                self._at += 1

    def finish(self) -> Leaves:
        """The arrays ``[env, time, ...]``, once all pieces came.

        Raises:
            Corrupt: Some are missing, or a segment is damaged.
        """
        if self._at != len(self._ranges):
            raise Corrupt("the rollout is incomplete", reason="RANGES")
        index, wanted = self._index, self._wanted
        numbers = {field.name: number for number, field in enumerate(index.fields)}
        shape = len(wanted.envs), wanted.steps
        leaves: Leaves = {
            index.fields[n].name: np.empty(
                (*shape, *index.fields[n].shape), DTYPES[index.fields[n].dtype]
            )
            for n in wanted.fields
        }
        place = np.full(index.envs, -1, np.int64)
        place[wanted.envs] = np.arange(len(wanted.envs))
        stored = self._stored()
        found = index.segments
        by_place = {
            (int(found.field[s]), int(found.first_env[s]), int(found.first_step[s])): s
            for s in wanted.segments.tolist()
        }
        for (number, env, step), segment in by_place.items():
            field = index.fields[number]
            if number not in wanted.fields:
                continue
            size = (int(found.envs[segment]), int(found.steps[segment]), field.elements)
            item = field.stored_dtype.itemsize
            if field.next_of is None:
                rows = decode_segment(stored[segment], size, item, field.codec)
            else:
                base_number = numbers[field.next_of]
                base_segment = by_place[base_number, env, step]
                codec = index.fields[base_number].codec
                base = decode_segment(stored[base_segment], size, item, codec)
                rows = decode_next(stored[segment], base, field.codec)
            self._put(leaves[field.name], rows, field.stored_dtype, place, (env, step))
        return leaves

    def _stored(self) -> dict[int, memoryview]:
        index = self._index
        stored: dict[int, memoryview] = {}
        ranges = iter(self._ranges)
        begin, size = next(ranges, (0, 0))
        for number in self._wanted.segments.tolist():
            offset, length = int(index.offsets[number]), int(index.sizes[number])
            if not length:
                stored[number] = memoryview(b"")
                continue
            while offset >= begin + size:
                begin, size = next(ranges)
            part = memoryview(self._data[begin])[offset - begin : offset - begin + length]
            if xxhash.xxh3_64_intdigest(part) != int(index.hashes[number]):
                raise Corrupt(f"segment {number} does not match its hash", reason="SEGMENT")
            stored[number] = part
        return stored

    def _put(
        self,
        out: NDArray[Any],
        rows: NDArray[Any],
        dtype: np.dtype[Any],
        place: NDArray[np.int64],
        at: tuple[int, int],
    ) -> None:
        env, step = at
        wanted = self._wanted
        begin = max(step, wanted.first_step)
        end = min(step + rows.shape[1], wanted.first_step + wanted.steps)
        places = place[env : env + len(rows)]
        values = np.ascontiguousarray(rows[places >= 0, begin - step : end - step]).view(dtype)
        target = out[:, begin - wanted.first_step : end - wanted.first_step]
        target[places[places >= 0]] = values.reshape(-1, end - begin, *out.shape[2:])
