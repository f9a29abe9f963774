"""Checking all bytes of what is stored, and marking in the catalogue what was found."""

from __future__ import annotations

import errno
import time
from collections import Counter
from collections.abc import Callable
from typing import BinaryIO

import structlog

from penstock.checkpoints import CheckpointInfo
from penstock.chunks import Digest
from penstock.container import Verified, verify
from penstock.errors import Corrupt, InvalidInput, LimitExceeded, PenstockError
from penstock_checkpointer.catalog import Catalog
from penstock_checkpointer.faults import disk_fault
from penstock_checkpointer.shelf import Shelf

__all__ = ["Checks", "check_digest"]

log = structlog.get_logger(__name__)


class Checks:
    """Checks stored checkpoints of one store. Safe to call from several threads.

    Args:
        shelf: Where they stand.
        catalog: Of the same store.
        counts: Counts damage that is found, and damage that is gone.
    """

    def __init__(self, shelf: Shelf, catalog: Catalog, counts: Counter[str]) -> None:
        self._shelf, self._catalog, self._counts = shelf, catalog, counts

    def check(
        self, info: CheckpointInfo, through: Callable[[BinaryIO], BinaryIO] | None = None
    ) -> Verified:
        """Read a checkpoint whole and mark it: checked now, intact or damaged.

        Args:
            info: The checkpoint; its base is not looked at.
            through: Wraps the open file, to be read more slowly, say.

        Raises:
            Corrupt, InvalidInput, LimitExceeded: It is damaged; names the place.
            Internal: The disk refuses for a reason that is none of the file's.
        """
        name = f"{info.run}/{info.step}"
        try:
            with self._shelf.open(info) as file:
                verified = verify(file if through is None else through(file))
            check_digest(name, verified.digest, info.digest)
        except (Corrupt, InvalidInput, LimitExceeded) as error:
            self._record(info, error)
            raise
        except FileNotFoundError:
            gone = Corrupt(
                f"{name}: its content is gone from the store: use another step", reason="FILE_GONE"
            )
            self._record(info, gone)
            raise gone from None
        except OSError as error:
            if error.errno != errno.EIO:
                raise disk_fault(error, f"checking {name}") from error
            unreadable = Corrupt(
                f"{name}: the disk cannot read its file ({error.strerror}): use another step and "
                "look after the disk",
                reason="UNREADABLE",
            )
            self._record(info, unreadable)
            raise unreadable from error
        self._record(info, None)
        return verified

    def _record(self, info: CheckpointInfo, fault: PenstockError | None) -> None:
        with self._catalog.transaction():
            before = self._catalog.checkpoint(info.run, info.step)
            there = self._catalog.record_check(
                info, time.time_ns() // 1_000_000, damaged=fault is not None
            )
        if before is None or not there:
            return  # It was removed or replaced while it was read.
        if fault is not None:
            self._counts["damage_found"] += not before.damaged
            log.error(
                "stored checkpoint is damaged", run=info.run, step=info.step, error=fault.message
            )
        elif before.damaged:
            self._counts["damage_repaired"] += 1
            log.warning("damaged checkpoint is intact again", run=info.run, step=info.step)


def check_digest(name: str, found: Digest, expected: Digest) -> None:
    """Compare what a file is with what it should be.

    Raises:
        Corrupt: They differ.
    """
    if found != expected:
        raise Corrupt(f"{name}: found {found}, expected {expected}: save it again", reason="DIGEST")
