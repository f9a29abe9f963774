"""Building the cached frames of one recording: read in row order, resize, encode, write."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum

import numpy as np
from numpy.typing import NDArray

from penstock.codecs import IMAGE_CODECS, choose_codec, encode_images
from penstock.errors import Conflict, DataFault
from penstock.frame_file import FrameFileWriter, FrameHeader
from penstock_sampler.cache.key import FrameKey
from penstock_sampler.cache.store import FrameStore
from penstock_sampler.sources.files import FileIdentity
from penstock_sampler.sources.frames import FrameReader, FrameRequest

__all__ = ["Outcome", "build_frames"]

_BLOCK_BYTES = 2 << 20
_STORED_BYTES = 64 << 20
"""What is read for a block at most: how soon building stops, where images become much smaller."""
_PROBED_ROWS = 8
_MARGIN = 1.05


class Outcome(Enum):
    """How a build ended."""

    BUILT = "built"
    THERE = "already there"
    ELSEWHERE = "another process is building it"
    OUTSIDE = "its frames lie in other files, which may change without it"
    NO_ROOM = "no room"
    STOPPED = "stopped"


def build_frames(
    key: FrameKey,
    store: FrameStore,
    reader: FrameReader,
    codec: str = "auto",
    *,
    stop: threading.Event | None = None,
    progress: Callable[[int], None] | None = None,
) -> Outcome:
    """Build one file; memory is bounded by a block of 2 MiB, or one observation.

    Args:
        key: Which frames.
        store: Where to.
        reader: Reads the recording.
        codec: Of all images; ``auto`` takes what is smallest on frames from all over the file and
            worth its decoding.
        stop: Looked at between blocks.
        progress: Told the number of observations that have been added.

    Raises:
        DataFault: The recording cannot be read, or has changed; names it.
        OSError: The folder cannot be written to, or is full.
    """
    if not key.recording.self_contained:
        return Outcome.OUTSIDE
    if store.find(key) is not None:
        return Outcome.THERE
    if not key.recording.observations or not key.recording.images:
        return Outcome.THERE
    probe = _probe(key, reader)
    # The recording was just read as the key says, so what says otherwise can make room.
    store.drop_stale(key)
    images = probe.reshape(-1, *probe.shape[2:])
    if codec == "auto":
        codec = choose_codec(images, IMAGE_CODECS)
    header = key.header(codec)
    mean_bytes = len(encode_images(codec, images)[0]) / len(probe)
    size_bytes = _index_bytes(header) + int(mean_bytes * header.observations * _MARGIN)
    del probe, images  # not beside the blocks
    with store.room(key, size_bytes) as there_is:
        if not there_is:
            return Outcome.NO_ROOM
        return _Build(key, store, reader, header, size_bytes, stop, progress).run()


@dataclass
class _Build:
    """One file that is being written; ``room_bytes`` is what was made room for."""

    key: FrameKey
    store: FrameStore
    reader: FrameReader
    header: FrameHeader
    room_bytes: int
    stop: threading.Event | None
    progress: Callable[[int], None] | None

    def run(self) -> Outcome:
        path = self.store.folder / self.key.name
        try:
            writer = FrameFileWriter(path, self.header)
        except Conflict:
            return Outcome.ELSEWHERE
        with writer:
            # Another process may have finished it between our look and our lock.
            if path.exists():
                return Outcome.THERE
            unfinished = self._fill(writer)
            if unfinished is not None:
                return unfinished
            # Frames of a file that changed while it was read must not go by the name of the old
            # one.
            _require_unchanged(self.key.recording.identity)
            writer.commit()
        self.store.expect(self.key)
        return Outcome.BUILT

    def _fill(self, writer: FrameFileWriter) -> Outcome | None:
        """Add all observations; says why if it did not come to that."""
        recording, header = self.key.recording, self.header
        total = recording.observations
        stored_bytes = sum(image.frame_bytes for image in recording.images)
        index_bytes = _index_bytes(header)
        rows = min(_BLOCK_BYTES // header.raw_record_bytes, _STORED_BYTES // stored_bytes, total)
        shape = (len(recording.images), *header.image_shape)
        block = np.empty((max(1, rows), *shape), np.uint8)
        for start in range(0, total, len(block)):
            if self.stop is not None and self.stop.is_set():
                return Outcome.STOPPED
            frames = block[: total - start]
            end = start + len(frames)
            self.reader.read_block(recording.identity, recording.images, start, end, frames)
            data, image_bytes = encode_images(header.codec, frames.reshape(-1, *shape[1:]))
            writer.append(data, image_bytes.reshape(len(frames), -1))
            del data  # not beside those of the next block
            if self.progress is not None:
                self.progress(len(frames))
            if writer.size_bytes > self.room_bytes:
                # The probed frames were smaller than most; the limit holds nevertheless.
                data_bytes = (writer.size_bytes - index_bytes) * total // end
                self.room_bytes = index_bytes + data_bytes
                if not self.store.enlarge(self.key, self.room_bytes):
                    return Outcome.NO_ROOM
        return None


def _require_unchanged(identity: FileIdentity) -> None:
    if FileIdentity.of(identity.path) != identity:
        raise DataFault(
            f"{identity.path}: was changed while its frames were read: open the dataset again",
            reason="CHANGED",
            metadata={"file": str(identity.path)},
        )


def _index_bytes(header: FrameHeader) -> int:
    """What a file takes besides its records."""
    return header.data_offset(header.reserve())


def _probe(key: FrameKey, reader: FrameReader) -> NDArray[np.uint8]:
    """A few observations from all over the recording, ``(n, C, H, W, 3)``."""
    recording = key.recording
    last = recording.observations - 1
    rows = np.unique(np.linspace(0, last, min(_PROBED_ROWS, last + 1)).astype(np.int64))
    out = np.empty((len(rows), len(recording.images), key.height, key.width, 3), np.uint8)
    places = np.stack([np.arange(len(rows)), np.zeros(len(rows), np.int64)], axis=1)
    request = FrameRequest(recording.identity, recording.images, rows, places)
    reader.read([request], out[:, None])
    return out
