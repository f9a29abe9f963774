"""Clocks of a recording: whether one jumps, and whether those that are compared agree."""

from __future__ import annotations

import numpy as np

from penstock.errors import DataFault
from penstock_converter.frames.timeline import Timeline
from penstock_converter.mapping.model import Clock, Mapping

__all__ = ["check_clocks", "clocks_apart"]

_JITTER_FRAMES = 0.5
"""Messages that overtake each other by less than this share of a frame are put in order by time.

Drivers with several threads and networks do that. Beyond half a frame a message would stand for
another frame than the one it was recorded for, so two moments would be mixed.
"""

_APART_S = 0.5
"""How far clocks that are compared may be apart unmentioned; on their way to the recorder messages
take less. Header stamps that gain more than this on the time of receipt, from one message to the
next, were stamped by a clock that was set."""

_NAMES: dict[Clock, str] = {"receive": "time of receipt", "header": "header stamp"}


def check_clocks(timeline: Timeline, mapping: Mapping, bag: str) -> tuple[str, ...]:
    """Refuse clocks that jump: sorting by time would mix frames of two moments.

    Args:
        timeline: Times of all messages.
        mapping: Which clock times which topic.
        bag: Name of the recording, for messages.

    Returns:
        Warnings: messages that were out of order by little, by topic.

    Raises:
        DataFault: A clock jumps, or headers are not stamped.
    """
    warnings: list[str] = []
    if timeline.set_back is not None:
        topic, messages, seconds = timeline.set_back
        told = (
            f"the recorder's clock was set back by {seconds:.3f} s after {messages} messages of "
            f"topic {topic}"
        )
        if "receive" in {mapping.clock(source) for source in mapping.sources}:
            raise DataFault(
                f"{bag}: {told}, so messages of two moments have the same times; set time: header "
                "for all features, if stamps come from another clock, or cut the recording there",
                reason="CLOCK_JUMP",
                metadata={"topic": topic, "message": str(messages)},
            )
        # Messages come mixed, so their order says nothing about the clocks of headers.
        return (f"{told}; header stamps are taken as they are",)
    stamped = [
        part.topic for name, part in mapping.sources.items() if mapping.clock(name) != "receive"
    ]
    for topic in dict.fromkeys(stamped):
        times = timeline.topics[topic]
        if len(times.header_ns) > 1 and not times.header_ns.any():
            raise DataFault(
                f"{bag}: headers of topic {topic} have no stamps, all {len(times.header_ns)} are "
                "0: set time: receive for it",
                reason="NO_HEADER",
                metadata={"topic": topic},
            )
        # Storage files that overlap in time follow each other in the recording.
        order = np.argsort(times.receive_ns, kind="stable")
        received, stamps = times.receive_ns[order], times.header_ns[order]
        behind_s = (np.maximum.accumulate(stamps) - stamps) * 1e-9
        if (behind_s > _JITTER_FRAMES / mapping.fps).any():
            at = int(np.argmax(behind_s > _JITTER_FRAMES / mapping.fps))
            raise _jump(bag, topic, int(order[at]), f"back by {behind_s[at]:.3f} s")
        ahead = stamps - received
        gains_s = np.diff(ahead, prepend=ahead[:1]) * 1e-9
        if (gains_s > _APART_S).any():
            at = int(np.argmax(gains_s > _APART_S))
            told = f"ahead by {gains_s[at]:.3f} s more than the time of receipt"
            raise _jump(bag, topic, int(order[at]), told)
        late = int(np.count_nonzero(behind_s))
        if late:
            warnings.append(
                f"{late} messages of topic {topic} come later than others with newer header "
                f"stamps, by {behind_s.max():.3f} s at most, and are put in order"
            )
    return tuple(warnings)


def clocks_apart(timeline: Timeline, mapping: Mapping, main: str) -> tuple[str, ...]:
    """A word for each source whose clock is far from that of the main feature.

    Header stamps are compared with the time of receipt, which all messages have.
    """

    def ahead_s(source: str) -> float:
        if mapping.clock(source) == "receive":
            return 0.0
        times = timeline.topics[mapping.sources[source].topic]
        return float(np.median(times.by(mapping.clock(source)) - times.receive_ns)) * 1e-9

    expected_s = ahead_s(main)
    told: list[str] = []
    for source, part in mapping.sources.items():
        apart_s = ahead_s(source) - expected_s
        # An offset may be there to make up for it.
        if min(abs(apart_s), abs(apart_s - part.offset_s)) > _APART_S:
            told.append(
                f"{source} goes by the {_NAMES[mapping.clock(source)]} of topic {part.topic}, "
                f"{main} by its {_NAMES[mapping.clock(main)]}: these clocks are "
                f"{abs(apart_s):.3f} s apart, give both features the same one (time: receive)"
            )
    return tuple(told)


def _jump(bag: str, topic: str, number: int, how: str) -> DataFault:
    return DataFault(
        f"{bag}: the header stamps of topic {topic} jump at message {number}, {how}: a clock was "
        "set, and messages before and after it do not fit together; set time: receive for it, or "
        "cut the recording there",
        reason="CLOCK_JUMP",
        metadata={"topic": topic, "message": str(number)},
    )
