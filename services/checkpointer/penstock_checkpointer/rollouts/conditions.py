"""Conditions of the queue in SQL, on a rollout ``r``; ?1 is the stream, ?2 the time in ms."""

from __future__ import annotations

__all__ = ["AT_WORK", "WAITING", "WAITS"]

_PENDING = """EXISTS (
    SELECT 1 FROM consumers c WHERE c.stream = r.stream AND c.settled_up_to < r.sequence
    AND NOT EXISTS (
        SELECT 1 FROM deliveries d WHERE d.stream = r.stream AND d.consumer = c.consumer
        AND d.sequence = r.sequence AND d.settled
    )
)"""
"""Whether a consumer has not settled the rollout ``r``."""

# Without a consumer all wait, but for what the last one that was there is through with: it must
# neither fill the queue again nor be dropped by it.
_FOR_ANYBODY = """(
    NOT EXISTS (SELECT 1 FROM consumers c WHERE c.stream = r.stream)
    AND NOT EXISTS (
        SELECT 1 FROM left_behind l WHERE l.stream = r.stream AND l.settled_up_to >= r.sequence
    )
)"""

WAITS = f"({_FOR_ANYBODY} OR {_PENDING})"

# What every consumer has left behind need not be looked at one by one.
_FROM = "(SELECT coalesce(min(settled_up_to), 0) FROM consumers WHERE stream = ?1)"
WAITING = f"r.stream = ?1 AND r.sequence > {_FROM} AND {WAITS}"

AT_WORK = """EXISTS (
    SELECT 1 FROM deliveries d WHERE d.stream = r.stream AND d.sequence = r.sequence
    AND NOT d.settled AND d.lease_until_unix_ms > ?2
)"""
