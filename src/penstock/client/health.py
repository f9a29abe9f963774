"""Asks a server how it is: health and the services it offers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from penstock.client.channel import open_channel
from penstock.client.errors import translated_errors
from penstock.targets import Target

__all__ = ["Health", "check_health"]


@dataclass(frozen=True)
class Health:
    """Status of a server and the full names of what it offers."""

    status: str
    services: tuple[str, ...]

    @property
    def serving(self) -> bool:
        """Whether it takes calls."""
        return self.status == "SERVING"


def check_health(target: Target, timeout_s: float = 5.0) -> Health:
    """Ask the standard health and reflection services of ``target``.

    Raises:
        Unavailable: Nobody answers.
        TimedOut: The answer did not come in ``timeout_s``.
    """
    with open_channel(target) as channel, translated_errors(target):
        stub: Any = health_pb2_grpc.HealthStub(channel)
        answer = stub.Check(health_pb2.HealthCheckRequest(), timeout=timeout_s)
        status = health_pb2.HealthCheckResponse.ServingStatus.Name(answer.status)
        reflection: Any = reflection_pb2_grpc.ServerReflectionStub(channel)
        request = reflection_pb2.ServerReflectionRequest(list_services="")
        listed = next(reflection.ServerReflectionInfo(iter([request]), timeout=timeout_s))
        names = tuple(service.name for service in listed.list_services_response.service)
    return Health(status, names)
