"""Frames of a batch, wherever they are: from cached files where they are there, else from source.

Both give the same pixels, so a batch may mix them.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from penstock.codecs import choose_codec, decode_images, encode_images
from penstock.errors import Corrupt
from penstock.frame_file import DamagedFile, EncodedRecords, FrameFile
from penstock.observations import Observations
from penstock_sampler.cache.frames import FrameCache
from penstock_sampler.cache.key import FrameKey, Recording
from penstock_sampler.cache.wanted import Wanted, shown
from penstock_sampler.forking import reset_after_fork
from penstock_sampler.sources.frames import FrameReader, FrameRequest

__all__ = ["FrameAccess"]

_TASKS_PER_THREAD = 3
_MOST_CODECS = 4096
_MOST_KEYS = 1 << 16


@dataclass(frozen=True)
class _Piece:
    """Transitions of one cached file, ``places`` of the batch."""

    key: FrameKey
    file: FrameFile
    places: NDArray[np.int64]


@dataclass(frozen=True)
class _Part:
    """Encoded neighbours: observations ``start`` to ``stop`` of an answer."""

    start: int
    stop: int
    codec: str
    data: bytes
    image_bytes: NDArray[np.uint32]


@dataclass(frozen=True)
class _CachedData:
    """Encoded images that are read from cached files; a damaged one is dropped."""

    records: EncodedRecords
    keys: dict[FrameFile, FrameKey]
    damaged: Callable[[FrameKey, FrameFile, Corrupt], None]

    @property
    def from_disk(self) -> bool:
        return self.records.from_disk

    @property
    def hashes(self) -> NDArray[np.uint64] | None:
        return self.records.hashes

    def __len__(self) -> int:
        return len(self.records)

    def send(self, begin: int, end: int, to: int) -> None:
        try:
            self.records.send(begin, end, to)
        except DamagedFile as error:
            self.damaged(self.keys[error.file], error.file, error)
            raise

    def read_into(self, begin: int, into: memoryview) -> None:
        try:
            self.records.read_into(begin, into)
        except DamagedFile as error:
            self.damaged(self.keys[error.file], error.file, error)
            raise


class FrameAccess:
    """Reads frames of a dataset; safe to use from several threads.

    Args:
        recording: Gives the recording of a file by its number.
        reader: Reads sources; closed by :meth:`close`.
        cache: Cached frames; closed by :meth:`close`. None reads all from the sources.
        threads: Cached reads at a time.
    """

    def __init__(
        self,
        recording: Callable[[int], Recording],
        reader: FrameReader,
        cache: FrameCache | None,
        threads: int,
    ) -> None:
        self._recording, self._reader = recording, reader
        self._cache, self._threads = cache, threads
        self._keys: dict[tuple[int, int, int], FrameKey] = {}
        self._codecs: dict[tuple[int, int, int, tuple[str, ...]], str] = {}
        self.reset()
        reset_after_fork(self)

    @property
    def cache(self) -> FrameCache | None:
        """The frame cache."""
        return self._cache

    def reset(self) -> None:
        """Begin without threads."""
        self._starting = threading.Lock()
        self._pool: ThreadPoolExecutor | None = None

    def read(self, wanted: Wanted, out: NDArray[np.uint8]) -> None:
        """Decoded frames of transitions.

        Args:
            wanted: ``n`` of them.
            out: ``(n, 2, C, H, W, 3)``, contiguous; filled.

        Raises:
            DataFault: A file is not cached and cannot be read any more; names it.
        """
        pieces: list[_Piece] = []
        fresh: list[NDArray[np.int64]] = []
        order = np.argsort(wanted.file, kind="stable")
        edges = np.flatnonzero(np.diff(wanted.file[order])) + 1
        for places in np.split(order, edges) if len(order) else []:
            key = self.key(int(wanted.file[places[0]]), wanted.height, wanted.width)
            file = self._find(key)
            if file is None:
                fresh.append(places)
            else:
                pieces.append(_Piece(key, file, places))
        tasks = self._start(pieces, wanted, out)
        try:
            self._read_fresh(fresh, wanted, out)
        finally:
            # Nobody may write to ``out`` any more when this returns.
            wait(tasks)
            failed = [piece for task in tasks for piece in task.result()]
        self._read_fresh([piece.places for piece in failed], wanted, out)
        misses = sum(map(len, fresh)) + sum(len(piece.places) for piece in failed)
        self._count(2 * (len(order) - misses), 2 * misses)

    def observations(self, wanted: Wanted, accepted: tuple[str, ...]) -> Observations:
        """Encoded frames of transitions, every observation once.

        Cached ones go as they lie, when their codec is accepted; where codecs differ, the fewer
        are encoded again.

        Raises:
            DataFault: A file is not cached and cannot be read any more; names it.
        """
        distinct, current, following = shown(wanted, by_file=True)
        parts, fresh = self._encoded(distinct, wanted)
        counts = Counter[str]()
        for part in parts:
            if part.codec in accepted:
                counts[part.codec] += part.stop - part.start
        codec = counts.most_common(1)[0][0] if counts else ""
        again = [part for part in parts if part.codec != codec]
        if again or fresh:
            parts = [part for part in parts if part.codec == codec]
            parts.extend(self._encode(distinct, fresh, again, codec, wanted, accepted))
            parts.sort(key=lambda part: part.start)
        missed = sum(stop - start for start, stop in fresh)
        self._count(len(distinct) - missed, missed)
        sizes = [part.image_bytes for part in parts] or [np.empty((0, wanted.cameras), np.uint32)]
        return Observations(
            parts[0].codec if parts else "raw",
            wanted.height,
            wanted.width,
            sizes[0] if len(sizes) == 1 else np.concatenate(sizes),
            parts[0].data if len(parts) == 1 else b"".join(part.data for part in parts),
            current,
            following,
        )

    def cached_observations(self, wanted: Wanted, accepted: tuple[str, ...]) -> Observations | None:
        """The same where all is cached by one codec that is accepted; else None.

        Only sizes are read now. The data raises Corrupt when it is read and is damaged.
        """
        # Who reads or sends them goes from one to the next, and has the disk read ahead.
        distinct, current, following = shown(wanted, by_file=False)
        slots: dict[int, int] = {}
        files: list[FrameFile] = []
        keys: dict[FrameFile, FrameKey] = {}
        for number in dict.fromkeys(number for number, _ in distinct):
            key = self.key(number, wanted.height, wanted.width)
            file = self._find(key)
            if file is None or file.header.codec not in accepted:
                return None
            if files and file.header.codec != files[0].header.codec:
                return None
            slots[number] = len(files)
            files.append(file)
            keys[file] = key
        if not files:
            return None
        try:
            records = EncodedRecords(files, [(slots[number], row) for number, row in distinct])
        except DamagedFile as error:
            self._damaged(keys[error.file], error.file, error)
            return None
        self._count(len(distinct), 0)
        return Observations(
            files[0].header.codec,
            wanted.height,
            wanted.width,
            records.image_bytes,
            _CachedData(records, keys, self._damaged),
            current,
            following,
        )

    def descriptor(self, file: int, height: int, width: int) -> int | None:
        """A descriptor of the cached frames of a file, which the caller closes; None without."""
        found = self._find(self.key(file, height, width))
        return None if found is None else found.duplicate()

    def close(self) -> None:
        """End threads and let go of files."""
        with self._starting:
            pool, self._pool = self._pool, None
        if pool is not None:
            pool.shutdown()
        if self._cache is not None:
            self._cache.close()
        self._reader.close()

    def key(self, file: int, height: int, width: int) -> FrameKey:
        """The key of a file, by its number, at that size."""
        known = self._keys.get((file, height, width))
        if known is None:
            if len(self._keys) >= _MOST_KEYS:
                self._keys.clear()
            known = FrameKey(self._recording(file), height, width)
            self._keys[file, height, width] = known
        return known

    def _find(self, key: FrameKey) -> FrameFile | None:
        return None if self._cache is None else self._cache.find(key)

    def _request(
        self, file: int, wanted: Wanted, rows: NDArray[np.int64], places: NDArray[np.int64]
    ) -> FrameRequest:
        recording = self.key(file, wanted.height, wanted.width).recording
        return FrameRequest(recording.identity, recording.images, rows, places)

    def _start(
        self, pieces: Sequence[_Piece], wanted: Wanted, out: NDArray[np.uint8]
    ) -> list[Future[list[_Piece]]]:
        """Read pieces in threads; each task gives those whose file turned out to be damaged."""
        total = sum(len(piece.places) for piece in pieces)
        if not total:
            return []
        share = -(-total // (self._threads * _TASKS_PER_THREAD))
        cut = [
            _Piece(piece.key, piece.file, piece.places[start : start + share])
            for piece in pieces
            for start in range(0, len(piece.places), share)
        ]
        tasks: list[list[_Piece]] = [[]]
        held = 0
        for piece in cut:
            if held + len(piece.places) > share and held:
                tasks.append([])
                held = 0
            tasks[-1].append(piece)
            held += len(piece.places)
        with self._starting:
            if self._pool is None:
                self._pool = ThreadPoolExecutor(self._threads, "penstock-cached")
            return [self._pool.submit(self._read_pieces, task, wanted, out) for task in tasks]

    def _read_pieces(
        self, pieces: Sequence[_Piece], wanted: Wanted, out: NDArray[np.uint8]
    ) -> list[_Piece]:
        failed: list[_Piece] = []
        for piece in pieces:
            places = piece.places
            try:
                piece.file.read_into(wanted.row[places], wanted.next_row[places], out, places)
            except Corrupt as error:
                self._damaged(piece.key, piece.file, error)
                failed.append(piece)
        return failed

    def _read_fresh(
        self, groups: Sequence[NDArray[np.int64]], wanted: Wanted, out: NDArray[np.uint8]
    ) -> None:
        requests: list[FrameRequest] = []
        for places in groups:
            rows = np.concatenate([wanted.row[places], wanted.next_row[places]])
            slots = np.stack([np.tile(places, 2), np.repeat([0, 1], len(places))], axis=1)
            requests.append(self._request(int(wanted.file[places[0]]), wanted, rows, slots))
        if requests:
            self._reader.read(requests, out)

    def _encoded(
        self, distinct: Sequence[tuple[int, int]], wanted: Wanted
    ) -> tuple[list[_Part], list[tuple[int, int]]]:
        """What is cached of the observations, and the ranges of those that are not."""
        parts: list[_Part] = []
        fresh: list[tuple[int, int]] = []
        start = 0
        while start < len(distinct):
            file, stop = distinct[start][0], start + 1
            while stop < len(distinct) and distinct[stop][0] == file:
                stop += 1
            part = self._records(distinct, start, stop, wanted)
            if part is None:
                fresh.append((start, stop))
            else:
                parts.append(part)
            start = stop
        return parts, fresh

    def _records(
        self, distinct: Sequence[tuple[int, int]], start: int, stop: int, wanted: Wanted
    ) -> _Part | None:
        key = self.key(distinct[start][0], wanted.height, wanted.width)
        file = self._find(key)
        if file is None:
            return None
        try:
            data, image_bytes = file.read_records([row for _, row in distinct[start:stop]])
        except Corrupt as error:
            self._damaged(key, file, error)
            return None
        return _Part(start, stop, file.header.codec, data, image_bytes)

    def _encode(
        self,
        distinct: Sequence[tuple[int, int]],
        fresh: Sequence[tuple[int, int]],
        again: Sequence[_Part],
        codec: str,
        wanted: Wanted,
        accepted: tuple[str, ...],
    ) -> list[_Part]:
        """Encode what is not cached, or cached by another codec; chooses one if there is none."""
        ranges = sorted([*fresh, *((part.start, part.stop) for part in again)])
        rows = np.array([distinct[i][1] for start, stop in ranges for i in range(start, stop)])
        begins: dict[tuple[int, int], int] = {}
        total = 0
        for start, stop in ranges:
            begins[start, stop] = total
            total += stop - start
        cameras = wanted.cameras
        frames = np.empty((len(rows), 1, cameras, wanted.height, wanted.width, 3), np.uint8)
        requests: list[FrameRequest] = []
        for start, stop in fresh:
            begin = begins[start, stop]
            places = np.arange(begin, begin + stop - start)
            slots = np.stack([places, np.zeros_like(places)], axis=1)
            requests.append(self._request(distinct[start][0], wanted, rows[places], slots))
        self._reader.read(requests, frames)
        images = frames.reshape(-1, *frames.shape[3:])
        for part in again:
            begin = begins[part.start, part.stop] * cameras
            target = images[begin : begin + (part.stop - part.start) * cameras]
            decode_images(part.codec, part.data, part.image_bytes.reshape(-1), target)
        codec = codec or self._choose(distinct[0][0], images, accepted)
        parts: list[_Part] = []
        for start, stop in ranges:
            begin = begins[start, stop] * cameras
            data, sizes = encode_images(codec, images[begin : begin + (stop - start) * cameras])
            parts.append(_Part(start, stop, codec, data, sizes.reshape(stop - start, cameras)))
        return parts

    def _choose(self, file: int, images: NDArray[np.uint8], accepted: tuple[str, ...]) -> str:
        """The codec for such frames; frames of one file resemble each other, so it is kept."""
        known = (file, *images.shape[1:3], accepted)
        if known not in self._codecs:
            if len(self._codecs) >= _MOST_CODECS:
                self._codecs.clear()
            self._codecs[known] = choose_codec(images, accepted)
        return self._codecs[known]

    def _damaged(self, key: FrameKey, file: FrameFile, error: Corrupt) -> None:
        if self._cache is not None:
            self._cache.damaged(key, file, error)

    def _count(self, hits: int, misses: int) -> None:
        if self._cache is not None:
            self._cache.count(hits, misses)
