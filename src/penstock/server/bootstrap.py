"""Starts a gRPC server with all that each Penstock service has, and drains it on SIGTERM."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Callable, Sequence
from concurrent import futures
from types import FrameType
from typing import Self

import grpc
import structlog
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection
from prometheus_client import start_http_server

from penstock.errors import Unavailable
from penstock.server.interceptor import CallInterceptor
from penstock.server.log import configure_logging
from penstock.server.settings import ServerSettings

__all__ = ["Register", "RunningServer", "serve", "start"]

log = structlog.get_logger(__name__)

Register = Callable[[grpc.Server], Sequence[str]]
"""Adds servicers to a server and returns their full service names."""

MAX_MESSAGE_BYTES = 64 << 20
"""Bounds what one message may allocate; services send about 1 MiB at a time."""

_OPTIONS = [
    ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
    ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
    # A second server on the same port must fail, not share it in silence.
    ("grpc.so_reuseport", 0),
    # Clients send keepalives every 30 s; the default minimum of 5 min answers with GOAWAY.
    ("grpc.http2.min_ping_interval_without_data_ms", 10_000),
    ("grpc.keepalive_permit_without_calls", 1),
]


class RunningServer:
    """A server that accepts calls.

    Attributes:
        address: ``host:port`` as clients on this machine reach it.
    """

    def __init__(
        self,
        name: str,
        address: str,
        server: grpc.Server,
        health_servicer: health.HealthServicer,
        drain_s: float,
        metrics: tuple[object, threading.Thread] | None,
    ) -> None:
        self.name, self.address = name, address
        self._server, self._health, self._drain_s = server, health_servicer, drain_s
        self._metrics = metrics

    @property
    def target(self) -> str:
        """The target that clients on this machine open."""
        return f"grpc://{self.address}"

    def stop(self, drain_s: float | None = None) -> None:
        """Report NOT_SERVING, let calls in flight finish, then close."""
        self._health.enter_graceful_shutdown()
        self._server.stop(self._drain_s if drain_s is None else drain_s).wait()
        if self._metrics is not None:
            server, thread = self._metrics
            server.shutdown()  # pyright: ignore[reportAttributeAccessIssue] - WSGI server
            server.server_close()  # pyright: ignore[reportAttributeAccessIssue] - same
            thread.join()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop(drain_s=0)


def start(name: str, settings: ServerSettings, register: Register) -> RunningServer:
    """Start serving in background threads.

    Args:
        name: Name of the service, for log lines.
        settings: Where to listen.
        register: Adds the service's own servicers.

    Raises:
        Unavailable: A port is taken, or the host is no address of this machine.
    """
    server = grpc.server(
        futures.ThreadPoolExecutor(settings.workers, thread_name_prefix=name),
        interceptors=[CallInterceptor()],
        options=_OPTIONS,
        maximum_concurrent_rpcs=settings.max_calls,
    )
    services = list(register(server))
    health_servicer = health.HealthServicer()
    health_pb2_grpc.add_HealthServicer_to_server(health_servicer, server)
    reflection.enable_server_reflection(
        [*services, health.SERVICE_NAME, reflection.SERVICE_NAME], server
    )
    try:
        port = server.add_insecure_port(f"{settings.host}:{settings.port}")
    except RuntimeError as error:
        raise Unavailable(
            f"{name} cannot listen on {settings.host}:{settings.port}: another server runs there, "
            "or this machine has no such address: choose another --port, or --host",
            reason="PORT_TAKEN",
        ) from error
    metrics = None
    if settings.metrics_port:
        try:
            metrics = start_http_server(settings.metrics_port, addr=settings.host)
        except OSError as error:
            raise Unavailable(
                f"{name} cannot serve metrics on {settings.host}:{settings.metrics_port} "
                f"({error.strerror}): choose another --metrics-port",
                reason="PORT_TAKEN",
            ) from error
    server.start()
    for service in ("", *services):
        health_servicer.set(service, health_pb2.HealthCheckResponse.SERVING)
    host = "127.0.0.1" if settings.host in ("0.0.0.0", "[::]", "::") else settings.host  # noqa: S104 - compared, not bound
    running = RunningServer(
        name, f"{host}:{port}", server, health_servicer, settings.drain_s, metrics
    )
    log.info("serving", service=name, address=running.address, listens=settings.host)
    return running


def serve(
    name: str,
    settings: ServerSettings,
    register: Register,
    *,
    on_drain: Callable[[], None] | None = None,
) -> None:
    """Serve until SIGTERM or SIGINT, then drain and return.

    Args:
        name: Name of the service, for log lines.
        settings: Where to listen.
        register: Adds the service's own servicers.
        on_drain: Called when draining begins, before calls in flight are waited for.
    """
    configure_logging(settings.log_level, settings.log_format)
    asked = threading.Event()

    def ask(number: int, _: FrameType | None) -> None:
        log.info("draining", service=name, signal=signal.Signals(number).name)
        asked.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, ask)
    running = start(name, settings, register)
    with contextlib.suppress(KeyboardInterrupt):
        asked.wait()
    if on_drain is not None:
        on_drain()
    running.stop()
    log.info("stopped", service=name)
