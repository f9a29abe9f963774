from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from penstock_sampler.backend import open_backend
from penstock_sampler.service import SamplerService
from penstock_sampler.serving.versions import ServedVersions, Watch
from unit.sampler.recording import arrays, write

from penstock import open_sampler
from penstock.errors import Conflict, DataFault, NotFound
from penstock.server import ServerSettings, start
from penstock.targets import Target


@dataclass
class Opened:
    """A backend that knows its version and whether it was closed."""

    version: str
    closed: bool = False

    def info(self) -> Any:
        return SimpleNamespace(
            version=self.version, files=(), refused=(), dropped_rows=0, transitions=0
        )

    def close(self) -> None:
        assert not self.closed, f"{self.version} was closed twice"
        self.closed = True


class Opener:
    """Opens what it is told to, or raises it."""

    def __init__(self, now: str | Exception) -> None:
        self.now = now
        self.opened: list[Opened] = []

    def __call__(self) -> Any:
        if isinstance(self.now, Exception):
            raise self.now
        self.opened.append(Opened(self.now))
        return self.opened[-1]

    @property
    def alive(self) -> list[str]:
        return [opened.version for opened in self.opened if not opened.closed]


def test_data_that_comes_later_is_served_at_the_next_call(tmp_path: Path) -> None:
    served = ServedVersions(lambda: open_backend(Target.parse(f"{tmp_path}/*.hdf5")))
    with pytest.raises(NotFound):
        served.open()
    with start("sampler", ServerSettings(), SamplerService(served).register) as server:
        with pytest.raises(DataFault, match=r"nothing to serve yet.*no file matches") as caught:
            open_sampler(server.target, retry_s=5)
        assert caught.value.reason == "NO_DATA_YET"
        (tmp_path / "bad.hdf5").touch()
        with pytest.raises(DataFault, match=r"nothing to serve yet.*bad\.hdf5"):
            open_sampler(server.target, retry_s=5)
        write(tmp_path / "a.hdf5", arrays())
        with open_sampler(server.target, retry_s=5) as client:
            assert client.fetch(np.arange(10)).frames.any()
    served.close()


def test_a_run_goes_on_with_its_version_while_new_clients_get_the_new_one(tmp_path: Path) -> None:
    write(tmp_path / "b.hdf5", arrays(seed=1))
    served = ServedVersions(lambda: open_backend(Target.parse(f"{tmp_path}/*.hdf5")))
    with start("sampler", ServerSettings(), SamplerService(served).register) as server:
        with open_sampler(server.target, retry_s=5) as old:
            before = old.fetch(np.arange(10))
            write(tmp_path / "a.hdf5", arrays(seed=2))
            assert served.reopen()
            with open_sampler(server.target, retry_s=5) as new:
                assert (len(old.info.files), len(new.info.files)) == (1, 2)
                assert new.info.version != old.info.version
                after, moved = old.fetch(np.arange(10)), new.fetch(np.arange(10, 20))
        np.testing.assert_array_equal(after.frames, before.frames)
        # Files go by name: what was the first file is the second one now.
        np.testing.assert_array_equal(moved.frames, before.frames)
    served.close()


def test_the_newest_and_two_older_versions_stay_open() -> None:
    opener = Opener("1")
    served = ServedVersions(opener)
    served.open()
    for version in "2345":
        opener.now = version
        assert served.reopen()
    assert opener.alive == ["3", "4", "5"]
    with served.use("3") as backend:
        assert backend.info().version == "3"
    with served.use() as backend:
        assert backend.info().version == "5"
    with (
        pytest.raises(Conflict, match="'2' is asked for, '5' is served") as caught,
        served.use("2"),
    ):
        pass
    assert caught.value.reason == "DATASET_VERSION"
    served.close()
    assert opener.alive == []


def test_a_version_in_use_is_closed_by_its_last_user() -> None:
    opener = Opener("1")
    served = ServedVersions(opener)
    with served.use("1"), served.use("1"):
        for version in "234":
            opener.now = version
            served.reopen()
        assert opener.alive == ["1", "2", "3", "4"]
    assert opener.alive == ["2", "3", "4"]
    served.close()


def test_touched_files_of_the_same_content_replace_what_read_them() -> None:
    opener = Opener("1")
    served = ServedVersions(opener)
    served.open()
    assert not served.reopen()
    assert [opened.closed for opened in opener.opened] == [True, False]
    served.close()


def watch(opener: Opener, looks: Callable[[], object]) -> tuple[ServedVersions, Watch]:
    served = ServedVersions(opener)
    served.open()
    return served, Watch(served, looks, every_s=3600)


def test_files_are_opened_once_they_have_come_to_rest() -> None:
    opener = Opener("1")
    now: list[int] = [1]
    served, watching = watch(opener, lambda: tuple(now))
    watching.start()
    opener.now = "2"
    changes = []
    for size in (1, 2, 3, 3, 3):
        now[0] = size
        changes.append(watching.step())
    assert changes == [False, False, False, True, False]
    assert opener.alive == ["1", "2"]
    watching.stop()
    served.close()


def test_what_was_served_stays_when_the_change_cannot_be_served() -> None:
    opener = Opener("1")
    now: list[int] = [1]
    served, watching = watch(opener, lambda: tuple(now))
    watching.start()
    opener.now = NotFound("no file matches")
    now[0] = 2
    assert not watching.step()
    assert not watching.step()
    with served.use() as backend:
        assert backend.info().version == "1"
    opener.now, now[0] = "2", 3
    watching.step()
    assert watching.step()
    with served.use() as backend:
        assert backend.info().version == "2"
    watching.stop()
    served.close()


def test_files_that_vanish_are_noticed_and_do_not_end_the_watch() -> None:
    opener = Opener("1")
    answers: list[Any] = [(1,), NotFound("none"), NotFound("none"), (2,), (2,)]

    def look() -> object:
        answer = answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    served, watching = watch(opener, look)
    watching.start()
    opener.now = NotFound("none")
    assert [watching.step(), watching.step()] == [False, False]
    opener.now = "2"
    assert [watching.step(), watching.step()] == [False, True]
    watching.stop()
    served.close()
