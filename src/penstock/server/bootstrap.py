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

from penstock.server.interceptor import CallInterceptor
from penstock.server.log import configure_logging
from penstock.server.metrics_port import MetricsServer, serve_metrics
from penstock.server.port import port_taken
from penstock.server.settings import ServerSettings

__all__ = ["Register", "RunningServer", "serve", "start"]

log = structlog.get_logger(__name__)

Register = Callable[[grpc.Server], Sequence[str]]
"""Adds servicers to a server and returns their full service names."""

MAX_MESSAGE_BYTES = 64 << 20
"""Bounds what one message may allocate; services send about 1 MiB at a time."""

_SIGNAL_LOOK_S = 0.5

_OPTIONS = [
    ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
    ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
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
        metrics: MetricsServer | None,
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
            self._metrics.stop()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop(drain_s=0)


def start(
    name: str, settings: ServerSettings, register: Register, *, shared_port: bool = False
) -> RunningServer:
    """Start serving in background threads.

    Args:
        name: Name of the service, for log lines.
        settings: Where to listen.
        register: Adds the service's own servicers.
        shared_port: Whether this is one of several processes of a server that listen on the port
            that their parent holds (``penstock.server.port``).

    Raises:
        Unavailable: A port is taken, or the host is no address of this machine.
    """
    server = grpc.server(
        futures.ThreadPoolExecutor(settings.workers, thread_name_prefix=name),
        interceptors=[CallInterceptor()],
        # A second server on the same port must fail, not share it in silence.
        options=[*_OPTIONS, ("grpc.so_reuseport", int(shared_port))],
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
        raise port_taken(name, settings.host, settings.port) from error
    metrics = serve_metrics(name, settings)
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
    shared_port: bool = False,
    on_serving: Callable[[], None] | None = None,
    on_drain: Callable[[], None] | None = None,
) -> None:
    """Serve until SIGTERM or SIGINT, then drain and return.

    Args:
        name: Name of the service, for log lines.
        settings: Where to listen.
        register: Adds the service's own servicers.
        shared_port: See :func:`start`.
        on_serving: Called when the first call would be answered.
        on_drain: Called when draining begins, before calls in flight are waited for.
    """
    configure_logging(settings.log_level, settings.log_format, pid=shared_port)
    asked = threading.Event()

    def ask(number: int, _: FrameType | None) -> None:
        log.info("draining", service=name, signal=signal.Signals(number).name)
        asked.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, ask)
    running = start(name, settings, register, shared_port=shared_port)
    if on_serving is not None:
        on_serving()
    with contextlib.suppress(KeyboardInterrupt):
        # Not for ever: a signal may reach another thread (after a SIGCONT it often does), and then
        # only the end of this wait lets its handler run.
        while not asked.wait(_SIGNAL_LOOK_S):
            pass
    if on_drain is not None:
        on_drain()
    running.stop()
    log.info("stopped", service=name)
