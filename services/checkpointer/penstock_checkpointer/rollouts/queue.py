"""The queue of a stream: what waits for which consumer, and who works on what.

A consumer has settled every rollout up to a sequence, and beyond it those that their deliveries
name. A delivery says who took a rollout and until when; wall time, so that a lease runs on while
the service is away. Methods that change something need a transaction around them.
"""

from __future__ import annotations

import time
from collections import Counter
from dataclasses import dataclass

import structlog

from penstock.errors import LimitExceeded, NotFound
from penstock.streams import ConsumerState, RolloutInfo, StreamSettings, Take
from penstock_checkpointer.database import Database
from penstock_checkpointer.rollouts.catalog import as_rollout
from penstock_checkpointer.rollouts.conditions import AT_WORK, WAITING, WAITS
from penstock_checkpointer.rollouts.limits import RolloutLimits
from penstock_checkpointer.rollouts.schema import ROLLOUT_COLUMNS

__all__ = ["Delivery", "Queue"]

log = structlog.get_logger(__name__)

_COLUMNS = ", ".join(f"r.{name.strip()}" for name in ROLLOUT_COLUMNS.split(","))


@dataclass(frozen=True, slots=True)
class Delivery:
    """A rollout that a member was given, for the n-th time, and what it missed before."""

    info: RolloutInfo
    attempt: int
    skipped_stale: int
    dropped: int


class Queue:
    """Deliveries of all streams.

    Args:
        database: Where.
        limits: How many consumers there may be.
        counts: Counts what happens, by name.
    """

    def __init__(self, database: Database, limits: RolloutLimits, counts: Counter[str]) -> None:
        self._database, self._limits, self._counts = database, limits, counts

    def waiting(self, stream: str) -> int:
        """How many rollouts wait: those that not every consumer has settled."""
        query = f"SELECT count(*) FROM rollouts r WHERE {WAITING}"  # noqa: S608
        return self._database.row(query, stream)[0]

    def oldest_idle(self, stream: str) -> RolloutInfo | None:
        """The oldest rollout that waits and that nobody works on; never the newest of all."""
        query = (
            f"SELECT {_COLUMNS} FROM rollouts r WHERE {WAITING} "  # noqa: S608
            f"AND NOT {AT_WORK} AND r.sequence < "
            "(SELECT max(sequence) FROM rollouts WHERE stream = ?1) ORDER BY r.sequence LIMIT 1"
        )
        found = self._database.row(query, stream, _now_ms())
        return as_rollout(found) if found else None

    def superfluous(self, stream: str, settings: StreamSettings) -> list[RolloutInfo]:
        """Rollouts that no longer wait and that the settings do not keep."""
        if not settings.keep_last and not settings.keep_every:
            return []
        query = (
            f"SELECT {_COLUMNS} FROM rollouts r WHERE r.stream = ? AND NOT {WAITS} "  # noqa: S608
            "ORDER BY r.sequence DESC LIMIT -1 OFFSET ?"
        )
        settled = map(as_rollout, self._database.rows(query, stream, settings.keep_last))
        every = settings.keep_every
        return [info for info in settled if not every or info.iteration % every]

    def could_take(self, stream: str, take: Take) -> bool:
        """Whether ``take`` might find something; changes nothing."""
        found = self._settled_up_to(stream, take.consumer)
        if found is None:
            return True
        held = self._held(stream, take) is not None
        return held or self._next(stream, take.consumer, found) is not None

    def take(self, stream: str, take: Take) -> tuple[Delivery | None, int]:
        """Give a member what it holds, or the next rollout.

        Returns:
            What it is given, if there is something, and how many were passed over as too old.

        Raises:
            LimitExceeded: The consumer is one too many.
        """
        self._make_consumer(stream, take.consumer)
        held = self._held(stream, take)
        if held is not None:
            self._counts["redelivered_to_same_member"] += 1
            return self._give(held, take, anew=False), 0
        skipped = 0
        while True:
            settled_up_to = self._settled_up_to(stream, take.consumer) or 0
            info = self._next(stream, take.consumer, settled_up_to)
            if info is None:
                return None, skipped
            oldest = take.policy_version - (take.max_staleness or 0)
            if take.max_staleness is None or info.policy_version >= oldest:
                return self._give(info, take, anew=True), skipped
            self._skip(info, take)
            skipped += 1

    def settle(self, stream: str, consumer: str, sequence: int) -> bool:
        """A consumer is through with a rollout; returns whether that is news.

        Raises:
            NotFound: No such consumer.
        """
        settled_up_to = self._known(stream, consumer)
        if sequence <= settled_up_to or not self._is_pending(stream, consumer, sequence):
            return False
        self._settle(stream, consumer, sequence)
        self._add(stream, consumer, settled=1)
        return True

    def give_back(self, stream: str, consumer: str, sequence: int, member: str) -> bool:
        """Let another member have a rollout; returns whether ``member`` had it.

        Raises:
            NotFound: No such consumer.
        """
        self._known(stream, consumer)
        key = stream, consumer, sequence
        where = (
            "WHERE stream = ? AND consumer = ? AND sequence = ? AND NOT settled "
            "AND lease_until_unix_ms > 0"
        )
        taken = self._database.row(f"SELECT member FROM deliveries {where}", *key)  # noqa: S608
        if taken is None:
            return False
        if taken[0] != member:
            log.info(
                "given back by a member that has it no longer",
                stream=stream,
                consumer=consumer,
                sequence=sequence,
                member=member,
                taken_by=taken[0],
            )
            self._counts["stale_give_backs"] += 1
            return False
        self._database.change(f"UPDATE deliveries SET lease_until_unix_ms = 0 {where}", *key)  # noqa: S608
        return True

    def forget_consumer(self, stream: str, consumer: str) -> None:
        """Nothing waits for a consumer any more; what it is through with does not wait again.

        Raises:
            NotFound: No such consumer.
        """
        settled_up_to = self._known(stream, consumer)
        key = stream, consumer
        self._database.change("DELETE FROM deliveries WHERE stream = ? AND consumer = ?", *key)
        self._database.change("DELETE FROM consumers WHERE stream = ? AND consumer = ?", *key)
        (others,) = self._database.row("SELECT count(*) FROM consumers WHERE stream = ?", stream)
        if not others:
            self._database.change(
                "INSERT INTO left_behind VALUES (?, ?) ON CONFLICT DO UPDATE SET "
                "settled_up_to = max(settled_up_to, excluded.settled_up_to)",
                stream,
                settled_up_to,
            )

    def forget_waiting(self, info: RolloutInfo) -> None:
        """A rollout is being dropped: tell each consumer that has not settled it."""
        query = "SELECT consumer FROM consumers WHERE stream = ? AND settled_up_to < ?"
        for (consumer,) in self._database.rows(query, info.stream, info.sequence):
            if self._is_pending(info.stream, consumer, info.sequence):
                self._add(info.stream, consumer, dropped=1, unsaid_dropped=1)

    def advance(self, stream: str) -> None:
        """Move every consumer past what is settled or gone."""
        query = "SELECT consumer FROM consumers WHERE stream = ?"
        for (consumer,) in self._database.rows(query, stream):
            self._advance(stream, consumer)

    def consumers(self, stream: str) -> tuple[ConsumerState, ...]:
        """All consumers of a stream by name."""
        query = (
            "SELECT c.consumer, "
            "(SELECT count(*) FROM rollouts r WHERE r.stream = c.stream "
            "AND r.sequence > c.settled_up_to) - "
            "(SELECT count(*) FROM deliveries d WHERE d.stream = c.stream "
            "AND d.consumer = c.consumer AND d.settled), "
            "(SELECT count(*) FROM deliveries d WHERE d.stream = c.stream "
            "AND d.consumer = c.consumer AND NOT d.settled AND d.lease_until_unix_ms > ?), "
            "settled, skipped_stale, dropped FROM consumers c WHERE c.stream = ? ORDER BY 1"
        )
        return tuple(
            ConsumerState(
                name=row[0],
                waiting=row[1],
                taken=row[2],
                settled=row[3],
                skipped_stale=row[4],
                dropped=row[5],
            )
            for row in self._database.rows(query, _now_ms(), stream)
        )

    def taken_policy_versions(self, stream: str) -> dict[str, int]:
        """Policy version of the rollout that each consumer took last."""
        query = "SELECT consumer, taken_policy_version FROM consumers WHERE stream = ?"
        return dict(self._database.rows(query, stream))

    def _held(self, stream: str, take: Take) -> RolloutInfo | None:
        query = (
            f"SELECT {_COLUMNS} FROM deliveries d "  # noqa: S608
            "JOIN rollouts r ON r.stream = d.stream AND r.sequence = d.sequence "
            "WHERE d.stream = ? AND d.consumer = ? AND d.member = ? AND NOT d.settled "
            "AND d.lease_until_unix_ms > 0 ORDER BY d.sequence LIMIT 1"
        )
        found = self._database.row(query, stream, take.consumer, take.member)
        return as_rollout(found) if found else None

    def _next(self, stream: str, consumer: str, settled_up_to: int) -> RolloutInfo | None:
        query = (
            f"SELECT {_COLUMNS} FROM rollouts r LEFT JOIN deliveries d "  # noqa: S608
            "ON d.stream = r.stream AND d.consumer = ? AND d.sequence = r.sequence "
            "WHERE r.stream = ? AND r.sequence > ? AND (d.sequence IS NULL OR "
            "(NOT d.settled AND d.lease_until_unix_ms <= ?)) ORDER BY r.sequence LIMIT 1"
        )
        found = self._database.row(query, consumer, stream, settled_up_to, _now_ms())
        return as_rollout(found) if found else None

    def _give(self, info: RolloutInfo, take: Take, *, anew: bool) -> Delivery:
        until_ms = _now_ms() + round(take.lease_s * 1000)
        key = (info.stream, take.consumer, info.sequence)
        where = "WHERE stream = ? AND consumer = ? AND sequence = ?"
        before = self._database.row(
            f"SELECT attempt, lease_until_unix_ms, skipped_stale, dropped FROM deliveries {where}",  # noqa: S608
            *key,
        )
        attempt, lease_ms, skipped, dropped = before or (0, 0, 0, 0)
        if anew:
            if lease_ms > 0:
                log.warning(
                    "lease ran out, rollout given to another member",
                    stream=info.stream,
                    consumer=take.consumer,
                    sequence=info.sequence,
                    member=take.member,
                )
                self._counts["redelivered_after_lease"] += 1
            consumers = "FROM consumers WHERE stream = ? AND consumer = ?"
            skipped, dropped = self._database.row(
                f"SELECT unsaid_stale, unsaid_dropped {consumers}",
                info.stream,
                take.consumer,
            )
            self._database.change(
                "UPDATE consumers SET unsaid_stale = 0, unsaid_dropped = 0, "
                "taken_policy_version = ? WHERE stream = ? AND consumer = ?",
                info.policy_version,
                info.stream,
                take.consumer,
            )
        self._database.change(
            "INSERT OR REPLACE INTO deliveries VALUES (?, ?, ?, ?, ?, ?, 0, ?, ?)",
            *key,
            take.member,
            until_ms,
            attempt + 1,
            skipped,
            dropped,
        )
        self._counts["taken"] += 1
        return Delivery(info, attempt + 1, skipped, dropped)

    def _skip(self, info: RolloutInfo, take: Take) -> None:
        log.info(
            "rollout too old, skipped",
            stream=info.stream,
            consumer=take.consumer,
            sequence=info.sequence,
            policy_version=info.policy_version,
            learner_policy_version=take.policy_version,
        )
        self._counts["skipped_stale"] += 1
        self._settle(info.stream, take.consumer, info.sequence)
        self._add(info.stream, take.consumer, skipped_stale=1, unsaid_stale=1)

    def _settle(self, stream: str, consumer: str, sequence: int) -> None:
        self._database.change(
            "INSERT INTO deliveries VALUES (?, ?, ?, '', 0, 0, 1, 0, 0) "
            "ON CONFLICT DO UPDATE SET settled = 1",
            stream,
            consumer,
            sequence,
        )
        self._advance(stream, consumer)

    def _advance(self, stream: str, consumer: str) -> None:
        settled_up_to = self._settled_up_to(stream, consumer) or 0
        (first,) = self._database.row(
            "SELECT min(r.sequence) FROM rollouts r LEFT JOIN deliveries d "
            "ON d.stream = r.stream AND d.consumer = ? AND d.sequence = r.sequence "
            "WHERE r.stream = ? AND r.sequence > ? AND (d.sequence IS NULL OR NOT d.settled)",
            consumer,
            stream,
            settled_up_to,
        )
        if first is None:
            query = "SELECT last_sequence + 1 FROM streams WHERE stream = ?"
            (first,) = self._database.row(query, stream)
        if first - 1 <= settled_up_to:
            return
        self._database.change(
            "UPDATE consumers SET settled_up_to = ? WHERE stream = ? AND consumer = ?",
            first - 1,
            stream,
            consumer,
        )
        self._database.change(
            "DELETE FROM deliveries WHERE stream = ? AND consumer = ? AND sequence < ?",
            stream,
            consumer,
            first,
        )

    def _is_pending(self, stream: str, consumer: str, sequence: int) -> bool:
        """Whether a rollout is stored, and this consumer has not settled it."""
        query = (
            "SELECT 1 FROM rollouts r LEFT JOIN deliveries d "
            "ON d.stream = r.stream AND d.consumer = ? AND d.sequence = r.sequence "
            "WHERE r.stream = ? AND r.sequence = ? AND (d.sequence IS NULL OR NOT d.settled)"
        )
        return self._database.row(query, consumer, stream, sequence) is not None

    def _settled_up_to(self, stream: str, consumer: str) -> int | None:
        query = "SELECT settled_up_to FROM consumers WHERE stream = ? AND consumer = ?"
        found = self._database.row(query, stream, consumer)
        return found[0] if found else None

    def _known(self, stream: str, consumer: str) -> int:
        settled_up_to = self._settled_up_to(stream, consumer)
        if settled_up_to is None:
            raise NotFound(
                f"stream {stream!r} has no consumer {consumer!r:.160}: it has taken nothing, or "
                "was forgotten",
                reason="CONSUMER_UNKNOWN",
            )
        return settled_up_to

    def _make_consumer(self, stream: str, consumer: str) -> None:
        if self._settled_up_to(stream, consumer) is not None:
            return
        query = "SELECT count(*) FROM consumers WHERE stream = ?"
        (count,) = self._database.row(query, stream)
        if count >= self._limits.names:
            raise LimitExceeded(
                f"stream {stream!r} has {count} consumers, which is the most: use names again",
                reason="LIMIT",
            )
        self._database.change(
            "INSERT INTO consumers VALUES (?, ?, 0, 0, 0, 0, 0, 0, 0)", stream, consumer
        )

    def _add(self, stream: str, consumer: str, **columns: int) -> None:
        changes = ", ".join(f"{name} = {name} + {count}" for name, count in columns.items())
        self._database.change(
            f"UPDATE consumers SET {changes} WHERE stream = ? AND consumer = ?",  # noqa: S608
            stream,
            consumer,
        )


def _now_ms() -> int:
    return time.time_ns() // 1_000_000
