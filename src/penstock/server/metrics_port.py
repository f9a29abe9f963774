"""The port that Prometheus reads metrics from."""

from __future__ import annotations

from typing import Any

import prometheus_client
from prometheus_client import CollectorRegistry

from penstock.errors import Unavailable
from penstock.server.settings import ServerSettings

__all__ = ["MetricsServer", "serve_metrics"]


class MetricsServer:
    """Answers on a port until it is stopped.

    Raises:
        OSError: The port is taken, or the host is no address of this machine.
    """

    def __init__(self, port: int, host: str, registry: CollectorRegistry) -> None:
        self._server: Any  # a WSGI server of the standard library, by a private class
        self._server, self._thread = prometheus_client.start_http_server(
            port, addr=host, registry=registry
        )

    def stop(self) -> None:
        """Free the port."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


def serve_metrics(
    name: str, settings: ServerSettings, registry: CollectorRegistry = prometheus_client.REGISTRY
) -> MetricsServer | None:
    """Serve the metrics of ``registry`` in the background; None without a port for it.

    Args:
        name: Name of the service, for the error.
        settings: Where to.
        registry: All metrics of this process by default.

    Raises:
        Unavailable: The port is taken.
    """
    if not settings.metrics_port:
        return None
    try:
        return MetricsServer(settings.metrics_port, settings.host, registry)
    except OSError as error:
        raise Unavailable(
            f"{name} cannot serve metrics on {settings.host}:{settings.metrics_port} "
            f"({error.strerror}): choose another --metrics-port",
            reason="PORT_TAKEN",
        ) from error
