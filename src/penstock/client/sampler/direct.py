"""``Fetch`` over a plain TCP connection: cached frames as they lie there, without gRPC's copies.

A server that offers it says so in ``GetDataset``. Only what goes well goes this way: whatever a
server refuses or cannot do, and whatever keeps a client from reaching it, is left to gRPC, which
brings the rows that are missing or says why not.
"""

from __future__ import annotations

import contextlib
import logging
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np
import xxhash
from google.protobuf.message import DecodeError

from penstock.client.channel import MAX_MESSAGE_BYTES
from penstock.client.sampler.received import Received, parse_fetched
from penstock.errors import Cancelled, Corrupt
from penstock.v1 import sampler_pb2 as pb

__all__ = ["DirectFetch", "DirectPort"]

log = logging.getLogger(__name__)

HELLO = struct.Struct("<8sQ")
MAGIC = b"PSDIRECT"
SIZE = struct.Struct("<I")
END, REFUSED = 0, 0xFFFFFFFF
_CONNECT_S = 2.0
_AGAIN_S = 60.0
_MOST_IDLE = 4
_FIRST_BUFFER_BYTES = 2 << 20
_KEPT_BUFFER_BYTES = 16 << 20


class _NotThisWay(Exception):
    """The rest has to come over gRPC."""


class DirectPort:
    """The direct port of one server process; safe to use from several threads.

    Args:
        name: Of the replica, for messages.
        host: Where its gRPC port is reached.
        port: As ``GetDataset`` names it.
        replica_id: Of the process; nobody else is asked.
        on_fault: Called when the port cannot be reached or breaks off.
    """

    def __init__(
        self, name: str, host: str, port: int, replica_id: int, on_fault: Callable[[], None]
    ) -> None:
        self.name, self.port, self.replica_id = name, port, replica_id
        self._address, self._on_fault = (host, port), on_fault
        self._lock = threading.Lock()
        self._idle: list[_Line] = []
        self._closed = False
        self._try_at = 0.0

    def fetch(
        self, request: pb.FetchRequest, over_grpc: Callable[[pb.FetchRequest], Any]
    ) -> DirectFetch:
        """Call ``Fetch`` this way.

        Args:
            request: What to fetch.
            over_grpc: Makes the same call over gRPC.
        """
        return DirectFetch(self, request, over_grpc)

    def take(self) -> tuple[_Line, bool]:
        """A connection, and whether it was used before.

        Raises:
            _NotThisWay: There is none now.
        """
        with self._lock:
            if self._closed or time.monotonic() < self._try_at:
                raise _NotThisWay
            if self._idle:
                return self._idle.pop(), True
        try:
            return _Line(self._address, self.replica_id), False
        except OSError as error:
            with self._lock:
                self._try_at = time.monotonic() + _AGAIN_S
            self._on_fault()
            log.warning(
                "%s: its direct port %d cannot be reached (%s): batches come over gRPC, which "
                "takes longer",
                self.name,
                self.port,
                error,
            )
            raise _NotThisWay from error

    def give_back(self, line: _Line) -> None:
        """Keep a connection for the next call."""
        with self._lock:
            if not self._closed and len(self._idle) < _MOST_IDLE:
                line.shrink()
                self._idle.append(line)
                return
        line.close()

    def fault(self, what: str) -> None:
        """Note that an answer did not come to its end."""
        self._on_fault()
        log.info("%s: its direct port %s: the rest comes over gRPC", self.name, what)

    def close(self) -> None:
        """Close all connections that no call uses."""
        with self._lock:
            self._closed = True
            idle, self._idle = self._idle, []
        for line in idle:
            line.close()


class DirectFetch:
    """One call; iterate it once. What it gives is valid until the next one is asked for.

    Args:
        port: Where.
        request: What to fetch.
        over_grpc: Brings what does not come this way.
    """

    def __init__(
        self,
        port: DirectPort,
        request: pb.FetchRequest,
        over_grpc: Callable[[pb.FetchRequest], Any],
    ) -> None:
        self._port, self._request, self._over_grpc = port, request, over_grpc
        self._lock = threading.Lock()
        self._line: _Line | None = None
        self._rest: Any = None
        self._cancelled = False

    def cancel(self) -> None:
        """End the call, from any thread."""
        with self._lock:
            self._cancelled = True
            line, rest = self._line, self._rest
        if line is not None:
            line.shut()
        if rest is not None:
            rest.cancel()

    def __iter__(self) -> Iterator[Received]:
        rows = 0
        with contextlib.suppress(_NotThisWay):
            for received in self._direct():
                rows += received.part.rows
                yield received
            return
        for received in self._remaining(rows):
            received.part.first_row += rows
            yield received

    def _direct(self) -> Iterator[Received]:
        request = self._request.SerializeToString()
        line = self._asked(request)
        whole = False
        try:
            while (message := line.receive()) is not None:
                received = parse_fetched(message)
                if not _is_intact(received):
                    # Over gRPC the server looks at it, and mends what it finds.
                    self._port.fault("sends damaged frames")
                    raise _NotThisWay
                yield received
            whole = True
        except OSError as error:
            self._check_cancelled(error)
            self._port.fault(f"broke off ({error})")
            raise _NotThisWay from error
        except DecodeError as error:
            raise Corrupt(f"{self._port.name}: a message of its direct port is none") from error
        finally:
            with self._lock:
                self._line = None
            if whole and not self._cancelled:
                self._port.give_back(line)
            else:
                line.close()

    def _asked(self, request: bytes) -> _Line:
        """A connection on which the request is on its way."""
        while True:
            line, used = self._port.take()
            with self._lock:
                self._line = line
            self._check_cancelled()
            try:
                line.ask(request)
            except OSError as error:
                line.close()
                self._check_cancelled(error)
                if not used:
                    raise _NotThisWay from error
            else:
                return line

    def _remaining(self, rows: int) -> Iterable[Received]:
        request = self._request
        if rows:
            request = pb.FetchRequest()
            request.CopyFrom(self._request)
            del request.transition_ids[:rows]
        with self._lock:
            cancelled = self._cancelled
            if not cancelled:
                self._rest = self._over_grpc(request)
        if cancelled:
            raise self._called_off()
        return self._rest

    def _check_cancelled(self, error: OSError | None = None) -> None:
        if self._cancelled:
            raise self._called_off() from error

    def _called_off(self) -> Cancelled:
        return Cancelled(f"{self._port.name}: the call was called off")


def _is_intact(received: Received) -> bool:
    """Whether the images of every observation match their hash."""
    shown = received.part.observations
    sizes = np.array(shown.image_bytes, np.int64)
    if not shown.count or len(sizes) % shown.count or sizes.sum() != len(received.data):
        return False
    if not len(shown.hashes) == len(shown.hash_seeds) == shown.count:
        return False
    ends = np.cumsum(sizes.reshape(shown.count, -1).sum(axis=1)).tolist()
    begin = 0
    for end, expected, seed in zip(ends, shown.hashes, shown.hash_seeds, strict=True):
        if xxhash.xxh3_64_intdigest(received.data[begin:end], seed) != expected:
            return False
        begin = end
    return True


class _Line:
    """A connection: one call at a time.

    Raises:
        OSError: Nobody answers there, or another one.
    """

    def __init__(self, address: tuple[str, int], replica_id: int) -> None:
        self._socket = socket.create_connection(address, timeout=_CONNECT_S)
        try:
            self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            hello = HELLO.pack(MAGIC, replica_id)
            self._socket.sendall(hello)
            self._buffer = bytearray(_FIRST_BUFFER_BYTES)
            self._hear(hello)
            self._socket.settimeout(None)
        except BaseException:
            self._socket.close()
            raise

    def ask(self, request: bytes) -> None:
        """Send a request."""
        self._socket.sendall(SIZE.pack(len(request)) + request)

    def receive(self) -> memoryview | None:
        """The next message of the answer, None at its end; valid until the next call.

        Raises:
            OSError: The connection broke off.
            _NotThisWay: The server leaves the rest to gRPC.
            Corrupt: A message is larger than any may be.
        """
        view = memoryview(self._buffer)
        self._fill(view[: SIZE.size])
        (size,) = SIZE.unpack_from(self._buffer)
        if size == END:
            return None
        if size == REFUSED:
            raise _NotThisWay
        if size > MAX_MESSAGE_BYTES:
            raise Corrupt(f"a message of {size} bytes arrives, at most {MAX_MESSAGE_BYTES} may")
        if size > len(self._buffer):
            self._buffer = bytearray(size)
            view = memoryview(self._buffer)
        self._fill(view[:size])
        return view[:size]

    def shrink(self) -> None:
        """Keep no more memory than usual messages take."""
        if len(self._buffer) > _KEPT_BUFFER_BYTES:
            self._buffer = bytearray(_FIRST_BUFFER_BYTES)

    def shut(self) -> None:
        """Make a thread that waits here go on, with an error."""
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """Close it; no other thread may use it."""
        self._socket.close()

    def _hear(self, hello: bytes) -> None:
        view = memoryview(self._buffer)[: len(hello)]
        self._fill(view)
        if bytes(view) != hello:
            raise ConnectionError("something else answers there")

    def _fill(self, view: memoryview) -> None:
        # In one system call, without the interpreter's lock, however many segments it takes.
        while view:
            count = self._socket.recv_into(view, len(view), socket.MSG_WAITALL)
            if not count:
                raise ConnectionError("the connection was closed")
            view = view[count:]
