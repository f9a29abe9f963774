"""The catalogue: which checkpoints, tags, uploads and writers there are (SQLite).

Files are the truth; the catalogue makes them quick to find and is rebuilt from them when it is
lost. Everything happens in transactions that are on disk when they end, and one writer at a time,
also among processes.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from penstock.checkpoints import CheckpointInfo, RunInfo
from penstock.chunks import Digest
from penstock_checkpointer.database import Database, open_database
from penstock_checkpointer.faults import CHECKPOINTS
from penstock_checkpointer.schema import CHECKPOINT_COLUMNS, create_tables

__all__ = ["Catalog", "Upload", "open_catalog"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Upload:
    """An upload as the catalogue knows it; what arrived so far is the length of its part file."""

    upload_id: str
    run: str
    step: int
    digest: Digest
    raw_size_bytes: int
    fencing_token: int
    tags: tuple[str, ...]
    metrics: Mapping[str, float]
    created_unix_ms: int
    committed: bool


class Catalog:
    """One open catalogue; safe to call from several threads.

    Args:
        database: Where; closed by :meth:`close`.
    """

    def __init__(self, database: Database) -> None:
        self._database = database
        self._rows = database.rows

    def close(self) -> None:
        """Close the database."""
        self._database.close()

    def transaction(self) -> AbstractContextManager[None]:
        """Everything inside happens at once and durably, or not at all; other writers wait.

        Raises:
            LimitExceeded: The disk is full.
            Internal: The database is busy for a minute, or damaged.
        """
        return self._database.transaction()

    def checkpoint(self, run: str, step: int) -> CheckpointInfo | None:
        """One checkpoint."""
        rows = self._rows(
            f"SELECT {CHECKPOINT_COLUMNS} FROM checkpoints WHERE run = ? AND step = ?",  # noqa: S608
            run,
            step,
        )
        return self._infos(rows)[0] if rows else None

    def checkpoints(self, run: str) -> list[CheckpointInfo]:
        """All checkpoints of a run by ascending step."""
        query = f"SELECT {CHECKPOINT_COLUMNS} FROM checkpoints WHERE run = ? ORDER BY step"  # noqa: S608
        return self._infos(self._rows(query, run))

    def runs(self) -> list[RunInfo]:
        """All runs that have checkpoints, by name."""
        rows = self._rows(
            "SELECT run, count(*), max(step), sum(size_bytes) FROM checkpoints "
            "GROUP BY run ORDER BY run"
        )
        return [
            RunInfo(name=name, checkpoints=count, latest_step=step, stored_bytes=size)
            for name, count, step, size in rows
        ]

    def dependents(self, run: str, step: int) -> list[int]:
        """Steps of a run that refer to ``step``, ascending."""
        query = "SELECT step FROM checkpoints WHERE run = ? AND base_step = ? ORDER BY step"
        return [found for (found,) in self._rows(query, run, step)]

    def stored_bytes(self, run: str | None = None) -> int:
        """Size of all checkpoints, of one run or of the store."""
        query = "SELECT coalesce(sum(size_bytes), 0) FROM checkpoints WHERE ?1 IS NULL OR run = ?1"
        return self._rows(query, run)[0][0]

    def damaged(self) -> dict[str, int]:
        """How many checkpoints are marked damaged, for every run."""
        return dict(self._rows("SELECT run, sum(damaged) FROM checkpoints GROUP BY run"))

    def least_recently_verified(self) -> CheckpointInfo | None:
        """The checkpoint whose bytes were not checked for the longest time."""
        rows = self._rows(
            f"SELECT {CHECKPOINT_COLUMNS} FROM checkpoints "  # noqa: S608
            "ORDER BY verified_unix_ms LIMIT 1"
        )
        return self._infos(rows)[0] if rows else None

    def record_check(self, info: CheckpointInfo, verified_unix_ms: int, *, damaged: bool) -> bool:
        """Note what a check of all bytes found, unless the checkpoint was removed or replaced.

        Returns:
            Whether it is still there with the same content. Needs a transaction.
        """
        changed = self._database.change(
            "UPDATE checkpoints SET verified_unix_ms = ?, damaged = ? "
            "WHERE run = ? AND step = ? AND digest = ?",
            *(verified_unix_ms, damaged, info.run, info.step, info.digest.xxh3_128),
        )
        return changed == 1

    def tagged_step(self, run: str, tag: str) -> int | None:
        """The step that a tag points at."""
        rows = self._rows("SELECT step FROM tags WHERE run = ? AND tag = ?", run, tag)
        return rows[0][0] if rows else None

    def put_checkpoint(self, info: CheckpointInfo) -> None:
        """Add or replace a checkpoint; its tags move to it. Needs a transaction."""
        self._database.change(
            f"INSERT OR REPLACE INTO checkpoints ({CHECKPOINT_COLUMNS}) "  # noqa: S608
            "VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            *(
                info.run,
                info.step,
                info.digest.size_bytes,
                info.digest.xxh3_128,
                info.raw_size_bytes,
                info.created_unix_ms,
                json.dumps(dict(info.metrics)),
                info.base_step,
                info.pinned,
                info.verified_unix_ms,
                info.damaged,
            ),
        )
        for tag in info.tags:
            self._database.change(
                "INSERT OR REPLACE INTO tags (run, tag, step) VALUES (?, ?, ?)",
                *(info.run, tag, info.step),
            )

    def clear_checkpoints(self) -> None:
        """Forget all checkpoints and tags. Needs a transaction."""
        self._database.change("DELETE FROM checkpoints")
        self._database.change("DELETE FROM tags")

    def remove_checkpoint(self, run: str, step: int) -> None:
        """Forget a checkpoint and the tags on it. Needs a transaction."""
        self._database.change("DELETE FROM checkpoints WHERE run = ? AND step = ?", run, step)
        self._database.change("DELETE FROM tags WHERE run = ? AND step = ?", run, step)

    def fencing_token(self, run: str) -> int:
        """The newest token given to a writer of the run; 0 if there was none."""
        rows = self._rows("SELECT fencing_token FROM writers WHERE run = ?", run)
        return rows[0][0] if rows else 0

    def put_fencing_token(self, run: str, token: int) -> None:
        """Make ``token`` the newest one. Needs a transaction."""
        self._database.change(
            "INSERT OR REPLACE INTO writers (run, fencing_token) VALUES (?, ?)", run, token
        )

    def upload(self, upload_id: str) -> Upload | None:
        """One upload."""
        rows = self._rows("SELECT * FROM uploads WHERE upload_id = ?", upload_id)
        return _upload(rows[0]) if rows else None

    def uploads(self) -> list[Upload]:
        """All uploads, committed ones too until they expire."""
        return [_upload(row) for row in self._rows("SELECT * FROM uploads")]

    def open_uploads(self) -> list[Upload]:
        """Uploads that are not committed."""
        return [_upload(row) for row in self._rows("SELECT * FROM uploads WHERE committed = 0")]

    def put_upload(self, upload: Upload) -> None:
        """Add or replace an upload. Needs a transaction."""
        self._database.change(
            "INSERT OR REPLACE INTO uploads VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            *(
                upload.upload_id,
                upload.run,
                upload.step,
                upload.digest.size_bytes,
                upload.digest.xxh3_128,
                upload.raw_size_bytes,
                upload.fencing_token,
                json.dumps(upload.tags),
                json.dumps(dict(upload.metrics)),
                upload.created_unix_ms,
                int(upload.committed),
            ),
        )

    def remove_upload(self, upload_id: str) -> None:
        """Forget an upload. Needs a transaction."""
        self._database.change("DELETE FROM uploads WHERE upload_id = ?", upload_id)

    def _infos(self, rows: list[Any]) -> list[CheckpointInfo]:
        tags: dict[int, list[str]] = {}
        if rows:
            query = "SELECT step, tag FROM tags WHERE run = ? ORDER BY tag"
            for step, tag in self._rows(query, rows[0][0]):
                tags.setdefault(step, []).append(tag)
        return [
            CheckpointInfo(
                run=row[0],
                step=row[1],
                digest=Digest(row[2], row[3]),
                raw_size_bytes=row[4],
                created_unix_ms=row[5],
                tags=tuple(tags.get(row[1], ())),
                metrics=json.loads(row[6]),
                base_step=row[7],
                pinned=bool(row[8]),
                verified_unix_ms=row[9],
                damaged=bool(row[10]),
            )
            for row in rows
        ]


def open_catalog(path: Path, counts: Counter[str]) -> Catalog:
    """Open a catalogue; one that is damaged is put aside (and said), for its files to fill anew.

    Args:
        path: Of the database; created if missing.
        counts: Counts catalogues that were damaged.

    Raises:
        LimitExceeded: The disk is full.
        Internal: It cannot be opened.
    """
    return Catalog(open_database(path, CHECKPOINTS, create_tables, counts))


def _upload(row: Any) -> Upload:
    return Upload(
        upload_id=row[0],
        run=row[1],
        step=row[2],
        digest=Digest(row[3], row[4]),
        raw_size_bytes=row[5],
        fencing_token=row[6],
        tags=tuple(json.loads(row[7])),
        metrics=json.loads(row[8]),
        created_unix_ms=row[9],
        committed=bool(row[10]),
    )
