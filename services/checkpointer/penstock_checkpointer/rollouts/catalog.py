"""The catalogue: which streams, rollouts and producers there are.

Files are the truth; the catalogue makes them quick to find, and is rebuilt from them when it is
lost. Methods that change something need a transaction of the database around them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from penstock.chunks import Digest
from penstock.errors import LimitExceeded, NotFound
from penstock.streams import ProducerState, RolloutInfo, StreamSettings
from penstock_checkpointer.database import Database
from penstock_checkpointer.rollouts.limits import RolloutLimits
from penstock_checkpointer.rollouts.schema import ROLLOUT_COLUMNS

__all__ = ["RolloutCatalog", "StreamRow"]

_PLACES = ", ".join("?" * len(ROLLOUT_COLUMNS.split(",")))
_SELECT = f"SELECT {ROLLOUT_COLUMNS} FROM rollouts WHERE stream = ? "  # noqa: S608 - only names


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamRow:
    """A stream as the catalogue knows it; see ``penstock.streams.StreamState``."""

    name: str
    settings: StreamSettings
    last_sequence: int
    sequences_below: int
    newest_policy_version: int
    dropped: int
    refused: int


class RolloutCatalog:
    """Rows of streams, rollouts and producers.

    Args:
        database: Where.
        limits: How many there may be.
    """

    def __init__(self, database: Database, limits: RolloutLimits) -> None:
        self._database, self._limits = database, limits

    def stream(self, stream: str) -> StreamRow | None:
        """One stream."""
        found = self._database.row("SELECT * FROM streams WHERE stream = ?", stream)
        return _stream(found) if found else None

    def known_stream(self, stream: str) -> StreamRow:
        """A stream that is there.

        Raises:
            NotFound: It is not.
        """
        found = self.stream(stream)
        if found is None:
            raise NotFound(
                f"there is no stream {stream!r:.160}: configure it, or push to it",
                reason="STREAM_UNKNOWN",
            )
        return found

    def make_stream(self, stream: str, sequences_below: int = 1) -> StreamRow:
        """A stream, created with the usual settings if it is missing.

        Raises:
            LimitExceeded: There are as many as there may be.
        """
        found = self.stream(stream)
        if found is None:
            found = StreamRow(
                name=stream,
                settings=StreamSettings(),
                last_sequence=sequences_below - 1,
                sequences_below=sequences_below,
                newest_policy_version=0,
                dropped=0,
                refused=0,
            )
            self.put_stream(found)
        return found

    def streams(self) -> list[StreamRow]:
        """All streams by name."""
        return [_stream(row) for row in self._database.rows("SELECT * FROM streams ORDER BY 1")]

    def put_stream(self, row: StreamRow) -> None:
        """Add or replace a stream.

        Raises:
            LimitExceeded: There are as many as there may be.
        """
        if self.stream(row.name) is None:
            ((count,),) = self._database.rows("SELECT count(*) FROM streams")
            if count >= self._limits.streams:
                raise LimitExceeded(
                    f"stream {row.name!r}: there are {count}, which is the most", reason="LIMIT"
                )
        self._database.change(
            "INSERT OR REPLACE INTO streams VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            row.name,
            row.settings.capacity,
            row.settings.when_full,
            row.settings.keep_last,
            row.settings.keep_every,
            row.last_sequence,
            row.sequences_below,
            row.newest_policy_version,
            row.dropped,
            row.refused,
        )

    def count_refused(self, stream: str) -> None:
        """One more push was refused."""
        self._database.change("UPDATE streams SET refused = refused + 1 WHERE stream = ?", stream)

    def count_dropped(self, stream: str) -> None:
        """One more rollout was dropped."""
        self._database.change("UPDATE streams SET dropped = dropped + 1 WHERE stream = ?", stream)

    def rollout(self, stream: str, sequence: int) -> RolloutInfo | None:
        """One rollout."""
        return self._one(f"{_SELECT} AND sequence = ?", stream, sequence)

    def of_iteration(self, stream: str, producer: str, iteration: int) -> RolloutInfo | None:
        """The rollout of a producer's iteration that is stored."""
        query = f"{_SELECT} AND producer = ? AND iteration = ?"
        return self._one(query, stream, producer, iteration)

    def latest(self, stream: str) -> RolloutInfo | None:
        """The newest rollout."""
        return self._one(f"{_SELECT} ORDER BY sequence DESC LIMIT 1", stream)

    def rollouts(self, stream: str, after_sequence: int, limit: int) -> list[RolloutInfo]:
        """The first ones above a sequence."""
        query = f"{_SELECT} AND sequence > ? ORDER BY sequence LIMIT ?"
        return [
            as_rollout(row) for row in self._database.rows(query, stream, after_sequence, limit)
        ]

    def sequences(self, stream: str) -> dict[int, RolloutInfo]:
        """All rollouts of a stream."""
        return {row[1]: as_rollout(row) for row in self._database.rows(_SELECT, stream)}

    def stored(self, stream: str) -> tuple[int, int]:
        """How many rollouts a stream has, and the size of their files."""
        query = "SELECT count(*), coalesce(sum(size_bytes), 0) FROM rollouts WHERE stream = ?"
        return self._database.row(query, stream)

    def removed(self, stream: str, producer: str, iteration: int) -> RolloutInfo | None:
        """The rollout of a producer's iteration that was stored, as far as is remembered."""
        return self._one(
            f"SELECT {ROLLOUT_COLUMNS} FROM removed "  # noqa: S608 - only names of columns
            "WHERE stream = ? AND producer = ? AND iteration = ?",
            stream,
            producer,
            iteration,
        )

    def forgotten(self, stream: str, producer: str) -> int:
        """Up to which iteration it is not known what a producer pushed; -1 if it always is."""
        query = "SELECT forgotten FROM producers WHERE stream = ? AND producer = ?"
        found = self._database.row(query, stream, producer)
        return found[0] if found else -1

    def producers(self, stream: str) -> tuple[ProducerState, ...]:
        """All producers of a stream by name."""
        query = "SELECT producer, last_iteration, pushed FROM producers WHERE stream = ? ORDER BY 1"
        return tuple(
            ProducerState(name=name, last_iteration=last, pushed=pushed)
            for name, last, pushed in self._database.rows(query, stream)
        )

    def check_producer(self, stream: str, producer: str) -> None:
        """Refuse one producer too many.

        Raises:
            LimitExceeded: There are as many as there may be.
        """
        query = "SELECT count(*), coalesce(sum(producer = ?), 0) FROM producers WHERE stream = ?"
        count, same = self._database.row(query, producer, stream)
        if not same and count >= self._limits.names:
            raise LimitExceeded(
                f"stream {stream!r} has {count} producers, which is the most: use names again",
                reason="LIMIT",
            )

    def add_rollout(self, info: RolloutInfo) -> None:
        """List a rollout, and note its producer."""
        self._insert("rollouts", info)
        self._database.change(
            "DELETE FROM removed WHERE stream = ? AND producer = ? AND iteration = ?",
            info.stream,
            info.producer,
            info.iteration,
        )
        self._database.change(
            "UPDATE streams SET last_sequence = max(last_sequence, ?), "
            "newest_policy_version = max(newest_policy_version, ?) WHERE stream = ?",
            info.sequence,
            info.policy_version,
            info.stream,
        )
        self._database.change(
            "INSERT INTO producers VALUES (?, ?, ?, 1, -1) ON CONFLICT DO UPDATE SET "
            "last_iteration = max(last_iteration, excluded.last_iteration), pushed = pushed + 1",
            info.stream,
            info.producer,
            info.iteration,
        )

    def remove_rollout(self, info: RolloutInfo) -> None:
        """Forget a rollout but for what tells a repeated push."""
        self._delete_rows(info)
        self._insert("removed", info)
        beyond = self._database.row(
            "SELECT iteration FROM removed WHERE stream = ? AND producer = ? "
            "ORDER BY iteration DESC LIMIT 1 OFFSET ?",
            info.stream,
            info.producer,
            self._limits.remembered,
        )
        if beyond is not None:
            self._database.change(
                "DELETE FROM removed WHERE stream = ? AND producer = ? AND iteration <= ?",
                info.stream,
                info.producer,
                beyond[0],
            )
            self._database.change(
                "UPDATE producers SET forgotten = max(forgotten, ?) "
                "WHERE stream = ? AND producer = ?",
                beyond[0],
                info.stream,
                info.producer,
            )

    def delete_rollout(self, info: RolloutInfo) -> None:
        """Forget a rollout and its pushes; only that its file is to go is noted."""
        key = info.stream, info.sequence
        self._delete_rows(info)
        self._database.change("DELETE FROM pushes WHERE stream = ? AND sequence = ?", *key)
        self._database.change("INSERT OR REPLACE INTO deleted VALUES (?, ?)", *key)

    def deleted(self, stream: str) -> set[int]:
        """Sequences that were deleted, and whose files may stand there still."""
        query = "SELECT sequence FROM deleted WHERE stream = ?"
        return {sequence for (sequence,) in self._database.rows(query, stream)}

    def forget_deleted(self, stream: str, sequence: int) -> None:
        """The file of a rollout that was deleted is surely gone."""
        self._database.change(
            "DELETE FROM deleted WHERE stream = ? AND sequence = ?", stream, sequence
        )

    def _delete_rows(self, info: RolloutInfo) -> None:
        key = info.stream, info.sequence
        self._database.change("DELETE FROM rollouts WHERE stream = ? AND sequence = ?", *key)
        self._database.change("DELETE FROM deliveries WHERE stream = ? AND sequence = ?", *key)

    def _insert(self, table: str, info: RolloutInfo) -> None:
        self._database.change(
            f"INSERT OR REPLACE INTO {table} ({ROLLOUT_COLUMNS}) VALUES ({_PLACES})",  # noqa: S608 - only names
            info.stream,
            info.sequence,
            info.producer,
            info.iteration,
            info.policy_version,
            info.envs,
            info.steps,
            info.raw_size_bytes,
            info.digest.size_bytes,
            info.digest.xxh3_128,
            info.created_unix_ms,
        )

    def _one(self, query: str, *values: Any) -> RolloutInfo | None:
        found = self._database.row(query, *values)
        return as_rollout(found) if found else None


def as_rollout(row: Any) -> RolloutInfo:
    """A row of ``ROLLOUT_COLUMNS``."""
    return RolloutInfo(
        stream=row[0],
        sequence=row[1],
        producer=row[2],
        iteration=row[3],
        policy_version=row[4],
        envs=row[5],
        steps=row[6],
        raw_size_bytes=row[7],
        digest=Digest(row[8], row[9]),
        created_unix_ms=row[10],
    )


def _stream(row: Any) -> StreamRow:
    return StreamRow(
        name=row[0],
        settings=StreamSettings(
            capacity=row[1], when_full=row[2], keep_last=row[3], keep_every=row[4]
        ),
        last_sequence=row[5],
        sequences_below=row[6],
        newest_policy_version=row[7],
        dropped=row[8],
        refused=row[9],
    )
