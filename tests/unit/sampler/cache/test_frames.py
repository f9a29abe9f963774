"""The cache as reads see it: what it finds, has built and counts, and life without a folder."""

from __future__ import annotations

import logging
import threading
from pathlib import Path
from typing import Any

import pytest
from penstock_sampler.cache import FrameCache, FrameKey, FrameStore, open_cache
from penstock_sampler.serving.status import CacheStatus
from penstock_sampler.settings import DataSettings
from penstock_sampler.sources.files import OpenFiles
from penstock_sampler.sources.frames import FrameReader
from prometheus_client import REGISTRY
from unit.sampler.cache.cached import cache_of, fill, key_of, open_dataset, put
from unit.sampler.recording import arrays, write


def _settings(**flags: Any) -> DataSettings:
    return DataSettings.load(flags=flags)


def _warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    """Of the cache."""
    return [
        record.message
        for record in caplog.records
        if record.levelno >= logging.WARNING and record.name.startswith("penstock_sampler.cache")
    ]


def test_no_folder_is_made_without_a_cache(tmp_path: Path) -> None:
    assert open_cache(_settings(cache_dir="none"), OpenFiles(1)) is None


def test_a_folder_that_is_not_there_is_made(tmp_path: Path) -> None:
    folder = tmp_path / "deep" / "frames"
    cache = open_cache(_settings(cache_dir=str(folder)), OpenFiles(1))
    assert cache is not None
    assert folder.is_dir()
    cache.close()


def test_auto_is_a_folder_of_this_user(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert _settings(cache_dir="auto").cache_folder == tmp_path / "xdg" / "penstock" / "frames"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    home = tmp_path / "home" / ".cache" / "penstock" / "frames"
    assert _settings(cache_dir="auto").cache_folder == home


@pytest.mark.parametrize("place", ["below a file", "a file"])
def test_a_folder_that_cannot_be_used_is_said_once_and_done_without(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, place: str
) -> None:
    (tmp_path / "file").touch()
    folder = tmp_path / "file" if place == "a file" else tmp_path / "file" / "frames"
    write(tmp_path / "a.hdf5", arrays())
    backend = open_dataset(tmp_path / "a.hdf5", folder)
    said = [line for line in _warnings(caplog) if line.startswith("frame cache")]
    assert len(said) == 1
    assert f"{folder} cannot be used" in said[0]
    assert "frames are read on the fly; cache_dir names another folder, or none" in said[0]
    assert backend.cache_status() == CacheStatus()
    backend.close()


def test_a_folder_that_may_not_be_written_to_is_said_and_done_without(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(**_: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("penstock_sampler.cache.store.tempfile.TemporaryFile", refused)
    assert open_cache(_settings(cache_dir=str(tmp_path)), OpenFiles(1)) is None
    (line,) = _warnings(caplog)
    assert f"{tmp_path} cannot be used (Permission denied)" in line


def test_what_is_not_there_is_asked_for_and_frames_of_other_files_are_not(tmp_path: Path) -> None:
    asked: list[FrameKey] = []
    files = OpenFiles(1)
    cache = FrameCache(FrameStore(tmp_path / "frames"), FrameReader(files, 1))
    assert cache._builder is not None
    cache._builder.request = asked.append  # pyright: ignore[reportAttributeAccessIssue]
    here, outside = key_of(), key_of(self_contained=False)
    assert cache.find(here) is None
    assert cache.find(outside) is None
    assert asked == [here]
    put(cache.store, outside)
    assert cache.find(outside) is None
    put(cache.store, here)
    assert cache.find(here) is not None
    assert asked == [here]
    cache.close()
    files.close()


def test_without_threads_nothing_is_built_but_what_is_there_is_used(tmp_path: Path) -> None:
    write(tmp_path / "a.hdf5", arrays())
    reading = open_dataset(tmp_path / "a.hdf5", tmp_path / "frames", cache_threads=0)
    fill(reading)
    assert (reading.cache_status().hits, reading.cache_status().misses) == (0, 20)
    assert list((tmp_path / "frames").glob("*.frames")) == []
    building = open_dataset(tmp_path / "a.hdf5", tmp_path / "frames")
    fill(building)
    building.close()
    reading.close()
    again = open_dataset(tmp_path / "a.hdf5", tmp_path / "frames", cache_threads=0)
    fill(again)
    assert (again.cache_status().hits, again.cache_status().misses) == (20, 0)
    again.close()


def test_the_status_says_how_full_the_cache_is(tmp_path: Path) -> None:
    for name in "abc":
        write(tmp_path / f"{name}.hdf5", arrays(30))
    backend = open_dataset(tmp_path / "*.hdf5", tmp_path / "frames", cache_bytes=10**6, codec="raw")
    fill(backend)
    status = backend.cache_status()
    raw_bytes = 3 * 31 * 3 * 6 * 8 * 3
    assert status.cached_files == 3
    assert status.limit_bytes == 10**6
    assert raw_bytes < status.size_bytes < raw_bytes + 3 * 12_000
    assert (status.rebuilds, status.evictions) == (0, 0)
    backend.close()


def test_hits_and_misses_are_counted_for_the_service_too(tmp_path: Path) -> None:
    def sample(name: str) -> float:
        return REGISTRY.get_sample_value(f"penstock_sampler_cache_{name}_total") or 0.0

    before = {name: sample(name) for name in ("hits", "misses")}
    write(tmp_path / "a.hdf5", arrays(10))
    backend = open_dataset(tmp_path / "a.hdf5", tmp_path / "frames")
    fill(backend)
    fill(backend)
    assert sample("misses") == before["misses"] + 20
    assert sample("hits") == before["hits"] + 20
    backend.close()


def test_closing_ends_a_build_and_leaves_nothing_unfinished(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("penstock_sampler.cache.building._BLOCK_BYTES", 1)
    write(tmp_path / "a.hdf5", arrays(200))
    backend = open_dataset(tmp_path / "a.hdf5", tmp_path / "frames")
    reader, begun, go_on = cache_of(backend)._reader, threading.Event(), threading.Event()
    read_block = reader.read_block

    def held(*arguments: Any) -> None:
        begun.set()
        go_on.wait(30)
        read_block(*arguments)

    monkeypatch.setattr(reader, "read_block", held)
    backend._frames.descriptor(0, 6, 8)
    assert begun.wait(30)
    closing = threading.Thread(target=backend.close)
    closing.start()
    stop = cache_of(backend)._builder
    assert stop is not None
    assert stop._stop.wait(30)
    go_on.set()
    closing.join(30)
    assert not closing.is_alive()
    assert [p.name for p in (tmp_path / "frames").iterdir()] == ["index"]
