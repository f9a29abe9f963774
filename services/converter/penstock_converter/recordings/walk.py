"""Goes through a recording record by record, where its index is missing or not to be trusted."""

from __future__ import annotations

from abc import ABC, abstractmethod
from bisect import bisect_right
from collections.abc import Callable, Iterable, Sequence

from penstock_converter.recordings.losses import Losses
from penstock_converter.recordings.storage import Channel, EntryList, Place
from penstock_converter.recordings.views import FileView, Incomplete, View

__all__ = ["Walk"]


class Walk(ABC):
    """What is found on the way, and what is lost; payloads are not kept.

    Args:
        view: The whole file.
        open_chunk: Content of the chunk whose record begins somewhere.
        channels: Known beforehand, from an index.
        landmarks: Where chunks and the index begin, as far as that is known: the walk goes on
            at the next one after a stretch that it cannot read.

    Attributes:
        channels: By number.
        entries: By number of the channel.
        losses: What cannot be read.
    """

    def __init__(
        self,
        view: FileView,
        open_chunk: Callable[[int], View],
        channels: Iterable[Channel] = (),
        landmarks: Sequence[int] = (),
    ) -> None:
        self.view, self._open_chunk = view, open_chunk
        self._landmarks = sorted(landmarks)
        self.channels = {channel.number: channel for channel in channels}
        self.entries = {number: EntryList() for number in self.channels}
        self.losses = Losses(view.size_bytes)

    @property
    def messages(self) -> int:
        """How many messages there are."""
        return sum(len(found) for found in self.entries.values())

    def warnings(self, name: str, expected: int | None) -> tuple[str, ...]:
        """What is lost of the file ``name``, for people.

        Args:
            name: Of the file.
            expected: Messages that the recorder counted; none if its index cannot be read.
        """
        if expected is not None and not self.losses:
            return ()
        return (self.losses.told(name, self.messages, expected),)

    def run(self, expected: int | None = None) -> None:
        """Go through the file.

        Args:
            expected: Messages that the recorder counted.

        Raises:
            Incomplete: Not even its beginning is one of the format.
        """
        at = self.first_record()
        size = self.view.size_bytes
        while at < size and not self.losses.ended:
            try:
                at = self.step(at)
            except Incomplete:
                at = self._resume(at)
        if expected is not None and not self.losses:
            self.losses.astray = max(expected - self.messages, 0)

    @abstractmethod
    def first_record(self) -> int:
        """Where the records begin, after what tells the format."""

    @abstractmethod
    def step(self, at: int) -> int:
        """Take the record of the file at ``at``; returns where the next one begins."""

    @abstractmethod
    def record(self, view: View, block: int, offset: int) -> int:
        """Take a record of a block that is no chunk; returns where the next one begins."""

    def chunk(self, at: int, end: int) -> None:
        """Take the chunk whose record is ``[at, end)``, with an end beyond the file if it is cut.

        An error inside it costs the rest of the chunk.
        """
        losses, size = self.losses, self.view.size_bytes
        offset, share = 0, 1.0
        try:
            view = self._open_chunk(at)
            share = 1.0 if view.size_bytes else 0.0
            while offset < view.size_bytes:
                offset = self.record(view, at, offset)
                share = 1 - offset / view.size_bytes
        except Incomplete:
            lost = max(round((min(end, size) - at) * share), 1)
            if end > size:
                losses.tail_bytes += lost
            else:
                losses.chunks += 1
                losses.chunk_bytes += lost

    def found(self, channel: int, place: Place, size_bytes: int) -> None:
        """Note one message."""
        known = self.entries.get(channel)
        if known is None:
            self.losses.orphans += 1
        else:
            known.add(place, size_bytes)

    def know(self, channel: Channel) -> None:
        """Note a channel."""
        if channel.number not in self.channels:
            self.channels[channel.number] = channel
            self.entries[channel.number] = EntryList()

    def _resume(self, at: int) -> int:
        size = self.view.size_bytes
        after = bisect_right(self._landmarks, at)
        if after == len(self._landmarks) or self._landmarks[after] >= size:
            self.losses.tail_bytes += size - at
            return size
        following = self._landmarks[after]
        self.losses.stretches += 1
        self.losses.stretch_bytes += following - at
        return following
