"""Pulling a rollout from a service: decoded while it arrives, taken up again when it breaks off."""

from __future__ import annotations

import logging
import threading
import time
from collections import Counter
from collections.abc import Iterator
from typing import Any

import grpc

from penstock.client.channel import answers
from penstock.client.errors import translated_errors
from penstock.client.rollout.messages import opened_from_message, which_to_message
from penstock.client.rollout.operations import Pulled, damaged
from penstock.client.rollout.patience import Patience
from penstock.client.rollout.pieces import Piece, read_piece
from penstock.errors import Conflict, Corrupt, NotFound, TimedOut, Unavailable
from penstock.rollout_file import Decoder, Index
from penstock.streams import Opened, Selection, Which
from penstock.targets import Target
from penstock.v1 import rollout_pb2 as pb

__all__ = ["Pulling"]

log = logging.getLogger(__name__)

_METHOD = "/penstock.v1.RolloutService/PullRollout"

_WAIT_S = 5.0
"""How long the service is asked to wait at a time: it holds a thread for that."""

_POLL_S = 0.1
"""How soon it is asked again when it lets no more calls wait."""


class Pulling:
    """Fetches rollouts.

    Args:
        channel: To the service.
        target: Whose it is, for messages.
        counts: Counts what happens, by name.
        closed: Ends waits.
    """

    def __init__(
        self, channel: grpc.Channel, target: Target, counts: Counter[str], closed: threading.Event
    ) -> None:
        self._target, self._counts, self._closed = target, counts, closed
        self._call: Any = channel.unary_stream(
            _METHOD, pb.PullRolloutRequest.SerializeToString, None
        )

    def __call__(
        self,
        stream: str,
        which: Which,
        selection: Selection,
        wait_s: float,
        threads: int,
        patience: Patience,
    ) -> Pulled:
        """Fetch a rollout, or a part of it."""
        until_s = time.monotonic() + wait_s
        one = _One(self._target, selection, threads)
        while True:
            # Once it is known which one it is, this very one is asked for.
            ask = which if one.opened is None else Which(sequence=one.opened.info.sequence)
            left_s = max(0.0, until_s - time.monotonic()) if one.opened is None else 0.0
            request = which_to_message(stream, ask, selection, min(left_s, _WAIT_S))
            asked_s = time.monotonic()
            try:
                return one.read(self._messages(request))
            except TimedOut as error:
                if error.reason != "NO_ROLLOUT" or time.monotonic() >= until_s:
                    raise
                patience.progress()
                if time.monotonic() - asked_s < _POLL_S:
                    self._closed.wait(_POLL_S)
            except Unavailable as error:
                self._take_up(error, one, patience)
            except Corrupt as error:
                self._fetch_again(error, one)
            except NotFound as error:
                if error.reason == "NO_ROLLOUT" and wait_s > 0:
                    # The time was up before the service was back.
                    raise TimedOut(error.message, reason=error.reason) from error
                if one.opened is None or not (which.latest or which.after_sequence is not None):
                    raise
                # It was dropped while it was being fetched: another one is there now.
                one = _One(self._target, selection, threads)

    def _take_up(self, error: Unavailable, one: _One, patience: Patience) -> None:
        self._counts["pulls_resumed" if one.opened else "retries"] += 1
        log.warning("%s: pull broke off, resuming: %s", self._target, error)
        if one.has_progress():
            patience.progress()
        patience.wait(error)

    def _fetch_again(self, error: Corrupt, one: _One) -> None:
        # Damaged on the way, or there: what comes a second time tells.
        if one.opened is None or one.resent:
            raise error
        self._counts["pulls_resent"] += 1
        log.warning("%s: damaged rollout fetched again: %s", self._target, error)
        one.start_over()

    def _messages(self, request: pb.PullRolloutRequest) -> Iterator[bytes]:
        with translated_errors(self._target):
            yield from answers(self._call(request))


class _One:
    """One rollout that is being fetched, in as many calls as it takes.

    Attributes:
        opened: What it is, once that is known.
        resent: Whether it is being fetched a second time.
    """

    def __init__(self, target: Target, selection: Selection, threads: int) -> None:
        self._target, self._selection, self._threads = target, selection, threads
        self.opened: Opened | None = None
        self.resent = False
        self._index: Index | None = None
        self._decoder: Decoder | None = None
        self._fed_bytes = self._noted_bytes = 0

    def has_progress(self) -> bool:
        """Whether anything came since this was asked last."""
        noted, self._noted_bytes = self._noted_bytes, self._fed_bytes
        return self._fed_bytes > noted

    def start_over(self) -> None:
        """Forget what was fetched, but not what it is."""
        self.resent = True
        self._decoder, self._fed_bytes = None, 0

    def read(self, messages: Iterator[bytes]) -> Pulled:
        """Take in what a call gives.

        Raises:
            Unavailable: It ended before all was there.
            Corrupt: It is damaged.
        """
        first = next(messages, None)
        if first is None:
            raise Unavailable(f"{self._target} answered nothing")
        opened, index, decoder = self._open(pb.PullRolloutResponse.FromString(first))
        try:
            skip = self._fed_bytes
            for message in messages:
                piece = read_piece(message) or _other_form(message)
                size = len(piece.data)
                if skip < size:
                    decoder.feed(piece.offset_bytes + skip, piece.data[skip:])
                    self._fed_bytes += size - skip
                skip = max(0, skip - size)
            wanted = sum(size for _, size in index.ranges(self._selection))
            if self._fed_bytes < wanted:
                raise Unavailable(f"{self._target} sent {self._fed_bytes} of {wanted} bytes")
            return Pulled(opened, decoder.finish(), index)
        except Corrupt as error:
            raise damaged(opened.info, error) from error

    def _open(self, message: pb.PullRolloutResponse) -> tuple[Opened, Index, Decoder]:
        if message.WhichOneof("part") != "opened":
            raise Corrupt(f"{self._target} sends content before it says of what")
        opened = opened_from_message(message.opened)
        if self.opened is None:
            self.opened = opened
        elif self.opened.info != opened.info:
            raise Conflict(f"{opened.info} was replaced meanwhile: pull again")
        if self._index is None:
            size = opened.info.digest.size_bytes
            self._index = Index.parse(message.opened.index, size)
        if self._decoder is None:
            self._decoder = Decoder(self._index, self._selection, threads=self._threads)
        return self.opened, self._index, self._decoder


def _other_form(message: bytes) -> Piece:
    piece = pb.PullRolloutResponse.FromString(message).piece
    return Piece(piece.offset_bytes, memoryview(piece.data), None)
