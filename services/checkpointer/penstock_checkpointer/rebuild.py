"""Bringing catalogue and shelf together: at every start, and after the catalogue was lost."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import structlog

from penstock.checkpoints import CheckpointInfo
from penstock.chunks import Digest
from penstock.errors import Corrupt, InvalidInput, LimitExceeded
from penstock_checkpointer.catalog import Catalog
from penstock_checkpointer.shelf import Shelf

__all__ = ["adopt_files"]

log = structlog.get_logger(__name__)


def adopt_files(
    shelf: Shelf, catalog: Catalog, counts: Counter[str], *, from_scratch: bool = False
) -> int:
    """List checkpoints that stand on the shelf, forget those that are gone from it.

    What stands there was verified before, so one without a row was committed but for its row. One
    that does not fit its note is left alone (and said) if it turns out to be damaged.

    Args:
        shelf: Where the checkpoints are.
        catalog: Of the same store.
        counts: Counts what happens, by name.
        from_scratch: Forget all rows first.

    Returns:
        How many were added.
    """
    added = 0
    for path in shelf.foreign():
        log.warning("foreign file left alone", path=path)
        counts["foreign_files"] += 1
    with catalog.transaction():
        checked: list[CheckpointInfo] = []
        if from_scratch:
            checked = [info for run in catalog.runs() for info in catalog.checkpoints(run.name)]
            catalog.clear_checkpoints()
        known: dict[str, set[int]] = {run.name: set() for run in catalog.runs()}
        for run, steps in known.items():
            steps.update(info.step for info in catalog.checkpoints(run))
        listing = shelf.listing()
        for run in sorted({*listing, *known}):
            standing = listing.get(run, set[int]())
            for step in sorted(known.get(run, set[int]()) - standing):
                log.warning("checkpoint without a file forgotten", run=run, step=step)
                counts["checkpoints_forgotten"] += 1
                catalog.remove_checkpoint(run, step)
            for step in sorted(standing - known.get(run, set[int]())):
                added += _adopt(shelf, catalog, counts, run, step)
        for info in checked:
            # No file tells what the last check found.
            catalog.record_check(info, info.verified_unix_ms, damaged=info.damaged)
        counts["orphans_removed"] += shelf.sweep(_UnderWay(catalog))
    counts["checkpoints_adopted"] += added
    if added:
        log.warning("checkpoints adopted that the catalogue did not know", count=added)
    return added


class _UnderWay:
    """Tells which content is still being uploaded."""

    def __init__(self, catalog: Catalog) -> None:
        self._uploads = {(u.run, u.step, u.digest) for u in catalog.open_uploads()}

    def __call__(self, run: str, step: int, digest: Digest) -> bool:
        return (run, step, digest) in self._uploads


def _adopt(shelf: Shelf, catalog: Catalog, counts: Counter[str], run: str, step: int) -> int:
    try:
        note = shelf.recover(run, step)
    except (Corrupt, InvalidInput, LimitExceeded) as error:
        counts["damaged_skipped"] += 1
        log.warning("damaged file left out", run=run, step=step, error=error.message)
        return 0
    # Of two notes with the same tag (a crash while it moved) the newer commit keeps it.
    info = note.info
    kept: list[str] = []
    for tag in info.tags:
        holder_step = catalog.tagged_step(run, tag)
        holder = None if holder_step is None else catalog.checkpoint(run, holder_step)
        if holder is None or holder.created_unix_ms <= info.created_unix_ms:
            kept.append(tag)
    catalog.put_checkpoint(replace(info, tags=tuple(kept)))
    if note.fencing_token > catalog.fencing_token(run):
        catalog.put_fencing_token(run, note.fencing_token)
    return 1
