"""What is written out while it grows; that failures of the disk come out."""

import errno
import os
import threading
import time
from pathlib import Path

import pytest
from penstock_converter.jobs import durable
from penstock_converter.jobs.durable import writing_out


@pytest.fixture
def synced(monkeypatch):
    """Names of the files that were synced, in order."""
    monkeypatch.setattr(durable, "_LOOK_S", 0.005)
    monkeypatch.setattr(durable, "_GROWN_BYTES", 1000)
    names: list[str] = []

    def fsync(descriptor):
        names.append(Path(f"/proc/self/fd/{descriptor}").readlink().name)

    monkeypatch.setattr(os, "fsync", fsync)
    return names


def _wait_for(synced, count):
    for _ in range(2000):
        if len(synced) >= count:
            return
        time.sleep(0.005)
    pytest.fail(f"only {synced} were synced")


def test_what_grows_is_written_out_and_once_for_as_much(tmp_path, synced):
    (tmp_path / "episode").mkdir()
    with writing_out(tmp_path):
        (tmp_path / "small").write_bytes(bytes(999))
        video = tmp_path / "episode" / "video"
        video.write_bytes(bytes(1000))
        _wait_for(synced, 1)
        with video.open("ab") as file:
            file.write(bytes(999))
        other = tmp_path / "other"
        other.write_bytes(bytes(5000))
        _wait_for(synced, 2)
        with video.open("ab") as file:
            file.write(bytes(1))
        _wait_for(synced, 3)
    assert synced == ["video", "other", "video"]


def test_a_file_that_goes_away_is_passed_over(tmp_path, synced, monkeypatch):
    looked = []

    def stat_of_what_is_gone(path):
        looked.append(path)
        raise FileNotFoundError(errno.ENOENT, "gone", str(path))

    (tmp_path / "gone").write_bytes(bytes(5000))
    with monkeypatch.context() as patched, writing_out(tmp_path):
        patched.setattr(durable, "_sync", stat_of_what_is_gone)
        _wait_for(looked, 2)
    assert looked[0] == tmp_path / "gone"


@pytest.fixture
def failed(synced, monkeypatch):
    """Set once a disk that fails was asked to sync."""
    asked = threading.Event()

    def fail(_descriptor):
        asked.set()
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(os, "fsync", fail)
    return asked


def test_a_disk_that_fails_is_told_as_nobody_else_will_hear_of_it(tmp_path, failed):
    (tmp_path / "video").write_bytes(bytes(5000))
    with pytest.raises(OSError, match="Input/output error"), writing_out(tmp_path):
        assert failed.wait(10)


def test_what_went_wrong_before_is_not_hidden_by_it(tmp_path, failed):
    def convert():
        with writing_out(tmp_path):
            assert failed.wait(10)
            raise ValueError("a broken image")

    (tmp_path / "video").write_bytes(bytes(5000))
    with pytest.raises(ValueError, match="a broken image"):
        convert()
