"""What a recording holds: topics, types, rates, gaps, and what their messages could become."""

from __future__ import annotations

from dataclasses import dataclass, fields, is_dataclass
from pathlib import Path
from typing import Any

import numpy as np

from penstock.errors import DataFault
from penstock_converter.frames.choice import is_image
from penstock_converter.messages.depth import decode_depth, is_depth
from penstock_converter.messages.images import decode_image, image_source
from penstock_converter.recordings.bag import Bag, Received, open_bag
from penstock_converter.recordings.discovery import bag_files

__all__ = ["Inspection", "NumberField", "Topic", "inspect_bag"]

_GAP_PERIODS = 3.0
"""Messages that are farther apart than this many of their usual periods leave a gap."""

_MAX_FIELDS = 24
_MAX_DEPTH = 3
_NOT_DATA = frozenset({"header", "stamp", "layout"})


@dataclass(frozen=True)
class NumberField:
    """A part of a message that can be a feature.

    Attributes:
        path: As ``field`` of a mapping takes it.
        width: Numbers in it.
    """

    path: str
    width: int


@dataclass(frozen=True)
class Topic:
    """One topic.

    Attributes:
        name: Of the topic.
        kind: Type of its messages; empty where it has several.
        messages: How many there are.
        size_bytes: Of all of them, about.
        rate_hz: By the median period; 0 where that says nothing.
        first_s: Of the first message, since the recording began.
        last_s: Of the last one.
        gaps: How often messages are farther apart than usual.
        longest_gap_s: Between two messages.
        image: Of the first message, such as ``640x480 jpg``; empty if it is none.
        depth: Whether it holds distances.
        numbers: Of the first message.
        problem: Why it cannot be used; empty if it can.
    """

    name: str
    kind: str
    messages: int
    size_bytes: int = 0
    rate_hz: float = 0.0
    first_s: float = 0.0
    last_s: float = 0.0
    gaps: int = 0
    longest_gap_s: float = 0.0
    image: str = ""
    depth: bool = False
    numbers: tuple[NumberField, ...] = ()
    problem: str = ""


@dataclass(frozen=True)
class Inspection:
    """A whole recording.

    Attributes:
        bag: Its name.
        size_bytes: Of its files.
        duration_s: From the first message to the last.
        topics: By name.
    """

    bag: str
    size_bytes: int
    duration_s: float
    topics: tuple[Topic, ...]

    @property
    def usable_topics(self) -> list[str]:
        """Names of the topics that can become features."""
        return [topic.name for topic in self.topics if not topic.problem]


def inspect_bag(path: Path) -> Inspection:
    """Look at a recording; its index is read, and one message a topic.

    Raises:
        NotFound: Nothing is there.
        DataFault: It is no recording, or damaged.
    """
    with open_bag(path) as bag:
        known: list[str] = []
        problems: dict[str, str] = {}
        for name in bag.topics:
            try:
                bag.use(name)
                known.append(name)
            except DataFault as error:
                # Others can be used all the same.
                problems[name] = error.message.removeprefix(f"{path}: ")
        found = bag.scan(known)
        used = [each.receive_ns for each in found.values() if len(each.receive_ns)]
        begin_ns = min((int(times.min()) for times in used), default=0)
        end_ns = max((int(times.max()) for times in used), default=0)
        topics = [_topic(bag, name, each, begin_ns) for name, each in found.items()]
        topics += [Topic(name, "", 0, problem=problem) for name, problem in problems.items()]
    size = sum(file.stat().st_size for file in bag_files(path))
    ordered = tuple(sorted(topics, key=lambda topic: topic.name))
    return Inspection(path.name, size, (end_ns - begin_ns) * 1e-9, ordered)


def _topic(bag: Bag, name: str, received: Received, begin_ns: int) -> Topic:
    kind = bag.use(name)
    times_ns, _, size_bytes = received
    if not len(times_ns):
        return Topic(name, kind, 0, problem="it holds no messages")
    seconds = (np.sort(times_ns) - begin_ns) * 1e-9
    steps = np.diff(seconds)
    period_s = float(np.median(steps)) if len(steps) else 0.0
    image, depth, numbers, problem = "", False, (), ""
    try:
        (sample,) = bag.pick({name: [0]})
        message = bag.decode(name, sample.data)
        if is_image(kind):
            depth = is_depth(message)
            image = _image(message, depth=depth)
        else:
            numbers = tuple(_numbers(message))
    except DataFault as error:
        problem = error.message.removeprefix(f"{bag.path}: ")
    return Topic(
        name,
        kind,
        len(times_ns),
        size_bytes,
        1 / period_s if period_s > 0 else 0.0,
        float(seconds[0]),
        float(seconds[-1]),
        int(np.count_nonzero(steps > _GAP_PERIODS * period_s)) if period_s > 0 else 0,
        float(steps.max()) if len(steps) else 0.0,
        image,
        depth,
        numbers,
        problem,
    )


def _image(message: Any, *, depth: bool) -> str:
    if depth:
        height, width = decode_depth(message).shape
        return f"{width}x{height} depth"
    source = image_source(message)
    height, width = decode_image(message).shape[:2]
    return f"{width}x{height} {message.encoding if source is None else source.extension}"


def _numbers(message: Any, path: str = "", depth: int = 0) -> list[NumberField]:
    """Numbers and arrays of numbers in a message, as deep as people look."""
    found: list[NumberField] = []
    if not is_dataclass(message) or depth > _MAX_DEPTH:
        return found
    for field in fields(message):
        value = getattr(message, field.name)
        where = f"{path}.{field.name}" if path else field.name
        # Constants of a type are in capitals.
        if field.name in _NOT_DATA or field.name.startswith("_") or field.name.isupper():
            continue
        if isinstance(value, (bool, int, float)):
            found.append(NumberField(where, 1))
        elif isinstance(value, np.ndarray):
            if value.ndim == 1 and value.dtype.kind in "biuf" and value.size:
                found.append(NumberField(where, value.size))
        elif isinstance(value, list) and value:
            found += _numbers(value[0], f"{where}[0]", depth + 1)
        else:
            found += _numbers(value, where, depth + 1)
    return found[:_MAX_FIELDS]
