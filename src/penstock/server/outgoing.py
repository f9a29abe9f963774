"""A message with frames on its way: joined for gRPC, or sent as they lie in the cache."""

from __future__ import annotations

import socket
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from google.protobuf.message import Message

from penstock.errors import Corrupt
from penstock.observations import Observations
from penstock.server.http2 import NextFrame
from penstock.server.joined import head_of, joined

__all__ = ["Outgoing"]


@dataclass(frozen=True)
class Outgoing:
    """A serialised message around encoded frames that nobody has read yet.

    Attributes:
        layers: The messages around the frames; see ``penstock.server.joined``.
        read: Where the frames are.
        ranges: First byte and byte after the last one of each piece of them.
        frames_bytes: Of all pieces together.
    """

    layers: Sequence[tuple[Message, int]]
    read: Observations
    ranges: list[tuple[int, int]]
    frames_bytes: int

    def __len__(self) -> int:
        """Size of the message in bytes."""
        return len(self._head) + self.frames_bytes

    def joined(self) -> bytes:
        """The whole message.

        Raises:
            Corrupt: The frames are damaged.
        """
        return joined(self.layers, self.frames_bytes, self._fill)

    def send(self, to: socket.socket, before: bytes, frame: NextFrame) -> None:
        """Send the message with frames that nobody checks here: it must hold their hashes.

        Args:
            to: A socket that blocks.
            before: What goes before the message, in the same frames.
            frame: Begins a frame of the connection.

        Raises:
            OSError: The socket fails, or a cached file ends too soon: part of it was sent.
            Abandoned: As ``frame``.
        """
        head = before + self._head
        left = len(head) + self.frames_bytes
        start, room = frame(left)
        while len(head) > room:
            to.sendall(start + head[:room], socket.MSG_MORE)
            head, left = head[room:], left - room
            start, room = frame(left)
        to.sendall(start + head, socket.MSG_MORE)
        left, room = left - len(head), room - len(head)
        for begin, end in self.ranges:
            at = begin
            while at < end:
                if not room:
                    start, room = frame(left)
                    to.sendall(start, socket.MSG_MORE)
                stop = min(end, at + room)
                self._send_frames(at, stop, to)
                left, room, at = left - (stop - at), room - (stop - at), stop

    @cached_property
    def _head(self) -> bytes:
        return head_of(self.layers, self.frames_bytes)

    def _send_frames(self, begin: int, end: int, to: socket.socket) -> None:
        try:
            self.read.send(begin, end, to.fileno())
        except Corrupt as error:
            raise ConnectionAbortedError(error.message) from error

    def _fill(self, into: memoryview) -> None:
        at = 0
        for begin, end in self.ranges:
            self.read.read_into(begin, into[at : at + end - begin])
            at += end - begin
