"""The store: what it has acknowledged is on disk, verified, listed and loadable.

A commit verifies the whole file, syncs it, writes its note, renames it into place, syncs the
directory, enters it into the catalogue, and only then answers. Whatever is killed in between
leaves either an upload that can go on, or a whole checkpoint that the next start lists.
"""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import BinaryIO

import structlog

from penstock.checkpoints import (
    LATEST,
    CheckpointInfo,
    RunInfo,
    UploadRequest,
    UploadState,
    check_run,
    check_step,
)
from penstock.chunks import Digest
from penstock.container import Reader, Verified, verify
from penstock.errors import Corrupt, DataFault, InvalidInput, LimitExceeded, NotFound, PenstockError
from penstock_checkpointer.catalog import Catalog, Upload
from penstock_checkpointer.durable import (
    disk_fault,
    locked_directory,
    locked_file,
    make_directory,
    sync_directory,
    write_durably,
)
from penstock_checkpointer.layout import Layout, Note
from penstock_checkpointer.rebuild import adopt_files
from penstock_checkpointer.staging import (
    Staging,
    StoreLimits,
    check_same_content,
    mark_committed,
)

__all__ = ["Store"]

log = structlog.get_logger(__name__)


class Store:
    """A directory of checkpoints; threads and processes may share it.

    Args:
        root: The directory; created if missing.
        limits: What it takes; the default ones if None.

    Attributes:
        counts: How often what happened: uploads resumed and expired, writers fenced, damaged
            checkpoints skipped, and so on.

    Raises:
        InvalidInput, LimitExceeded, Internal: The directory cannot be used.
    """

    def __init__(self, root: Path, limits: StoreLimits | None = None) -> None:
        self.counts: Counter[str] = Counter()
        try:
            self._layout = Layout(root)
            self._catalog = self._open_catalog()
        except (FileExistsError, NotADirectoryError) as error:
            raise InvalidInput(
                f"opening the checkpoint store {root}: it is, or lies below, a file: name a "
                "directory",
                field="root",
            ) from error
        except OSError as error:
            raise disk_fault(error, f"opening the checkpoint store {root}") from error
        self._staging = Staging(self._layout, self._catalog, limits or StoreLimits(), self.counts)
        adopt_files(self._layout, self._catalog, self.counts)
        self._staging.expire()

    def close(self) -> None:
        """Close the catalogue."""
        self._catalog.close()

    def begin_upload(self, request: UploadRequest) -> UploadState:
        """Open an upload; see ``Staging.begin``."""
        return self._staging.begin(request)

    def append(self, upload_id: str, offset_bytes: int, data: bytes) -> int:
        """Add bytes to an upload; see ``Staging.append``."""
        return self._staging.append(upload_id, offset_bytes, data)

    def abort(self, upload_id: str) -> None:
        """Give up an upload; see ``Staging.abort``."""
        self._staging.abort(upload_id)

    def commit(self, upload_id: str) -> CheckpointInfo:
        """Verify an upload, make it durable, list it, answer. Asked again it answers the same.

        Raises:
            NotFound: No such upload.
            DataFault: Bytes are missing.
            InvalidInput: The content is a pickle.
            Corrupt: The content does not match its digest, or is no intact container; the upload
                is removed.
            Conflict: A newer writer has taken over the run.
            AlreadyExists: The step was committed meanwhile with other content.
            LimitExceeded: The disk is full.
        """
        upload = self._staging.upload(upload_id)
        stored = self._catalog.checkpoint(upload.run, upload.step)
        if upload.committed and stored is not None:
            check_same_content(stored, upload)
            return stored
        self._staging.check_fence(upload)
        name = f"{upload.run}/{upload.step}"
        if stored is not None:
            return self._commit_again(upload)
        try:
            with locked_file(self._layout.part(upload_id)) as handle:
                self._secure_part(upload, handle)
                return self._publish(upload)
        except FileNotFoundError:
            # Another call has just committed or removed it: the catalogue knows.
            if self._catalog.checkpoint(upload.run, upload.step) is None:
                raise NotFound(
                    f"{name}: its upload was removed: begin again", reason="UPLOAD_UNKNOWN"
                ) from None
            return self._commit_again(upload)
        except OSError as error:
            self.counts["disk_faults"] += 1
            raise disk_fault(error, f"committing {name}") from error

    def get(self, run: str, which: int | str = LATEST) -> CheckpointInfo:
        """Look up a checkpoint whose size, footer and index are intact.

        Args:
            run: Name of the run.
            which: A step, a tag, or ``latest`` for the newest intact step.

        Raises:
            NotFound: There is none.
            Corrupt: The step or tag asked for is damaged.
        """
        check_run(run)
        if which == LATEST:
            return self._newest_intact(run)
        step = which if isinstance(which, int) else self._catalog.tagged_step(run, which)
        info = None if step is None else self._catalog.checkpoint(run, check_step(step))
        if info is None:
            what = f"no step {which}" if isinstance(which, int) else f"no tag {which!r:.80}"
            raise NotFound(f"run {run!r} has {what}: {self._what_there_is(run)}")
        fault = self._fault_of(info)
        if fault is not None:
            raise fault
        return info

    def open_content(self, run: str, step: int) -> BinaryIO:
        """Open the file of a checkpoint for reading; it stays readable if it is deleted.

        Raises:
            NotFound: There is none.
        """
        try:
            return self._layout.content(run, step).open("rb")
        except FileNotFoundError:
            raise NotFound(f"run {run!r} has no step {step}: {self._what_there_is(run)}") from None

    def list(self, run: str) -> list[CheckpointInfo]:
        """All checkpoints of a run by ascending step.

        Raises:
            NotFound: There is no such run.
        """
        found = self._catalog.checkpoints(check_run(run))
        if not found:
            raise NotFound(f"there is no run {run!r}: {self._what_there_is(run)}")
        return found

    def runs(self) -> list[RunInfo]:
        """All runs by name."""
        return self._catalog.runs()

    def delete(self, run: str, step: int) -> None:
        """Delete one checkpoint and the tags on it.

        Raises:
            NotFound: There is none.
        """
        with self._catalog.transaction():
            if self._catalog.checkpoint(check_run(run), check_step(step)) is None:
                raise NotFound(f"run {run!r} has no step {step}: {self._what_there_is(run)}")
            # The file first: killed after that, the next start drops the row. The other way round
            # it would bring a deleted checkpoint back.
            self._layout.content(run, step).unlink(missing_ok=True)
            self._layout.note(run, step).unlink(missing_ok=True)
            sync_directory(self._layout.run(run))
            self._catalog.remove_checkpoint(run, step)
        self.counts["checkpoints_deleted"] += 1

    def verify(self, run: str, which: int | str = LATEST) -> tuple[CheckpointInfo, Verified]:
        """Read a checkpoint again and check every byte.

        Raises:
            NotFound: There is none.
            Corrupt: It is damaged; names the place.
        """
        info = self.get(run, which)
        verified = verify(self._layout.content(run, info.step))
        _check_digest(f"{run}/{info.step}", verified.digest, info.digest)
        return info, verified

    def rebuild(self) -> int:
        """Make the catalogue anew from the files; returns how many checkpoints there are."""
        return adopt_files(self._layout, self._catalog, self.counts, from_scratch=True)

    def _open_catalog(self) -> Catalog:
        # Alone, for SQLite does not wait for others while a database is being set up.
        with locked_directory(self._layout.root):
            return self._open_catalog_alone()

    def _open_catalog_alone(self) -> Catalog:
        path = self._layout.catalog
        try:
            return Catalog(path)
        except Corrupt as error:
            aside = path.with_suffix(f".damaged-{time.time_ns()}")
            log.warning("catalogue damaged, rebuilt", error=error.message, kept_as=str(aside))
            self.counts["catalogs_rebuilt"] += 1
            path.rename(aside)
            for suffix in ("-wal", "-shm"):
                path.with_name(path.name + suffix).unlink(missing_ok=True)
            return Catalog(path)

    def _secure_part(self, upload: Upload, handle: int) -> None:
        size = os.fstat(handle).st_size
        name = f"{upload.run}/{upload.step}"
        if size != upload.digest.size_bytes:
            raise DataFault(
                f"{name}: {size} of {upload.digest.size_bytes} bytes arrived: send the rest first",
                reason="UPLOAD_INCOMPLETE",
                metadata={"received_bytes": str(size)},
            )
        try:
            with os.fdopen(os.dup(handle), "rb") as file:
                _check_digest(name, verify(file).digest, upload.digest)
        except (Corrupt, InvalidInput, LimitExceeded) as error:
            self.counts["uploads_refused"] += 1
            log.warning("upload refused", run=upload.run, step=upload.step, error=error.message)
            self._staging.abort(upload.upload_id)
            raise
        try:
            os.fsync(handle)
        except OSError:
            # After a failed sync the kernel may drop the pages and report success the next time:
            # these bytes cannot be trusted any more.
            self._staging.abort(upload.upload_id)
            raise

    def _publish(self, upload: Upload) -> CheckpointInfo:
        info = CheckpointInfo(
            run=upload.run,
            step=upload.step,
            digest=upload.digest,
            raw_size_bytes=upload.raw_size_bytes,
            created_unix_ms=time.time_ns() // 1_000_000,
            tags=tuple(sorted(set(upload.tags))),
            metrics=dict(upload.metrics),
        )
        with self._catalog.transaction():
            # Again, now that no other writer can come between.
            self._staging.check_fence(upload)
            stored = self._catalog.checkpoint(upload.run, upload.step)
            if stored is not None:
                check_same_content(stored, upload)
            directory = self._layout.run(upload.run)
            make_directory(directory)
            self._write_notes(info, upload)
            self._layout.part(upload.upload_id).rename(
                self._layout.content(upload.run, upload.step)
            )
            sync_directory(directory)
            self._catalog.put_checkpoint(info)
            self._catalog.put_upload(mark_committed(upload))
        self.counts["checkpoints_committed"] += 1
        return info

    def _commit_again(self, upload: Upload) -> CheckpointInfo:
        """The same content was stored before: only tags and metrics may be new."""
        with self._catalog.transaction():
            self._staging.check_fence(upload)
            stored = self._catalog.checkpoint(upload.run, upload.step)
            if stored is None:
                raise NotFound(f"{upload.run}/{upload.step} was deleted: begin again")
            check_same_content(stored, upload)
            metrics: Mapping[str, float] = {**stored.metrics, **upload.metrics}
            tags = tuple(sorted({*stored.tags, *upload.tags}))
            info = replace(stored, tags=tags, metrics=metrics)
            if info != stored:
                self._write_notes(info, upload)
                sync_directory(self._layout.run(upload.run))
                self._catalog.put_checkpoint(info)
            self._layout.part(upload.upload_id).unlink(missing_ok=True)
            self._catalog.put_upload(mark_committed(upload))
        return info

    def _write_notes(self, info: CheckpointInfo, upload: Upload) -> None:
        """Write the note of ``info``, and take its tags off the notes that had them."""
        note = Note(info=info, fencing_token=upload.fencing_token)
        write_durably(self._layout.note(info.run, info.step), note.encode())
        moved = {self._catalog.tagged_step(info.run, tag) for tag in info.tags}
        for step in moved - {None, info.step}:
            former = self._catalog.checkpoint(info.run, step) if step is not None else None
            if former is not None:
                tags = tuple(tag for tag in former.tags if tag not in info.tags)
                note = Note(info=replace(former, tags=tags), fencing_token=upload.fencing_token)
                write_durably(self._layout.note(former.run, former.step), note.encode())

    def _newest_intact(self, run: str) -> CheckpointInfo:
        damaged = 0
        for info in reversed(self._catalog.checkpoints(run)):
            fault = self._fault_of(info)
            if fault is None:
                return info
            damaged += 1
            self.counts["damaged_skipped"] += 1
            log.warning("damaged checkpoint skipped", run=run, step=info.step, error=fault.message)
        skipped = f" intact ({damaged} are damaged)" if damaged else ""
        raise NotFound(f"run {run!r} has no checkpoint{skipped}: {self._what_there_is(run)}")

    def _fault_of(self, info: CheckpointInfo) -> PenstockError | None:
        path = self._layout.content(info.run, info.step)
        try:
            size = path.stat().st_size
            if size != info.size_bytes:
                return Corrupt(
                    f"{info.run}/{info.step} has {size} bytes on disk, {info.size_bytes} were "
                    "committed: it is damaged, use another step",
                    reason="TRUNCATED",
                )
            Reader(path).close()
        except FileNotFoundError:
            return Corrupt(
                f"{info.run}/{info.step}: its file {path} is gone: use another step",
                reason="FILE_GONE",
            )
        except PenstockError as error:
            return error
        return None

    def _what_there_is(self, run: str) -> str:
        steps = [info.step for info in self._catalog.checkpoints(run)]
        if steps:
            shown = ", ".join(str(step) for step in steps[-5:])
            return f"it has {len(steps)} checkpoints, the last are {shown}"
        names = [info.name for info in self._catalog.runs()]
        return f"the store has the runs {', '.join(names[:10])}" if names else "the store is empty"


def _check_digest(name: str, found: Digest, expected: Digest) -> None:
    if found != expected:
        raise Corrupt(f"{name}: found {found}, expected {expected}: save it again", reason="DIGEST")
