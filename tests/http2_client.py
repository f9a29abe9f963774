"""A client of gRPC over HTTP/2 with nothing of Penstock in it: what a server sends, as it is."""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, Self

from h2 import events
from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.settings import SettingCodes, Settings

FETCH = "/penstock.v1.SamplerService/Fetch"


@dataclass
class Answer:
    """What came for a call so far.

    Attributes:
        headers: The first ones.
        data: Of all frames.
        frames: Size of each.
        trailers: The last headers, which are the first ones where nothing came between.
        reset: The code of a reset stream.
    """

    headers: dict[str, str] = field(default_factory=dict)
    data: bytearray = field(default_factory=bytearray)
    frames: list[int] = field(default_factory=list)
    trailers: dict[str, str] = field(default_factory=dict)
    ended: bool = False
    reset: int | None = None

    @property
    def status(self) -> int:
        """The number that gRPC gives it."""
        return int(self.trailers["grpc-status"])

    @property
    def messages(self) -> list[bytes]:
        """Those that are complete."""
        found: list[bytes] = []
        at = 0
        while at + 5 <= len(self.data):
            compressed, size = struct.unpack_from(">BI", self.data, at)
            assert not compressed
            if at + 5 + size > len(self.data):
                break
            found.append(bytes(self.data[at + 5 : at + 5 + size]))
            at += 5 + size
        return found


class Http2Client:
    """A connection; use it as a context manager.

    Args:
        address: Where to connect to.
        settings: Of this end.
        acknowledge: Whether windows are opened again as data comes.
    """

    def __init__(
        self,
        address: tuple[str, int],
        settings: dict[SettingCodes, int] | None = None,
        *,
        acknowledge: bool = True,
    ) -> None:
        self.socket = socket.create_connection(address, timeout=10)
        self.h2 = H2Connection(H2Configuration(client_side=True, header_encoding="utf-8"))
        self.h2.local_settings = Settings(client=True, initial_values=settings or {})
        self.answers: dict[int, Answer] = {}
        self.greeted = self.closed = False
        self.goodbye: events.ConnectionTerminated | None = None
        self.pongs = 0
        self._acknowledge = acknowledge
        self.h2.initiate_connection()
        self.flush()

    def __enter__(self) -> Self:
        while not self.greeted:
            self.take()
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()

    def flush(self) -> None:
        """Send what h2 has to say."""
        self.socket.sendall(self.h2.data_to_send())

    def ask(
        self,
        request: bytes,
        path: str = FETCH,
        headers: Iterable[tuple[str, str]] = (),
        *,
        whole: bool = True,
        head: bytes | None = None,
    ) -> int:
        """Make a call; returns its stream.

        Args:
            request: Its message.
            path: Of the method.
            headers: Besides the usual ones.
            whole: Whether it is ended.
            head: What goes before the message instead of its size.
        """
        stream = self.h2.get_next_available_stream_id()
        usual = {
            ":method": "POST",
            ":scheme": "http",
            ":path": path,
            ":authority": "test",
            "te": "trailers",
            "content-type": "application/grpc",
        }
        self.h2.send_headers(stream, [*usual.items(), *headers])
        self.answers[stream] = Answer()
        left = (struct.pack(">BI", 0, len(request)) if head is None else head) + request
        while left and not self.answers[stream].ended:
            room = min(self.h2.local_flow_control_window(stream), self.h2.max_outbound_frame_size)
            if not room:
                self.take()
                continue
            self.h2.send_data(stream, left[:room])
            left = left[room:]
            self.flush()
        if whole and not self.answers[stream].ended:
            self.h2.end_stream(stream)
        self.flush()
        return stream

    def answer(self, stream: int) -> Answer:
        """The whole answer of a call."""
        while not self.answers[stream].ended:
            self.take()
        return self.answers[stream]

    def until_closed(self) -> None:
        """Take what comes before the server closes."""
        while not self.closed:
            try:
                self.take()
            except (ConnectionError, AssertionError):
                self.closed = True

    def take(self) -> None:
        """Take what comes next."""
        data = self.socket.recv(1 << 16)
        self.closed = not data
        assert data, "closed"
        for event in self.h2.receive_data(data):
            self._note(event)
        if not self.goodbye:
            self.flush()

    def _note(self, event: Any) -> None:
        answer = self.answers.get(getattr(event, "stream_id", 0), Answer())
        match event:
            case events.RemoteSettingsChanged():
                self.greeted = True
            case events.PingAckReceived():
                self.pongs += 1
            case events.ResponseReceived():
                answer.headers = answer.trailers = dict(event.headers)
            case events.TrailersReceived():
                answer.trailers = dict(event.headers)
            case events.DataReceived():
                answer.data += event.data
                answer.frames.append(len(event.data))
                if self._acknowledge:
                    self.h2.acknowledge_received_data(len(event.data), event.stream_id)
            case events.StreamEnded():
                answer.ended = True
            case events.StreamReset():
                answer.ended, answer.reset = True, int(event.error_code)
            case events.ConnectionTerminated():
                self.goodbye = event
            case _:
                pass
