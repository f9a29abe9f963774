"""First pass: when each message was received or stamped. No payload is decoded or kept."""

from __future__ import annotations

from array import array
from collections.abc import Mapping as MappingOf
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from penstock.errors import DataFault
from penstock_converter.mapping.model import Clock, Mapping
from penstock_converter.recordings.bag import Bag

__all__ = ["Timeline", "TopicTimes", "read_timeline"]


@dataclass(frozen=True)
class TopicTimes:
    """Times of the messages of one topic, in the order in which the bag yields them.

    Attributes:
        receive_ns: (M,) int64, when the recorder got each message.
        header_ns: (M,) int64, capture times; empty unless a feature asks for them.
        size_bytes: Of all messages together.
    """

    receive_ns: NDArray[np.int64]
    header_ns: NDArray[np.int64]
    size_bytes: int

    def by(self, clock: Clock) -> NDArray[np.int64]:
        """Times by one of the clocks, (M,) int64."""
        return self.receive_ns if clock == "receive" else self.header_ns


@dataclass(frozen=True)
class Timeline:
    """Times of all topics of a mapping.

    Attributes:
        topics: Times by topic.
        kinds: Message type by topic.
        sorted_by_receipt: Whether each topic's messages come in order of receipt, so that a part
            of the recording can be read by time.
    """

    topics: MappingOf[str, TopicTimes]
    kinds: MappingOf[str, str]
    sorted_by_receipt: bool


def read_timeline(bag: Bag, mapping: Mapping) -> Timeline:
    """Read the times of all messages that the mapping's features may need.

    Memory: 8 bytes a message and clock.

    Raises:
        DataFault: A topic is missing or holds no messages, or header time is asked for of a type
            without a header.
    """
    kinds: dict[str, str] = {}
    stamped: set[str] = set()
    for source, part in mapping.sources.items():
        kinds[part.topic] = bag.use(part.topic)
        if mapping.clock(source) == "header":
            if not bag.has_header(part.topic):
                raise DataFault(
                    f"{bag.path}: feature {source} asks for header time, but {kinds[part.topic]} "
                    f"of topic {part.topic} has no header: set time: receive for it",
                    reason="NO_HEADER",
                )
            stamped.add(part.topic)
    receive = {topic: array("q") for topic in kinds}
    header = {topic: array("q") for topic in kinds}
    sizes = dict.fromkeys(kinds, 0)
    for topic, receive_ns, data in bag.messages(kinds):
        receive[topic].append(receive_ns)
        sizes[topic] += len(data)
        if topic in stamped:
            header[topic].append(bag.header_ns(topic, data))
    for topic, times in receive.items():
        if not times:
            raise DataFault(f"{bag.path}: topic {topic} holds no messages", reason="EMPTY_TOPIC")
    topics = {
        topic: TopicTimes(
            np.array(receive[topic], np.int64), np.array(header[topic], np.int64), sizes[topic]
        )
        for topic in kinds
    }
    ordered = all(bool((np.diff(times.receive_ns) >= 0).all()) for times in topics.values())
    return Timeline(topics, kinds, ordered)
