"""From the names of a target to the addresses of its replicas."""

from __future__ import annotations

import socket

from penstock.errors import InvalidInput, Unavailable
from penstock.targets import Target

__all__ = ["resolve"]


def resolve(target: Target) -> list[str]:
    """Every address that ``target`` stands for now, as gRPC names them, in order and once each.

    A name with several addresses (``docker compose up --scale``, a headless Kubernetes service)
    gives them all. IPv6 is used for names that have no IPv4 address.

    Raises:
        InvalidInput: ``target`` is not a ``grpc`` target.
        Unavailable: No name has an address; a part of the names without one is passed over.
    """
    if target.scheme != "grpc":
        raise InvalidInput(f"{target} is not served over gRPC: use grpc://host:port")
    found: list[str] = []
    failures: list[str] = []
    for location in target.locations:
        if location.startswith("unix:"):
            found.append(location)
            continue
        host, _, port = location.rpartition(":")
        try:
            found.extend(sorted(_addresses(host.strip("[]"), int(port))))
        except OSError as error:
            failures.append(f"{host!r} has no address: {error}")
    if not found:
        raise Unavailable(f"{target}: {'; '.join(failures)}: is the service running there?")
    return list(dict.fromkeys(found))


def _addresses(host: str, port: int) -> list[str]:
    entries = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    four = [f"ipv4:{e[4][0]}:{e[4][1]}" for e in entries if e[0] == socket.AF_INET]
    six = [f"ipv6:[{e[4][0]}]:{e[4][1]}" for e in entries if e[0] == socket.AF_INET6]
    return four or six
