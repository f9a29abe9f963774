"""Answers ``Fetch`` over plain TCP with cached frames, sent as they lie there, without a copy.

A client begins a connection with 16 bytes, ``PSDIRECT`` and the ``replica_id`` that it expects, and
gets them back. Then, any number of times: a size and a ``FetchRequest``, answered by sizes and
``FetchResponse`` messages and a size of 0 at the end. Sizes are 32 bits; all numbers are
little-endian. Instead of a message, the size 2**32 - 1 says that the rest is left to gRPC, where
the client learns why.
"""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
import time
from collections.abc import Callable, Generator
from typing import Protocol, Self

import structlog

from penstock.errors import PenstockError, Unavailable
from penstock_sampler import metrics
from penstock_sampler.serving.streams import Caller

__all__ = ["Answer", "DirectServer"]

log = structlog.get_logger(__name__)


class Sendable(Protocol):
    """A serialised message."""

    def __len__(self) -> int:
        """Its size in bytes."""
        ...

    def send(self, to: socket.socket, before: bytes) -> None:
        """Send ``before`` and the message; raises OSError when that fails in between."""
        ...


Answer = Callable[[bytes, Caller], Generator[Sendable]]
"""``FetchResponse`` messages for a serialised ``FetchRequest``."""

HELLO = struct.Struct("<8sQ")
MAGIC = b"PSDIRECT"
SIZE = struct.Struct("<I")
END, REFUSED = SIZE.pack(0), SIZE.pack(0xFFFFFFFF)
MAX_REQUEST_BYTES = 1 << 20
"""More than the largest request with all ids that one may have."""
MAX_CONNECTIONS = 256
IDLE_S = 600.0
_HELLO_S = 10.0
_BACKLOG = 64
_RETRY_S = 0.1
_STOP_S = 1.0


class DirectServer:
    """One port; a thread for each connection.

    Args:
        host: Address to listen on, as gRPC takes it.
        port: 0 picks a free one.
        replica_id: What clients must name.
        drain_s: How long answers under way may take when this stops.
        idle_s: Seconds after which a silent connection is closed.

    Raises:
        Unavailable: The port is taken.
    """

    def __init__(
        self, host: str, port: int, replica_id: int, *, drain_s: float, idle_s: float = IDLE_S
    ) -> None:
        self._hello = HELLO.pack(MAGIC, replica_id)
        self._drain_s, self._idle_s = drain_s, idle_s
        self._lock = threading.Lock()
        self._changed = threading.Condition(self._lock)
        self._connections: set[_Connection] = set()
        self._draining = False
        plain = host.strip("[]")
        family = socket.AF_INET6 if ":" in plain else socket.AF_INET
        try:
            self._listening = socket.create_server(
                (plain, port),
                family=family,
                backlog=_BACKLOG,
                dualstack_ipv6=family == socket.AF_INET6 and socket.has_dualstack_ipv6(),
            )
        except OSError as error:
            raise Unavailable(
                f"direct_port {port} of {host}: {error.strerror or error}: name another one, or "
                "none",
                reason="DIRECT_PORT",
            ) from error
        self.port: int = self._listening.getsockname()[1]

    def start(self, answer: Answer) -> Self:
        """Begin to accept connections."""
        self._answer = answer
        self._accepting = threading.Thread(target=self._accept, name="direct-port", daemon=True)
        self._accepting.start()
        log.info("frames without gRPC between", direct_port=self.port)
        return self

    def drain(self) -> None:
        """Leave new requests to gRPC, where clients learn that this server ends."""
        with self._lock:
            self._draining = True
            idle = [each for each in self._connections if not each.busy]
        for connection in idle:
            connection.cancel()

    def stop(self) -> None:
        """Accept no more, let answers under way finish, close all connections."""
        self.drain()
        with contextlib.suppress(OSError):
            self._listening.shutdown(socket.SHUT_RDWR)
        self._listening.close()
        self._accepting.join()
        with self._changed:
            self._changed.wait_for(lambda: not self._connections, self._drain_s)
            for connection in self._connections:
                connection.cancel()
            self._changed.wait_for(lambda: not self._connections, _STOP_S)

    def _accept(self) -> None:
        while True:
            try:
                client, address = self._listening.accept()
            except OSError as error:
                with self._lock:
                    if self._draining:
                        return
                # Out of descriptors, most likely; what waits to be accepted is still there.
                log.warning("direct client not accepted", error=str(error))
                time.sleep(_RETRY_S)
                continue
            connection = _Connection(client, f"direct:{address[0]}:{address[1]}")
            with self._lock:
                room = len(self._connections) < MAX_CONNECTIONS and not self._draining
                if room:
                    self._connections.add(connection)
                    metrics.DIRECT_CONNECTIONS.set(len(self._connections))
            if not room:
                metrics.DIRECT_REFUSALS.labels("TOO_MANY").inc()
                client.close()
                continue
            threading.Thread(
                target=self._serve, args=(connection,), name="direct-client", daemon=True
            ).start()

    def _serve(self, connection: _Connection) -> None:
        try:
            if connection.greet(self._hello):
                while (request := connection.next_request(self._idle_s)) is not None:
                    with self._lock:
                        connection.busy = True
                        draining = self._draining
                    connection.block()
                    self._reply(connection, request, refused=draining)
                    with self._lock:
                        connection.busy = False
                        if self._draining:
                            return
        except OSError as error:
            log.info("direct client lost", peer=connection.peer(), error=str(error))
        finally:
            connection.close()
            with self._changed:
                self._connections.discard(connection)
                metrics.DIRECT_CONNECTIONS.set(len(self._connections))
                self._changed.notify_all()

    def _reply(self, connection: _Connection, request: bytes, *, refused: bool) -> None:
        if refused:
            metrics.DIRECT_REFUSALS.labels("DRAINING").inc()
            connection.send(REFUSED)
            return
        try:
            with contextlib.closing(self._answer(request, connection)) as messages:
                for message in messages:
                    connection.send_message(message)
        except OSError:
            raise
        except PenstockError as error:
            metrics.DIRECT_REFUSALS.labels(error.reason).inc()
            log.debug("left to gRPC", peer=connection.peer(), reason=error.reason)
            connection.send(REFUSED)
        except Exception:
            metrics.DIRECT_REFUSALS.labels("INTERNAL").inc()
            log.exception("direct answer failed", peer=connection.peer())
            connection.send(REFUSED)
        else:
            connection.send(END)


class _Connection(Caller):
    """A client; ``busy`` while it is answered."""

    def __init__(self, client: socket.socket, peer: str) -> None:
        self._socket, self._peer = client, peer
        self._active = True
        self.busy = False
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        client.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)

    def peer(self) -> str:
        return self._peer

    def is_active(self) -> bool:
        return self._active

    def cancel(self) -> None:
        self._active = False
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)

    def greet(self, expected: bytes) -> bool:
        """Answer the first bytes; whether they are what they must be."""
        self._socket.settimeout(_HELLO_S)
        if self._received(HELLO.size) != expected:
            metrics.DIRECT_REFUSALS.labels("OTHER_REPLICA").inc()
            return False
        self.send(expected)
        return True

    def next_request(self, idle_s: float) -> bytes | None:
        """What the client asks for; None when it has gone, or has been silent for too long."""
        self._socket.settimeout(idle_s)
        try:
            head = self._received(SIZE.size)
            if head is None:
                return None
            (size,) = SIZE.unpack(head)
            if size > MAX_REQUEST_BYTES:
                metrics.DIRECT_REFUSALS.labels("BAD_REQUEST").inc()
                log.warning("direct request too large", peer=self._peer, size_bytes=size)
                return None
            return self._received(size)
        except TimeoutError:
            return None

    def block(self) -> None:
        """Wait for the client for as long as it takes."""
        self._socket.settimeout(None)

    def send(self, data: bytes) -> None:
        """Send all of it."""
        self._socket.sendall(data)

    def send_message(self, message: Sendable) -> None:
        """Send a message; a client that does not read is cut off by whoever watches streams."""
        message.send(self._socket, SIZE.pack(len(message)))

    def close(self) -> None:
        self._active = False
        self._socket.close()

    def _received(self, size: int) -> bytes | None:
        """Just so many bytes; None when the client has gone."""
        data = bytearray(size)
        view = memoryview(data)
        while view:
            count = self._socket.recv_into(view)
            if not count:
                return None
            view = view[count:]
        return bytes(data)
