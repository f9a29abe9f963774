"""Bringing catalogue and files together: at every start, and after the catalogue was lost."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import structlog

from penstock.checkpoints import CheckpointInfo
from penstock.container import verify
from penstock.errors import Corrupt, InvalidInput, LimitExceeded
from penstock_checkpointer.catalog import Catalog
from penstock_checkpointer.layout import Layout, Note

__all__ = ["adopt_files"]

log = structlog.get_logger(__name__)


def adopt_files(
    layout: Layout, catalog: Catalog, counts: Counter[str], *, from_scratch: bool = False
) -> int:
    """List checkpoints whose files are there, forget those whose files are gone.

    A file is only ever renamed into a run after it was verified and synced, so a file without a
    row was committed but for its row. One that does not fit its note is verified here, and left
    alone (and said) if it is damaged.

    Args:
        layout: Where the files are.
        catalog: Of the same store.
        counts: Counts what happens, by name.
        from_scratch: Forget all rows first.

    Returns:
        How many were added.
    """
    added = 0
    for path in layout.foreign():
        log.warning("foreign file left alone", path=str(path))
        counts["foreign_files"] += 1
    with catalog.transaction():
        if from_scratch:
            catalog.clear_checkpoints()
        known: dict[str, set[int]] = {run.name: set() for run in catalog.runs()}
        for run, steps in known.items():
            steps.update(info.step for info in catalog.checkpoints(run))
        there = set(layout.runs())
        for run in sorted(there | set(known)):
            on_disk = layout.steps(run) if run in there else set[int]()
            for step in sorted(known.get(run, set[int]()) - on_disk):
                log.warning("checkpoint without a file forgotten", run=run, step=step)
                counts["checkpoints_forgotten"] += 1
                catalog.remove_checkpoint(run, step)
            for step in sorted(on_disk - known.get(run, set[int]())):
                added += _adopt(layout, catalog, counts, run, step)
            if run in there:
                _remove_stray_notes(layout, run, on_disk)
    counts["checkpoints_adopted"] += added
    if added:
        log.warning("checkpoints adopted that the catalogue did not know", count=added)
    return added


def _adopt(layout: Layout, catalog: Catalog, counts: Counter[str], run: str, step: int) -> int:
    path = layout.content(run, step)
    note = _note_of(layout, run, step)
    if note is None or note.info.size_bytes != path.stat().st_size:
        try:
            verified = verify(path)
        except (Corrupt, InvalidInput, LimitExceeded) as error:
            counts["damaged_skipped"] += 1
            log.warning("damaged file left out", path=str(path), error=error.message)
            return 0
        info = CheckpointInfo(
            run=run,
            step=step,
            digest=verified.digest,
            raw_size_bytes=verified.raw_size_bytes,
            created_unix_ms=path.stat().st_mtime_ns // 1_000_000,
            tags=(),
            metrics={},
        )
        note = Note(info=info, fencing_token=0)
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


def _note_of(layout: Layout, run: str, step: int) -> Note | None:
    try:
        note = Note.decode(layout.note(run, step).read_bytes())
    except FileNotFoundError:
        return None
    return note if note is not None and (note.info.run, note.info.step) == (run, step) else None


def _remove_stray_notes(layout: Layout, run: str, on_disk: set[int]) -> None:
    # A commit writes the note before the file: killed in between, the note says nothing.
    for step in layout.notes(run) - on_disk:
        log.debug("note without a checkpoint removed", run=run, step=step)
        layout.note(run, step).unlink(missing_ok=True)
