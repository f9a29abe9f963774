"""A connection to a direct port: what goes over it, byte by byte (docs/wire-format.md)."""

from __future__ import annotations

import contextlib
import socket
import struct
import threading

from penstock.client.channel import MAX_MESSAGE_BYTES
from penstock.errors import Corrupt

__all__ = ["Line", "Refused"]

_HELLO = struct.Struct("<8sQ")
_MAGIC = b"PSDIRECT"
_SIZE = struct.Struct("<I")
_END, _REFUSED = 0, 0xFFFFFFFF
_CONNECT_S = 2.0
_END_S = 2.0
_FIRST_BUFFER_BYTES = 5 << 20
"""More than usual messages have."""
_KEPT_BUFFER_BYTES = 16 << 20
_SILENCE_S = 600.0
"""Nobody waits so long: calls that bring nothing are given up before."""
_WOKEN_BYTES = 256 << 10
"""What is to have come before a thread that waits is woken, which the sender's processor does."""


class Refused(Exception):
    """The server leaves the rest of its answer to gRPC; the connection can be used again."""


class Line:
    """A connection: one call at a time.

    One thread uses it; another one may :meth:`shut` it meanwhile.

    Args:
        address: Numeric host, and port.

    Raises:
        OSError: This process may open no socket.
    """

    def __init__(self, address: tuple[str, int]) -> None:
        self._address = address
        family = socket.AF_INET6 if ":" in address[0] else socket.AF_INET
        self._socket = socket.socket(family, socket.SOCK_STREAM)
        self._buffer = bytearray()
        self._woken_bytes = 1
        # A descriptor that was closed may be another one's by now: that one must not be shut.
        self._ending = threading.Lock()
        self._open, self._shut = True, False

    def connect(self, replica_id: int) -> None:
        """Connect to that replica.

        Raises:
            OSError: Nobody answers there within two seconds, or another one.
        """
        self._socket.settimeout(_CONNECT_S)
        self._socket.connect(self._address)
        if self._shut:
            raise ConnectionAbortedError("it was shut before it was there")
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        hello = _HELLO.pack(_MAGIC, replica_id)
        self._socket.sendall(hello)
        self._buffer = bytearray(_FIRST_BUFFER_BYTES)
        view = memoryview(self._buffer)[: len(hello)]
        self._fill(view)
        if bytes(view) != hello:
            raise ConnectionError("something else answers there")
        self._socket.settimeout(_SILENCE_S)

    def ask(self, request: bytes) -> None:
        """Send a request.

        Raises:
            OSError: The connection broke off.
        """
        self._socket.sendall(_SIZE.pack(len(request)) + request)

    def receive(self) -> memoryview | None:
        """The next message of the answer, None at its end; valid until the next call.

        Raises:
            OSError: The connection broke off.
            Refused: The server sends no more of it.
            Corrupt: A message is larger than any may be.
        """
        view = memoryview(self._buffer)
        self._fill(view[: _SIZE.size])
        (size,) = _SIZE.unpack_from(self._buffer)
        if size == _END:
            return None
        if size == _REFUSED:
            raise Refused
        if size > MAX_MESSAGE_BYTES:
            raise Corrupt(f"a message of {size} bytes arrives, at most {MAX_MESSAGE_BYTES} may")
        if size > len(self._buffer):
            self._buffer = bytearray(size)
            view = memoryview(self._buffer)
        self._fill(view[:size])
        return view[:size]

    def receive_end(self) -> None:
        """The end of an answer of which all rows are there; not waited for long.

        Raises:
            OSError: It does not come.
        """
        self._socket.settimeout(_END_S)
        if self.receive() is not None:
            raise ConnectionError("more was sent than asked for")
        self._socket.settimeout(_SILENCE_S)

    def shrink(self) -> None:
        """Keep no more memory than usual messages take."""
        if len(self._buffer) > _KEPT_BUFFER_BYTES:
            self._buffer = bytearray(_FIRST_BUFFER_BYTES)

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

    def _fill(self, view: memoryview) -> None:
        while view:
            # Never more than is to come: nothing else would wake this thread. With a timeout Python
            # waits, then takes what is there; the system would take some and wait for as much.
            woken_bytes = min(len(view), _WOKEN_BYTES)
            if woken_bytes != self._woken_bytes:
                self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, woken_bytes)
                self._woken_bytes = woken_bytes
            count = self._socket.recv_into(view)
            if not count:
                raise ConnectionError("the connection was closed")
            view = view[count:]
