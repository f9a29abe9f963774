"""One client of the direct port: its bytes, and for how long each of them is waited for."""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
import time
from typing import Protocol

import structlog

from penstock_sampler import metrics
from penstock_sampler.serving.streams import Caller

__all__ = ["DirectConnection", "Sendable", "hello_of"]

log = structlog.get_logger(__name__)

_HELLO = struct.Struct("<8sQ")
_MAGIC = b"PSDIRECT"
_SIZE = struct.Struct("<I")
_END, _REFUSED = _SIZE.pack(0), _SIZE.pack(0xFFFFFFFF)
MAX_REQUEST_BYTES = 1 << 20
"""More than the largest request with all ids that one may have."""
SHORT_S = 10.0
"""For a hello, for the rest of a request that has begun, and for a few bytes to be taken."""
_PIECE_BYTES = 1 << 16


class Sendable(Protocol):
    """A serialised message."""

    def __len__(self) -> int:
        """Its size in bytes."""
        ...

    def send(self, to: socket.socket, before: bytes) -> None:
        """Send ``before`` and the message; raises OSError when that fails in between."""
        ...


def hello_of(replica_id: int) -> bytes:
    """What a client begins with, and gets back."""
    return _HELLO.pack(_MAGIC, replica_id)


class DirectConnection(Caller):
    """A client; one thread serves it, any may cancel it.

    Args:
        client: What was accepted; closed by :meth:`close`.
        peer: Where it is, for the log.

    Attributes:
        busy: Whether it is being answered; guarded by the server's lock.
    """

    def __init__(self, client: socket.socket, peer: str) -> None:
        self._socket, self._peer = client, peer
        # A descriptor that was closed may be another connection's by now: none is shut down then.
        self._ending = threading.Lock()
        self._active = True
        self.busy = False

    def peer(self) -> str:
        """Where it is, for the log."""
        return self._peer

    def is_active(self) -> bool:
        """Whether it still wants an answer."""
        return self._active

    def cancel(self) -> None:
        """End what it is doing, from any thread."""
        with self._ending, contextlib.suppress(OSError):
            if self._active:
                self._active = False
                self._socket.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """Close it; only the thread that serves it may."""
        with self._ending:
            self._active = False
            self._socket.close()

    def greet(self, expected: bytes) -> bool:
        """Answer the first bytes; whether they are what they must be."""
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        hello = self._received(len(expected), SHORT_S)
        if hello != expected:
            if hello is not None:
                metrics.DIRECT_REFUSALS.labels("OTHER_REPLICA").inc()
            return False
        self._send(expected)
        return True

    def next_request(self, idle_s: float) -> bytes | None:
        """What the client asks for; None when it has gone, or has been silent for ``idle_s``.

        Raises:
            OSError: The connection broke, or a request that had begun did not come to its end.
        """
        self._socket.settimeout(idle_s)
        try:
            first = self._socket.recv(1)
        except TimeoutError:
            return None
        rest = self._received(_SIZE.size - 1, SHORT_S) if first else None
        if rest is None:
            return None
        (size,) = _SIZE.unpack(first + rest)
        if size > MAX_REQUEST_BYTES:
            metrics.DIRECT_REFUSALS.labels("TOO_LARGE").inc()
            log.warning("direct request too large", peer=self._peer, size_bytes=size)
            return None
        return self._received(size, SHORT_S)

    def send_message(self, message: Sendable) -> None:
        """Send a message; a client that does not read is cut off by whoever watches streams.

        Raises:
            OSError: It was not sent, or a part of it only: nothing else may follow.
        """
        head = _SIZE.pack(len(message))
        self._socket.settimeout(None)
        message.send(self._socket, head)

    def end(self) -> None:
        """Say that the answer is complete."""
        self._send(_END)

    def refuse(self) -> None:
        """Leave the rest of the answer to gRPC."""
        self._send(_REFUSED)

    def _send(self, data: bytes) -> None:
        self._socket.settimeout(SHORT_S)
        self._socket.sendall(data)

    def _received(self, size: int, within_s: float) -> bytes | None:
        """Just so many bytes; None when the client has gone. Memory is taken as they come.

        Raises:
            OSError: The connection broke, or it took longer.
        """
        until = time.monotonic() + within_s
        data = bytearray()
        while len(data) < size:
            self._socket.settimeout(max(0.001, until - time.monotonic()))
            piece = self._socket.recv(min(size - len(data), _PIECE_BYTES))
            if not piece:
                return None
            data += piece
        return bytes(data)
