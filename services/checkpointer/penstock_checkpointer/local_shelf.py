"""Checkpoints as files of a local disk: each one a ``.pstk`` file with its note beside it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import BinaryIO

import structlog

from penstock.checkpoints import CheckpointInfo
from penstock.chunks import Digest
from penstock.container import verify
from penstock.disk import sync_directory
from penstock.failpoints import failpoint
from penstock_checkpointer.durable import make_directory, write_durably
from penstock_checkpointer.layout import Layout, Note

__all__ = ["LocalShelf"]

log = structlog.get_logger(__name__)


class LocalShelf:
    """Renames parts into the folder of their run; see ``Shelf``.

    A file is only ever renamed into a run after it was verified and synced, so one that is there
    is a checkpoint, even without its note.

    Args:
        layout: Where.
    """

    def __init__(self, layout: Layout) -> None:
        self._layout = layout
        self.url = ""

    def prepare(self, part: Path, info: CheckpointInfo) -> None:
        """Nothing: a rename is quick."""

    def publish(self, part: Path, note: Note) -> None:
        """Write the note, rename the part beside it, sync the directory.

        Raises:
            FileNotFoundError: The part is gone.
        """
        info = note.info
        directory = self._layout.run(info.run)
        make_directory(directory)
        write_durably(self._layout.note(info.run, info.step), note.encode())
        failpoint("server.publish.note_written")
        part.rename(self._layout.content(info.run, info.step))
        failpoint("server.publish.renamed")
        sync_directory(directory)
        failpoint("server.publish.directory_synced")

    def write_note(self, note: Note) -> None:
        """Replace the note of a checkpoint, durably."""
        write_durably(self._layout.note(note.info.run, note.info.step), note.encode())
        sync_directory(self._layout.run(note.info.run))

    def size_bytes(self, info: CheckpointInfo) -> int:
        """Size of the file.

        Raises:
            FileNotFoundError: It is gone.
        """
        return self._layout.content(info.run, info.step).stat().st_size

    def open(self, info: CheckpointInfo) -> BinaryIO:
        """Open the file; it stays readable when it is removed meanwhile.

        Raises:
            FileNotFoundError: It is gone.
        """
        return self._layout.content(info.run, info.step).open("rb")

    def remove(self, info: CheckpointInfo) -> None:
        """Remove file and note and sync the directory."""
        # The file first: a note without a file is no checkpoint, a file without a note is one.
        self._layout.content(info.run, info.step).unlink(missing_ok=True)
        failpoint("server.delete.content_removed")
        self._layout.note(info.run, info.step).unlink(missing_ok=True)
        failpoint("server.delete.note_removed")
        if self._layout.run(info.run).is_dir():
            sync_directory(self._layout.run(info.run))

    def listing(self) -> Mapping[str, set[int]]:
        """Steps of all checkpoint files, by run."""
        return {run: self._layout.steps(run) for run in self._layout.runs()}

    def recover(self, run: str, step: int) -> Note:
        """The note; where it does not fit the file, what the file says when it is verified.

        Raises:
            Corrupt, InvalidInput, LimitExceeded: It is damaged.
        """
        path = self._layout.content(run, step)
        note = self._note(run, step)
        if note is not None and note.info.size_bytes == path.stat().st_size:
            return note
        verified = verify(path)
        info = CheckpointInfo(
            run=run,
            step=step,
            digest=verified.digest,
            raw_size_bytes=verified.raw_size_bytes,
            created_unix_ms=path.stat().st_mtime_ns // 1_000_000,
            tags=(),
            metrics={},
            base_step=verified.base.step if verified.base else None,
        )
        return Note(info=info, fencing_token=0)

    def foreign(self) -> Iterator[str]:
        """Paths of files among the runs that the store did not make."""
        for path in self._layout.foreign():
            yield str(path)

    def sweep(self, under_way: Callable[[str, int, Digest], bool]) -> int:
        """Remove notes without a file, and notes that were being written."""
        # A commit writes the note before the file: killed in between, the note says nothing.
        del under_way
        removed = 0
        for run in self._layout.runs():
            for path in self._layout.strays(run):
                log.debug("note without a checkpoint removed", path=str(path))
                path.unlink(missing_ok=True)
                removed += 1
        return removed

    def _note(self, run: str, step: int) -> Note | None:
        try:
            note = Note.decode(self._layout.note(run, step).read_bytes())
        except FileNotFoundError:
            return None
        return note if note is not None and (note.info.run, note.info.step) == (run, step) else None
