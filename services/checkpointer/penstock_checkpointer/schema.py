"""Tables of the catalogue, and how those of an older store become them."""

from __future__ import annotations

import sqlite3

__all__ = ["CHECKPOINT_COLUMNS", "create_tables"]

_TABLES = """
CREATE TABLE IF NOT EXISTS writers (
    run TEXT PRIMARY KEY,
    fencing_token INTEGER NOT NULL
);
CREATE TABLE IF NOT EXISTS checkpoints (
    run TEXT NOT NULL,
    step INTEGER NOT NULL,
    size_bytes INTEGER NOT NULL,
    digest BLOB NOT NULL,
    raw_size_bytes INTEGER NOT NULL,
    created_unix_ms INTEGER NOT NULL,
    metrics TEXT NOT NULL,
    PRIMARY KEY (run, step)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS tags (
    run TEXT NOT NULL,
    tag TEXT NOT NULL,
    step INTEGER NOT NULL,
    PRIMARY KEY (run, tag)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS uploads (
    upload_id TEXT PRIMARY KEY,
    run TEXT NOT NULL,
    step INTEGER NOT NULL,
    size_bytes INTEGER NOT NULL,
    digest BLOB NOT NULL,
    raw_size_bytes INTEGER NOT NULL,
    fencing_token INTEGER NOT NULL,
    tags TEXT NOT NULL,
    metrics TEXT NOT NULL,
    created_unix_ms INTEGER NOT NULL,
    committed INTEGER NOT NULL
) WITHOUT ROWID;
"""

_ADDED = {
    "base_step": "INTEGER",
    "pinned": "INTEGER NOT NULL DEFAULT 0",
    "verified_unix_ms": "INTEGER NOT NULL DEFAULT 0",
    "damaged": "INTEGER NOT NULL DEFAULT 0",
}
"""Columns of ``checkpoints`` that stores of the first version lack."""

CHECKPOINT_COLUMNS = (
    "run, step, size_bytes, digest, raw_size_bytes, created_unix_ms, metrics, base_step, pinned, "
    "verified_unix_ms, damaged"
)


def create_tables(database: sqlite3.Connection) -> None:
    """Create what is missing; the caller is alone with the database."""
    database.executescript(_TABLES)
    present = {row[1] for row in database.execute("PRAGMA table_info(checkpoints)")}
    missing = [name for name in _ADDED if name not in present]
    if not missing:
        return
    database.execute("BEGIN IMMEDIATE")
    try:
        for name in missing:
            database.execute(f"ALTER TABLE checkpoints ADD COLUMN {name} {_ADDED[name]}")
        if "verified_unix_ms" in missing:
            # Every commit has always checked all bytes.
            database.execute("UPDATE checkpoints SET verified_unix_ms = created_unix_ms")
        database.execute("COMMIT")
    except BaseException:
        if database.in_transaction:
            database.execute("ROLLBACK")
        raise
