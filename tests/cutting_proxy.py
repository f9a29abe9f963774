"""A link that breaks where a test wants it to: passes TCP on, and cuts it after so many bytes."""

from __future__ import annotations

import contextlib
import socket
import threading
from typing import Self

__all__ = ["CuttingProxy"]

_PIECE_BYTES = 1 << 16


class CuttingProxy:
    """Listens on a free port and passes connections on to another one.

    Args:
        port: Where to.
        received_limits: After how many bytes from the server each connection is cut, one after
            the other; those that follow are left alone.

    Attributes:
        cuts: How many times it was cut.
    """

    def __init__(self, port: int, received_limits: list[int] | None = None) -> None:
        self._port, self.cuts = port, 0
        self._limits = list(received_limits or [])
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._open: list[socket.socket] = [self._listener]
        self._threads: list[threading.Thread] = []
        self._lock = threading.Lock()

    @property
    def target(self) -> str:
        """What clients open."""
        return f"grpc://127.0.0.1:{self._listener.getsockname()[1]}"

    def __enter__(self) -> Self:
        self._start(self._accept)
        return self

    def __exit__(self, *_: object) -> None:
        for opened in self._open:
            _shut(opened)
        for thread in self._threads:
            thread.join(10)
        for opened in self._open:
            opened.close()

    def cut(self) -> None:
        """Cut all connections that are open now."""
        with self._lock:
            self.cuts += 1
        for opened in self._open[1:]:
            _shut(opened)

    def _start(self, work, *arguments) -> None:
        thread = threading.Thread(target=work, args=arguments, daemon=True)
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                server = socket.create_connection(("127.0.0.1", self._port))
                self._open += [client, server]
                limit = self._limits.pop(0) if self._limits else None
                self._start(self._pass_on, client, server, None)
                self._start(self._pass_on, server, client, limit)

    def _pass_on(self, source: socket.socket, sink: socket.socket, limit: int | None) -> None:
        passed = 0
        with contextlib.suppress(OSError):
            while data := source.recv(_PIECE_BYTES):
                passed += len(data)
                if limit is not None and passed > limit:
                    with self._lock:
                        self.cuts += 1
                    break
                sink.sendall(data)
        _shut(source)
        _shut(sink)


def _shut(opened: socket.socket) -> None:
    with contextlib.suppress(OSError):
        opened.shutdown(socket.SHUT_RDWR)
