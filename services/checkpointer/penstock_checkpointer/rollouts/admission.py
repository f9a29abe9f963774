"""Whether the queue of a stream has a place for another rollout."""

from __future__ import annotations

from collections import Counter, OrderedDict

import structlog

from penstock.errors import LimitExceeded
from penstock.streams import PushRequest
from penstock_checkpointer.database import Database
from penstock_checkpointer.rollouts.catalog import RolloutCatalog
from penstock_checkpointer.rollouts.queue import Queue
from penstock_checkpointer.rollouts.staging import RolloutStaging

__all__ = ["Admission"]

log = structlog.get_logger(__name__)

_RETRY_AFTER_S = 0.05
_MAX_REFUSED = 4096


class Admission:
    """Refuses what a full queue does not take.

    Rollouts that others are pushing count, so that several producers cannot overfill it together.

    Args:
        database: Of the store.
        catalog: Its rows.
        queue: What waits.
        staging: What is being pushed.
        counts: Counts what happens, by name.
    """

    def __init__(
        self,
        database: Database,
        catalog: RolloutCatalog,
        queue: Queue,
        staging: RolloutStaging,
        counts: Counter[str],
    ) -> None:
        self._database, self._catalog = database, catalog
        self._queue, self._staging, self._counts = queue, staging, counts
        self._refused: OrderedDict[str, None] = OrderedDict()

    def has_place(self, request: PushRequest, *, with_pushes: bool = True) -> bool:
        """Whether the queue takes a rollout.

        Args:
            request: What is to be pushed.
            with_pushes: Count what others are pushing. At its end a push need not care: who comes
                first has the place.
        """
        stream = self._catalog.stream(request.stream)
        if stream is None or not stream.settings.capacity:
            return True
        if stream.settings.when_full == "drop-oldest":
            return True
        taken = self._queue.waiting(request.stream)
        if with_pushes:
            taken += self._staging.places_taken(request)
        return taken < stream.settings.capacity

    def refusal(self, request: PushRequest) -> LimitExceeded:
        """The error for a rollout without a place; a push is counted once, however often it asks.

        Not to be called inside a transaction.
        """
        if request.push_id not in self._refused:
            self._counts["refused"] += 1
            log.info("queue full, push refused", stream=request.stream, producer=request.producer)
            with self._database.transaction(durable=False):
                self._catalog.count_refused(request.stream)
            self._refused[request.push_id] = None
            while len(self._refused) > _MAX_REFUSED:
                self._refused.popitem(last=False)
        capacity = self._catalog.known_stream(request.stream).settings.capacity
        return LimitExceeded(
            f"stream {request.stream!r} holds or receives {capacity} rollouts that wait, which is "
            "its capacity: settle one, or raise the capacity",
            reason="QUEUE_FULL",
            retry_after_s=_RETRY_AFTER_S,
        )
