"""The arrays as they are through a TCP socket: what the link and the kernel take.

Favours this way: nothing is checked, nothing is stored, and the arrays are received in place.
"""

from __future__ import annotations

import json
import socket
from typing import Any

import numpy as np
from worker import Leaves, Peer, serve

__all__ = ["SocketPeer", "receive_exactly"]

_SIZE_BYTES = 8


class SocketPeer(Peer):
    """One connection, kept; a length before everything."""

    def __init__(self) -> None:
        self._listener: socket.socket | None = None
        self._connection: socket.socket | None = None

    def listen(self, way: str, address: str) -> int:  # noqa: ARG002 - there is one way
        """Wait for the collector's connection."""
        self._listener = socket.create_server((address, 0))
        return self._listener.getsockname()[1]

    def connect(self, way: str, address: str, port: int) -> None:  # noqa: ARG002 - one way
        """Connect to the trainer."""
        self._connection = socket.create_connection((address, port))
        self._connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    @property
    def connection(self) -> socket.socket:
        """The one connection; in a trainer the one that comes first."""
        if self._connection is None:
            if self._listener is None:
                raise RuntimeError("neither connected nor listening")
            self._connection, _ = self._listener.accept()
        return self._connection

    def send(self, way: str, native: Any) -> None:  # noqa: ARG002 - there is one way
        """What the arrays are, then each."""
        described = [(path, a.dtype.str, a.shape) for path, a in native.items()]
        head = json.dumps(described).encode()
        self.connection.sendall(len(head).to_bytes(_SIZE_BYTES, "little") + head)
        for array in native.values():
            self.connection.sendall(array.reshape(-1).view(np.uint8))

    def receive(self, way: str) -> Leaves:  # noqa: ARG002 - there is one way
        """The arrays, received in place."""
        size = bytearray(_SIZE_BYTES)
        receive_exactly(self.connection, memoryview(size))
        head = bytearray(int.from_bytes(size, "little"))
        receive_exactly(self.connection, memoryview(head))
        leaves: Leaves = {}
        for path, dtype, shape in json.loads(head):
            leaves[path] = np.empty(shape, dtype)
            receive_exactly(self.connection, leaves[path].reshape(-1).view(np.uint8).data)
        return leaves


def receive_exactly(connection: socket.socket, into: memoryview) -> None:
    """Fill a buffer.

    Raises:
        EOFError: The other side has hung up.
    """
    while into:
        received = connection.recv_into(into)
        if received == 0:
            raise EOFError("the other side has hung up")
        into = into[received:]


if __name__ == "__main__":
    serve(SocketPeer())
