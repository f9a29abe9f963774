"""Finding the rollout that a reader or a consumer asks for."""

from __future__ import annotations

from penstock.checkpoints import check_name
from penstock.errors import InvalidInput, NotFound
from penstock.streams import Opened, RolloutInfo, Take, Which
from penstock_checkpointer.database import Database
from penstock_checkpointer.rollouts.catalog import RolloutCatalog, StreamRow
from penstock_checkpointer.rollouts.queue import Queue
from penstock_checkpointer.rollouts.removal import Removal
from penstock_checkpointer.rollouts.staging import check_number

__all__ = ["Lookup", "check_which"]

_LEASES_S = 1.0, 7 * 86_400.0


class Lookup:
    """Finds rollouts, and takes them for consumers.

    Args:
        database: Of the store.
        catalog: Its rows.
        queue: Who has what.
        removal: Removes what a consumer passes over.
    """

    def __init__(
        self, database: Database, catalog: RolloutCatalog, queue: Queue, removal: Removal
    ) -> None:
        self._database, self._catalog = database, catalog
        self._queue, self._removal = queue, removal

    def find(self, stream: str, which: Which) -> Opened | None:
        """What was asked for; None if it may come yet.

        Raises:
            NotFound: It cannot come any more.
            LimitExceeded: The consumer is one too many.
        """
        row = self._catalog.stream(stream)
        if row is None:
            return None
        if which.take is not None:
            return self._take(row, which.take)
        info = self._info(row, which)
        if info is None:
            return None
        return Opened(info=info, newest_policy_version=row.newest_policy_version)

    def _info(self, row: StreamRow, which: Which) -> RolloutInfo | None:
        stream = row.name
        if which.sequence is not None:
            found = self._catalog.rollout(stream, which.sequence)
            if found is None and which.sequence <= row.last_sequence:
                raise _removed(f"{stream} has no rollout {which.sequence} any more")
            return found
        if which.iteration is not None:
            found = self._catalog.of_iteration(stream, *which.iteration)
            if found is None and (
                self._catalog.removed(stream, *which.iteration) is not None
                or which.iteration[1] <= self._catalog.forgotten(stream, which.iteration[0])
            ):
                producer, iteration = which.iteration
                raise _removed(f"{stream} has not iteration {iteration} of {producer} any more")
            return found
        if which.after_sequence is not None:
            return next(iter(self._catalog.rollouts(stream, which.after_sequence, 1)), None)
        return self._catalog.latest(stream)

    def _take(self, row: StreamRow, take: Take) -> Opened | None:
        if not self._queue.could_take(row.name, take):
            return None
        with self._database.transaction(durable=False):
            delivery, skipped = self._queue.take(row.name, take)
            if skipped:
                self._removal.clear_settled(row)
        if delivery is None:
            return None
        return Opened(
            info=delivery.info,
            attempt=delivery.attempt,
            skipped_stale=delivery.skipped_stale,
            dropped=delivery.dropped,
            newest_policy_version=row.newest_policy_version,
        )


def check_which(which: Which) -> None:
    """Refuse what asks for nothing, for several things, or by names and numbers that cannot be.

    Raises:
        InvalidInput: As it says.
    """
    ways = which.sequence, which.iteration, which.after_sequence, which.take
    if sum(way is not None for way in ways) + bool(which.latest) != 1:
        raise InvalidInput(
            f"{which}: name a sequence, an iteration, latest, after_sequence or take, one of them",
            field="which",
        )
    if which.sequence is not None:
        check_number(which.sequence, "sequence")
    if which.after_sequence is not None:
        check_number(which.after_sequence, "after_sequence")
    if which.iteration is not None:
        check_name(which.iteration[0], "producer")
        check_number(which.iteration[1], "iteration")
    if which.take is not None:
        _check_take(which.take)


def _check_take(take: Take) -> None:
    check_name(take.consumer, "consumer")
    if take.member:
        check_name(take.member, "member")
    check_number(take.policy_version, "policy_version")
    if take.max_staleness is not None:
        check_number(take.max_staleness, "max_staleness")
    least_s, most_s = _LEASES_S
    if not least_s <= take.lease_s <= most_s:
        raise InvalidInput(
            f"lease_s is {take.lease_s:g}: expected {least_s:g} to {most_s:g} seconds",
            field="lease_s",
        )


def _removed(what: str) -> NotFound:
    return NotFound(f"{what}: ask for a newer one", reason="ROLLOUT_GONE")
