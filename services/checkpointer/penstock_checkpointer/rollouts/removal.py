"""Rollouts that leave the store: dropped by a full queue, settled and not kept, or deleted."""

from __future__ import annotations

from collections import Counter

import structlog

from penstock.disk import sync_directory
from penstock.failpoints import failpoint
from penstock.streams import RolloutInfo
from penstock_checkpointer.rollouts.catalog import RolloutCatalog, StreamRow
from penstock_checkpointer.rollouts.layout import RolloutLayout
from penstock_checkpointer.rollouts.queue import Queue

__all__ = ["Removal"]

log = structlog.get_logger(__name__)


class Removal:
    """Removes rollouts, file first. All methods but ``delete_file`` need a transaction.

    A row without a file is forgotten when it is met; a file without a row would come back, unless
    the catalogue knows that it was deleted.

    Args:
        layout: Where the files are.
        catalog: Their rows.
        queue: Who waits for them.
        counts: Counts what happens, by name.
    """

    def __init__(
        self, layout: RolloutLayout, catalog: RolloutCatalog, queue: Queue, counts: Counter[str]
    ) -> None:
        self._layout, self._catalog, self._queue = layout, catalog, queue
        self._counts = counts

    def remove(self, info: RolloutInfo) -> None:
        """Remove a rollout; who reads it now reads on."""
        self._layout.content(info).unlink(missing_ok=True)
        failpoint("rollouts.remove.file_removed")
        self._catalog.remove_rollout(info)
        self._queue.advance(info.stream)

    def delete(self, info: RolloutInfo) -> None:
        """Forget a rollout as if it had never been; ``delete_file`` follows.

        Row first: dying in between must not leave an iteration that is gone but counts as pushed.
        """
        self._catalog.delete_rollout(info)
        self._queue.advance(info.stream)

    def delete_file(self, info: RolloutInfo) -> None:
        """Remove the file of a rollout that was deleted, durably; who reads it now reads on.

        Raises:
            OSError: It stays until the next start.
        """
        self._layout.content(info).unlink(missing_ok=True)
        sync_directory(self._layout.stream(info.stream))

    def forget(self, info: RolloutInfo) -> None:
        """A rollout whose file somebody else has removed."""
        log.warning("rollout without a file forgotten", rollout=str(info), sequence=info.sequence)
        self._counts["forgotten"] += 1
        self._catalog.remove_rollout(info)
        self._queue.advance(info.stream)

    def drop_beyond(self, stream: StreamRow) -> None:
        """Drop the oldest rollouts of a queue that holds more than it may, if it is to."""
        if not stream.settings.capacity or stream.settings.when_full != "drop-oldest":
            return
        beyond = self._queue.waiting(stream.name) - stream.settings.capacity
        for _ in range(beyond):
            oldest = self._queue.oldest_idle(stream.name)
            if oldest is None:
                # All are being worked on: the queue is longer for a while.
                return
            log.info("queue full, oldest dropped", rollout=str(oldest), sequence=oldest.sequence)
            self._counts["dropped"] += 1
            self._catalog.count_dropped(stream.name)
            self._queue.forget_waiting(oldest)
            self.remove(oldest)

    def clear_settled(self, stream: StreamRow) -> None:
        """Remove what no longer waits and is not kept."""
        for info in self._queue.superfluous(stream.name, stream.settings):
            self.remove(info)
            self._counts["retention_removed"] += 1
