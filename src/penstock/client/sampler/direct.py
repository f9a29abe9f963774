"""``Fetch`` at a direct port: gRPC, with cached frames sent as they lie there, without copies.

A server that has one says so in ``GetDataset``. Only what goes well goes this way: whatever a
server refuses or cannot do there, and whatever keeps a client from reaching it, is left to the
server's other port, which brings the rows that are missing or says why not.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import closing
from dataclasses import replace
from typing import Any

import numpy as np
import xxhash
from google.protobuf.message import DecodeError

from penstock.client.channel import answers
from penstock.client.sampler.direct_line import Line, Refused
from penstock.client.sampler.received import Received, parse_fetched
from penstock.errors import Cancelled, Corrupt
from penstock.v1 import sampler_pb2 as pb

__all__ = ["DirectFetch", "DirectPort"]

log = logging.getLogger(__name__)

_FIRST_REST_S, _LONGEST_REST_S = 60.0, 600.0
_MOST_IDLE = 4
_IDLE_S = 60.0
"""What lies between may forget a connection that is silent for longer, and tell nobody."""


class _NotThisWay(Exception):
    """The rest has to come from the other port."""


class DirectPort:
    """The direct port of one server process; safe to use from several threads.

    Args:
        name: Of the replica, for messages.
        host: Where its other port is reached, numeric.
        port: As ``GetDataset`` names it.
        replica_id: Of the process; nobody else is asked.
        on_fault: Called when the port cannot be reached or breaks off.

    Attributes:
        carries: Whether the latest call that ended came this way from end to end.
    """

    def __init__(
        self, name: str, host: str, port: int, replica_id: int, on_fault: Callable[[], None]
    ) -> None:
        self.name, self.port, self.replica_id = name, port, replica_id
        self._address, self._on_fault = (host, port), on_fault
        self._lock = threading.Lock()
        self._idle: list[tuple[Line, float]] = []
        self._closed = False
        self._try_at, self._rest_s = 0.0, _FIRST_REST_S
        self._level = logging.WARNING
        self.carries = False

    def fetch(
        self, request: pb.FetchRequest, elsewhere: Callable[[pb.FetchRequest], Any]
    ) -> DirectFetch:
        """Call ``Fetch`` this way.

        Args:
            request: What to fetch.
            elsewhere: Makes the same call at the other port.
        """
        return DirectFetch(self, request, elsewhere)

    def is_resting(self) -> bool:
        """Whether nothing is to be tried now."""
        with self._lock:
            return self._closed or time.monotonic() < self._try_at

    def take_idle(self) -> Line | None:
        """A connection that was used before; None without."""
        now = time.monotonic()
        while True:
            with self._lock:
                if not self._idle:
                    return None
                line, since = self._idle.pop()
            if now - since < _IDLE_S:
                return line
            line.close()

    def new(self) -> Line:
        """A connection that is to be made.

        Raises:
            OSError: This process may open no socket.
        """
        return Line(self._address)

    def give_back(self, line: Line) -> None:
        """Keep a connection for the next call."""
        with self._lock:
            self._rest_s = _FIRST_REST_S
            if not self._closed and len(self._idle) < _MOST_IDLE:
                line.shrink()
                self._idle.append((line, time.monotonic()))
                return
        line.close()

    def rest(self, why: object) -> None:
        """Leave the port alone for a while: it cannot be reached, or speaks another language."""
        with self._lock:
            self._try_at = time.monotonic() + self._rest_s
            self._rest_s = min(2 * self._rest_s, _LONGEST_REST_S)
            self.carries = False
            level, self._level = self._level, logging.INFO
        self._on_fault()
        log.log(
            level,
            "%s: its direct port %d cannot be used (%s): batches come from its other port, which "
            "takes longer",
            self.name,
            self.port,
            why,
        )

    def fault(self, what: str) -> None:
        """Note that an answer did not come to its end."""
        self.carries = False
        self._on_fault()
        log.info("%s: its direct port %s: the rest comes from the other one", self.name, what)

    def close(self) -> None:
        """Close all connections that no call uses."""
        with self._lock:
            self._closed = True
            idle, self._idle = self._idle, []
        for line, _ in idle:
            line.close()


class DirectFetch:
    """One call; iterate it once. What it gives is valid until the next one is asked for.

    Args:
        port: Where.
        request: What to fetch.
        elsewhere: Brings what does not come this way.
    """

    def __init__(
        self,
        port: DirectPort,
        request: pb.FetchRequest,
        elsewhere: Callable[[pb.FetchRequest], Any],
    ) -> None:
        self._port, self._request, self._elsewhere = port, request, elsewhere
        self._lock = threading.Lock()
        self._line: Line | None = None
        self._rest: Any = None
        self._cancelled = False

    def cancel(self) -> None:
        """End the call, from any thread."""
        with self._lock:
            self._cancelled = True
            if self._line is not None:
                self._line.shut()
            rest = self._rest
        if rest is not None:
            rest.cancel()

    def __iter__(self) -> Iterator[Received]:
        rows = 0
        try:
            with closing(self._direct()) as direct:
                for received in direct:
                    rows += received.part.rows
                    yield received
        except _NotThisWay:
            pass
        if rows < len(self._request.transition_ids):
            for received in self._remaining(rows):
                received.part.first_row += rows
                yield received

    def _direct(self) -> Generator[Received]:
        """What comes this way; all rows, unless it raises.

        Raises:
            _NotThisWay: The rest does not.
            Cancelled: The call was called off.
        """
        request, wanted = self._request.SerializeToString(), len(self._request.transition_ids)
        rows, again = 0, True
        while again:
            # One that was used before may have been closed meanwhile, which shows only now.
            line, again = self._take()
            usable = False
            try:
                line.ask(request)
                while rows < wanted:
                    message = line.receive()
                    again = False
                    received = self._received(message, rows)
                    rows += received.part.rows
                    yield received
                line.receive_end()
                usable, again = True, False
                self._port.carries = True
            except Refused as refused:
                usable = True
                self._port.carries = False
                raise _NotThisWay from refused
            except OSError as error:
                self._check_cancelled(error)
                if not again:
                    self._port.fault(f"broke off ({error})")
                    raise _NotThisWay from error
            except Corrupt as error:
                # At the other port it looks at its frames, and mends what it finds.
                self._port.rest(error.message)
                raise _NotThisWay from error
            finally:
                self._let_go(line, usable=usable)

    def _received(self, message: memoryview | None, rows: int) -> Received:
        if message is None:
            raise ConnectionError("its answer ended too soon")
        try:
            received = parse_fetched(message)
        except DecodeError as error:
            raise Corrupt(f"sends what is no message: {error}") from error
        if received.part.first_row != rows or not received.part.rows:
            raise ConnectionError("its rows are not the next ones")
        if not _is_intact(received):
            raise ConnectionError("its frames are damaged")
        return replace(received, direct=True)

    def _take(self) -> tuple[Line, bool]:
        """A connection that is there, and whether it was used before."""
        if self._port.is_resting():
            raise _NotThisWay
        line = self._port.take_idle()
        used = line is not None
        try:
            line = line or self._port.new()
            with self._lock:
                cancelled = self._cancelled
                self._line = None if cancelled else line
            if cancelled:
                line.close()
                raise self._called_off()
            if not used:
                line.connect(self._port.replica_id)
        except (OSError, Corrupt) as error:
            if line is not None:
                self._let_go(line, usable=False)
            self._check_cancelled(error)
            self._port.rest(error)
            raise _NotThisWay from error
        return line, used

    def _let_go(self, line: Line, *, usable: bool) -> None:
        with self._lock:
            self._line = None
            usable = usable and line.lasts and not self._cancelled
        if usable:
            self._port.give_back(line)
        else:
            line.close()

    def _remaining(self, rows: int) -> Iterable[Received]:
        request = self._request
        if rows:
            request = pb.FetchRequest()
            request.CopyFrom(self._request)
            del request.transition_ids[:rows]
        with self._lock:
            if self._cancelled:
                raise self._called_off()
            self._rest = self._elsewhere(request)
        return answers(self._rest)

    def _check_cancelled(self, error: Exception) -> None:
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
