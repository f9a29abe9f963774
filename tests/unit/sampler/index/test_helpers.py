"""Processes that index files ahead: they leave what the opening process would have made itself."""

from __future__ import annotations

import contextlib
import subprocess
import time
from pathlib import Path

import pytest
from penstock_sampler.index import helpers
from penstock_sampler.index.dataset_index import build_index
from penstock_sampler.index.discovery import find_files
from penstock_sampler.index.entry_store import IndexStore
from penstock_sampler.index.helpers import Helpers
from penstock_sampler.options import DataOptions, parse_cameras
from unit.sampler.recording import arrays, write

OPTIONS = DataOptions(parse_cameras("left,right,global"))
FILES = 12
SOON_S = 60.0


@pytest.fixture
def paths(tmp_path: Path) -> list[Path]:
    folder = tmp_path / "data"
    folder.mkdir()
    for number in range(FILES):
        write(folder / f"{number:02d}.hdf5", arrays(30, seed=number, terminals=[9]))
    (folder / "05.hdf5").write_bytes(b"no recording")
    return sorted(folder.iterdir())


@pytest.fixture
def eager(monkeypatch: pytest.MonkeyPatch) -> list[subprocess.Popen[bytes]]:
    """Helpers start at the second file; gives those that did."""
    monkeypatch.setattr(helpers, "_LOOK_S", 0.0)
    monkeypatch.setattr(helpers, "_WORTH_S", 1e-9)
    started: list[subprocess.Popen[bytes]] = []
    popen = subprocess.Popen

    def start(*args: object, **kwargs: object) -> subprocess.Popen[bytes]:
        started.append(popen(*args, **kwargs))  # type: ignore[call-overload]
        return started[-1]

    monkeypatch.setattr(helpers.subprocess, "Popen", start)
    return started


def entries_of(store: IndexStore, paths: list[Path]) -> list[bool]:
    return [store.entry(path).exists() for path in paths]


def test_helpers_index_what_is_left_and_end_with_it(
    tmp_path: Path, paths: list[Path], eager: list[subprocess.Popen[bytes]]
) -> None:
    store = IndexStore(tmp_path / "kept", OPTIONS)
    wanted = Helpers(store, OPTIONS, cores=3).each(paths)
    assert [next(wanted), next(wanted)] == paths[:2]  # this process is slow with the second
    expected = [False, False, *(number != 5 for number in range(2, FILES))]
    until_s = time.monotonic() + SOON_S
    while entries_of(store, paths) != expected and time.monotonic() < until_s:
        time.sleep(0.05)
    assert entries_of(store, paths) == expected
    assert list(wanted) == paths[2:]
    assert len(eager) == 2
    assert all(process.returncode is not None for process in eager)


def test_a_helped_index_is_the_same(
    tmp_path: Path, paths: list[Path], eager: list[subprocess.Popen[bytes]]
) -> None:
    found = find_files([str(paths[0].parent)])
    alone = build_index(found, OPTIONS)
    helped = build_index(found, OPTIONS, index_dir=tmp_path / "kept")
    again = build_index(found, OPTIONS, index_dir=tmp_path / "kept")
    assert eager
    assert helped.info.version == alone.info.version == again.info.version
    assert [repr(index.info) for index in (helped, again)] == [repr(alone.info)] * 2
    assert [refused.file_id for refused in helped.info.refused] == ["05.hdf5"]
    for index in (alone, helped, again):
        index.close()


def test_helpers_that_are_not_wanted_any_more_leave_nothing_unfinished(
    tmp_path: Path, paths: list[Path], eager: list[subprocess.Popen[bytes]]
) -> None:
    store = IndexStore(tmp_path / "kept", OPTIONS)
    with contextlib.closing(Helpers(store, OPTIONS, cores=2).each(paths)) as wanted:
        next(wanted)
        next(wanted)
    assert len(eager) == 1
    assert eager[0].returncode is not None
    assert not list(store.folder.glob("*.part"))


@pytest.mark.parametrize("cores", [1, 4])
def test_nobody_helps_where_it_is_not_worth_it(
    tmp_path: Path,
    paths: list[Path],
    cores: int,
    eager: list[subprocess.Popen[bytes]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(helpers, "_WORTH_S", 1e9 if cores > 1 else 1e-9)
    store = IndexStore(tmp_path / "kept", OPTIONS)
    assert list(Helpers(store, OPTIONS, cores=cores).each(paths)) == paths
    assert list(Helpers(None, OPTIONS, cores=4).each(paths)) == paths
    assert not eager
