"""Tables, numbers and JSON as the commands for checkpoints print them."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from penstock.checkpoints import CheckpointInfo

__all__ = ["finite", "info_document", "print_table", "saved_percent", "time_of"]

_WIDE = 400
"""Columns where output is no terminal: what reads it wants whole lines."""


def print_table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Print rows below the names of their columns."""
    console = Console()
    if not console.is_terminal:
        console.width = _WIDE
    table = Table(*columns)
    for row in rows:
        # Paths have brackets, which are no markup here.
        table.add_row(*(escape(cell) for cell in row))
    console.print(table)


def info_document(info: CheckpointInfo) -> dict[str, Any]:
    """What is known of a checkpoint, as JSON says it; digests in hex."""
    return {
        "run": info.run,
        "step": info.step,
        "size_bytes": info.size_bytes,
        "xxh3_128": info.digest.xxh3_128.hex(),
        "raw_size_bytes": info.raw_size_bytes,
        "created_unix_ms": info.created_unix_ms,
        "tags": list(info.tags),
        "metrics": {name: finite(value) for name, value in info.metrics.items()},
        "base_step": info.base_step,
        "pinned": info.pinned,
        "verified_unix_ms": info.verified_unix_ms,
        "damaged": info.damaged,
    }


def finite(number: float | None) -> float | str | None:
    """A number as JSON can hold it: infinities and no-numbers become texts."""
    return number if number is None or math.isfinite(number) else str(number)


def saved_percent(raw_bytes: int, stored_bytes: int) -> float | None:
    """What is saved of ``raw_bytes``, in percent; None where there is nothing to save."""
    return 100 * (1 - stored_bytes / raw_bytes) if raw_bytes else None


def time_of(unix_ms: int) -> str:
    """A time as it is printed."""
    return datetime.fromtimestamp(unix_ms / 1000, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
