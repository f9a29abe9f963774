"""Asks one replica of this machine for descriptors of its cached frames, over its unix socket.

The socket is ``SOCK_SEQPACKET``. A request is one JSON message, ``{"replica_id": "<decimal>",
"file_id": "...", "height": H, "width": W}``; so is the answer, ``{"ok": true}`` with one descriptor
or ``{"ok": false, "reason": ..., "message": ...}``. The replica is named in each request, so the
socket of another machine's server, found at the same path, hands out nothing.
"""

from __future__ import annotations

import array
import json
import os
import socket
from pathlib import Path
from typing import Any

from penstock.errors import Corrupt, NotFound, PenstockError, TimedOut, Unavailable

__all__ = ["ANSWER_S", "LocalSocket"]

ANSWER_S = 0.5
"""A server that takes longer is busy or paused: frames are asked for in the ordinary way."""

_MAX_MESSAGE_BYTES = 4096
_MAX_DESCRIPTORS = 4
"""One is expected; what else comes is closed."""


class LocalSocket:
    """A connection that is made when it is needed; for one thread at a time.

    Args:
        path: Of the socket, as the replica tells it.
        replica_id: Of the replica that must be behind it.
    """

    def __init__(self, path: str, replica_id: int) -> None:
        self.path, self._replica_id = path, replica_id
        self._connected: socket.socket | None = None

    def is_there(self) -> bool:
        """Whether there is a socket at that path: not on other machines, or in other containers."""
        try:
            return Path(self.path).is_socket()
        except OSError:  # a folder that this user may not look into
            return False

    def ask(self, file_id: str, height: int, width: int) -> int:
        """A read-only descriptor of the cached frames of a file, which the caller closes.

        Raises:
            NotFound: None is handed out; ``reason`` is the server's: NOT_CACHED, OTHER_REPLICA,
                NO_SUCH_FILE or BAD_REQUEST.
            TimedOut: No answer came for half a second; the connection is given up.
            Unavailable: Nobody listens there, or the connection broke.
            Corrupt: The answer is none.
        """
        fields = {"replica_id": str(self._replica_id), "file_id": file_id}
        request = json.dumps({**fields, "height": height, "width": width}).encode()
        # The server closes what was silent for long, so an old connection is made anew once.
        kept = self._connected is not None
        try:
            try:
                answer, descriptors = self._exchange(request)
            except ConnectionError:
                if not kept:
                    raise
                self.close()
                answer, descriptors = self._exchange(request)
        except TimeoutError as error:
            # A late answer must not be taken for the next one's.
            self.close()
            raise TimedOut(f"{self.path} has not answered for {ANSWER_S} s") from error
        except OSError as error:
            self.close()
            raise Unavailable(f"{self.path}: {error.strerror or error}") from error
        try:
            return _only_descriptor(self.path, answer, descriptors)
        except Corrupt:
            self.close()
            raise

    def close(self) -> None:
        """Give up the connection, and with it what is still on its way."""
        connected, self._connected = self._connected, None
        if connected is not None:
            connected.close()

    def _exchange(self, request: bytes) -> tuple[bytes, list[int]]:
        if self._connected is None:
            connected = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            self._connected = connected
            connected.settimeout(ANSWER_S)
            connected.connect(self.path)
        self._connected.send(request)
        answer, descriptors = _receive(self._connected)
        if not answer:
            _close_all(descriptors)
            raise ConnectionResetError("the server has closed the connection")
        return answer, descriptors


def _receive(connected: socket.socket) -> tuple[bytes, list[int]]:
    # socket.recv_fds passes over its flags in Python 3.11: programs that this process starts would
    # get the descriptors as well.
    descriptors = array.array("i")
    room = socket.CMSG_SPACE(_MAX_DESCRIPTORS * descriptors.itemsize)
    answer, ancillary, _, _ = connected.recvmsg(_MAX_MESSAGE_BYTES, room, socket.MSG_CMSG_CLOEXEC)
    for level, kind, data in ancillary:
        if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
            # Where there was no room for all of them, the last one may be cut.
            descriptors.frombytes(data[: len(data) - len(data) % descriptors.itemsize])
    return answer, descriptors.tolist()


def _only_descriptor(path: str, answer: bytes, descriptors: list[int]) -> int:
    try:
        _check(path, answer)
        if len(descriptors) != 1:
            raise Corrupt(
                f"{path} answers with {len(descriptors)} descriptors, expected one: is this "
                "process at its limit of open files (ulimit -n)?"
            )
    except PenstockError:
        _close_all(descriptors)
        raise
    return descriptors[0]


def _check(path: str, answer: bytes) -> None:
    """Raise unless the answer hands out a descriptor."""
    try:
        fields: Any = json.loads(answer)
    except (ValueError, RecursionError) as error:
        raise Corrupt(f"{path} answers what is no JSON: {answer!r:.100}") from error
    if not isinstance(fields, dict) or not isinstance(fields.get("ok"), bool):
        raise Corrupt(f"{path} answers {answer!r:.100}, expected an object with 'ok'")
    if not fields["ok"]:
        raise NotFound(
            f"{path} hands out nothing: {fields.get('message')!s:.500}",
            reason=f"{fields.get('reason')!s:.50}",
        )


def _close_all(descriptors: list[int]) -> None:
    for descriptor in descriptors:
        os.close(descriptor)
