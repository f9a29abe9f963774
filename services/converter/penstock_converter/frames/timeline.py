"""First pass: when each message was received or stamped.

Times of receipt come from the recording's index alone. Where header time is asked for, the first
bytes of that topic's messages are read.
"""

from __future__ import annotations

from collections.abc import Mapping as MappingOf
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from penstock.errors import DataFault
from penstock_converter.mapping.model import Clock, Mapping
from penstock_converter.recordings.bag import Bag
from penstock_converter.recordings.order import SetBack

__all__ = ["Timeline", "TopicTimes", "read_timeline"]


@dataclass(frozen=True)
class TopicTimes:
    """Times of the messages of one topic, in the order in which the bag yields them.

    Attributes:
        receive_ns: (M,) int64, when the recorder got each message.
        header_ns: (M,) int64, capture times; empty unless a feature asks for them.
        size_bytes: Of all messages together, about.
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
        set_back: That the recorder's clock was set back; None if it was not, or nobody knows.
    """

    topics: MappingOf[str, TopicTimes]
    kinds: MappingOf[str, str]
    set_back: SetBack | None = None

    def without_stamps(self) -> Timeline:
        """The same once frames are chosen: only the times of the index, which are there anyway."""
        none = np.zeros(0, np.int64)
        topics = {name: replace(times, header_ns=none) for name, times in self.topics.items()}
        return replace(self, topics=topics)


def read_timeline(bag: Bag, mapping: Mapping) -> Timeline:
    """Read the times of all messages that the mapping's features may need.

    Memory: 8 bytes a message and clock, beside what ``Bag`` keeps.

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
    topics: dict[str, TopicTimes] = {}
    for topic, (receive_ns, header_ns, size_bytes) in bag.scan(kinds, stamped).items():
        if not len(receive_ns):
            raise DataFault(f"{bag.path}: topic {topic} holds no messages", reason="EMPTY_TOPIC")
        topics[topic] = TopicTimes(receive_ns, header_ns, size_bytes)
    # All topics have the one clock of the recorder: the densest one tells most.
    densest = max(topics, key=lambda topic: len(topics[topic].receive_ns))
    return Timeline(topics, kinds, bag.set_back(densest))
