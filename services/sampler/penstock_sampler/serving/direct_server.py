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
import sys
import threading
import time
from collections.abc import Callable, Generator
from typing import Self

import structlog

from penstock import native
from penstock.errors import InvalidInput, PenstockError, Unavailable
from penstock.server.port import listened_addresses
from penstock_sampler import metrics
from penstock_sampler.serving.direct_connection import DirectConnection, Sendable, hello_of
from penstock_sampler.serving.streams import Caller

__all__ = ["Answer", "DirectServer", "what_is_missing"]

log = structlog.get_logger(__name__)

Answer = Callable[[bytes, Caller], Generator[Sendable]]
"""``FetchResponse`` messages for a serialised ``FetchRequest``."""

MAX_CONNECTIONS = 256
IDLE_S = 600.0
_BACKLOG = 256
_LAST_PORT = 65_535
_RETRY_S = 1.0
_STOP_S = 1.0


def what_is_missing() -> str:
    """What keeps this machine from offering the port; empty where nothing does."""
    if sys.platform != "linux":
        return f"needs sendfile of Linux, this is {sys.platform}"
    if not native.available() or not native.xxh3_address():
        return f"needs the native kernels, which are {native.describe()}"
    return ""


class DirectServer:
    """One port; a thread for each connection.

    Args:
        host: Address to listen on, as gRPC takes it.
        port: 0 picks a free one.
        replica_id: What clients must name.
        drain_s: How long answers under way may take, from the moment when draining begins.
        idle_s: Seconds after which a silent connection is closed.

    Raises:
        InvalidInput: No port has that number.
        Unavailable: The port is taken, or the host is no address of this machine.
    """

    def __init__(
        self, host: str, port: int, replica_id: int, *, drain_s: float, idle_s: float = IDLE_S
    ) -> None:
        self._hello = hello_of(replica_id)
        self._drain_s, self._idle_s = drain_s, idle_s
        self._changed = threading.Condition()
        self._connections: set[DirectConnection] = set()
        self._draining = False
        self._drained_by = 0.0
        if port > _LAST_PORT:
            raise InvalidInput(f"direct_port {port}: ports go to {_LAST_PORT}", field="direct_port")
        family, address = listened_addresses("the direct port", host, 0)[0]
        try:
            self._listening = socket.create_server(
                (address, port),
                family=family,
                backlog=_BACKLOG,
                dualstack_ipv6=address == "::",
            )
        except OSError as error:
            raise Unavailable(
                f"direct_port {port} of {host}: {error}: name another one, or none",
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
        with self._changed:
            if not self._draining:
                self._draining = True
                self._drained_by = time.monotonic() + self._drain_s
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
            left_s = max(0.0, self._drained_by - time.monotonic())
            self._changed.wait_for(lambda: not self._connections, left_s)
            for connection in self._connections:
                connection.cancel()
            self._changed.wait_for(lambda: not self._connections, _STOP_S)

    def _accept(self) -> None:
        failing = False
        while True:
            try:
                client, address = self._listening.accept()
            except OSError as error:
                if self._draining:
                    return
                # Out of descriptors, most likely; what waits to be accepted is still there.
                if not failing:
                    log.warning("direct clients are not accepted", error=str(error))
                failing = True
                time.sleep(_RETRY_S)
                continue
            failing = False
            self._admit(DirectConnection(client, f"direct:{address[0]}:{address[1]}"))

    def _admit(self, connection: DirectConnection) -> None:
        with self._changed:
            refusal = "DRAINING" if self._draining else ""
            if len(self._connections) >= MAX_CONNECTIONS:
                refusal = "TOO_MANY"
            if not refusal:
                self._connections.add(connection)
                metrics.DIRECT_CONNECTIONS.set(len(self._connections))
        if refusal:
            metrics.DIRECT_REFUSALS.labels(refusal).inc()
            connection.close()
            return
        try:
            threading.Thread(
                target=self._serve, args=(connection,), name="direct-client", daemon=True
            ).start()
        except RuntimeError as error:  # the system has no thread left
            metrics.DIRECT_REFUSALS.labels("NO_THREAD").inc()
            log.warning("direct client not served", peer=connection.peer(), error=str(error))
            self._forget(connection)

    def _serve(self, connection: DirectConnection) -> None:
        try:
            if connection.greet(self._hello):
                while (request := connection.next_request(self._idle_s)) is not None:
                    with self._changed:
                        connection.busy = True
                        draining = self._draining
                    self._reply(connection, request, refused=draining)
                    with self._changed:
                        connection.busy = False
                        if self._draining:
                            return
        except OSError as error:
            log.info("direct client lost", peer=connection.peer(), error=str(error))
        finally:
            self._forget(connection)

    def _forget(self, connection: DirectConnection) -> None:
        connection.close()
        with self._changed:
            self._connections.discard(connection)
            metrics.DIRECT_CONNECTIONS.set(len(self._connections))
            self._changed.notify_all()

    def _reply(self, connection: DirectConnection, request: bytes, *, refused: bool) -> None:
        """Answer a request.

        Raises:
            OSError: The connection broke, or a message was sent in part.
        """
        reason = "DRAINING" if refused else ""
        try:
            if not refused:
                with contextlib.closing(self._answer(request, connection)) as messages:
                    for message in messages:
                        _send_whole(connection, message)
        except OSError:
            raise
        except PenstockError as error:
            reason = error.reason
            log.debug("left to gRPC", peer=connection.peer(), reason=reason)
        except Exception:
            reason = "INTERNAL"
            log.exception("direct answer failed", peer=connection.peer())
        if reason:
            metrics.DIRECT_REFUSALS.labels(reason).inc()
            connection.refuse()
        else:
            metrics.DIRECT_ANSWERS.inc()
            connection.end()


def _send_whole(connection: DirectConnection, message: Sendable) -> None:
    """Send a message; after a part of one nothing can be said any more but that it is over."""
    try:
        connection.send_message(message)
    except OSError:
        raise
    except Exception as error:
        log.exception("direct message failed", peer=connection.peer())
        raise ConnectionAbortedError("a message failed on its way") from error
