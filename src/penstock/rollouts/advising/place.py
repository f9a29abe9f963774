"""Where a target is, seen from this process."""

from __future__ import annotations

import socket
from contextlib import closing
from pathlib import Path
from typing import Literal

from penstock.targets import Target

__all__ = ["Place", "place_of"]

Place = Literal["process", "host", "network"]
"""``process``: a store on a disk of this machine, written by this process; ``host``: shared memory,
or a server on this machine; ``network``: everything else."""

_SHARED_MEMORY = Path("/dev/shm")  # noqa: S108 - looked at, not written to


def place_of(target: Target | None) -> Place:
    """Where a target is; a server counts as on this host if every address of it is."""
    if target is None:
        return "process"
    if target.scheme == "file":
        paths = [Path(location).absolute() for location in target.locations]
        shared = all(path.is_relative_to(_SHARED_MEMORY) for path in paths)
        return "host" if shared else "process"
    return "host" if all(map(_is_here, target.locations)) else "network"


def _is_here(location: str) -> bool:
    if location.startswith("unix:"):
        return True
    host = location.rpartition(":")[0].strip("[]")
    try:
        found = socket.getaddrinfo(host, None, type=socket.SOCK_DGRAM)
    except OSError:
        return False
    return all(_is_own(family, address[0]) for family, _, _, _, address in found)


def _is_own(family: int, address: str | int) -> bool:
    """Only an address of this machine can be bound to."""
    with closing(socket.socket(family, socket.SOCK_DGRAM)) as probe:
        try:
            probe.bind((address, 0))
        except OSError:
            return False
    return True
