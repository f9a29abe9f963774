"""Videos of a LeRobot dataset: one encoding for each episode, joined without encoding again."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
from av.error import FFmpegError
from av.video.stream import VideoStream
from numpy.typing import NDArray

from penstock.errors import DataFault, Internal
from penstock_converter.mapping.model import LeRobotOutput
from penstock_converter.outputs.appending import FilePlace
from penstock_converter.outputs.shards import Shard, link, shard_path
from penstock_converter.outputs.sink import Image

__all__ = ["EpisodeCopier", "EpisodeEncoder", "VideoPlace", "VideoShards", "video_info"]

_ENCODERS = {"h264": "libx264", "av1": "libsvtav1"}
_PRESETS = {"h264": "superfast", "av1": "12"}
_MB = 1_000_000


class EpisodeEncoder:
    """Encodes the frames of one camera of one episode into a file of its own.

    Args:
        path: File to write.
        fps: Frames a second.
        settings: Codec and quality.
        frames: How many there will be.
    """

    def __init__(self, path: Path, fps: int, settings: LeRobotOutput, frames: int) -> None:
        del frames
        self.path, self._fps, self._settings = path, fps, settings
        # The clock of the file divides a frame exactly, so time stamps never drift.
        self._container: Any = av.open(
            str(path), "w", format="mp4", options={"video_track_timescale": str(_timescale(fps))}
        )
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
        frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
        frame.pts, frame.time_base = self._count, Fraction(1, self._fps)
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
        stream.codec_context.time_base = Fraction(1, self._fps)
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
        raise NotImplementedError

    def add(self, image: Image) -> None:
        """Append a frame.

        Raises:
            DataFault: It is no JPEG, or of another size than the first one.
        """
        raise NotImplementedError

    def close(self) -> None:
        """Finish the file."""
        raise NotImplementedError

    def discard(self) -> None:
        """Let go of a file that is not wanted any more, and that may have failed."""
        raise NotImplementedError


@dataclass(frozen=True)
class VideoPlace:
    """Where an episode's frames lie: a file, and seconds within it."""

    shard: Shard
    from_timestamp: float
    to_timestamp: float


class VideoShards:
    """Joins the episodes of one camera into files under a size, by copying packets.

    Args:
        folder: ``videos/<feature>`` of the dataset.
        fps: Frames a second.
        limit_mb: Size that a file stays under, unless one episode is larger.
        per_folder: Files in a folder.
    """

    def __init__(self, folder: Path, fps: int, limit_mb: int, per_folder: int) -> None:
        self._folder, self._fps, self._per_folder = folder, fps, per_folder
        self._limit_bytes = limit_mb * _MB
        self._shard: Shard | None = None
        self._output: Any = None
        self._stream: Any = None
        self._setup: tuple[object, ...] = ()
        self._frames = 0
        self._bytes = 0

    def append(self, episode: Path, frames: int) -> VideoPlace:
        """Copy the packets of an episode's file to the end of the current file."""
        size = episode.stat().st_size
        with av.open(str(episode)) as source:
            template: Any = source.streams.video[0]
            context = template.codec_context
            setup = (context.extradata, context.width, context.height)
            full = self._bytes + size > self._limit_bytes
            # Decoders read one set of parameters a file.
            if self._output is None or full or setup != self._setup:
                self._next(template, setup)
            output: Any = self._output
            stream: Any = self._stream
            clock = _timescale(self._fps)
            shift = self._frames * (clock // self._fps)
            copied = 0
            for packet in source.demux(template):
                if packet.dts is None:
                    continue
                packet.pts = (packet.pts or 0) + shift
                packet.dts += shift
                packet.stream = stream
                output.mux_one(packet)
                copied += 1
        if copied != frames:
            raise Internal(
                f"{episode.name}: {copied} of {frames} frames came out of the encoder",
                reason="FRAMES_LOST",
            )
        begin, self._frames = self._frames, self._frames + frames
        self._bytes += size
        assert self._shard is not None  # noqa: S101 - set with the output
        return VideoPlace(self._shard, begin / self._fps, self._frames / self._fps)

    def resume(self, files: Sequence[Path], place: FilePlace) -> None:
        """Go on with files that were finished before; all but the last one get a second name."""
        for number, file in enumerate(files[:-1]):
            shard = Shard(*divmod(number, self._per_folder))
            link(file, shard_path(self._folder, shard, "mp4"))
        if len(files) > 1:
            self._shard = Shard(*divmod(len(files) - 2, self._per_folder))
        self.append(files[-1], place.frames)
        self._bytes = place.size_bytes

    @property
    def place(self) -> FilePlace:
        """The current file, and what was appended to it."""
        return FilePlace(self._shard or Shard(0, 0), self._bytes, self._frames)

    def close(self) -> None:
        """Finish the current file."""
        if self._output is not None:
            self._output.close()
            self._output = None

    def _next(self, template: Any, setup: tuple[object, ...]) -> None:
        self.close()
        self._shard = Shard(0, 0) if self._shard is None else self._shard.next(self._per_folder)
        path = shard_path(self._folder, self._shard, "mp4")
        path.parent.mkdir(parents=True, exist_ok=True)
        options = {
            "movflags": "+faststart",
            "video_track_timescale": str(_timescale(self._fps)),
        }
        self._output = av.open(str(path), "w", options=options)
        self._stream = self._output.add_stream_from_template(template)
        self._stream.time_base = Fraction(1, _timescale(self._fps))
        self._setup, self._frames, self._bytes = setup, 0, 0


def video_info(shape: tuple[int, ...], fps: int, codec: str) -> dict[str, object]:
    """What ``info.json`` says of a video feature."""
    height, width, channels = shape
    return {
        "video.height": height,
        "video.width": width,
        "video.codec": codec,
        "video.pix_fmt": "yuv420p",
        "video.is_depth_map": False,
        "video.fps": fps,
        "video.channels": channels,
        "has_audio": False,
    }


def _timescale(fps: int) -> int:
    """Ticks a second: a multiple of the rate, fine enough for players."""
    return fps * max(1, -(-10_000 // fps))
