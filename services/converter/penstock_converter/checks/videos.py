"""Checks of videos without decoding them: one packet a row, each at its time."""

from __future__ import annotations

from array import array
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
from av.error import FFmpegError
from numpy.typing import NDArray

from penstock.errors import DataFault
from penstock_converter.checks.dataset import Dataset
from penstock_converter.checks.findings import Check, Ledger, told
from penstock_converter.outputs.shards import Shard

__all__ = ["check_videos"]


def check_videos(dataset: Dataset, ledger: Ledger) -> None:
    """Read the packets of every video; memory for the times of one file."""
    videos = [name for name in dataset.cameras if dataset.is_video(name)]
    if not videos:
        return
    check = ledger.open("video packets", "one a row, each exactly at row / fps")
    if not dataset.fps or dataset.episodes is None:
        check.skipped = "the rate or the table of episodes is not known"
        return
    for name in videos:
        for shard in dataset.video_shards(name):
            path = dataset.video_path(name, shard)
            file = dataset.relative(path)
            with check.guard(file=file, feature=name):
                if not path.is_file():
                    raise DataFault("is missing")
                _Video(dataset, name, shard, file, check).check(path)


class _Video:
    def __init__(self, dataset: Dataset, name: str, shard: Shard, file: str, check: Check) -> None:
        episodes = dataset.episodes
        assert episodes is not None  # noqa: S101 - the caller knows
        self._dataset, self._name, self._file, self._check = dataset, name, file, check
        self._inside = episodes.of_video_file(name, shard)
        self._ends = np.cumsum(episodes.length[self._inside])

    def check(self, path: Path) -> None:
        self._check.count("files")
        with av.open(str(path)) as container:
            if not container.streams.video:
                raise DataFault("holds no video")
            stream: Any = container.streams.video[0]
            self._check_stream(stream)
            times, damaged = self._read(container, stream)
            self._check.count("packets", len(times))
            expected = int(self._ends[-1])
            if len(times) != expected:
                self._fail(
                    f"holds {len(times)} frames, its episodes have {expected} rows",
                    self._first_lost(times, stream),
                )
            if damaged >= 0:
                self._fail("the packet is damaged", damaged)
            self._check_times(times, stream)

    def _read(self, container: Any, stream: Any) -> tuple[NDArray[np.int64], int]:
        """Times of all packets in ticks, in order, and the number of the first damaged one."""
        found, damaged = array("q"), -1
        try:
            for packet in container.demux(stream):
                time = packet.pts if packet.pts is not None else packet.dts
                if time is None:
                    continue
                if packet.is_corrupt and damaged < 0:
                    damaged = len(found)
                found.append(time)
        except FFmpegError as error:
            self._fail(f"cannot be read on after {len(found)} frames: {told(error)}", len(found))
        # In files with frames that refer forward, packets are not in the order of display.
        return np.sort(np.array(found, np.int64)), damaged

    def _check_stream(self, stream: Any) -> None:
        dataset, context = self._dataset, stream.codec_context
        height, width, _ = dataset.shape(self._name)
        if (context.height, context.width) != (height, width):
            self._fail(f"frames are {context.height}x{context.width}, expected {height}x{width}")
        described = dataset.features[self._name]
        stated = described.get("info") or described.get("video_info") or {}
        codec = stated.get("video.codec")
        found = context.codec.canonical_name
        if codec is not None and codec != found:
            self._fail(f"the codec is {found}, info.json says {codec}")

    def _check_times(self, times: NDArray[np.int64], stream: Any) -> None:
        expected = self._expected(len(times), stream)
        wrong = np.flatnonzero(times != expected)
        if len(wrong):
            at = int(wrong[0])
            found, wanted = (float(int(t) * stream.time_base) for t in (times[at], expected[at]))
            self._fail(f"is at {found:.6f} s, expected {wanted:.6f} s", at, times=len(wrong))

    def _first_lost(self, times: NDArray[np.int64], stream: Any) -> int:
        """Number of the first frame that is not at its time; the one after the last if all are."""
        wrong = np.flatnonzero(times != self._expected(len(times), stream))
        return int(wrong[0]) if len(wrong) else len(times)

    def _expected(self, count: int, stream: Any) -> NDArray[np.int64]:
        ticks = Fraction(1, self._dataset.fps) / stream.time_base
        frames = np.arange(count, dtype=np.int64)
        # Clocks that do not divide a frame are rounded to the nearest tick.
        return (2 * frames * ticks.numerator + ticks.denominator) // (2 * ticks.denominator)

    def _fail(self, message: str, number: int | None = None, times: int = 1) -> None:
        episode = frame = None
        if number is not None:
            at = min(int(np.searchsorted(self._ends, number, side="right")), len(self._ends) - 1)
            episode = int(self._inside[at])
            frame = number - (int(self._ends[at - 1]) if at else 0)
        self._check.fail(
            message,
            file=self._file,
            episode=episode,
            frame=frame,
            feature=self._name,
            times=times,
        )
