from __future__ import annotations

import multiprocessing
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import cv2
import h5py
import hdf5plugin
import numpy as np
import pytest
from descriptors import open_below
from penstock_sampler.backend import Hdf5Backend, open_backend
from penstock_sampler.settings import DataSettings
from unit.sampler.recording import CAMERAS, arrays, write

from penstock.batch import Batch, FrameSpec
from penstock.errors import DataFault, InvalidInput
from penstock.targets import Target

STORED = FrameSpec()

Open = Callable[..., Hdf5Backend]


@pytest.fixture
def open_folder(tmp_path: Path) -> Iterator[Open]:
    opened: list[Hdf5Backend] = []

    def open_one(**settings: Any) -> Hdf5Backend:
        target = Target.parse(f"file://{tmp_path}/*.hdf5")
        opened.append(open_backend(target, DataSettings.load(flags=settings)))
        return opened[-1]

    yield open_one
    for backend in opened:
        backend.close()


def _read(backend: Hdf5Backend, ids: Any, spec: FrameSpec = STORED) -> Batch:
    batch = Batch.allocate(len(ids), backend.info(), spec)
    backend.read(np.asarray(ids, np.int64), spec, batch)
    return batch


def _plainly(
    path: Path, row: int, *, size: tuple[int, int] | None, order: str = "hwc", terminal: bool
) -> tuple[Any, ...]:
    """A transition as anyone would read it with h5py and OpenCV."""
    with h5py.File(path) as file:
        group = file.get("observations", file)
        rows = (row, row if terminal else row + 1)
        joint = [group["joint"][index] for index in rows]
        frames = [[group[name][index] for name in CAMERAS] for index in rows]
        action, reward = file["actions"][row], file["rewards"][row]
    if order == "chw":
        frames = [[frame.transpose(1, 2, 0) for frame in both] for both in frames]
    if size is not None:
        frames = [
            [cv2.resize(np.ascontiguousarray(frame), size[::-1]) for frame in both]
            for both in frames
        ]
    return joint[0], joint[1], action, reward, terminal, np.array(frames)


def _assert_equal(batch: Batch, index: int, expected: tuple[Any, ...], *, levels: int = 0) -> None:
    found = (
        batch.joint[index],
        batch.next_joint[index],
        batch.action[index],
        batch.reward[index],
        batch.terminal[index],
        batch.frames[index],
    )
    for ours, theirs in zip(found[:-1], expected[:-1], strict=True):
        np.testing.assert_array_equal(ours, theirs)
    # OpenCV's resizing rounds in its own way.
    assert np.abs(batch.frames[index].astype(np.int16) - expected[-1]).max() <= levels


@pytest.mark.parametrize("form", ["A", "B"])
@pytest.mark.parametrize("order", ["hwc", "chw"])
@pytest.mark.parametrize("size", [None, (6, 8), (4, 5), (17, 9)])
def test_batches_equal_a_plain_reading(
    tmp_path: Path, open_folder: Open, form: str, order: str, size: tuple[int, int] | None
) -> None:
    for number in range(3):
        contents = arrays(8, form=form, order=order, terminals=[2, 7], seed=number)
        write(tmp_path / f"{number}.hdf5", contents)
    ids = np.random.default_rng(5).permutation(np.repeat(np.arange(24), 2))
    batch = _read(open_folder(), ids, FrameSpec(*(size or (0, 0))))
    assert batch.transition_ids.tolist() == ids.tolist()
    assert batch.cameras == ("left", "right", "global")
    for index, transition in enumerate(ids.tolist()):
        file, row = divmod(transition, 8)
        expected = _plainly(
            tmp_path / f"{file}.hdf5", row, size=size, order=order, terminal=row in (2, 7)
        )
        _assert_equal(batch, index, expected, levels=int(size not in (None, (6, 8))))


STORAGE: dict[str, dict[str, Any]] = {
    "contiguous": {},
    "one frame a chunk": {"chunks": "row"},
    "many frames a chunk": {"chunks": True},
    "gzip": {"chunks": "row", "compression": "gzip"},
    "shuffled gzip": {"chunks": "row", "compression": "gzip", "shuffle": True},
    "lzf": {"chunks": "row", "compression": "lzf"},
    "lz4": {"chunks": "row", **hdf5plugin.LZ4()},
    "bitshuffle": {"chunks": "row", **hdf5plugin.Bitshuffle(cname="lz4")},
}


@pytest.mark.parametrize("storage", STORAGE)
def test_every_storage_gives_the_same_batch(
    tmp_path: Path, open_folder: Open, storage: str
) -> None:
    contents = arrays(8, terminals=[3])
    options = dict(STORAGE[storage])
    with h5py.File(tmp_path / "a.hdf5", "w") as file:
        for name, values in contents.items():
            if options.get("chunks") == "row":
                chosen = options | {"chunks": (1, *values.shape[1:])}
            else:
                chosen = options
            file.create_dataset(name, data=values, **chosen)
    batch = _read(open_folder(), np.arange(8))
    for row in range(8):
        following = row if row == 3 else row + 1
        for camera, name in enumerate(CAMERAS):
            images = contents[f"observations/{name}"]
            np.testing.assert_array_equal(batch.frames[row, 0, camera], images[row])
            np.testing.assert_array_equal(batch.frames[row, 1, camera], images[following])
        np.testing.assert_array_equal(batch.action[row], contents["actions"][row])


@pytest.mark.parametrize("kind", ["external data", "virtual", "external link"])
def test_images_in_other_files_are_read(tmp_path: Path, open_folder: Open, kind: str) -> None:
    contents = arrays(8, terminals=[7])
    images = contents.pop("observations/left_image")
    source = write(tmp_path / "images.h5", {"frames": images})
    with h5py.File(write(tmp_path / "a.hdf5", contents), "a") as file:
        group = file["observations"]
        if kind == "external data":
            (tmp_path / "images.raw").write_bytes(images.tobytes())
            group.create_dataset(
                "left_image",
                images.shape,
                "u1",
                external=[(str(tmp_path / "images.raw"), 0, images.nbytes)],
            )
        elif kind == "virtual":
            layout = h5py.VirtualLayout(images.shape, "u1")
            layout[:] = h5py.VirtualSource(source.name, "frames", images.shape)
            group.create_virtual_dataset("left_image", layout)
        else:
            group["left_image"] = h5py.ExternalLink(source.name, "/frames")
    batch = _read(open_folder(), np.arange(8))
    np.testing.assert_array_equal(batch.images["left"], images[:8])
    np.testing.assert_array_equal(batch.next_images["left"][:7], images[1:8])


@pytest.mark.parametrize("kind", ["external data", "virtual"])
def test_missing_images_in_other_files_refuse_the_file(
    tmp_path: Path, open_folder: Open, kind: str
) -> None:
    contents = arrays(8)
    images = contents.pop("observations/left_image")
    with h5py.File(write(tmp_path / "a.hdf5", contents), "a") as file:
        group = file["observations"]
        if kind == "external data":
            gone = str(tmp_path / "gone.raw")
            group.create_dataset(
                "left_image", images.shape, "u1", external=[(gone, 0, images.nbytes)]
            )
        else:
            layout = h5py.VirtualLayout(images.shape, "u1")
            layout[:] = h5py.VirtualSource("gone.h5", "frames", images.shape)
            group.create_virtual_dataset("left_image", layout)
    with pytest.raises(DataFault, match="left_image") as caught:
        open_folder()
    assert caught.value.reason == ("UNREADABLE" if kind == "external data" else "MISSING_SOURCE")


def test_files_of_another_size_are_resized_to_the_dataset_s(
    tmp_path: Path, open_folder: Open
) -> None:
    write(tmp_path / "a.hdf5", arrays(4))
    write(tmp_path / "b.hdf5", arrays(4, seed=1))
    large = write(tmp_path / "c.hdf5", arrays(4, size=(12, 16), seed=2))
    batch = _read(open_folder(), [9])
    _assert_equal(batch, 0, _plainly(large, 1, size=(6, 8), terminal=False), levels=1)


def test_without_cameras_the_rest_is_served(tmp_path: Path, open_folder: Open) -> None:
    contents = arrays(8, cameras=())
    write(tmp_path / "a.hdf5", contents)
    batch = _read(open_folder(cameras="none"), [5, 1])
    assert batch.frames.shape == (2, 2, 0, 0, 0, 3)
    np.testing.assert_array_equal(batch.joint, contents["observations/joint"][[5, 1]])


def test_cameras_of_different_size_need_one_size(tmp_path: Path, open_folder: Open) -> None:
    contents = arrays(4)
    contents["observations/left_image"] = np.ones((5, 12, 16, 3), np.uint8)
    write(tmp_path / "a.hdf5", contents)
    backend = open_folder()
    with pytest.raises(InvalidInput, match="left 12x16"):
        Batch.allocate(1, backend.info(), STORED)
    assert _read(backend, [0], FrameSpec(6, 8)).frames.shape == (1, 2, 3, 6, 8, 3)


@pytest.mark.parametrize("bad", [-1, 10, 2**62])
def test_an_id_out_of_range_is_named(tmp_path: Path, open_folder: Open, bad: int) -> None:
    write(tmp_path / "a.hdf5", arrays())
    with pytest.raises(InvalidInput, match=f"{bad}: ids go from 0 to 9"):
        _read(open_folder(), [0, bad])


def test_a_batch_of_another_size_is_refused(tmp_path: Path, open_folder: Open) -> None:
    write(tmp_path / "a.hdf5", arrays())
    backend = open_folder()
    out = Batch.allocate(2, backend.info(), STORED)
    with pytest.raises(InvalidInput, match="frames"):
        backend.read(np.array([0, 1]), FrameSpec(4, 4), out)


@pytest.mark.parametrize("damage", ["gone", "replaced", "emptied"])
def test_a_file_that_changes_while_served_is_named_and_the_rest_goes_on(
    tmp_path: Path, open_folder: Open, damage: str
) -> None:
    for name in ("a", "b"):
        write(tmp_path / f"{name}.hdf5", arrays())
    backend = open_folder()
    bad = tmp_path / "a.hdf5"
    if damage == "gone":
        bad.unlink()
    elif damage == "replaced":
        write(bad, arrays(seed=9))
        os.utime(bad, ns=(1, 1))
    else:
        bad.write_bytes(b"")
    with pytest.raises(DataFault) as caught:
        _read(backend, [0, 15])
    assert str(bad) in caught.value.message
    assert _read(backend, [15]).transition_ids.tolist() == [15]


def test_a_chunk_damaged_while_served_is_named(tmp_path: Path, open_folder: Open) -> None:
    path = write(tmp_path / "a.hdf5", arrays(60), chunks=True, compression="gzip")
    backend = open_folder()
    with h5py.File(path) as file:
        left = file["observations/left_image"]
        chunk = left.id.get_chunk_info(left.id.get_num_chunks() // 2)
    status = path.stat()
    with path.open("r+b") as file:
        file.seek(chunk.byte_offset)
        file.write(b"\xff" * chunk.size)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    with pytest.raises(DataFault, match=r"a\.hdf5: cannot be read any more"):
        _read(backend, np.arange(60))


def test_descriptors_stay_bounded_over_300_files(
    tmp_path: Path, open_folder: Open, frame_cache_folder: Path
) -> None:
    first = write(tmp_path / "000.hdf5", arrays(2, terminals=[1]))
    for number in range(1, 300):
        shutil.copyfile(first, tmp_path / f"{number:03}.hdf5")
    before = open_below(frame_cache_folder / "index")
    backend = open_folder(max_open_files=10)
    for start in range(0, 600, 60):
        _read(backend, np.arange(start, start + 60))
        assert open_below(tmp_path) <= 10
        assert open_below(frame_cache_folder / "index") - before <= 10
    assert len(backend.info().files) == 300


def test_threads_read_the_same_bytes(tmp_path: Path, open_folder: Open) -> None:
    for number in range(6):
        write(tmp_path / f"{number}.hdf5", arrays(10, seed=number))
    backend = open_folder(max_open_files=2)
    ids = [np.random.default_rng(seed).integers(0, 60, 40) for seed in range(12)]
    alone = [_read(backend, some, FrameSpec(4, 4)).frames.copy() for some in ids]
    with ThreadPoolExecutor(4) as pool:
        together = pool.map(lambda some: _read(backend, some, FrameSpec(4, 4)).frames, ids)
        for one, other in zip(alone, together, strict=True):
            np.testing.assert_array_equal(one, other)


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_a_forked_worker_reads_the_same_bytes(tmp_path: Path, open_folder: Open) -> None:
    write(tmp_path / "a.hdf5", arrays())
    backend = open_folder()
    expected = _read(backend, [3, 7]).frames
    context = multiprocessing.get_context("fork")
    receiving, sending = context.Pipe(duplex=False)
    worker = context.Process(target=lambda: sending.send(_read(backend, [3, 7]).frames))
    worker.start()
    assert receiving.poll(30)
    np.testing.assert_array_equal(receiving.recv(), expected)
    worker.join()
    np.testing.assert_array_equal(_read(backend, [3, 7]).frames, expected)


_GROWTH = """
import resource, sys
import numpy as np
from penstock.batch import Batch, FrameSpec
from penstock.targets import Target
from penstock_sampler.backend import open_backend

def use(path):
    backend = open_backend(Target.parse(path))
    rows = backend.info().transitions
    batch = Batch.allocate(8, backend.info(), FrameSpec())
    for start in range(0, rows - 8, max(1, rows // 8)):
        backend.read(np.arange(start, start + 8), FrameSpec(), batch)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024

print(-use(sys.argv[1]) + use(sys.argv[2]))
"""


def test_memory_does_not_follow_the_size_of_the_file(tmp_path: Path) -> None:
    """A file of 190 MB costs a few MB: the block size, whatever the file's."""
    rows = 300_000
    for name, count in (("small", 20), ("large", rows)):
        with h5py.File(tmp_path / f"{name}.hdf5", "w") as file:
            file.create_dataset("joint", (count, 128), "f4", chunks=(min(1000, count), 128))
            for start in range(0, count, 10_000):
                stop = min(start + 10_000, count)
                file["joint"][start:stop] = np.full((stop - start, 128), start, np.float32)
            for camera in CAMERAS:
                file[camera] = np.full((count, 4, 4, 3), 7, np.uint8)
            file["actions"] = np.zeros((count, 1), np.float32)
            file["rewards"] = np.zeros(count, np.float32)
            file["terminals"] = np.eye(1, count, count - 1, dtype=bool)[0]
    assert (tmp_path / "large.hdf5").stat().st_size > 190e6
    paths = [str(tmp_path / f"{name}.hdf5") for name in ("small", "large")]
    grown = subprocess.run(
        [sys.executable, "-c", _GROWTH, *paths], check=True, capture_output=True, text=True
    )
    assert int(grown.stdout) < 40e6


def test_settings_come_from_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path / "a.hdf5", arrays(cameras=("top",)))
    monkeypatch.setenv("PENSTOCK_CAMERAS", "top")
    backend = open_backend(Target.parse(f"file://{tmp_path}/a.hdf5"))
    assert backend.info().camera_names == ("top",)
    backend.close()


def test_a_remote_target_is_not_read_here() -> None:
    with pytest.raises(InvalidInput, match="grpc://host:50051"):
        open_backend(Target.parse("grpc://host:50051"))
