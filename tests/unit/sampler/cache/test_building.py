"""Building one cached file: right bytes, every way to end, nothing left of what did not finish."""

from __future__ import annotations

import errno
import logging
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from penstock_sampler.cache import FrameKey, FrameStore, building
from penstock_sampler.cache.building import Outcome, build_frames
from penstock_sampler.sources.files import OpenFiles
from penstock_sampler.sources.frames import FrameReader
from unit.sampler.cache.cached import IMAGE_CODECS, open_dataset, put
from unit.sampler.recording import CAMERAS, arrays, write

from penstock.errors import DataFault
from penstock.frame_file import FrameFile, FrameFileWriter
from penstock.resize import resize_into

ROWS = 40


@pytest.fixture
def frames(tmp_path: Path) -> FrameStore:
    return FrameStore(tmp_path / "frames")


@pytest.fixture
def reader() -> Iterator[FrameReader]:
    files = OpenFiles(8)
    yield FrameReader(files, 1)
    files.close()


def _key(path: Path, height: int = 6, width: int = 8) -> FrameKey:
    """The key of a recording, as the index makes it."""
    backend = open_dataset(path, "none")
    key = backend._frames.key(0, height, width)
    backend.close()
    return key


def _stored(contents: dict[str, Any]) -> Any:
    """``(rows, C, H, W, 3)`` as a reader of the recording sees them."""
    return np.stack([contents[f"observations/{name}"] for name in CAMERAS], axis=1)


def _cached(frames: FrameStore, key: FrameKey) -> Any:
    """All frames of a cached file, read without the sampler."""
    file = FrameFile.open(frames.folder / key.name)
    rows = np.arange(len(file), dtype=np.int64)
    out = np.empty((len(file), 2, len(file.header.cameras), *file.header.image_shape), np.uint8)
    file.read_into(rows, rows, out)
    return out[:, 0]


@pytest.mark.parametrize("codec", ["auto", *IMAGE_CODECS])
@pytest.mark.parametrize("order", ["hwc", "chw"])
def test_stored_frames_are_kept_bit_for_bit(
    tmp_path: Path, frames: FrameStore, reader: FrameReader, codec: str, order: str
) -> None:
    contents = arrays(ROWS, order=order)
    key = _key(write(tmp_path / "a.hdf5", contents))
    assert build_frames(key, frames, reader, codec) is Outcome.BUILT
    expected = _stored(contents)
    if order == "chw":
        expected = np.moveaxis(expected, 2, -1)
    np.testing.assert_array_equal(_cached(frames, key), expected)
    header = FrameFile.open(frames.folder / key.name).header
    assert header.cameras == ("left", "right", "global")
    assert codec in ("auto", header.codec)


@pytest.mark.parametrize("codec", IMAGE_CODECS)
def test_resized_frames_are_those_of_the_sampler(
    tmp_path: Path, frames: FrameStore, reader: FrameReader, codec: str
) -> None:
    contents = arrays(5)
    key = _key(write(tmp_path / "a.hdf5", contents), 9, 5)
    build_frames(key, frames, reader, codec)
    found, stored = _cached(frames, key), _stored(contents)
    expected = np.empty((9, 5, 3), np.uint8)
    for row in range(6):
        for camera in range(3):
            resize_into(np.ascontiguousarray(stored[row, camera]), expected)
            np.testing.assert_array_equal(found[row, camera], expected)


def test_a_file_that_takes_several_blocks_is_whole(
    tmp_path: Path, frames: FrameStore, reader: FrameReader, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(building, "_BLOCK_BYTES", 3 * 3 * 6 * 8 * 3)
    contents, added = arrays(ROWS), []
    key = _key(write(tmp_path / "a.hdf5", contents))
    build_frames(key, frames, reader, progress=added.append)
    np.testing.assert_array_equal(_cached(frames, key), _stored(contents))
    assert added == [3] * 13 + [2]


@pytest.mark.parametrize("limit", ["_BLOCK_BYTES", "_STORED_BYTES"])
def test_no_read_is_larger_than_a_block_of_either_size(
    tmp_path: Path,
    frames: FrameStore,
    reader: FrameReader,
    monkeypatch: pytest.MonkeyPatch,
    limit: str,
) -> None:
    """Of large frames that become small few are read at a time, so that building stops soon."""
    height = {"_BLOCK_BYTES": 60, "_STORED_BYTES": 2}[limit]
    largest = max(6 * 8, height * 8) * 3 * 3
    monkeypatch.setattr(building, limit, 4 * largest)
    sizes: list[int] = []
    read_block = reader.read_block

    def counted(*arguments: Any) -> None:
        sizes.append(arguments[3] - arguments[2])
        read_block(*arguments)

    monkeypatch.setattr(reader, "read_block", counted)
    key = _key(write(tmp_path / "a.hdf5", arrays(ROWS)), height, 8)
    assert build_frames(key, frames, reader) is Outcome.BUILT
    assert max(sizes) == 4


def test_what_is_there_is_not_built_again(
    tmp_path: Path, frames: FrameStore, reader: FrameReader
) -> None:
    key = _key(write(tmp_path / "a.hdf5", arrays(ROWS)))
    build_frames(key, frames, reader)
    before = (frames.folder / key.name).stat().st_ino
    assert build_frames(key, frames, reader) is Outcome.THERE
    assert build_frames(key, FrameStore(frames.folder), reader) is Outcome.THERE
    assert (frames.folder / key.name).stat().st_ino == before


@pytest.mark.parametrize("kind", ["external data", "virtual", "external link"])
def test_frames_that_lie_in_other_files_are_not_cached(
    tmp_path: Path, frames: FrameStore, reader: FrameReader, kind: str
) -> None:
    contents = arrays(8)
    images = contents.pop("observations/left_image")
    write(tmp_path / "images.h5", {"frames": images})
    (tmp_path / "images.raw").write_bytes(images.tobytes())
    with h5py.File(write(tmp_path / "a.hdf5", contents), "a") as file:
        group = file["observations"]
        if kind == "external data":
            external = [(str(tmp_path / "images.raw"), 0, images.nbytes)]
            group.create_dataset("left_image", images.shape, "u1", external=external)
        elif kind == "virtual":
            layout = h5py.VirtualLayout(images.shape, "u1")
            layout[:] = h5py.VirtualSource("images.h5", "frames", images.shape)
            group.create_virtual_dataset("left_image", layout)
        else:
            group["left_image"] = h5py.ExternalLink("images.h5", "frames")
    assert build_frames(_key(tmp_path / "a.hdf5"), frames, reader) is Outcome.OUTSIDE
    assert list(frames.folder.iterdir()) == []


def test_a_stopped_build_leaves_nothing(
    tmp_path: Path, frames: FrameStore, reader: FrameReader, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(building, "_BLOCK_BYTES", 1)
    key, stop, added = _key(write(tmp_path / "a.hdf5", arrays(ROWS))), threading.Event(), []

    def progress(rows: int) -> None:
        added.append(rows)
        if len(added) == 7:
            stop.set()

    outcome = build_frames(key, frames, reader, stop=stop, progress=progress)
    assert outcome is Outcome.STOPPED
    assert len(added) == 7
    assert list(frames.folder.iterdir()) == []


def test_a_recording_that_changes_while_it_is_read_is_not_cached(
    tmp_path: Path, frames: FrameStore, reader: FrameReader
) -> None:
    path = write(tmp_path / "a.hdf5", arrays(ROWS))
    key = _key(path)

    def written_to(_: int) -> None:
        os.utime(path, ns=(1, 1))

    with pytest.raises(DataFault, match=r"a\.hdf5: was changed while its frames were read"):
        build_frames(key, frames, reader, progress=written_to)
    assert list(frames.folder.iterdir()) == []


def test_a_recording_that_has_changed_is_not_cached_under_its_old_name(
    tmp_path: Path, frames: FrameStore, reader: FrameReader
) -> None:
    path = write(tmp_path / "a.hdf5", arrays(ROWS))
    old = _key(path)
    write(path, arrays(ROWS, seed=1))
    os.utime(path, ns=(1, 1))
    with pytest.raises(DataFault) as raised:
        build_frames(old, frames, reader)
    assert raised.value.reason == "CHANGED"
    assert list(frames.folder.iterdir()) == []


def test_building_drops_what_was_built_before_the_recording_changed(
    tmp_path: Path, frames: FrameStore, reader: FrameReader, caplog: pytest.LogCaptureFixture
) -> None:
    path = write(tmp_path / "a.hdf5", arrays(ROWS))
    for height in (6, 3):
        build_frames(_key(path, height), frames, reader)
    contents = arrays(ROWS, seed=1)
    write(path, contents)
    os.utime(path, ns=(1, 1))
    new = _key(path)
    assert build_frames(new, frames, reader) is Outcome.BUILT
    assert [entry.name for entry in frames.folder.iterdir()] == [new.name]
    assert frames.rebuilds == 2
    assert f"{path} has changed since it was built" in caplog.text
    np.testing.assert_array_equal(_cached(frames, new), _stored(contents))


def test_what_is_stale_makes_room_for_what_replaces_it(tmp_path: Path, reader: FrameReader) -> None:
    path = write(tmp_path / "a.hdf5", arrays(400))
    raw_bytes = 401 * 3 * 6 * 8 * 3
    frames = FrameStore(tmp_path / "frames", int(1.5 * raw_bytes))
    assert build_frames(_key(path), frames, reader) is Outcome.BUILT
    write(path, arrays(400, seed=1))
    os.utime(path, ns=(1, 1))
    assert build_frames(_key(path), frames, reader) is Outcome.BUILT


def test_without_room_nothing_is_written(tmp_path: Path, reader: FrameReader) -> None:
    frames = FrameStore(tmp_path / "frames", 10_000)
    key = _key(write(tmp_path / "a.hdf5", arrays(ROWS)))
    assert build_frames(key, frames, reader, "raw") is Outcome.NO_ROOM
    assert list(frames.folder.iterdir()) == []


def _brighter_between_the_probes(rows: int) -> dict[str, Any]:
    """Noise, but for black frames wherever the size is estimated."""
    contents = arrays(rows - 1, size=(16, 16))
    probed = np.linspace(0, rows - 1, 8).astype(np.int64)
    for name in CAMERAS:
        contents[f"observations/{name}"][probed] = 0
    return contents


@pytest.mark.parametrize(("limit", "outcome"), [(0.5, Outcome.NO_ROOM), (1.5, Outcome.BUILT)])
def test_the_limit_holds_for_frames_that_are_larger_than_they_looked(
    tmp_path: Path,
    reader: FrameReader,
    monkeypatch: pytest.MonkeyPatch,
    limit: float,
    outcome: Outcome,
) -> None:
    monkeypatch.setattr(building, "_BLOCK_BYTES", 40_000)
    key = _key(write(tmp_path / "a.hdf5", _brighter_between_the_probes(600)), 16, 16)
    raw_bytes = 600 * key.raw_record_bytes
    frames = FrameStore(tmp_path / "frames", int(limit * raw_bytes))
    added: list[int] = []
    assert build_frames(key, frames, reader, "lz4", progress=added.append) is outcome
    assert frames.measure() == (outcome is Outcome.BUILT)
    if outcome is Outcome.NO_ROOM:
        # It was found out on the way, and is known the next time.
        assert 0 < sum(added) < 400
        added.clear()
        assert build_frames(key, frames, reader, "lz4", progress=added.append) is outcome
        assert added == []


def _full_after(size_bytes: int, monkeypatch: pytest.MonkeyPatch) -> None:
    written = 0
    pwrite = os.pwrite

    def limited(descriptor: int, data: Any, offset: int) -> int:
        nonlocal written
        written += len(data)
        if written > size_bytes:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return pwrite(descriptor, data, offset)

    monkeypatch.setattr(os, "pwrite", limited)


@pytest.mark.parametrize("size_bytes", [0, 9000])
def test_a_disk_that_fills_up_leaves_nothing(
    tmp_path: Path,
    frames: FrameStore,
    reader: FrameReader,
    monkeypatch: pytest.MonkeyPatch,
    size_bytes: int,
) -> None:
    monkeypatch.setattr(building, "_BLOCK_BYTES", 1)
    key = _key(write(tmp_path / "a.hdf5", arrays(ROWS)))
    _full_after(size_bytes, monkeypatch)
    with pytest.raises(OSError, match="No space left on device"):
        build_frames(key, frames, reader)
    assert list(frames.folder.iterdir()) == []
    with frames.room(key, 1000) as there_is:
        assert there_is


_LIMITED = """
import resource, signal, sys
from penstock.batch import FrameSpec
from penstock.targets import Target
from penstock_sampler.backend import open_backend
from penstock_sampler.settings import DataSettings
settings = DataSettings.load(flags={"cache_dir": sys.argv[2]})
backend = open_backend(Target.parse(sys.argv[1]), settings)
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (9000, 9000))
report = backend.warm(1, FrameSpec()).run(lambda _: None)
print(report.faults)
"""


def test_a_limit_on_the_size_of_files_is_a_fault_and_leaves_nothing(tmp_path: Path) -> None:
    path = write(tmp_path / "a.hdf5", arrays(ROWS))
    folder = tmp_path / "frames"
    run = subprocess.run(
        [sys.executable, "-c", _LIMITED, f"file://{path}", str(folder)],
        check=True,
        capture_output=True,
        text=True,
    )
    assert f"{path}: [Errno 27] File too large" in run.stdout
    assert not list(folder.glob("*.frames")) + list(folder.glob("*.part"))


_HOLD = """
import signal, sys
from pathlib import Path
from penstock.frame_file import FrameFileWriter, FrameHeader, FrameSource
header = FrameHeader(FrameSource("x", 1, 1, "00"), 5, 7, ("left",), "raw", 9)
writer = FrameFileWriter(Path(sys.argv[1]), header)
print("writing", flush=True)
signal.pause()
"""


def test_what_another_process_builds_is_left_to_it_until_it_dies(
    tmp_path: Path, frames: FrameStore, reader: FrameReader
) -> None:
    contents = arrays(ROWS)
    key = _key(write(tmp_path / "a.hdf5", contents))
    path = frames.folder / key.name
    process = subprocess.Popen(
        [sys.executable, "-c", _HOLD, str(path)], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "writing\n"
    assert build_frames(key, frames, reader) is Outcome.ELSEWHERE
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stdout.close()
    assert build_frames(key, frames, reader) is Outcome.BUILT
    np.testing.assert_array_equal(_cached(frames, key), _stored(contents))
    assert [entry.name for entry in frames.folder.iterdir()] == [key.name]


def test_what_another_process_finished_between_look_and_lock_is_taken(
    tmp_path: Path, frames: FrameStore, reader: FrameReader, monkeypatch: pytest.MonkeyPatch
) -> None:
    key = _key(write(tmp_path / "a.hdf5", arrays(ROWS)))
    theirs = FrameStore(frames.folder)
    expected = []

    def late(path: Path, header: Any) -> FrameFileWriter:
        expected.append(put(theirs, key, seed=3))
        return FrameFileWriter(path, header)

    monkeypatch.setattr(building, "FrameFileWriter", late)
    assert build_frames(key, frames, reader) is Outcome.THERE
    np.testing.assert_array_equal(_cached(frames, key), expected[0])


def test_of_many_who_build_at_once_one_does(tmp_path: Path) -> None:
    contents = arrays(ROWS)
    key = _key(write(tmp_path / "a.hdf5", contents))
    outcomes: list[Outcome] = []
    start = threading.Barrier(6)

    def build() -> None:
        # Each as a process would: an own view of the folder, an own reader.
        frames, files = FrameStore(tmp_path / "frames"), OpenFiles(2)
        start.wait()
        outcomes.append(build_frames(key, frames, FrameReader(files, 1)))
        files.close()

    threads = [threading.Thread(target=build) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert outcomes.count(Outcome.BUILT) == 1
    assert set(outcomes) <= {Outcome.BUILT, Outcome.THERE, Outcome.ELSEWHERE}
    np.testing.assert_array_equal(_cached(FrameStore(tmp_path / "frames"), key), _stored(contents))


def test_auto_makes_drawn_frames_smaller_and_noise_hardly_larger(
    tmp_path: Path, frames: FrameStore, reader: FrameReader
) -> None:
    size = (32, 32)
    noise = arrays(ROWS, size=size)
    drawn = arrays(ROWS, size=size)
    for name in CAMERAS:
        drawn[f"observations/{name}"][:] = np.arange(32, dtype=np.uint8)[:, None]
    for name, contents, most in (("noise", noise, 1.02), ("drawn", drawn, 0.5)):
        key = _key(write(tmp_path / f"{name}.hdf5", contents), *size)
        build_frames(key, frames, reader)
        header = FrameFile.open(frames.folder / key.name).header
        assert header.data_bytes <= most * (ROWS + 1) * key.raw_record_bytes, name


def test_a_damaged_recording_is_named_and_leaves_nothing(
    tmp_path: Path, frames: FrameStore, reader: FrameReader, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "a.hdf5"
    with h5py.File(write(path, arrays(60)), "a") as file:
        images = file["observations/left_image"][...]
        del file["observations/left_image"]
        left = file.create_dataset(
            "observations/left_image", data=images, chunks=(1, 6, 8, 3), compression="gzip"
        )
        chunk = left.id.get_chunk_info_by_coord((30, 0, 0, 0))
    with path.open("r+b") as file:
        file.seek(chunk.byte_offset)
        file.write(b"\xff" * chunk.size)
    key = _key(path)
    with (
        caplog.at_level(logging.WARNING),
        pytest.raises(DataFault, match=r"a\.hdf5: cannot be read any more .*left_image"),
    ):
        build_frames(key, frames, reader)
    assert list(frames.folder.iterdir()) == []
