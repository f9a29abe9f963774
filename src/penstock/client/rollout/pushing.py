"""Pushing a rollout to a service: encoded while it is sent, resumed where it broke off."""

from __future__ import annotations

import logging
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import grpc
import xxhash

from penstock.client.errors import translated_errors
from penstock.client.rollout.encoded import Encoded
from penstock.client.rollout.messages import (
    digest_to_message,
    push_to_message,
    rollout_from_message,
)
from penstock.client.rollout.patience import QUEUE_FULL, Patience, QueuePatience
from penstock.client.rollout.pieces import piece_message
from penstock.errors import Corrupt, InvalidInput, NotFound, PenstockError, Unavailable
from penstock.failpoints import failpoint
from penstock.streams import PushRequest, RolloutInfo
from penstock.targets import Target
from penstock.v1 import rollout_pb2 as pb

__all__ = ["Pushing"]

log = logging.getLogger(__name__)

_METHOD = "/penstock.v1.RolloutService/PushRollout"
_MAX_RESENDS = 3
"""Times that content is sent anew when it arrives damaged or its push is gone."""

Received = Callable[[], tuple[int, RolloutInfo | None]]


class Pushing:
    """Sends rollouts.

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
        self._call: Any = channel.stream_unary(_METHOD, None, pb.PushRolloutResponse.FromString)

    def __call__(
        self,
        request: PushRequest,
        encoded: Encoded,
        received: Received,
        patience: Patience,
        wait_s: float | None,
    ) -> RolloutInfo:
        """Send a rollout until it is durable.

        Args:
            request: What it is.
            encoded: Its content.
            received: Asks how much of it has arrived.
            patience: With a service that is away.
            wait_s: For a place in a full queue; None for ever.
        """
        place = QueuePatience(wait_s, self._closed)
        furthest, resends, offset = 0, 0, 0
        while True:
            try:
                return self._send(request, encoded, offset)
            except PenstockError as error:
                # What ended the call may be that there was nothing more to send.
                encoded.check()
                resends += self._take(error, resends, place, patience)
            offset, stored = received()
            if stored is not None:
                return stored
            if offset > furthest:
                furthest = offset
                patience.progress()

    def _take(
        self, error: PenstockError, resends: int, place: QueuePatience, patience: Patience
    ) -> int:
        """Wait as an error asks for, or raise it; returns whether content has to be sent anew."""
        if error.reason == QUEUE_FULL:
            self._counts["queue_full"] += 1
            place.wait(error)
            patience.progress()
            return 0
        if isinstance(error, Unavailable):
            self._counts["pushes_resumed"] += 1
            log.warning("%s: push broke off, resuming: %s", self._target, error)
            patience.wait(error)
            return 0
        gap = isinstance(error, InvalidInput) and error.reason in ("PUSH_GAP", "PUSH_INCOMPLETE")
        gone = isinstance(error, NotFound) and error.reason == "PUSH_UNKNOWN"
        if resends < _MAX_RESENDS and (gap or gone or isinstance(error, Corrupt)):
            # Damaged on the way, or removed there meanwhile: what is here is intact.
            self._counts["pushes_resent"] += 1
            log.warning("%s: push refused, sending anew: %s", self._target, error)
            return 1
        raise error

    def _send(self, request: PushRequest, encoded: Encoded, offset_bytes: int) -> RolloutInfo:
        begin = pb.PushRolloutRequest(begin=push_to_message(request, offset_bytes))

        def messages() -> Iterator[bytes]:
            yield begin.SerializeToString()
            try:
                for offset, piece in encoded.pieces(offset_bytes):
                    yield piece_message(offset, piece, xxhash.xxh3_64_intdigest(piece))
                    failpoint("rollouts.client.piece_sent")
            except Exception:  # noqa: BLE001 - `encoded` keeps it, for the caller's thread to raise
                return
            finish = pb.PushFinish(digest=digest_to_message(encoded.digest))
            yield pb.PushRolloutRequest(finish=finish).SerializeToString()

        with translated_errors(self._target):
            answer: pb.PushRolloutResponse = self._call(messages())
        return rollout_from_message(answer.rollout)
