"""Tables of the catalogue of rollouts."""

from __future__ import annotations

import sqlite3

__all__ = ["ROLLOUT_COLUMNS", "create_tables"]

ROLLOUT_COLUMNS = (
    "stream, sequence, producer, iteration, policy_version, envs, steps, raw_size_bytes, "
    "size_bytes, digest, created_unix_ms"
)

_ROLLOUT = """
    stream TEXT NOT NULL,
    sequence INTEGER NOT NULL,
    producer TEXT NOT NULL,
    iteration INTEGER NOT NULL,
    policy_version INTEGER NOT NULL,
    envs INTEGER NOT NULL,
    steps INTEGER NOT NULL,
    raw_size_bytes INTEGER NOT NULL,
    size_bytes INTEGER NOT NULL,
    digest BLOB NOT NULL,
    created_unix_ms INTEGER NOT NULL,
"""

_TABLES = f"""
CREATE TABLE IF NOT EXISTS streams (
    stream TEXT PRIMARY KEY,
    capacity INTEGER NOT NULL,
    when_full TEXT NOT NULL,
    keep_last INTEGER NOT NULL,
    keep_every INTEGER NOT NULL,
    last_sequence INTEGER NOT NULL,
    sequences_below INTEGER NOT NULL,
    newest_policy_version INTEGER NOT NULL,
    dropped INTEGER NOT NULL,
    refused INTEGER NOT NULL
) WITHOUT ROWID;
-- Rollouts whose file stands in the stream.
CREATE TABLE IF NOT EXISTS rollouts ({_ROLLOUT}
    PRIMARY KEY (stream, sequence)
) WITHOUT ROWID;
CREATE UNIQUE INDEX IF NOT EXISTS rollouts_by_iteration ON rollouts (stream, producer, iteration);
-- Rollouts that stood there, so that a push which is repeated is known again.
CREATE TABLE IF NOT EXISTS removed ({_ROLLOUT}
    PRIMARY KEY (stream, producer, iteration)
) WITHOUT ROWID;
-- Rollouts that a client deleted, until their file is surely gone; unlike those in `removed` they
-- may be pushed anew.
CREATE TABLE IF NOT EXISTS deleted (
    stream TEXT NOT NULL,
    sequence INTEGER NOT NULL,
    PRIMARY KEY (stream, sequence)
) WITHOUT ROWID;
-- Up to `forgotten` it is not known any more which iterations a producer has pushed.
CREATE TABLE IF NOT EXISTS producers (
    stream TEXT NOT NULL,
    producer TEXT NOT NULL,
    last_iteration INTEGER NOT NULL,
    pushed INTEGER NOT NULL,
    forgotten INTEGER NOT NULL,
    PRIMARY KEY (stream, producer)
) WITHOUT ROWID;
-- A consumer has settled all up to `settled_up_to`, and what its deliveries say beyond.
CREATE TABLE IF NOT EXISTS consumers (
    stream TEXT NOT NULL,
    consumer TEXT NOT NULL,
    settled_up_to INTEGER NOT NULL,
    settled INTEGER NOT NULL,
    skipped_stale INTEGER NOT NULL,
    dropped INTEGER NOT NULL,
    unsaid_stale INTEGER NOT NULL,
    unsaid_dropped INTEGER NOT NULL,
    taken_policy_version INTEGER NOT NULL,
    PRIMARY KEY (stream, consumer)
) WITHOUT ROWID;
-- Up to there a consumer was through when it was forgotten as the last one of its stream.
CREATE TABLE IF NOT EXISTS left_behind (
    stream TEXT PRIMARY KEY,
    settled_up_to INTEGER NOT NULL
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS deliveries (
    stream TEXT NOT NULL,
    consumer TEXT NOT NULL,
    sequence INTEGER NOT NULL,
    member TEXT NOT NULL,
    lease_until_unix_ms INTEGER NOT NULL,
    attempt INTEGER NOT NULL,
    settled INTEGER NOT NULL,
    skipped_stale INTEGER NOT NULL,
    dropped INTEGER NOT NULL,
    PRIMARY KEY (stream, consumer, sequence)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS pushes (
    push_id TEXT PRIMARY KEY,
    stream TEXT NOT NULL,
    producer TEXT NOT NULL,
    iteration INTEGER NOT NULL,
    policy_version INTEGER NOT NULL,
    created_unix_ms INTEGER NOT NULL,
    sequence INTEGER,
    was_stored INTEGER NOT NULL
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS open_pushes ON pushes (stream) WHERE sequence IS NULL;
"""


def create_tables(database: sqlite3.Connection) -> None:
    """Create what is missing; the caller is alone with the database."""
    database.executescript(_TABLES)
