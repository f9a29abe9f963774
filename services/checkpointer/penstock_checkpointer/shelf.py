"""The shelf: where committed checkpoints stand, be it a disk or an object store.

What is under way lies in the staging folder of the store, and the catalogue beside it, both always
on a local disk. A shelf takes what was verified there, content and note, so that a checkpoint
stands there whole or not at all, whatever is killed in between.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import BinaryIO, Protocol

from penstock.checkpoints import CheckpointInfo
from penstock.chunks import Digest
from penstock_checkpointer.layout import Note

__all__ = ["Shelf"]


class Shelf(Protocol):
    """Committed checkpoints of one store; safe to call from several threads.

    Every method raises OSError when a disk refuses, and a ``PenstockError`` that names the bucket
    when an object store does.
    """

    @property
    def url(self) -> str:
        """Of an object store; empty for the disk of the store itself."""
        ...

    def prepare(self, part: Path, info: CheckpointInfo) -> None:
        """Do what takes long ahead of :meth:`publish`, with no lock held; nothing is listed by it.

        Args:
            part: The content: verified, synced, not written to any more.
            info: What it is.

        Raises:
            FileNotFoundError: The part is gone.
        """
        ...

    def publish(self, part: Path, note: Note) -> None:
        """Make a prepared part a checkpoint; when this returns it stays, and the part is gone.

        Raises:
            FileNotFoundError: The part is gone.
        """
        ...

    def write_note(self, note: Note) -> None:
        """Replace the note of a checkpoint, durably."""
        ...

    def size_bytes(self, info: CheckpointInfo) -> int:
        """Size of the content as it stands there.

        Raises:
            FileNotFoundError: It is gone.
        """
        ...

    def open(self, info: CheckpointInfo) -> BinaryIO:
        """Open the content, seekable; the caller closes it.

        Raises:
            FileNotFoundError: It is gone.
        """
        ...

    def remove(self, info: CheckpointInfo) -> None:
        """Remove a checkpoint, durably; nothing happens if it is gone."""
        ...

    def listing(self) -> Mapping[str, set[int]]:
        """Steps of all checkpoints that stand here, by run."""
        ...

    def recover(self, run: str, step: int) -> Note:
        """What the catalogue should know of a checkpoint that stands here.

        Raises:
            Corrupt, InvalidInput, LimitExceeded: It is damaged.
        """
        ...

    def foreign(self) -> Iterator[str]:
        """What somebody else put here: it is left alone."""
        ...

    def sweep(self, under_way: Callable[[str, int, Digest], bool]) -> int:
        """Remove what publishing or removing left when it was killed; returns how many.

        Nothing may be published meanwhile, but for content that is being prepared.

        Args:
            under_way: Whether an upload of this run, step and digest may still be published.
        """
        ...
