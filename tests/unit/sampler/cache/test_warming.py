"""Caching a whole dataset ahead: what is reported, how far it is, and how it is interrupted."""

from __future__ import annotations

import io
import os
import re
import signal
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from penstock_sampler.backend import Hdf5Backend
from penstock_sampler.cache import FrameKey, Warming
from penstock_sampler.cache.building import Outcome
from penstock_sampler.cache.warm_view import show_progress, show_report
from penstock_sampler.cache.warming import WarmReport
from penstock_sampler.serving.status import CacheStatus
from rich.console import Console
from unit.sampler.cache.cached import batch_of, cache_of, key_of, open_dataset
from unit.sampler.recording import arrays, write

from penstock.batch import FrameSpec
from penstock.errors import DataFault, Unsupported

ROWS = 20
SMALL = FrameSpec(4, 5)
FILE_BYTES = (ROWS + 1) * 3 * 4 * 5 * 3
"""Frames of one recording at that size, before encoding."""

Open = Callable[..., Hdf5Backend]


@pytest.fixture
def data(tmp_path: Path) -> Path:
    folder = tmp_path / "data"
    folder.mkdir()
    for number in range(5):
        write(folder / f"{number}.hdf5", arrays(ROWS, terminals=[ROWS - 1], seed=number))
    return folder


@pytest.fixture
def frames(tmp_path: Path) -> Path:
    return tmp_path / "frames"


@pytest.fixture
def open_data(data: Path, frames: Path) -> Iterator[Open]:
    opened: list[Hdf5Backend] = []

    def open_one(folder: Path | str = frames, **settings: Any) -> Hdf5Backend:
        opened.append(open_dataset(f"{data}/*.hdf5", folder, **settings))
        return opened[-1]

    yield open_one
    for backend in opened:
        backend.close()


class Builds:
    """Takes the place of a cache; ``build`` does what it is given for each file."""

    def __init__(self, *ends: Any) -> None:
        self.ends = dict(zip((key.name for key in KEYS), ends, strict=False))
        self.together, self.most_together = 0, 0
        self._lock = threading.Lock()

    def build(self, key: FrameKey, stop: threading.Event, progress: Callable[[int], None]) -> Any:
        with self._lock:
            self.together += 1
            self.most_together = max(self.most_together, self.together)
        try:
            end = self.ends.get(key.name, Outcome.BUILT)
            if isinstance(end, BaseException):
                raise end
            if callable(end):
                return end(stop, progress)
            if end is Outcome.BUILT:
                progress(key.recording.observations)
            return end
        finally:
            with self._lock:
                self.together -= 1


KEYS = [key_of(f"/data/{number}.hdf5") for number in range(6)]
KEY_BYTES = 6 * 2 * 4 * 5 * 3


def _warming(builds: Builds, jobs: int = 1) -> Warming:
    return Warming(builds, KEYS, jobs)  # pyright: ignore[reportArgumentType]


def test_all_files_are_cached_and_read_from_there(
    data: Path, frames: Path, open_data: Open
) -> None:
    backend = open_data(cache_threads=0)
    done: list[int] = []
    warming = backend.warm(2, SMALL)
    report = warming.run(done.append)
    assert report.outcomes == {Outcome.BUILT: 5}
    assert report.complete
    assert sum(done) == warming.total_bytes == 5 * FILE_BYTES
    ids = np.arange(5 * ROWS)
    np.testing.assert_array_equal(
        batch_of(backend, ids, SMALL), batch_of(open_data("none"), ids, SMALL)
    )
    assert backend.cache_status().misses == 0
    assert len(list(frames.glob("*.frames"))) == 5


def test_what_is_there_is_passed_over_and_is_no_part_of_what_is_left(open_data: Open) -> None:
    backend = open_data()
    for number in (0, 3):
        batch_of(backend, [number * ROWS], SMALL)
    assert cache_of(backend).wait(60)
    warming = open_data().warm(1, SMALL)
    assert warming.total_bytes == 5 * FILE_BYTES
    done: list[int] = []
    report = warming.run(done.append)
    assert report.outcomes == {Outcome.BUILT: 3, Outcome.THERE: 2}
    assert sum(done) == warming.total_bytes == 3 * FILE_BYTES


def test_another_size_is_cached_beside_the_first(frames: Path, open_data: Open) -> None:
    backend = open_data()
    for spec in (SMALL, FrameSpec(), SMALL):
        report = backend.warm(2, spec).run(lambda _: None)
    assert report.outcomes == {Outcome.THERE: 5}
    assert len(list(frames.glob("*.frames"))) == 10


def test_a_recording_that_is_gone_is_named_and_the_others_are_cached(
    data: Path, frames: Path, open_data: Open
) -> None:
    backend = open_data()
    (data / "2.hdf5").unlink()
    warming = backend.warm(2, SMALL)
    done: list[int] = []
    report = warming.run(done.append)
    assert report.outcomes == {Outcome.BUILT: 4}
    (fault,) = report.faults
    assert f"{data / '2.hdf5'}: cannot be found" in fault
    assert not report.complete
    assert sum(done) == warming.total_bytes == 4 * FILE_BYTES
    assert len(list(frames.glob("*.frames"))) == 4


def test_a_limit_is_kept_whatever_the_number_of_jobs(open_data: Open) -> None:
    raw_bytes = 21 * 3 * 60 * 60 * 3
    backend = open_data(cache_bytes=int(2.5 * raw_bytes), codec="raw")
    report = backend.warm(4, FrameSpec(60, 60)).run(lambda _: None)
    assert report.outcomes == {Outcome.BUILT: 2, Outcome.NO_ROOM: 3}
    assert not report.complete
    status = backend.cache_status()
    assert status.size_bytes <= status.limit_bytes


def test_without_a_cache_there_is_nothing_to_warm(open_data: Open) -> None:
    with pytest.raises(Unsupported, match="there is no frame cache"):
        open_data("none").warm(1, SMALL)


def test_without_cameras_there_is_nothing_to_cache(frames: Path, open_data: Open) -> None:
    report = open_data(cameras="none").warm(1, FrameSpec()).run(lambda _: None)
    assert report.complete
    assert report.outcomes == {}
    assert list(frames.glob("*.frames")) == []


def test_as_many_files_at_a_time_as_jobs() -> None:
    together = threading.Barrier(3)

    def meet(stop: threading.Event, progress: Callable[[int], None]) -> Outcome:
        together.wait(30)
        return Outcome.BUILT

    builds = Builds(*[meet] * 6)
    assert _warming(builds, 3).run(lambda _: None).outcomes == {Outcome.BUILT: 6}
    assert builds.most_together == 3


def test_every_end_is_reported_and_leaves_the_right_rest() -> None:
    def half(stop: threading.Event, progress: Callable[[int], None]) -> Outcome:
        progress(3)
        raise DataFault("/data/5.hdf5: the file ends 10 bytes too early")

    builds = Builds(
        Outcome.BUILT,
        Outcome.THERE,
        Outcome.ELSEWHERE,
        Outcome.NO_ROOM,
        OSError(28, "No space left on device"),
        half,
    )
    warming, done = _warming(builds), []
    report = warming.run(done.append)
    assert report.outcomes == {
        Outcome.BUILT: 1,
        Outcome.THERE: 1,
        Outcome.ELSEWHERE: 1,
        Outcome.NO_ROOM: 1,
    }
    assert sorted(report.faults) == [
        "/data/4.hdf5: [Errno 28] No space left on device",
        "/data/5.hdf5: the file ends 10 bytes too early",
    ]
    assert sum(done) == warming.total_bytes == 1.5 * KEY_BYTES


@pytest.mark.parametrize(
    ("report", "complete"),
    [
        (WarmReport(), True),
        (WarmReport({Outcome.BUILT: 1, Outcome.THERE: 2}), True),
        (WarmReport({Outcome.ELSEWHERE: 1}), True),
        (WarmReport({Outcome.OUTSIDE: 1}), True),
        (WarmReport({Outcome.BUILT: 9, Outcome.NO_ROOM: 1}), False),
        (WarmReport({Outcome.STOPPED: 1}), False),
        (WarmReport({Outcome.BUILT: 9}, ["a.hdf5: gone"]), False),
    ],
    ids=str,
)
def test_it_is_complete_when_nothing_is_left_to_do(report: WarmReport, complete: bool) -> None:  # noqa: FBT001
    assert report.complete is complete


def test_an_interrupt_stops_what_is_built_and_begins_nothing_more() -> None:
    stopped: list[bool] = []

    def interrupted(stop: threading.Event, progress: Callable[[int], None]) -> Outcome:
        os.kill(os.getpid(), signal.SIGINT)
        stopped.append(stop.wait(30))
        return Outcome.STOPPED

    builds = Builds(Outcome.BUILT, interrupted, AssertionError("begun after the interrupt"))
    with pytest.raises(KeyboardInterrupt):
        _warming(builds).run(lambda _: None)
    assert stopped == [True]


def test_an_interrupted_run_leaves_whole_files_only(
    frames: Path, open_data: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("penstock_sampler.cache.building._BLOCK_BYTES", 1)
    warming, done = open_data().warm(1, SMALL), []
    # In the middle of the third file.
    target_bytes = 2 * FILE_BYTES + 7 * FILE_BYTES // (ROWS + 1)

    def counting(size_bytes: int) -> None:
        done.append(size_bytes)
        if sum(done) == target_bytes:
            os.kill(os.getpid(), signal.SIGINT)
            assert warming._stop.wait(30)

    with pytest.raises(KeyboardInterrupt):
        warming.run(counting)
    assert sum(done) == target_bytes
    assert len(list(frames.glob("*.frames"))) == 2
    assert list(frames.glob("*.part")) == []
    again = open_data().warm(1, SMALL).run(lambda _: None)
    assert again.outcomes == {Outcome.THERE: 2, Outcome.BUILT: 3}


def _console(*, terminal: bool) -> tuple[Console, io.StringIO]:
    text = io.StringIO()
    return Console(file=text, force_terminal=terminal, width=120), text


def test_progress_is_shown_on_a_terminal_with_size_and_time_left() -> None:
    console, text = _console(terminal=True)
    assert show_progress(console, _warming(Builds())).complete
    shown = text.getvalue()
    assert "caching frames" in shown
    assert "4.3/4.3 kB" in shown
    assert "0:00:00" in shown


def test_a_file_passed_over_is_no_speed_and_forgets_none() -> None:
    console, text = _console(terminal=True)
    assert show_progress(console, _warming(Builds(*[Outcome.BUILT] * 5, Outcome.THERE))).complete
    last = text.getvalue().rpartition("caching frames")[2]
    assert "3.6/3.6 kB" in last
    assert re.search(r"\d (k|M|G)?B/s", last)


def test_progress_does_not_litter_a_pipe() -> None:
    console, text = _console(terminal=False)
    assert show_progress(console, _warming(Builds())).complete
    assert text.getvalue() == ""


def test_every_outcome_and_fault_has_a_line() -> None:
    console, text = _console(terminal=False)
    report = WarmReport(dict.fromkeys(Outcome, 3), ["a[b].hdf5: cannot be read " + 200 * "x"])
    show_report(console, report, CacheStatus(size_bytes=5 * 10**6, limit_bytes=10**9), refused=2)
    assert text.getvalue().splitlines() == [
        "3 files cached now",
        "3 files were cached already",
        "3 files are being cached by another process",
        "3 files keep frames in other files and are not cached",
        "3 files found no room (cache_bytes sets the limit)",
        "3 files were stopped",
        "2 files are refused and not cached (penstock doctor says why)",
        "not cached a[b].hdf5: cannot be read " + 200 * "x",
        "the frame cache holds 5 of 1000 MB",
    ]
