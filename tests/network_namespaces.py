"""Two machines on one: network namespaces joined by a cable that can be cut and made slow.

Needs root and iproute2; :func:`why_not` says what is missing. Whatever was made is removed when
the block ends, however it ends.
"""

from __future__ import annotations

import contextlib
import functools
import secrets
import shutil
import subprocess
from collections.abc import Generator
from dataclasses import dataclass

__all__ = ["Cable", "Machine", "two_machines", "why_not"]

# 198.18.0.0/15 is set aside for tests of network devices: RFC 2544.
_ADDRESSES = ("198.18.0.1", "198.18.0.2")
_BURST_BYTES = 256 << 10
_QUEUE_MS = 50


@dataclass(frozen=True)
class Machine:
    """A network namespace with an interface of its own.

    Attributes:
        namespace: Its name.
        interface: Its end of the cable.
        address: IPv4 address that the other one reaches it at.
    """

    namespace: str
    interface: str
    address: str

    def command(self, *command: str) -> list[str]:
        """The command, to be run on this machine; it keeps its process id."""
        return ["ip", "netns", "exec", self.namespace, *command]


@dataclass(frozen=True)
class Cable:
    """What joins two machines; begins plugged in and as fast as it goes."""

    ends: tuple[Machine, Machine]

    def cut(self) -> None:
        """Nothing arrives any more, in either direction, and nobody is told."""
        for end in self.ends:
            self._set(end, "down")

    def restore(self) -> None:
        """Plug it in again."""
        for end in self.ends:
            self._set(end, "up")

    def shape(self, bits_per_s: float) -> None:
        """Let no more through than this, in each direction."""
        for end in self.ends:
            _run(
                *("ip", "netns", "exec", end.namespace, "tc", "qdisc", "replace"),
                *("dev", end.interface, "root", "tbf", "rate", f"{round(bits_per_s)}bit"),
                *("burst", str(_BURST_BYTES), "latency", f"{_QUEUE_MS}ms"),
            )

    def unshape(self) -> None:
        """As fast as it goes again."""
        for end in self.ends:
            with contextlib.suppress(subprocess.CalledProcessError):  # it was not shaped
                _run(
                    *("ip", "netns", "exec", end.namespace, "tc", "qdisc", "del"),
                    *("dev", end.interface, "root"),
                )

    @staticmethod
    def _set(end: Machine, state: str) -> None:
        _run("ip", "-n", end.namespace, "link", "set", end.interface, state)


@functools.cache
def why_not() -> str | None:
    """Why there can be no machines here; None if there can."""
    missing = [tool for tool in ("ip", "tc") if shutil.which(tool) is None]
    if missing:
        return f"{' and '.join(missing)} of iproute2 missing: apt-get install iproute2"
    try:
        with two_machines() as (_, _, cable):
            cable.shape(1e9)
    except subprocess.CalledProcessError as error:
        said = error.stderr.strip() or f"exit status {error.returncode}"
        return f"`{' '.join(error.cmd)}` says: {said} (needs root and network namespaces)"
    return None


@contextlib.contextmanager
def two_machines() -> Generator[tuple[Machine, Machine, Cable]]:
    """Two machines and the cable between them.

    Raises:
        subprocess.CalledProcessError: It cannot be done here; ``stderr`` says why.
    """
    # An interface's name has at most 15 characters.
    name = f"pst{secrets.token_hex(4)}"
    a, b = (
        Machine(f"{name}{end}", f"{name}{end}", address)
        for end, address in zip("ab", _ADDRESSES, strict=True)
    )
    with contextlib.ExitStack() as made:
        for machine in (a, b):
            _run("ip", "netns", "add", machine.namespace)
            made.callback(_remove, machine.namespace)
        _run(
            *("ip", "-n", a.namespace, "link", "add", a.interface, "type", "veth"),
            *("peer", "name", b.interface, "netns", b.namespace),
        )
        for machine in (a, b):
            _run(
                *("ip", "-n", machine.namespace, "address", "add"),
                *(f"{machine.address}/30", "dev", machine.interface),
            )
            for interface in ("lo", machine.interface):
                _run("ip", "-n", machine.namespace, "link", "set", interface, "up")
        yield a, b, Cable((a, b))


def _remove(namespace: str) -> None:
    """With what still runs in it, and its interface."""
    pids = subprocess.run(
        ["ip", "netns", "pids", namespace], capture_output=True, text=True, check=False
    ).stdout.split()
    for pid in pids:
        subprocess.run(["kill", "-9", pid], check=False, capture_output=True)
    subprocess.run(["ip", "netns", "del", namespace], check=False, capture_output=True)


def _run(*command: str) -> None:
    subprocess.run(command, check=True, capture_output=True, text=True)
