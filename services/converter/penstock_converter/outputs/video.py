"""Videos of a LeRobot dataset: one file for each episode, joined without encoding again.

The index of an mp4 file lies in front of its frames, in room that is reserved before the first one
is written: so players can begin at once, and nothing is written twice.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any, NamedTuple

import av
import numpy as np
from av.error import FFmpegError
from av.video.stream import VideoStream
from numpy.typing import NDArray

from penstock.errors import DataFault, Internal
from penstock_converter.mapping.model import LeRobotOutput
from penstock_converter.outputs.appending import FilePlace
from penstock_converter.outputs.colours import to_yuv420
from penstock_converter.outputs.shards import Shard, link_or_copy, shard_path
from penstock_converter.outputs.sink import Image

__all__ = ["EpisodeCopier", "EpisodeEncoder", "VideoPlace", "VideoShards", "video_info"]

_ENCODERS = {"h264": "libx264", "av1": "libsvtav1"}
_PRESETS = {"h264": "superfast", "av1": "12"}
_MB = 1_000_000
_INDEX_BYTES, _INDEX_BYTES_A_FRAME = 8192, 48
"""Room for an index. Were each frame a chunk of its own, a key frame, and out of order, it would
take 45 bytes of it: size 4, chunk offset 8, chunk table 12, key frame 4, duration 8, order 8,
dependency 1. So it always fits; what is left over stays free in the file.
"""


class EpisodeEncoder:
    """Encodes the frames of one camera of one episode into a file of its own.

    Args:
        path: File to write.
        fps: Frames a second.
        settings: Codec and quality.
        frames: How many there will be.
    """

    def __init__(self, path: Path, fps: int, settings: LeRobotOutput, frames: int) -> None:
        self.path, self._fps, self._settings = path, fps, settings
        self._frame_time = Fraction(1, fps)
        self._container: Any = _create(path, fps, frames)
        self._stream: Any = None
        self._count = 0

    def add(self, image: Image) -> None:
        """Append the pixels of an image, (H, W, 3) uint8.

        Raises:
            DataFault: The codec cannot hold that size, or refuses its settings.
        """
        pixels: Any = image.pixels
        if self._stream is None:
            self._stream = self._open(pixels)
        frame = av.VideoFrame.from_numpy_buffer(to_yuv420(pixels), format="yuv420p")
        frame.pts, frame.time_base = self._count, self._frame_time
        self._count += 1
        try:
            packets = self._stream.encode(frame)
        except FFmpegError as error:
            settings = self._settings
            raise DataFault(
                f"{settings.codec} does not encode images of {pixels.shape[0]}x{pixels.shape[1]} "
                f"at crf {settings.crf} and preset {settings.preset or 'default'}: {error}",
                reason="ENCODER",
            ) from error
        self._container.mux(packets)

    def close(self) -> None:
        """Write what the encoder still holds and finish the file."""
        if self._stream is not None:
            self._container.mux(self._stream.encode(None))
        self._container.close()

    def discard(self) -> None:
        """Let go of a file that is not wanted any more, and that may have failed."""
        with contextlib.suppress(FFmpegError):
            self._container.close()

    def _open(self, pixels: NDArray[np.uint8]) -> VideoStream:
        height, width = pixels.shape[:2]
        if height % 2 or width % 2:
            raise DataFault(
                f"images of {height}x{width} do not fit {self._settings.codec}, which wants even "
                "sides: set outputs.lerobot.video: false, or dtype: image for the feature",
                reason="ODD_IMAGE_SIZE",
            )
        codec = self._settings.codec
        options = {
            "crf": str(self._settings.crf),
            "preset": self._settings.preset or _PRESETS[codec],
            "g": str(self._settings.gop),
        }
        if codec == "h264":
            # Without B-frames, packets are in display order and joining them is a shift.
            options["bf"] = "0"
        else:
            options["svtav1-params"] = "lp=1"
        stream: Any = self._container.add_stream(_ENCODERS[codec], self._fps, options=options)
        stream.height, stream.width, stream.pix_fmt = height, width, "yuv420p"
        stream.codec_context.time_base = self._frame_time
        # One thread: the same bytes on any machine, and cameras run side by side anyway.
        stream.codec_context.thread_count = 1
        return stream


class EpisodeCopier:
    """Puts the JPEG files of one camera of one episode into a video, byte by byte.

    Args:
        path: File to write.
        fps: Frames a second.
        frames: How many there will be.
    """

    def __init__(self, path: Path, fps: int, frames: int) -> None:
        self.path, self._fps = path, fps
        self._frame_time = Fraction(1, fps)
        self._container: Any = _create(path, fps, frames)
        self._stream: Any = None
        self._size = (0, 0)
        self._count = 0

    def add(self, image: Image) -> None:
        """Append a frame.

        Raises:
            DataFault: It is no JPEG, or of another size than the first one.
        """
        file = image.source
        if file is None or file.extension != "jpg":
            raise DataFault(
                f"{'a raw image' if file is None else 'a PNG'} cannot be copied into a video, JPEG "
                "can: set outputs.lerobot.codec: h264, or dtype: image for the feature",
                reason="NOT_A_JPEG",
            )
        size = file.height, file.width
        if self._stream is None:
            self._stream = self._container.add_stream("mjpeg", self._fps)
            self._stream.height, self._stream.width = self._size = size
            self._stream.pix_fmt = "yuvj420p"  # not kept; each JPEG says its own
        if size != self._size:
            raise DataFault(
                f"a JPEG is {size[0]}x{size[1]}, the first one is {self._size[0]}x{self._size[1]}: "
                "a video has one size, set outputs.lerobot.video: false or cut the recording",
                reason="SCHEMA_MISMATCH",
            )
        data: Any = file.data  # any buffer; the types say bytes
        packet = av.Packet(data)
        packet.stream = self._stream
        packet.pts = packet.dts = self._count
        packet.duration, packet.time_base = 1, self._frame_time
        packet.is_keyframe = True
        self._container.mux_one(packet)
        self._count += 1

    def close(self) -> None:
        """Finish the file."""
        self._container.close()

    def discard(self) -> None:
        """Let go of a file that is not wanted any more, and that may have failed."""
        with contextlib.suppress(FFmpegError):
            self._container.close()


@dataclass(frozen=True)
class VideoPlace:
    """Where an episode's frames lie: a file, and seconds within it."""

    shard: Shard
    from_timestamp: float
    to_timestamp: float


class _Form(NamedTuple):
    """What all frames of a file must have in common: decoders read one set of parameters."""

    extradata: bytes | None
    width: int
    height: int
    pixel_format: str


class _Part(NamedTuple):
    path: Path
    frames: int


class VideoShards:
    """Joins the episodes of one camera into files under a size.

    A file that holds a single episode is that episode's own file under a second name; packets of
    several are copied. Which of them share a file depends on their sizes and order alone.

    Args:
        folder: ``videos/<feature>`` of the dataset.
        fps: Frames a second.
        limit_mb: Size that a file stays under, unless one episode is larger.
        per_folder: Files in a folder.
    """

    def __init__(self, folder: Path, fps: int, limit_mb: int, per_folder: int) -> None:
        self._folder, self._fps, self._per_folder = folder, fps, per_folder
        self._limit_bytes = limit_mb * _MB
        self._shard = Shard(0, 0)
        self._form: _Form | None = None
        self._parts: list[_Part] = []
        self._frames = 0
        self._bytes = 0
        self.pixel_format = ""

    def append(self, episode: Path, frames: int) -> VideoPlace:
        """Put an episode's file at the end of the current file; it must stay until ``finish``."""
        # Joined files have one index for what were several, and are no larger than the sum.
        size = episode.stat().st_size
        form = _form(episode, frames)
        if self._parts and (self._bytes + size > self._limit_bytes or form != self._form):
            self.finish()
            self._shard = self._shard.next(self._per_folder)
        self._form = form
        self.pixel_format = self.pixel_format or form.pixel_format
        self._parts.append(_Part(episode, frames))
        begin, self._frames = self._frames, self._frames + frames
        self._bytes += size
        return VideoPlace(self._shard, begin / self._fps, self._frames / self._fps)

    def resume(self, files: Sequence[Path], place: FilePlace) -> None:
        """Go on with files that were finished before; the last one is put before what comes.

        Args:
            files: All of them, in order; they stay as they are, until ``finish`` at least.
            place: The last one, as ``place`` gave it.
        """
        for number, file in enumerate(files[:-1]):
            shard = Shard(*divmod(number, self._per_folder))
            link_or_copy(file, shard_path(self._folder, shard, "mp4"))
        self.append(files[-1], place.frames)
        self._shard, self._bytes = place.shard, place.size_bytes

    @property
    def place(self) -> FilePlace:
        """The current file, what was put into it, and its frames."""
        return FilePlace(self._shard, self._bytes, self._frames)

    def finish(self) -> None:
        """Write the current file."""
        if not self._parts:
            return
        path = shard_path(self._folder, self._shard, "mp4")
        path.parent.mkdir(parents=True, exist_ok=True)
        if len(self._parts) == 1:
            link_or_copy(self._parts[0].path, path)
        else:
            _join(self._parts, path, self._fps)
        self._parts.clear()
        self._frames = self._bytes = 0


def _form(episode: Path, frames: int) -> _Form:
    with av.open(str(episode)) as source:
        stream = source.streams.video[0]
        context: Any = stream.codec_context
        if stream.frames != frames:
            raise Internal(
                f"{episode.name}: {stream.frames} of {frames} frames came out of the encoder",
                reason="FRAMES_LOST",
            )
        return _Form(context.extradata, context.width, context.height, context.pix_fmt)


def _join(parts: list[_Part], path: Path, fps: int) -> None:
    """Copy the packets of several files, one after the other."""
    clock = _timescale(fps)
    done = 0
    with _create(path, fps, sum(part.frames for part in parts)) as output:
        stream: Any = None
        for part in parts:
            shift = done * (clock // fps)
            done += part.frames
            with av.open(str(part.path)) as source:
                template: Any = source.streams.video[0]
                if stream is None:
                    # Opaque: no encoder is looked for by the name of the decoder.
                    stream = output.add_stream_from_template(template, opaque=True)
                    stream.time_base = Fraction(1, clock)
                for packet in source.demux(template):
                    if packet.dts is None:
                        continue
                    packet.pts = (packet.pts or 0) + shift
                    packet.dts += shift
                    packet.stream = stream
                    output.mux_one(packet)


def _create(path: Path, fps: int, frames: int) -> Any:
    """A file for that many frames."""
    options = {
        # The clock of the file divides a frame exactly, so time stamps never drift.
        "video_track_timescale": str(_timescale(fps)),
        "moov_size": str(_INDEX_BYTES + _INDEX_BYTES_A_FRAME * frames),
    }
    return av.open(str(path), "w", format="mp4", options=options)


def video_info(
    shape: tuple[int, ...], fps: int, codec: str, pixel_format: str
) -> dict[str, object]:
    """What ``info.json`` says of a video feature."""
    height, width, channels = shape
    return {
        "video.height": height,
        "video.width": width,
        "video.codec": "mjpeg" if codec == "copy" else codec,
        "video.pix_fmt": pixel_format,
        "video.is_depth_map": False,
        "video.fps": fps,
        "video.channels": channels,
        "has_audio": False,
    }


def _timescale(fps: int) -> int:
    """Ticks a second: a multiple of the rate, fine enough for players."""
    return fps * max(1, -(-10_000 // fps))
