"""Hands the descriptors of cached frames to clients of the same machine, over a unix socket.

The socket is ``SOCK_SEQPACKET``. A request is one JSON message of at most 4096 bytes,
``{"replica_id": "<decimal>", "file_id": "...", "height": H, "width": W}``; so is the answer:
``{"ok": true}`` with one read-only descriptor, or ``{"ok": false, "reason": ..., "message": ...}``
with one of the reasons NOT_CACHED, OTHER_REPLICA, NO_SUCH_FILE and BAD_REQUEST. A client that gets
no descriptor asks the server for the frames instead.
"""

from __future__ import annotations

import contextlib
import json
import os
import selectors
import socket
import struct
import threading
import time
from collections.abc import Generator
from dataclasses import dataclass
from typing import Any, Self

import structlog

from penstock.batch import FrameSpec
from penstock.errors import InvalidInput, NotFound, PenstockError
from penstock_sampler import metrics
from penstock_sampler.serving.local_path import SocketPlace
from penstock_sampler.serving.status import Activity
from penstock_sampler.serving.versions import ServedVersions

__all__ = ["LocalServer"]

log = structlog.get_logger(__name__)

MAX_MESSAGE_BYTES = 4096
MAX_CONNECTIONS = 64
IDLE_S = 600.0
_SEND_BUFFER_BYTES = 16 << 10
"""Bounds the descriptors on their way to a client that does not receive them."""
_LOOK_S = 5.0
_CREDENTIALS = struct.Struct("3i")
_MESSAGE_CHARACTERS = 512


@dataclass
class _Refused(Exception):
    reason: str
    message: str


@dataclass
class _Client:
    pid: int
    uid: int
    heard_s: float


class LocalServer:
    """Answers on one socket, in one thread.

    Args:
        place: Where the socket lies.
        served: Whose cached frames are handed out: those of the newest version.
        activity: Whose ``replica_id`` clients must name; where to count.
        any_user: Serve every user of the machine, not only this one and root.
        idle_s: Seconds after which a silent connection is closed.
    """

    def __init__(
        self,
        place: SocketPlace,
        served: ServedVersions,
        activity: Activity,
        *,
        any_user: bool = False,
        idle_s: float = IDLE_S,
    ) -> None:
        self._place, self._served, self._activity = place, served, activity
        self._any_user, self._idle_s = any_user, idle_s
        self._clients: dict[socket.socket, _Client] = {}
        self._selector = selectors.DefaultSelector()
        self._waker, self._woken = socket.socketpair()
        self._thread: threading.Thread | None = None

    @property
    def path(self) -> str:
        """Where clients connect to."""
        return str(self._place.path)

    def start(self) -> Self:
        """Begin to listen.

        Raises:
            Unavailable: Another server listens there, or the place cannot be used.
        """
        listening = self._place.listen(world=self._any_user)
        self._selector.register(listening, selectors.EVENT_READ)
        self._selector.register(self._woken, selectors.EVENT_READ)
        self._thread = threading.Thread(
            target=self._run, args=(listening,), name="local-socket", daemon=True
        )
        self._thread.start()
        log.info("cached frames for this machine", socket=self.path, any_user=self._any_user)
        return self

    def stop(self) -> None:
        """Close every connection and remove the socket."""
        self._waker.close()
        if self._thread is not None:
            self._thread.join()
        self._woken.close()
        self._selector.close()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()

    def _run(self, listening: socket.socket) -> None:
        with contextlib.closing(listening):
            while True:
                ready = [
                    key.fileobj for key, _ in self._selector.select(min(_LOOK_S, self._idle_s))
                ]
                if self._woken in ready:
                    break
                if listening in ready:
                    self._accept(listening)
                for client in [client for client in self._clients if client in ready]:
                    self._serve(client)
                self._drop_idle()
            for client in tuple(self._clients):
                self._drop(client)
            self._place.remove()

    def _accept(self, listening: socket.socket) -> None:
        try:
            client, _ = listening.accept()
        except OSError as error:
            # Out of descriptors, most likely; what waits to be accepted is still there.
            log.warning("local client not accepted", error=str(error))
            time.sleep(0.1)
            return
        raw = client.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
        pid, uid, _ = _CREDENTIALS.unpack(raw)
        refusal = ""
        if len(self._clients) >= MAX_CONNECTIONS:
            refusal = "TOO_MANY"
        elif not self._any_user and uid not in (0, os.geteuid()):
            refusal = "OTHER_USER"
        if refusal:
            metrics.LOCAL_REFUSALS.labels(refusal).inc()
            log.warning("local client refused", pid=pid, uid=uid, reason=refusal)
            client.close()
            return
        client.settimeout(0)
        client.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _SEND_BUFFER_BYTES)
        self._clients[client] = _Client(pid, uid, time.monotonic())
        self._selector.register(client, selectors.EVENT_READ)
        log.info("local client", pid=pid, uid=uid)

    def _serve(self, client: socket.socket) -> None:
        try:
            # No room for descriptors: what a client sends of those is closed by the kernel.
            request, _, flags, _ = client.recvmsg(MAX_MESSAGE_BYTES, 0)
            if not request:
                self._drop(client)
                return
            self._clients[client].heard_s = time.monotonic()
            self._answer(client, request, whole=not flags & socket.MSG_TRUNC)
        except BlockingIOError:
            log.warning("local client does not receive", pid=self._clients[client].pid)
            self._drop(client)
        except OSError as error:
            log.info("local client lost", pid=self._clients[client].pid, error=str(error))
            self._drop(client)

    def _answer(self, client: socket.socket, request: bytes, *, whole: bool) -> None:
        try:
            with self._found(request, whole=whole) as descriptor:
                socket.send_fds(client, [b'{"ok": true}'], [descriptor])
        except _Refused as refused:
            metrics.LOCAL_REFUSALS.labels(refused.reason).inc()
            answer = {
                "ok": False,
                "reason": refused.reason,
                "message": refused.message[:_MESSAGE_CHARACTERS],
            }
            client.send(json.dumps(answer).encode())
        else:
            metrics.LOCAL_DESCRIPTORS.inc()
            self._activity.handed_descriptor()

    @contextlib.contextmanager
    def _found(self, request: bytes, *, whole: bool) -> Generator[int]:
        """The descriptor that is asked for, closed at the end."""
        if not whole:
            raise _Refused("BAD_REQUEST", f"a request has at most {MAX_MESSAGE_BYTES} bytes")
        replica_id, file_id, spec = _parsed(request)
        if replica_id != str(self._activity.replica_id):
            raise _Refused("OTHER_REPLICA", f"this is replica {self._activity.replica_id}")
        try:
            with self._served.use() as backend:
                descriptor = backend.cached_frames(file_id, spec)
        except NotFound as error:
            raise _Refused("NO_SUCH_FILE", error.message) from error
        except InvalidInput as error:
            raise _Refused("BAD_REQUEST", error.message) from error
        except PenstockError as error:
            raise _Refused("NOT_CACHED", error.message) from error
        if descriptor is None:
            raise _Refused("NOT_CACHED", f"{file_id} is not cached in this size, or not yet")
        try:
            yield descriptor
        finally:
            os.close(descriptor)

    def _drop(self, client: socket.socket) -> None:
        del self._clients[client]
        self._selector.unregister(client)
        client.close()

    def _drop_idle(self) -> None:
        latest_s = time.monotonic() - self._idle_s
        for client in [key for key, found in self._clients.items() if found.heard_s < latest_s]:
            self._drop(client)


def _parsed(request: bytes) -> tuple[str, str, FrameSpec]:
    """Replica, file and size of a request."""
    try:
        fields: Any = json.loads(request)
    except (ValueError, RecursionError) as error:
        raise _Refused("BAD_REQUEST", f"the request is no JSON: {error}") from error
    if not isinstance(fields, dict):
        raise _Refused("BAD_REQUEST", "the request is no JSON object")
    replica_id, file_id = fields.get("replica_id"), fields.get("file_id")
    height, width = fields.get("height"), fields.get("width")
    if not isinstance(replica_id, str) or not isinstance(file_id, str):
        raise _Refused("BAD_REQUEST", "replica_id and file_id are strings")
    if type(height) is not int or type(width) is not int:
        raise _Refused("BAD_REQUEST", "height and width are integers")
    try:
        return replica_id, file_id, FrameSpec(height, width)
    except InvalidInput as error:
        raise _Refused("BAD_REQUEST", error.message) from error
