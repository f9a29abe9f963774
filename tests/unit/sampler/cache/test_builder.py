"""Building in the background: each file once, few words, and an end when it is asked for."""

from __future__ import annotations

import errno
import logging
import os
import threading
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
import tenacity
from penstock_sampler.cache import FrameKey, builder
from penstock_sampler.cache.builder import FrameBuilder
from penstock_sampler.cache.building import Outcome
from unit.sampler.cache.cached import key_of, succeeds_in_a_fork

from penstock.errors import DataFault, InvalidInput

KEYS = [key_of(f"/data/{number}.hdf5") for number in range(20)]


class Builds:
    """Takes the place of building; holds every build until ``go`` is set."""

    def __init__(self) -> None:
        self.go = threading.Event()
        self.begun: list[FrameKey] = []
        self.together, self.most_together = 0, 0
        self.niceness: set[int] = set()
        self.ends: Any = Outcome.BUILT
        self._lock = threading.Lock()

    def __call__(self, key: FrameKey, stop: threading.Event) -> Outcome:
        with self._lock:
            self.begun.append(key)
            self.together += 1
            self.most_together = max(self.most_together, self.together)
        self.niceness.add(os.getpriority(os.PRIO_PROCESS, threading.get_native_id()))
        while not self.go.wait(0.01):
            if stop.is_set():
                return Outcome.STOPPED
        with self._lock:
            self.together -= 1
        if isinstance(self.ends, BaseException):
            raise self.ends
        return self.ends


@pytest.fixture
def builds() -> Builds:
    return Builds()


@pytest.fixture
def building(builds: Builds) -> Iterator[FrameBuilder]:
    found = FrameBuilder(builds, 2)
    yield found
    found.close()


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """A clock of seconds that stands still until it is moved."""
    clock = SimpleNamespace(now_s=1000.0)
    monkeypatch.setattr(builder, "time", SimpleNamespace(monotonic=lambda: clock.now_s))
    return clock


@tenacity.retry(
    retry=tenacity.retry_if_exception_type(AssertionError),
    wait=tenacity.wait_fixed(0.01),
    stop=tenacity.stop_after_delay(30),
    reraise=True,
)
def _wait_until(condition: Any) -> None:
    assert condition()


def _warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.message for record in caplog.records if record.levelno >= logging.WARNING]


def _ask(building: FrameBuilder, times: int = 1, keys: list[FrameKey] = KEYS) -> None:
    for _ in range(times):
        for key in keys:
            building.request(key)
        assert building.wait(30)


def test_what_is_asked_for_again_and_again_is_built_once(
    builds: Builds, building: FrameBuilder
) -> None:
    for _ in range(3):
        for key in KEYS:
            building.request(key)
    assert not building.wait(0)
    builds.go.set()
    assert building.wait(30)
    assert sorted(key.name for key in builds.begun) == sorted(key.name for key in KEYS)


def test_no_more_files_at_a_time_than_threads_and_at_low_priority(
    builds: Builds, building: FrameBuilder
) -> None:
    for key in KEYS:
        building.request(key)
    _wait_until(lambda: builds.together == 2)
    builds.go.set()
    assert building.wait(30)
    assert builds.most_together == 2
    assert builds.niceness == {min(19, os.getpriority(os.PRIO_PROCESS, 0) + 10)} or (
        builds.niceness == {10}
    )


def test_there_are_no_threads_when_there_is_no_work(builds: Builds, building: FrameBuilder) -> None:
    builds.go.set()
    _ask(building)
    _wait_until(lambda: not [t for t in threading.enumerate() if t.name == "penstock-cache"])
    _ask(building)
    assert len(builds.begun) == 2 * len(KEYS)


@pytest.mark.parametrize(
    ("outcome", "retry_s"),
    [
        (Outcome.ELSEWHERE, 2),
        (Outcome.NO_ROOM, 60),
        (DataFault("/data/0.hdf5: cannot be read any more"), 60),
        (OSError(errno.ENOSPC, "No space left on device"), 600),
    ],
    ids=["elsewhere", "no room", "fault", "disk full"],
)
def test_what_could_not_be_built_is_tried_again_after_a_while(
    builds: Builds, building: FrameBuilder, clock: SimpleNamespace, outcome: Any, retry_s: float
) -> None:
    builds.go.set()
    builds.ends = outcome
    _ask(building, 5, KEYS[:1])
    clock.now_s += retry_s - 0.5
    _ask(building, 5, KEYS[:1])
    assert len(builds.begun) == 1
    clock.now_s += 1
    _ask(building, 5, KEYS[:1])
    assert len(builds.begun) == 2


@pytest.mark.parametrize(
    ("outcome", "lines"),
    [
        (
            Outcome.NO_ROOM,
            ["what follows is not cached, but read on the fly: there is no room (cache_bytes sets"],
        ),
        (
            OSError(errno.ENOSPC, "No space left on device"),
            ["what follows is not cached, but read on the fly: the disk is full"],
        ),
        (
            PermissionError(errno.EACCES, "Permission denied"),
            ["what follows is not cached, but read on the fly: [Errno 13] Permission denied"],
        ),
        (InvalidInput("odd"), ["is not cached, but read on the fly: odd"]),
        (Outcome.ELSEWHERE, []),
        (Outcome.OUTSIDE, []),
        (Outcome.BUILT, []),
    ],
    ids=str,
)
def test_what_holds_for_all_files_is_said_once(
    builds: Builds,
    building: FrameBuilder,
    clock: SimpleNamespace,
    caplog: pytest.LogCaptureFixture,
    outcome: Any,
    lines: list[str],
) -> None:
    builds.go.set()
    builds.ends = outcome
    for _ in range(5):
        _ask(building)
        clock.now_s += 1000
    assert len(builds.begun) == 5 * len(KEYS)
    said = _warnings(caplog)
    assert len(said) == len(lines)
    assert all(line in message for line, message in zip(lines, said, strict=True))


def test_a_file_that_cannot_be_read_is_named_once(
    builds: Builds,
    building: FrameBuilder,
    clock: SimpleNamespace,
    caplog: pytest.LogCaptureFixture,
) -> None:
    builds.go.set()
    builds.ends = DataFault("the file ends 10 bytes too early")
    for _ in range(5):
        _ask(building, 1, KEYS[:3])
        clock.now_s += 1000
    assert _warnings(caplog) == 3 * [
        "frame cache: its frames are not cached: the file ends 10 bytes too early"
    ]


def test_closing_stops_what_is_being_built_and_forgets_the_rest(
    builds: Builds, building: FrameBuilder
) -> None:
    for key in KEYS:
        building.request(key)
    _wait_until(lambda: builds.together == 2)
    building.close()
    assert len(builds.begun) == 2
    building.request(KEYS[5])
    assert building.wait(0)
    assert len(builds.begun) == 2


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_defect_in_one_build_does_not_end_building(
    builds: Builds, building: FrameBuilder
) -> None:
    builds.go.set()
    builds.ends = ZeroDivisionError("a defect")
    for key in KEYS[:4]:
        building.request(key)
        _wait_until(lambda: not building._building and not building._queue)
    _wait_until(lambda: not building._threads)
    builds.ends = Outcome.BUILT
    _ask(building, 1, KEYS[4:])
    assert len(builds.begun) == len(KEYS)


def test_a_queue_that_is_full_drops_requests_that_come_again(
    builds: Builds, building: FrameBuilder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(builder, "_LONGEST_QUEUE", 3)
    for key in KEYS:
        building.request(key)
    assert len(building._queue) <= 3
    builds.go.set()
    while len({key.name for key in builds.begun}) < len(KEYS):
        for key in KEYS:
            if key not in builds.begun:
                building.request(key)
        assert building.wait(30)


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_a_forked_process_builds_for_itself(builds: Builds, building: FrameBuilder) -> None:
    building.request(KEYS[0])
    _wait_until(lambda: builds.together == 1)

    def work() -> None:
        builds.go.set()
        builds.begun.clear()
        building.request(KEYS[0])
        assert building.wait(30)
        assert len(builds.begun) == 1

    assert succeeds_in_a_fork(work)
    builds.go.set()
    assert building.wait(30)
