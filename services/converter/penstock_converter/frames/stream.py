"""Second pass: messages of the frames, in the order of frames, in bounded memory.

Frames are taken in windows of ``chunk_size``. The messages that a window needs are read in order of
receipt, and wait undecoded until their frame is complete. So at most ``chunk_size`` frames are in
flight, and no value of it changes what comes out.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Generator
from dataclasses import dataclass

from penstock.errors import DataFault
from penstock_converter.frames.choice import Frames
from penstock_converter.frames.timeline import Timeline
from penstock_converter.mapping.model import Mapping
from penstock_converter.recordings.bag import Bag

__all__ = ["FrameMessages", "frames_in_flight", "stream_frames"]

_MEMORY_SHARE = 1 / 16
"""Of the memory, what undecoded messages may take."""

_MANY_FRAMES = 256
"""Larger windows would save no time that one could see."""

_Key = tuple[str, int]


@dataclass(frozen=True)
class FrameMessages:
    """The undecoded messages of one frame.

    Attributes:
        frame: Its number, from 0.
        messages: By source: one message, two to blend, or none where the source has none.
            Each is its number in the topic and its bytes.
    """

    frame: int
    messages: dict[str, tuple[tuple[int, bytes], ...]]


def stream_frames(
    bag: Bag, timeline: Timeline, frames: Frames, mapping: Mapping, memory_bytes: int
) -> Generator[FrameMessages, None, None]:
    """Yield the frames in order; ``memory_bytes`` is what this process may use.

    Raises:
        DataFault: The recording is damaged, or changed since the first pass.
    """
    size = frames_in_flight(timeline, frames, mapping, memory_bytes)
    held: dict[_Key, bytes] = {}
    following = _Window(frames, mapping, 0, size)
    for start in range(0, frames.observations, size):
        window, following = following, _Window(frames, mapping, start + size, start + 2 * size)
        # What the window before has read already, e.g. a command that holds for long, is held.
        arriving = _arrivals(bag, window.last_use.keys() - held.keys())
        for frame, needs in enumerate(window.needs, start):
            keys = [key for found in needs.values() for key in found]
            for wanted in keys:
                while wanted not in held:
                    key, data = next(arriving, (None, b""))
                    if key is None:
                        topic, number = min(key for key in keys if key not in held)
                        raise DataFault(
                            f"{bag.path}: message {number} of topic {topic} was there in the first "
                            "pass and is missing in the second: the file has changed meanwhile",
                            reason="BAG_CHANGED",
                        )
                    held[key] = data
            messages = {
                name: tuple([(key[1], held[key]) for key in found]) for name, found in needs.items()
            }
            yield FrameMessages(frame, messages)
            for key in keys:
                if window.last_use[key] == frame and key not in following.last_use:
                    held.pop(key, None)
        arriving.close()


def frames_in_flight(
    timeline: Timeline, frames: Frames, mapping: Mapping, memory_bytes: int
) -> int:
    """How many frames a window has.

    Args:
        timeline: Says how large messages are.
        frames: All of the episode.
        mapping: Asks for a number, for all of them (``null``) or for what fits (``auto``).
        memory_bytes: That this process may use; a small part of it is taken.
    """
    asked = mapping.rosbag.chunk_size
    if asked is None:
        return max(frames.observations, 1)
    if asked != "auto":
        return asked
    frame_bytes = sum(
        timeline.topics[topic].size_bytes / len(timeline.topics[topic].receive_ns)
        for topic in mapping.topics
    )
    fitting = int(memory_bytes * _MEMORY_SHARE / max(frame_bytes, 1.0))
    return min(max(fitting, 1), _MANY_FRAMES)


class _Window:
    """Which messages the frames ``[start, stop)`` need.

    Attributes:
        needs: Keys by source, for each frame.
        last_use: Last frame that needs a message.
    """

    def __init__(self, frames: Frames, mapping: Mapping, start: int, stop: int) -> None:
        taken = slice(start, min(stop, frames.observations))
        columns: list[list[tuple[_Key, ...]]] = []
        for name, track in frames.tracks.items():
            topic, some = mapping.sources[name].topic, track.at(taken)
            pairs = zip(some.first.tolist(), some.second.tolist(), strict=True)
            columns.append([tuple([(topic, n) for n in pair if n >= 0]) for pair in pairs])
        self.needs = [
            dict(zip(frames.tracks, found, strict=True)) for found in zip(*columns, strict=True)
        ]
        self.last_use = {
            key: frame
            for frame, needs in enumerate(self.needs, start)
            for found in needs.values()
            for key in found
        }


def _arrivals(bag: Bag, wanted: set[_Key]) -> Generator[tuple[_Key, bytes], None, None]:
    """Wanted messages, and no others, in order of receipt."""
    numbers: dict[str, list[int]] = defaultdict(list)
    for topic, number in wanted:
        numbers[topic].append(number)
    for topic, number, data in bag.pick(numbers):
        yield (topic, number), data
