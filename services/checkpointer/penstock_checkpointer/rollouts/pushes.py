"""Rows of pushes: those under way, and for a while those that became rollouts."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

from penstock.streams import PushRequest
from penstock_checkpointer.database import Database

__all__ = ["Push", "Pushes"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Push:
    """A push as the catalogue knows it; what arrived so far is the length of its part file.

    Attributes:
        request: As it was begun.
        created_unix_ms: When.
        sequence: Of the rollout that it became; None while it is under way.
        was_stored: The rollout was stored before, with the same content.
    """

    request: PushRequest
    created_unix_ms: int
    sequence: int | None
    was_stored: bool


class Pushes:
    """All pushes of a store. Methods that change something need a transaction.

    Args:
        database: Where.
    """

    def __init__(self, database: Database) -> None:
        self._database = database

    def get(self, push_id: str) -> Push | None:
        """One push."""
        found = self._database.row("SELECT * FROM pushes WHERE push_id = ?", push_id)
        return _push(found) if found else None

    def under_way(self, stream: str | None = None) -> list[Push]:
        """Those of a stream, or of all, that are not finished."""
        query = "SELECT * FROM pushes WHERE sequence IS NULL AND (?1 IS NULL OR stream = ?1)"
        return [_push(row) for row in self._database.rows(query, stream)]

    def forget_finished(self, before_s: float) -> None:
        """Forget those that were begun before a time and are finished."""
        self._database.change(
            "DELETE FROM pushes WHERE sequence IS NOT NULL AND created_unix_ms < ?",
            round(before_s * 1000),
        )

    def begin(self, request: PushRequest) -> None:
        """Add a push."""
        self._database.change(
            "INSERT OR REPLACE INTO pushes VALUES (?, ?, ?, ?, ?, ?, NULL, 0)",
            request.push_id,
            request.stream,
            request.producer,
            request.iteration,
            request.policy_version,
            time.time_ns() // 1_000_000,
        )

    def finish(self, push_id: str, sequence: int, *, was_stored: bool) -> None:
        """Note what a push became."""
        self._database.change(
            "UPDATE pushes SET sequence = ?, was_stored = ? WHERE push_id = ?",
            sequence,
            was_stored,
            push_id,
        )

    def remove(self, push_id: str) -> None:
        """Forget a push."""
        self._database.change("DELETE FROM pushes WHERE push_id = ?", push_id)


def _push(row: Any) -> Push:
    return Push(
        request=PushRequest(
            push_id=row[0], stream=row[1], producer=row[2], iteration=row[3], policy_version=row[4]
        ),
        created_unix_ms=row[5],
        sequence=row[6],
        was_stored=bool(row[7]),
    )
