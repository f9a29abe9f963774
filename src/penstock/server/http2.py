"""A server of gRPC over HTTP/2 for one client, whose answers are sent as they lie in files.

See ``penstock.client.http2`` for why there is one besides grpcio's. It takes one call at a time: a
client that has more waits, or makes more connections.
"""

from __future__ import annotations

import contextlib
import fcntl
import select
import socket
import sys
import termios
import threading
import time
from collections.abc import Callable, Generator, Sequence
from typing import Protocol

from h2 import events
from h2.errors import ErrorCodes
from h2.exceptions import H2Error
from h2.settings import SettingCodes, Settings

from penstock.client.http2 import (
    CONTENT_TYPE,
    FIRST_WINDOW,
    FRAME_HEAD_BYTES,
    GOAWAY,
    MESSAGE_HEAD,
    data_head,
    h2_connection,
    texts,
)
from penstock.errors import PenstockError
from penstock.server.calls import Call, trailers

__all__ = ["Abandoned", "GrpcConnection", "NextFrame", "NotHttp2", "Sendable"]

SHORT_S = 10.0
"""For a greeting, for the rest of a call that has begun, and for a few bytes to be taken."""
_PREFACE_BYTES = 24
_PIECE_BYTES = 1 << 16
_WINDOW = 1 << 20
_SETTINGS = {SettingCodes.MAX_CONCURRENT_STREAMS: 1, SettingCodes.INITIAL_WINDOW_SIZE: _WINDOW}
_LOOK_S = 0.05
_EARLY_STREAMS = 100
"""Calls that a client may make before it has read that one at a time is taken; they are refused."""

NextFrame = Callable[[int], tuple[bytes, int]]
"""Given how many bytes are left of a message: what goes before the next, and how many follow."""


class Abandoned(Exception):
    """The client wants no more of this answer; the connection goes on."""


class NotHttp2(ConnectionAbortedError):
    """What the client sends is not HTTP/2 as it should be."""


class Sendable(Protocol):
    """A serialised message."""

    def __len__(self) -> int:
        """Its size in bytes."""
        ...

    def send(self, to: socket.socket, before: bytes, frame: NextFrame) -> None:
        """Send ``before`` and the message, in frames; raises OSError when that fails in between."""
        ...


class GrpcConnection:
    """A client; one thread serves it, any may :meth:`cancel` it.

    Args:
        client: What was accepted; closed by :meth:`close`.
        peer: Where it is, for the log.
        headers: Go before every answer.
        ending: Can be read once no more calls are taken.
    """

    def __init__(
        self,
        client: socket.socket,
        peer: str,
        headers: Sequence[tuple[str, str]],
        ending: socket.socket,
    ) -> None:
        self._socket, self._peer = client, peer
        self._news = select.poll()
        self._news.register(client, select.POLLIN)
        self._news.register(ending, select.POLLIN)
        self._ending_descriptor = ending.fileno()
        self._headers = [(":status", "200"), ("content-type", CONTENT_TYPE), *headers]
        # A descriptor that was closed may be another connection's by now: none is shut down then.
        self._closing = threading.Lock()
        self._active = True
        self._h2 = h2_connection(client=False, settings=_SETTINGS)
        self._preface_left, self._incoming = _PREFACE_BYTES, bytearray()
        self._greeted = self._gone = self._leaving = False
        self._asked: Call | None = None
        self._asked_since_s = 0.0
        self._ready: Call | None = None
        self._answered: Call | None = None
        self._answer_begun = False

    def peer(self) -> str:
        """Where it is, for the log."""
        return self._peer

    def is_active(self) -> bool:
        """Whether it still wants the answer under way, as far as is known."""
        return self._active and self._answered is not None

    def cancel(self) -> None:
        """End what it is doing, and the connection, from any thread."""
        with self._closing, contextlib.suppress(OSError):
            if self._active:
                self._active = False
                self._socket.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """Close it; only the thread that serves it may."""
        with self._closing:
            self._active = False
            self._socket.close()
        self._h2.let_go()

    def greet(self) -> bool:
        """Exchange settings; whether the client speaks HTTP/2.

        Raises:
            OSError: The connection broke, or it took longer than ``SHORT_S``.
        """
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        self._h2.initiate_connection()
        self._h2.local_settings = Settings(
            client=False, initial_values={SettingCodes.MAX_CONCURRENT_STREAMS: _EARLY_STREAMS}
        )
        self._h2.increment_flow_control_window(_WINDOW - FIRST_WINDOW)
        self._flush()
        until = time.monotonic() + SHORT_S
        while not self._greeted and not self._gone:
            self._receive(until)
        return self._greeted

    def next_call(self, idle_s: float) -> Call | None:
        """What the client asks for; None when there will be nothing more.

        That is so when it has gone, has asked for nothing in ``idle_s`` seconds, or no more calls
        are taken.

        Raises:
            OSError: The connection broke, or a call that had begun did not come to its end.
        """
        self._flush()  # what a call that was called off has left
        idle_until = time.monotonic() + idle_s
        while self._ready is None and not self._gone:
            if self._asked is not None:
                self._receive(self._asked_since_s + SHORT_S)
            elif self._leaving or not self._has_news(idle_until):
                return None
            else:
                self._receive(time.monotonic() + SHORT_S)
        self._answered, self._ready = self._ready, None
        self._answer_begun = False
        return self._answered

    def send(self, message: Sendable) -> None:
        """Send a message; a client that does not read is cut off by whoever watches streams.

        Raises:
            Abandoned: The client called the answer off.
            OSError: It was not sent, or a part of it only: nothing else may follow.
        """
        call = self._wanted()
        if not self._answer_begun:
            self._answer_begun = True
            with _own_faults():
                self._h2.send_headers(call.stream_id, self._headers)
        message.send(self._socket, MESSAGE_HEAD.pack(0, len(message)), self._frame)

    def finish(self, error: PenstockError | None = None) -> bool:
        """End the answer: it is complete, or went wrong; whether the client still wanted it.

        Raises:
            OSError: The connection broke.
        """
        self._look()
        call, self._answered = self._answered, None
        if call is None:
            return False
        headers = [] if self._answer_begun else self._headers
        with _own_faults():
            self._h2.send_headers(call.stream_id, [*headers, *trailers(error)], end_stream=True)
        self._flush()
        return True

    def part(self) -> None:
        """Tell the client that nothing more is answered, and let it take what is on its way.

        One that takes nothing for ``SHORT_S`` is not waited for.

        Raises:
            OSError: The connection broke.
        """
        if self._gone:
            return
        with _own_faults():
            self._h2.close_connection()
        self._flush()
        self._socket.shutdown(socket.SHUT_WR)
        # Closed with something unread, the system would drop what it has not sent yet.
        self._socket.settimeout(_LOOK_S)
        left, until = _unsent_bytes(self._socket), time.monotonic() + SHORT_S
        while left and self._active and time.monotonic() < until:
            with contextlib.suppress(TimeoutError):
                if not self._socket.recv(_PIECE_BYTES):
                    time.sleep(_LOOK_S)
            before, left = left, _unsent_bytes(self._socket)
            if left < before:
                until = time.monotonic() + SHORT_S

    def _frame(self, left: int) -> tuple[bytes, int]:
        """What goes before the next bytes of data, and how many the client takes in one frame.

        Raises:
            Abandoned: It called the answer off.
            OSError: The connection broke.
        """
        while True:
            self._look()
            stream_id = self._wanted().stream_id
            room = self._h2.local_flow_control_window(stream_id)
            size = min(left, room, self._h2.max_outbound_frame_size)
            if size > 0:
                break
            # Of what was to go with the frames that cannot follow now, nothing may wait here.
            self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._flush()
            self._receive(None)
        # What h2 counts when it sends the data itself.
        self._h2.outbound_flow_control_window -= size
        self._h2.streams[stream_id].outbound_flow_control_window -= size
        return self._h2.data_to_send() + data_head(size, stream_id), size

    def _wanted(self) -> Call:
        if self._answered is None:
            raise Abandoned
        return self._answered

    def _look(self) -> None:
        """Take some of what the client has sent meanwhile; the socket blocks afterwards."""
        if self._socket.gettimeout() is not None:
            self._socket.settimeout(None)
        with contextlib.suppress(BlockingIOError):
            if not self._gone:
                self._take(self._socket.recv(_PIECE_BYTES, socket.MSG_DONTWAIT))

    def _has_news(self, until: float) -> bool:
        """Wait for something from the client; whether it came while calls are taken."""
        left_ms = max(0, int((until - time.monotonic()) * 1e3))
        ready = [descriptor for descriptor, _ in self._news.poll(left_ms)]
        return bool(ready) and self._ending_descriptor not in ready

    def _receive(self, until: float | None) -> None:
        """Wait for something from the client, and take it.

        Raises:
            OSError: The connection broke; TimeoutError when nothing came.
        """
        left_s = None if until is None else until - time.monotonic()
        if left_s is not None and left_s <= 0:
            raise TimeoutError("timed out")
        self._socket.settimeout(left_s)
        self._take(self._socket.recv(_PIECE_BYTES))
        self._flush()

    def _take(self, data: bytes) -> None:
        if not data:
            self._gone, self._answered = True, None
            return
        preface = data[: self._preface_left]
        self._preface_left -= len(preface)
        self._give(preface)
        self._incoming += data[len(preface) :]
        while len(self._incoming) >= FRAME_HEAD_BYTES:
            size, kind = int.from_bytes(self._incoming[:3], "big"), self._incoming[3]
            if size > self._h2.max_inbound_frame_size:
                # h2 would gather all of it first.
                raise NotHttp2(f"a frame of {size} bytes")
            if len(self._incoming) < FRAME_HEAD_BYTES + size:
                break
            if kind == GOAWAY:
                # For h2 everything would be over, also the call that the client still waits for.
                self._leaving = True
            else:
                self._give(self._incoming[: FRAME_HEAD_BYTES + size])
            del self._incoming[: FRAME_HEAD_BYTES + size]

    def _give(self, data: bytes | bytearray) -> None:
        try:
            for event in self._h2.receive_data(data):
                self._note(event)
        except H2Error as error:
            with contextlib.suppress(OSError):
                self._flush()  # it says what was wrong
            raise NotHttp2(str(error)) from error

    def _note(self, event: events.Event) -> None:
        if isinstance(event, events.RemoteSettingsChanged):
            self._greeted = True
        elif isinstance(event, events.RequestReceived):
            if self._asked or self._ready or self._answered:
                self._h2.reset_stream(event.stream_id, ErrorCodes.REFUSED_STREAM)
                return
            self._asked = Call(event.stream_id, texts(event.headers))
            self._asked_since_s = time.monotonic()
        elif isinstance(event, events.DataReceived):
            self._h2.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
            if self._asked is not None and self._asked.stream_id == event.stream_id:
                self._asked.take(event.data or b"")
        elif isinstance(event, events.StreamEnded):
            call = self._asked
            if call is not None and call.stream_id == event.stream_id:
                call.complete()
                self._ready, self._asked = call, None
        elif isinstance(event, events.StreamReset):
            self._forget(event.stream_id)

    def _forget(self, stream_id: int) -> None:
        for name in ("_asked", "_ready", "_answered"):
            call: Call | None = getattr(self, name)
            if call is not None and call.stream_id == stream_id:
                setattr(self, name, None)

    def _flush(self) -> None:
        if data := self._h2.data_to_send():
            self._socket.settimeout(SHORT_S)
            self._socket.sendall(data)


@contextlib.contextmanager
def _own_faults() -> Generator[None]:
    """What h2 does not send any more, as a connection that broke."""
    try:
        yield
    except H2Error as error:
        raise NotHttp2(f"nothing can be sent: {error}") from error


def _unsent_bytes(connection: socket.socket) -> int:
    """What the system has still to send, or has sent without hearing that it came."""
    held = bytearray(4)
    fcntl.ioctl(connection, termios.TIOCOUTQ, held)
    return int.from_bytes(held, sys.byteorder)
