"""A port that the processes of one server share, and nobody else."""

from __future__ import annotations

import contextlib
import errno
import random
import socket
from pathlib import Path
from types import TracebackType
from typing import Self

from penstock.errors import Unavailable

__all__ = ["HeldPort", "free_port", "free_ports", "hold_port", "listened_addresses", "port_taken"]

_EVERY_ADDRESS = ("0.0.0.0", "[::]", "::")  # noqa: S104 - compared, not bound
_NO_SUCH_ADDRESS = (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT)
_GIVEN_PORTS = Path("/proc/sys/net/ipv4/ip_local_port_range")
_FIRST_PORT, _FEWEST_PORTS = 10_000, 10_000
_RANDOM = random.SystemRandom()


class HeldPort:
    """A port that is taken although this process does not listen there.

    Servers that are started with ``shared_port``, by the same user, may listen there as long as it
    is held; the kernel gives each connection to one of them.

    Attributes:
        port: Its number.
    """

    def __init__(self, sockets: list[socket.socket]) -> None:
        self._sockets = sockets
        self.port: int = sockets[0].getsockname()[1]

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        del kind, error, at
        for held in self._sockets:
            held.close()


def hold_port(name: str, host: str, port: int) -> HeldPort:
    """Take a port for servers that are to share it.

    Args:
        name: Name of the service, for the error.
        host: Where they will listen.
        port: Number of the port; 0 picks a free one.

    Raises:
        Unavailable: Another server listens there, or holds the port, or this machine has no such
            address.
    """
    sockets: list[socket.socket] = []
    with contextlib.ExitStack() as stack:
        for family, address in listened_addresses(name, host, port):
            number = sockets[0].getsockname()[1] if sockets else port
            try:
                held = _hold(family, address, number)
            except OSError as error:
                if error.errno in _NO_SUCH_ADDRESS:
                    continue  # `localhost` may stand for an address that is switched off
                raise port_taken(name, host, port) from error
            sockets.append(stack.enter_context(held))
        if not sockets:
            raise port_taken(name, host, port)
        stack.pop_all()
    return HeldPort(sockets)


def free_port() -> int:
    """A TCP port of the loopback interface that was free a moment ago; see :func:`free_ports`."""
    return free_ports(1)[0]


def free_ports(count: int) -> list[int]:
    """TCP ports of the loopback interface that were free a moment ago, for servers to be started.

    None of those that the system gives to whoever asks for any: one of these may be gone again, to
    a connection or to another port of the very service that is to listen there.
    """
    given = int(_GIVEN_PORTS.read_text().split()[0]) if _GIVEN_PORTS.exists() else 0
    found: set[int] = set()
    while len(found) < count:
        port = _RANDOM.randrange(_FIRST_PORT, max(given, _FIRST_PORT + _FEWEST_PORTS))
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            found.add(port)
    return list(found)


def port_taken(name: str, host: str, port: int) -> Unavailable:
    """The error of a server that cannot listen."""
    return Unavailable(
        f"{name} cannot listen on {host}:{port}: another server runs there, or this machine has no "
        "such address: choose another --port, or --host",
        reason="PORT_TAKEN",
    )


def listened_addresses(name: str, host: str, port: int) -> list[tuple[int, str]]:
    """The addresses that gRPC listens on for ``host``: family and numeric address, IPv4 first.

    Raises:
        Unavailable: It has none; ``name`` says whose error that is.
    """
    if host in _EVERY_ADDRESS:
        # gRPC reads either wildcard as both families, by one socket where there is IPv6.
        try:
            with _new_socket(socket.AF_INET6) as probe:
                probe.bind(("::", 0))
        except OSError:
            return [(socket.AF_INET, "")]
        return [(socket.AF_INET6, "::")]
    try:
        found = socket.getaddrinfo(host.strip("[]"), port, type=socket.SOCK_STREAM)
    except OSError as error:
        raise port_taken(name, host, port) from error
    return sorted(dict.fromkeys((entry[0], str(entry[4][0])) for entry in found))


def _hold(family: int, address: str, port: int) -> socket.socket:
    """Take one address.

    SO_REUSEPORT alone would not do: the kernel lets in every socket of the same user that has it
    too, so two servers with several processes each would share a port in silence, both having found
    it free. Therefore the socket first listens without it, which succeeds only where nobody else
    is, of whatever kind, and then changes sides without ever letting go of the port:

    - with SO_REUSEPORT, so that the server's own processes get in;
    - without SO_REUSEADDR, which it needed only to pass connections of an earlier server that
      linger: with it, another server could bind as long as nobody listens, that is, before the
      first process is there and while all of them are being replaced;
    - no longer listening, as connections that the kernel gave to it would never be answered. A
      socket that was bound to a port by its number keeps it then; one that was bound to 0 does not.
    """
    held = _new_socket(family)
    try:
        if port:
            held.bind((address, port))
        else:
            with _new_socket(family) as finder:
                finder.bind((address, 0))
                # Both may be bound as neither listens, so that nobody can come between.
                held.bind((address, finder.getsockname()[1]))
        held.listen(1)
        held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 0)
        held.shutdown(socket.SHUT_RD)
    except OSError:
        held.close()
        raise
    return held


def _new_socket(family: int) -> socket.socket:
    new = socket.socket(family, socket.SOCK_STREAM)
    new.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if family == socket.AF_INET6:
        new.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
    return new
