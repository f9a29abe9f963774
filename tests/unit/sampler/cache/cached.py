"""Keys and cached files without a recording, and datasets with a cache, for its tests."""

from __future__ import annotations

import os
import signal
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from penstock_sampler.backend import Hdf5Backend, open_backend
from penstock_sampler.cache import FrameCache, FrameKey, FrameStore, Recording
from penstock_sampler.settings import DataSettings
from penstock_sampler.sources.files import FileIdentity
from penstock_sampler.sources.images import ImageColumn

from penstock.batch import Batch, FrameSpec
from penstock.codecs import encode_images
from penstock.frame_file import FrameFileWriter
from penstock.observations import decode_observations
from penstock.targets import Target

ROWS, HEIGHT, WIDTH = 6, 4, 5
CAMERAS = ("left", "wrist")
STORED = FrameSpec()
IMAGE_CODECS = ("raw", "lz4", "bitplanes", "bitplanes_lz4")


def key_of(
    path: str | Path = "/data/a.hdf5",
    *,
    size_bytes: int = 1000,
    modified_ns: int = 5,
    digest: bytes = b"\1" * 16,
    cameras: tuple[str, ...] = CAMERAS,
    rows: int = ROWS,
    height: int = HEIGHT,
    width: int = WIDTH,
    self_contained: bool = True,
) -> FrameKey:
    """The frames of a recording that need not be there."""
    images = tuple(ImageColumn(camera, f"{camera}_image", 8, 8, "hwc") for camera in cameras)
    identity = FileIdentity(Path(path), size_bytes, modified_ns)
    return FrameKey(Recording(identity, images, rows, digest, self_contained), height, width)


def frames_for(key: FrameKey, seed: int = 0) -> Any:
    """Noise of the right shape."""
    header = key.header("raw")
    shape = (header.observations, len(header.cameras), *header.image_shape)
    return np.random.default_rng(seed).integers(0, 256, shape, np.uint8)


def put(store: FrameStore, key: FrameKey, seed: int = 0) -> Any:
    """Cache noise under the name of ``key``; returns it."""
    frames = frames_for(key, seed)
    with FrameFileWriter(store.folder / key.name, key.header("raw")) as writer:
        data, sizes = encode_images("raw", frames.reshape(-1, *frames.shape[2:]))
        writer.append(data, sizes.reshape(len(frames), -1))
        writer.commit()
    store.expect(key)
    return frames


def records(store: FrameStore, key: FrameKey) -> Any:
    """The raw frames that the store finds; None if it finds none."""
    file = store.find(key)
    if file is None:
        return None
    data, _ = file.read_records(range(key.recording.observations))
    return np.frombuffer(data, np.uint8).reshape(frames_for(key).shape)


def open_dataset(target: str | Path, folder: Path | str, **settings: Any) -> Hdf5Backend:
    """Open files, with a cache in ``folder``, or ``none``."""
    flags = {"cache_dir": str(folder), **settings}
    return open_backend(Target.parse(f"file://{target}"), DataSettings.load(flags=flags))


def cache_of(backend: Hdf5Backend) -> FrameCache:
    """The cache of a dataset that has one."""
    cache = backend._frames.cache
    assert cache is not None
    return cache


def batch_of(backend: Hdf5Backend, ids: Any, spec: FrameSpec = STORED) -> Any:
    """Decoded frames of transitions, as embedded targets get them."""
    batch = Batch.allocate(len(ids), backend.info(), spec)
    batch.frames[...] = 77
    backend.read(np.asarray(ids, np.int64), spec, batch)
    return batch.frames


def sent(
    backend: Hdf5Backend,
    ids: Any,
    spec: FrameSpec = STORED,
    accepted: tuple[str, ...] = IMAGE_CODECS,
) -> Any:
    """Decoded frames of transitions, as clients of a server get them."""
    out = Batch.allocate(len(ids), backend.info(), spec).frames
    observations = backend.read_observations(np.asarray(ids, np.int64), spec, accepted)
    assert observations.codec in accepted
    observations.check()
    decode_observations(observations, out)
    return out


def fill(backend: Hdf5Backend, spec: FrameSpec = STORED) -> None:
    """Touch every transition and wait until all there is to build is built."""
    batch_of(backend, range(backend.info().transitions), spec)
    assert cache_of(backend).wait(60)


def succeeds_in_a_fork(action: Callable[[], None]) -> bool:
    """Whether ``action`` returns in a forked child, within a minute."""
    child = os.fork()
    if child == 0:
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.alarm(60)
        try:
            action()
        except BaseException:  # noqa: BLE001 - the parent sees the status
            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def flip(path: Path, offset: int) -> None:
    """Change one bit of a file in place."""
    with path.open("r+b") as file:
        file.seek(offset)
        value = file.read(1)[0]
        file.seek(offset)
        file.write(bytes([value ^ 0x10]))
