"""A connection to a direct port: a gRPC client whose messages come right where they are read."""

from __future__ import annotations

import contextlib
import mmap
import socket
import threading
import time

from h2 import events
from h2.errors import ErrorCodes
from h2.exceptions import H2Error
from h2.settings import SettingCodes

from penstock.client.channel import MAX_MESSAGE_BYTES
from penstock.client.http2 import (
    CONTENT_TYPE,
    DATA,
    END_STREAM,
    FIRST_WINDOW,
    FRAME_HEAD_BYTES,
    GOAWAY,
    MESSAGE_HEAD,
    PADDED,
    REPLICA,
    STREAM_ID_BITS,
    h2_connection,
    texts,
    window_update,
)
from penstock.errors import Corrupt

__all__ = ["FETCH", "Line", "Refused"]

FETCH = "/penstock.v1.SamplerService/Fetch"
_CONNECT_S = 2.0
_END_S = 2.0
_FIRST_BUFFER_BYTES = 5 << 20
"""More than usual messages have."""
_KEPT_BUFFER_BYTES = 16 << 20
_SILENCE_S = 600.0
"""Nobody waits so long: calls that bring nothing are given up before."""
_WOKEN_BYTES = 256 << 10
"""What is to have come before a thread that waits is woken, which the sender's processor does."""
_HEADS_BYTES = 1 << 10
"""Come with what they stand before, so that nobody waits for them for long."""
_WINDOW = 2**31 - 1
_REOPENED_BYTES = 1 << 30
_MAX_FRAME_BYTES = 2**24 - 1
_MAX_CONTROL_BYTES = 1 << 16
"""Of a frame that holds no data; each is read as a whole."""
_SETTINGS = {
    SettingCodes.ENABLE_PUSH: 0,
    SettingCodes.INITIAL_WINDOW_SIZE: _WINDOW,
    SettingCodes.MAX_FRAME_SIZE: _MAX_FRAME_BYTES,
}


class Refused(Exception):
    """The server leaves the rest of its answer to its other port; the connection is usable."""


class Line:
    """A connection: one call at a time.

    One thread uses it; another one may :meth:`shut` it meanwhile. What a server sends that is not
    gRPC over HTTP/2, or comes from another replica, raises Corrupt wherever it is read.

    Args:
        address: Numeric host, and port.

    Raises:
        OSError: This process may open no socket.
    """

    def __init__(self, address: tuple[str, int]) -> None:
        self._address = address
        host, port = address
        self._authority = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self._socket = socket.socket(family, socket.SOCK_STREAM)
        self._buffer: bytearray | mmap.mmap = bytearray()
        self._woken_bytes = 1
        # A descriptor that was closed may be another one's by now: that one must not be shut.
        self._ending = threading.Lock()
        self._open, self._shut = True, False
        self._h2 = h2_connection(client=True, settings=_SETTINGS)
        self._greeted = self._leaving = False
        self._replica = ""
        # Of the call: its stream, whether its answer has begun, its status, told and at its end.
        self._stream_id = 0
        self._answered, self._told, self._status = False, "", ""
        self._frame_left = 0
        self._taken_of_stream = self._taken = 0

    @property
    def lasts(self) -> bool:
        """Whether the server takes another call."""
        return not self._leaving

    def connect(self, replica_id: int) -> None:
        """Connect to that replica; that it is another one shows when it answers.

        Raises:
            OSError: Nobody answers there within two seconds.
            Corrupt: What answers speaks otherwise.
        """
        self._replica = str(replica_id)
        self._socket.settimeout(_CONNECT_S)
        self._socket.connect(self._address)
        if self._shut:
            raise ConnectionAbortedError("it was shut before it was there")
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        self._buffer = _pages(_FIRST_BUFFER_BYTES)
        self._h2.initiate_connection()
        self._h2.increment_flow_control_window(_WINDOW - FIRST_WINDOW)
        self._flush()
        until = time.monotonic() + _CONNECT_S
        while not self._greeted:
            self._take_frame()
            if time.monotonic() > until:
                raise TimeoutError("no greeting comes")
        self._socket.settimeout(_SILENCE_S)

    def ask(self, request: bytes) -> None:
        """Call ``Fetch``.

        Args:
            request: A serialised ``FetchRequest``.

        Raises:
            OSError: The connection broke off.
            Corrupt: See the class.
        """
        self._answered, self._told, self._status = False, "", ""
        self._taken_of_stream = 0
        headers = [
            (":method", "POST"),
            (":scheme", "http"),
            (":path", FETCH),
            (":authority", self._authority),
            ("te", "trailers"),
            ("content-type", CONTENT_TYPE),
            (REPLICA, self._replica),
        ]
        try:
            self._stream_id = self._h2.get_next_available_stream_id()
            self._h2.send_headers(self._stream_id, headers)
        except H2Error as error:
            raise ConnectionError(f"it takes no more calls: {error}") from error
        left = memoryview(MESSAGE_HEAD.pack(0, len(request)) + request)
        while left and not self._status:
            room = self._h2.local_flow_control_window(self._stream_id)
            size = min(len(left), room, self._h2.max_outbound_frame_size)
            if size <= 0:
                self._flush()
                self._take_frame()
                if self._frame_left:
                    raise Corrupt("answers before it was asked")
                continue
            piece, left = bytes(left[:size]), left[size:]
            self._h2.send_data(self._stream_id, piece, end_stream=not left)
        if left:
            with contextlib.suppress(H2Error):  # where the server has not done so
                self._h2.reset_stream(self._stream_id, ErrorCodes.CANCEL)
        self._flush()

    def receive(self) -> memoryview | None:
        """The next message of the answer, None at its end; valid until the next call.

        Raises:
            OSError: The connection broke off.
            Refused: The server sends no more of it.
            Corrupt: See the class; or a message is larger than any may be.
        """
        head = memoryview(self._buffer)[: MESSAGE_HEAD.size]
        found = self._fill_from_stream(head)
        if not found:
            if self._status == "0":
                return None
            raise Refused
        if found < len(head):
            raise ConnectionError("its answer ended within the head of a message")
        compressed, size = MESSAGE_HEAD.unpack_from(self._buffer)
        if compressed:
            raise Corrupt("a compressed message arrives, which nobody asked for")
        if size > MAX_MESSAGE_BYTES:
            raise Corrupt(f"a message of {size} bytes arrives, at most {MAX_MESSAGE_BYTES} may")
        if size > len(self._buffer):
            self._buffer = _pages(size)
        view = memoryview(self._buffer)[:size]
        if self._fill_from_stream(view) < size:
            raise ConnectionError("its answer ended within a message")
        return view

    def receive_end(self) -> None:
        """The end of an answer of which all rows are there; not waited for long.

        Raises:
            OSError: It does not come.
            Refused: It has another status.
        """
        self._socket.settimeout(_END_S)
        try:
            if self.receive() is not None:
                raise ConnectionError("more was sent than asked for")
        finally:
            self._socket.settimeout(_SILENCE_S)

    def shrink(self) -> None:
        """Keep no more memory than usual messages take."""
        if len(self._buffer) > _KEPT_BUFFER_BYTES:
            self._buffer = _pages(_FIRST_BUFFER_BYTES)

    def shut(self) -> None:
        """Make a thread that waits here go on, with an error; from any thread."""
        with self._ending, contextlib.suppress(OSError):
            self._shut = True
            if self._open:
                self._socket.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """Close it; only the thread that uses it may."""
        with self._ending:
            self._open = False
            self._socket.close()
        self._h2.let_go()

    def _fill_from_stream(self, view: memoryview) -> int:
        """Bytes of the answer's messages; how many came before it ended."""
        wanted = len(view)
        while view:
            while not self._frame_left:
                if self._status:
                    return wanted - len(view)
                self._take_frame()
            size = min(len(view), self._frame_left)
            self._fill(view[:size])
            self._frame_left -= size
            view = view[size:]
        return wanted

    def _take_frame(self) -> None:
        """Read a frame; of one that holds data of the answer, only what goes before that."""
        head = self._exactly(FRAME_HEAD_BYTES)
        size, kind, flags = int.from_bytes(head[:3], "big"), head[3], head[4]
        stream_id = int.from_bytes(head[5:], "big") & STREAM_ID_BITS
        if kind == DATA and stream_id == self._stream_id:
            if not self._answered or flags & (END_STREAM | PADDED):
                raise Corrupt("sends data that is not gRPC's")
            self._frame_left = size
            self._reopen(size)
            return
        if size > _MAX_CONTROL_BYTES:
            raise Corrupt(f"sends a frame of kind {kind} with {size} bytes")
        content = self._exactly(size)
        if kind == GOAWAY:
            # For h2 everything would be over, also the answer that the server still finishes.
            self._leaving = True
            if int.from_bytes(content[:4], "big") & STREAM_ID_BITS < self._stream_id:
                raise ConnectionError("it takes no more calls")
            return
        try:
            happened = self._h2.receive_data(head + content)
        except H2Error as error:
            raise Corrupt(f"does not speak HTTP/2: {error}") from error
        for event in happened:
            self._note(event)
        self._flush()

    def _note(self, event: events.Event) -> None:
        if isinstance(event, events.RemoteSettingsChanged):
            self._greeted = True
        elif isinstance(event, events.ResponseReceived):
            self._begin_answer(texts(event.headers))
        elif isinstance(event, events.TrailersReceived):
            self._told = texts(event.headers).get("grpc-status", "")
        elif isinstance(event, events.StreamEnded):
            if not self._told:
                raise Corrupt("ends an answer without a status")
            self._status = self._told
        elif isinstance(event, events.StreamReset):
            raise ConnectionError(f"the call was reset ({event.error_code})")

    def _begin_answer(self, headers: dict[str, str]) -> None:
        if headers.get(":status") != "200" or not headers.get("content-type", "").startswith(
            CONTENT_TYPE
        ):
            raise Corrupt(f"answers with HTTP status {headers.get(':status')}, not with gRPC")
        if headers.get(REPLICA) != self._replica:
            raise Corrupt("another replica answers there")
        self._answered = True
        self._told = headers.get("grpc-status", "")  # where nothing follows

    def _reopen(self, size: int) -> None:
        """Let the server send as much again; h2 knows nothing of what has come."""
        self._taken += size
        self._taken_of_stream += size
        again = b""
        if self._taken >= _REOPENED_BYTES:
            again += window_update(self._taken, 0)
            self._taken = 0
        if self._taken_of_stream >= _REOPENED_BYTES:
            again += window_update(self._taken_of_stream, self._stream_id)
            self._taken_of_stream = 0
        if again:
            self._socket.sendall(again)

    def _flush(self) -> None:
        if data := self._h2.data_to_send():
            self._socket.sendall(data)

    def _exactly(self, size: int) -> bytes:
        data = bytearray(size)
        self._fill(memoryview(data))
        return bytes(data)

    def _fill(self, view: memoryview) -> None:
        while view:
            # Never more than is to come: nothing else would wake this thread. With a timeout Python
            # waits, then takes what is there; the system would take some and wait for as much.
            woken_bytes = min(len(view), _WOKEN_BYTES) if len(view) > _HEADS_BYTES else 1
            if woken_bytes != self._woken_bytes:
                self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, woken_bytes)
                self._woken_bytes = woken_bytes
            count = self._socket.recv_into(view)
            if not count:
                raise ConnectionError("the connection was closed")
            view = view[count:]


def _pages(size: int) -> mmap.mmap:
    """Memory of its own: only what is written to is there, and all of it goes back to the system.

    From the heap of small things, it would leave holes that these fill.
    """
    return mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE)
