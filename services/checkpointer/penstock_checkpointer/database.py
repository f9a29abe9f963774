"""The database below a catalogue: SQLite, one writer at a time among threads and processes."""

from __future__ import annotations

import sqlite3
import threading
import time
from collections import Counter
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import structlog

from penstock.errors import Corrupt, PenstockError, Unavailable
from penstock_checkpointer.durable import locked_directory
from penstock_checkpointer.faults import Kept, catalog_fault

__all__ = ["Database", "open_database"]

log = structlog.get_logger(__name__)

_BUSY_TIMEOUT_S = 60.0


class Database:
    """One open database; safe to call from several threads.

    Args:
        path: Of the file; created if missing.
        kept: What the store keeps.
        create_tables: Creates what is missing; it is alone with the database.

    Raises:
        Corrupt: The file is damaged or no database.
        LimitExceeded: The disk is full.
        Internal: It cannot be opened.
    """

    def __init__(
        self, path: Path, kept: Kept, create_tables: Callable[[sqlite3.Connection], None]
    ) -> None:
        self._path, self._kept, self._lock = path, kept, threading.RLock()
        self._synced = self._closed = False
        try:
            self._connection = sqlite3.connect(
                path, timeout=_BUSY_TIMEOUT_S, isolation_level=None, check_same_thread=False
            )
            self._set_up(create_tables)
        except sqlite3.Error as error:
            raise catalog_fault(error, path, kept) from error

    def close(self) -> None:
        """Close the database."""
        with self._lock:
            self._closed = True
            self._connection.close()

    @contextmanager
    def transaction(self, *, durable: bool = True) -> Generator[None]:
        """Everything inside happens at once, or not at all; other writers wait.

        Args:
            durable: It is on disk at the end. Otherwise it outlives this process, but maybe not a
                loss of power.

        Raises:
            LimitExceeded: The disk is full.
            Internal: The database is busy for a minute, or damaged.
        """
        with self._lock:
            try:
                self._sync(durable=durable)
                self._connection.execute("BEGIN IMMEDIATE")
                try:
                    yield
                    self._connection.execute("COMMIT")
                except BaseException:
                    # SQLite may have rolled back by itself, as it does on a full disk.
                    if self._connection.in_transaction:
                        self._connection.execute("ROLLBACK")
                    raise
            except sqlite3.Error as error:
                raise self._fault(error) from error

    def rows(self, query: str, *values: Any) -> list[Any]:
        """All rows that a query gives."""
        with self._lock:
            try:
                return self._connection.execute(query, values).fetchall()
            except sqlite3.Error as error:
                raise self._fault(error) from error

    def row(self, query: str, *values: Any) -> Any:
        """The first row that a query gives; None without one."""
        found = self.rows(query, *values)
        return found[0] if found else None

    def change(self, statement: str, *values: Any) -> int:
        """Change something, inside a transaction; returns how many rows."""
        return self._connection.execute(statement, values).rowcount

    def others_version(self) -> int:
        """Another number whenever somebody else has changed the database."""
        return self.rows("PRAGMA data_version")[0][0]

    def _fault(self, error: sqlite3.Error) -> PenstockError:
        if self._closed:
            return Unavailable(f"the {self._kept.name} store is closed", reason="ENDING")
        return catalog_fault(error, self._path, self._kept)

    def _sync(self, *, durable: bool) -> None:
        if durable != self._synced:
            self._connection.execute(f"PRAGMA synchronous = {'FULL' if durable else 'NORMAL'}")
            self._synced = durable

    def _set_up(self, create_tables: Callable[[sqlite3.Connection], None]) -> None:
        try:
            self._connection.execute("PRAGMA journal_mode = WAL")
            self._sync(durable=True)
            _check_pages(self._connection)
            create_tables(self._connection)
        except BaseException:
            self._connection.close()
            raise


def open_database(
    path: Path,
    kept: Kept,
    create_tables: Callable[[sqlite3.Connection], None],
    counts: Counter[str],
) -> Database:
    """Open a database; one that is damaged is put aside (and said), to be filled anew.

    Args:
        path: Of the file; created if missing.
        kept: What the store keeps.
        create_tables: Creates what is missing.
        counts: Counts catalogues that were damaged.

    Raises:
        LimitExceeded: The disk is full.
        Internal: It cannot be opened.
    """
    # Alone, for SQLite does not wait for others while a database is being set up.
    with locked_directory(path.parent):
        try:
            return Database(path, kept, create_tables)
        except Corrupt as error:
            aside = path.with_suffix(f".damaged-{time.time_ns()}")
            log.warning(
                "catalogue damaged, rebuilt",
                of=kept.name,
                error=error.message,
                kept_as=str(aside),
            )
            counts["catalogs_rebuilt"] += 1
            path.rename(aside)
            for suffix in ("-wal", "-shm"):
                path.with_name(path.name + suffix).unlink(missing_ok=True)
            return Database(path, kept, create_tables)


def _check_pages(connection: sqlite3.Connection) -> None:
    ((found,),) = connection.execute("PRAGMA quick_check(1)").fetchall()
    if found != "ok":
        raise Corrupt(f"the catalogue is damaged: {found}", reason="CATALOG_DAMAGED")
