"""A directory and the shelf it was first used with belong together, and say so when they do not."""

from __future__ import annotations

from pathlib import Path

from penstock.disk import sync_directory
from penstock.errors import InvalidInput
from penstock_checkpointer.durable import write_durably
from penstock_checkpointer.layout import Layout

__all__ = ["check_binding", "remember_binding"]

_MARK = "object-store.txt"


def check_binding(layout: Layout, url: str) -> None:
    """Refuse another place than the one where the checkpoints of a store stand.

    Its catalogue would forget what it cannot find there.

    Args:
        layout: Of the store.
        url: Of its object store; empty if they stand in the directory.

    Raises:
        InvalidInput: They stand somewhere else.
    """
    mark = layout.root / _MARK
    known = _read(mark)
    if known and not url:
        raise InvalidInput(
            f"the checkpoints of {layout.root} stand in {known}: serve it with --object-store "
            f"{known}, or name another directory (the mark is {mark})",
            field="root",
        )
    if known and known != url:
        raise InvalidInput(
            f"the checkpoints of {layout.root} stand in {known}, not in {url}: give that, or name "
            f"another directory (the mark is {mark})",
            field="object_store",
        )
    if url and not known:
        for run in layout.runs():
            if layout.steps(run):
                raise InvalidInput(
                    f"{layout.root} holds checkpoints of run {run!r} on the disk, which {url} "
                    "would hide: name another directory",
                    field="root",
                )


def remember_binding(layout: Layout, url: str) -> None:
    """Bind a store to an object store that has answered.

    Raises:
        OSError: The disk refuses.
    """
    mark = layout.root / _MARK
    if url and not _read(mark):
        write_durably(mark, f"{url}\n".encode())
        sync_directory(layout.root)


def _read(mark: Path) -> str:
    try:
        return mark.read_text().strip()
    except FileNotFoundError:
        return ""
