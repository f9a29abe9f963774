"""Answers ``Fetch`` with cached frames, sent as they lie there, without a copy.

It speaks gRPC as the other port does, by ``penstock.server.http2``. Clients name the process that
they expect in the header ``penstock-replica-id``; each answer names the one that gave it.
"""

from __future__ import annotations

import contextlib
import socket
import sys
import threading
import time
from collections.abc import Callable, Generator, Mapping
from typing import Self

import structlog

from penstock import native
from penstock.client.http2 import REPLICA
from penstock.errors import Conflict, InvalidInput, PenstockError, Unavailable, Unsupported
from penstock.server.calls import Call
from penstock.server.errors import as_penstock_error
from penstock.server.http2 import Abandoned, GrpcConnection, NotHttp2, Sendable
from penstock.server.port import listened_addresses
from penstock_sampler import metrics
from penstock_sampler.serving.streams import Caller

__all__ = ["Answer", "DirectServer", "what_is_missing"]

log = structlog.get_logger(__name__)

Answer = Callable[[bytes, Caller], Generator[Sendable]]
"""Serialised messages for a serialised request."""

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


class _Broken(Exception):
    """A connection over which nothing more can go, unlike what an answer itself fails by."""

    def __init__(self, error: OSError) -> None:
        super().__init__(str(error))
        self.error = error


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
        self._replica = str(replica_id)
        self._drain_s, self._idle_s = drain_s, idle_s
        self._changed = threading.Condition()
        self._connections: set[GrpcConnection] = set()
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
        # Can be read, by all connections, once the other end is closed.
        self._ending, self._going_on = socket.socketpair()

    def start(self, methods: Mapping[str, Answer]) -> Self:
        """Begin to accept connections.

        Args:
            methods: What is answered, by path.
        """
        self._methods = methods
        self._accepting = threading.Thread(target=self._accept, name="direct-port", daemon=True)
        self._accepting.start()
        log.info("cached frames without a copy", direct_port=self.port)
        return self

    def drain(self) -> None:
        """Leave new calls to the other port, where clients learn that this server ends."""
        with self._changed:
            if not self._draining:
                self._draining = True
                self._drained_by = time.monotonic() + self._drain_s
                self._going_on.close()

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
        self._ending.close()

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
            peer = f"direct:{address[0]}:{address[1]}"
            named = [(REPLICA, self._replica)]
            self._admit(GrpcConnection(client, peer, named, self._ending))

    def _admit(self, connection: GrpcConnection) -> None:
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

    def _serve(self, connection: GrpcConnection) -> None:
        try:
            if connection.greet():
                while (call := connection.next_call(self._idle_s)) is not None:
                    self._reply(connection, call)
                connection.part()
        except NotHttp2 as error:
            metrics.DIRECT_REFUSALS.labels("NOT_HTTP2").inc()
            log.info("no client of ours", peer=connection.peer(), error=str(error))
        except OSError as error:
            log.info("direct client lost", peer=connection.peer(), error=str(error))
        finally:
            self._forget(connection)

    def _forget(self, connection: GrpcConnection) -> None:
        connection.close()
        with self._changed:
            self._connections.discard(connection)
            metrics.DIRECT_CONNECTIONS.set(len(self._connections))
            self._changed.notify_all()

    def _reply(self, connection: GrpcConnection, call: Call) -> None:
        """Answer a call.

        Raises:
            OSError: The connection broke, or a message was sent in part.
        """
        fault: PenstockError | None = None
        try:
            answer = self._answer_of(call)
            with contextlib.closing(answer(call.request, connection)) as messages:
                for message in messages:
                    _send_whole(connection, message)
        except Abandoned:
            log.debug("called off", peer=connection.peer())
            return
        except _Broken as broken:
            raise broken.error from broken
        except PenstockError as error:
            fault = error
            log.debug("left to the other port", peer=connection.peer(), reason=error.reason)
        except Exception as error:
            fault = as_penstock_error(error)
            log.exception("direct answer failed", peer=connection.peer())
        if fault is not None:
            metrics.DIRECT_REFUSALS.labels(fault.reason).inc()
        if connection.finish(fault) and fault is None:
            metrics.DIRECT_ANSWERS.inc()

    def _answer_of(self, call: Call) -> Answer:
        """What answers a call.

        Raises:
            PenstockError: Nothing does.
        """
        if call.fault is not None:
            raise call.fault
        if self._draining:
            raise Unavailable("this server is ending: ask another one", reason="DRAINING")
        if call.headers.get(REPLICA, self._replica) != self._replica:
            raise Conflict(f"this is replica {self._replica}", reason="OTHER_REPLICA")
        answer = self._methods.get(call.path)
        if answer is None:
            raise Unsupported(
                f"{call.path} is not answered here: {', '.join(self._methods)} is, the rest at the "
                "other port",
                reason="NOT_HERE",
            )
        return answer


def _send_whole(connection: GrpcConnection, message: Sendable) -> None:
    """Send a message; after a part of one nothing can be said any more but that it is over."""
    try:
        connection.send(message)
    except Abandoned:
        raise
    except OSError as error:
        raise _Broken(error) from error
    except Exception as error:
        log.exception("direct message failed", peer=connection.peer())
        raise _Broken(ConnectionAbortedError("a message failed on its way")) from error
