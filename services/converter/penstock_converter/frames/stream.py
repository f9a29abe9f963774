"""Second pass: messages of the frames, in the order of frames, in bounded memory.

Frames are taken in windows of ``chunk_size``. Within a window the recording is read once, from the
first message that is needed to the last; undecoded messages wait until their frame is complete. So
at most ``chunk_size`` frames are in flight, and no value of it changes what comes out.
"""

from __future__ import annotations

from collections import Counter, defaultdict
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
"""Each window begins to read anew; beyond so many frames that costs nothing that one could see."""

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
    needs = _Needs(frames, mapping)
    held: dict[_Key, bytes] = {}
    for start in range(0, frames.observations, size):
        stop = min(start + size, frames.observations)
        window = needs.window(start, stop)
        uses = Counter(key for frame in window for key in frame)
        # What the window before has read already, e.g. a command that holds for long.
        missing = set(uses) - held.keys()
        for key in held.keys() - uses.keys():
            del held[key]
        following = {key for frame in needs.window(stop, stop + size) for key in frame}
        arriving = _arrivals(bag, missing)
        for offset, keys in enumerate(window):
            while waiting := keys & missing:
                key, data = next(arriving, (None, b""))
                if key is None:
                    topic, number = min(waiting)
                    raise DataFault(
                        f"{bag.path}: message {number} of topic {topic} was there in the first "
                        "pass and is missing in the second: the file has changed meanwhile",
                        reason="BAG_CHANGED",
                    )
                held[key] = data
                missing.discard(key)
            yield needs.frame(start + offset, held)
            for key in keys:
                uses[key] -= 1
                if not uses[key] and key not in following:
                    del held[key]
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


class _Needs:
    """Which messages each frame needs."""

    def __init__(self, frames: Frames, mapping: Mapping) -> None:
        self._frames = frames
        self._topics = {source: part.topic for source, part in mapping.sources.items()}

    def window(self, start: int, stop: int) -> list[set[_Key]]:
        """Keys of each frame in ``[start, stop)``."""
        stop = min(stop, self._frames.observations)
        needed: list[set[_Key]] = [set() for _ in range(max(stop - start, 0))]
        for name, track in self._frames.tracks.items():
            topic = self._topics[name]
            for numbers in (track.first[start:stop], track.second[start:stop]):
                for keys, number in zip(needed, numbers.tolist(), strict=True):
                    if number >= 0:
                        keys.add((topic, number))
        return needed

    def frame(self, frame: int, held: dict[_Key, bytes]) -> FrameMessages:
        """One frame from the messages held."""
        messages: dict[str, tuple[tuple[int, bytes], ...]] = {}
        for name, track in self._frames.tracks.items():
            topic = self._topics[name]
            numbers = (int(track.first[frame]), int(track.second[frame]))
            messages[name] = tuple((n, held[topic, n]) for n in numbers if n >= 0)
        return FrameMessages(frame, messages)


def _arrivals(bag: Bag, wanted: set[_Key]) -> Generator[tuple[_Key, bytes], None, None]:
    """Wanted messages, and no others, in order of receipt."""
    numbers: dict[str, list[int]] = defaultdict(list)
    for topic, number in wanted:
        numbers[topic].append(number)
    for topic, number, data in bag.pick(numbers):
        yield (topic, number), data
