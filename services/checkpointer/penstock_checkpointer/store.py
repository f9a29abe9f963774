"""The store: what it has acknowledged is on disk, verified, listed and loadable.

A commit verifies the whole file, syncs it, writes its note, renames it into place, syncs the
directory, enters it into the catalogue, and only then answers. Whatever is killed in between
leaves either an upload that can go on, or a whole checkpoint that the next start lists.
"""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Callable, Mapping
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
from penstock.container import BaseRef, Verified, verify
from penstock.errors import Corrupt, DataFault, InvalidInput, LimitExceeded, NotFound
from penstock.failpoints import failpoint
from penstock.retention import Collected, RetentionPolicy
from penstock_checkpointer.binding import check_binding, remember_binding
from penstock_checkpointer.catalog import Upload, open_catalog
from penstock_checkpointer.checks import Checks, check_digest
from penstock_checkpointer.durable import locked_file
from penstock_checkpointer.faults import disk_fault
from penstock_checkpointer.layout import Layout, Note
from penstock_checkpointer.local_shelf import LocalShelf
from penstock_checkpointer.lookup import Lookup
from penstock_checkpointer.rebuild import adopt_files
from penstock_checkpointer.removal import Removal
from penstock_checkpointer.shelf import Shelf
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
        shelf: Where committed checkpoints stand; in the directory itself if None.
        policy: What is kept of a run once it has a new checkpoint; everything if None.

    Attributes:
        limits: What it takes.
        counts: How often what happened: uploads resumed and expired, writers fenced, damaged
            checkpoints skipped, and so on.

    Raises:
        InvalidInput, LimitExceeded, Internal: The directory cannot be used.
    """

    def __init__(
        self,
        root: Path,
        limits: StoreLimits | None = None,
        shelf: Shelf | None = None,
        policy: RetentionPolicy | None = None,
    ) -> None:
        self.counts: Counter[str] = Counter()
        try:
            self._layout = Layout(root)
            self._shelf = shelf or LocalShelf(self._layout)
            check_binding(self._layout, self._shelf.url)
            self._catalog = open_catalog(self._layout.catalog, self.counts)
        except (FileExistsError, NotADirectoryError) as error:
            raise InvalidInput(
                f"opening the checkpoint store {root}: it is, or lies below, a file: name a "
                "directory",
                field="root",
            ) from error
        except OSError as error:
            raise disk_fault(error, f"opening the checkpoint store {root}") from error
        self.limits = limits or StoreLimits()
        self._staging = Staging(self._layout, self._catalog, self.limits, self.counts)
        self._lookup = Lookup(self._shelf, self._catalog, self.counts)
        self._checks = Checks(self._shelf, self._catalog, self.counts)
        self._removal = Removal(
            self._catalog, self._lookup, self._shelf.remove, policy, self.counts
        )
        try:
            # First, for what an expired upload left on the shelf is swept then.
            self._staging.expire()
            adopt_files(self._shelf, self._catalog, self.counts)
            remember_binding(self._layout, self._shelf.url)
        except BaseException as error:
            self.close()
            if isinstance(error, OSError):
                raise disk_fault(error, f"opening the checkpoint store {root}") from error
            raise

    def close(self) -> None:
        """Close the catalogue."""
        self._catalog.close()

    def begin_upload(self, request: UploadRequest) -> UploadState:
        """Open an upload; see ``Staging.begin``."""
        return self._staging.begin(request)

    def append(self, upload_id: str, offset_bytes: int, data: bytes) -> int:
        """Add bytes to an upload; see ``Staging.append``."""
        return self._staging.append(upload_id, offset_bytes, data)

    def sync(self, upload_id: str) -> int:
        """Make what an upload received durable; see ``Staging.sync``."""
        return self._staging.sync(upload_id)

    def abort(self, upload_id: str) -> None:
        """Give up an upload; see ``Staging.abort``."""
        self._staging.abort(upload_id)

    def commit(self, upload_id: str) -> CheckpointInfo:
        """Verify an upload, make it durable, list it, answer. Asked again it answers the same.

        Raises:
            NotFound: No such upload.
            DataFault: Bytes are missing; or the checkpoint that it refers to is (the upload is
                removed).
            InvalidInput: The content is a pickle, or refers to one that itself refers to another.
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
        if stored is not None and not stored.damaged:
            return self._commit_again(upload)
        try:
            with locked_file(self._layout.part(upload_id)) as handle:
                base = self._secure_part(upload, handle)
                try:
                    info = self._publish(upload, base)
                except (DataFault, InvalidInput):
                    # The base went while this was being checked.
                    self._staging.abort(upload_id)
                    raise
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
        self._removal.after_commit(info)
        failpoint("server.commit.before_answer")
        return info

    def get(self, run: str, which: int | str = LATEST) -> CheckpointInfo:
        """Look up a checkpoint that is intact, and its base with it; see ``Lookup.get``.

        Args:
            run: Name of the run.
            which: A step, a tag, or ``latest`` for the newest intact step.

        Raises:
            NotFound: There is none.
            Corrupt: The step or tag asked for is damaged, or its base is damaged or gone.
        """
        return self._lookup.get(run, which)

    def open_content(self, run: str, step: int) -> BinaryIO:
        """Open the file of a checkpoint for reading; it stays readable if it is deleted.

        Raises:
            NotFound: There is none.
        """
        info = self._catalog.checkpoint(check_run(run), check_step(step))
        try:
            if info is not None:
                return self._shelf.open(info)
        except FileNotFoundError:
            pass
        raise NotFound(f"run {run!r} has no step {step}: {self._lookup.what_there_is(run)}")

    def list(self, run: str) -> list[CheckpointInfo]:
        """All checkpoints of a run by ascending step.

        Raises:
            NotFound: There is no such run.
        """
        found = self._catalog.checkpoints(check_run(run))
        if not found:
            raise NotFound(f"there is no run {run!r}: {self._lookup.what_there_is(run)}")
        return found

    def runs(self) -> list[RunInfo]:
        """All runs by name."""
        return self._catalog.runs()

    def delete(self, run: str, step: int) -> None:
        """Delete one checkpoint and the tags on it; see ``Removal.delete``."""
        self._removal.delete(run, step)

    def pin(self, run: str, which: int | str, *, pinned: bool) -> CheckpointInfo:
        """Keep a checkpoint until it is let go, or let it go; what is so already is no error.

        Raises:
            NotFound: There is none.
        """
        step = self._lookup.find(run, which).step
        with self._catalog.transaction():
            # Again, now that nobody can delete it.
            info = self._lookup.find(run, step)
            if info.pinned == pinned:
                return info
            info = replace(info, pinned=pinned)
            self._shelf.write_note(Note(info=info, fencing_token=self._catalog.fencing_token(run)))
            self._catalog.put_checkpoint(info)
        self.counts["checkpoints_pinned" if pinned else "checkpoints_unpinned"] += 1
        return info

    def collect(
        self, run: str | None, policy: RetentionPolicy | None, *, dry_run: bool
    ) -> Collected:
        """Remove what a policy does not keep, or say what; see ``Removal.collect``."""
        return self._removal.collect(run, policy, dry_run=dry_run)

    def verify(self, run: str, which: int | str = LATEST) -> tuple[CheckpointInfo, Verified]:
        """Read a checkpoint again, and its base, and check every byte; mark what was found.

        Raises:
            NotFound: There is none.
            Corrupt: It is damaged, or its base is; names the place.
        """
        info = self._lookup.find(run, which)
        verified = self._checks.check(info)
        if verified.base is not None:
            self._checks.check(self._lookup.stored_base(info, verified.base))
        return self._catalog.checkpoint(info.run, info.step) or info, verified

    def least_recently_verified(self) -> CheckpointInfo | None:
        """The checkpoint whose bytes were not checked for the longest time; None if empty."""
        return self._catalog.least_recently_verified()

    def check(
        self, info: CheckpointInfo, through: Callable[[BinaryIO], BinaryIO] | None = None
    ) -> None:
        """Check every byte of one file and mark what was found; see ``Checks.check``."""
        self._checks.check(info, through)

    def damaged(self) -> Mapping[str, int]:
        """How many checkpoints are marked damaged, for every run."""
        return self._catalog.damaged()

    def rebuild(self) -> int:
        """Make the catalogue anew from the files; returns how many checkpoints there are."""
        return adopt_files(self._shelf, self._catalog, self.counts, from_scratch=True)

    def _secure_part(self, upload: Upload, handle: int) -> BaseRef | None:
        """Check and sync what was received; gives the checkpoint that it refers to."""
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
                verified = verify(file)
            check_digest(name, verified.digest, upload.digest)
            if verified.base is not None:
                self._lookup.check_base(upload.run, upload.step, verified.base)
        except (Corrupt, DataFault, InvalidInput, LimitExceeded) as error:
            self.counts["uploads_refused"] += 1
            log.warning("upload refused", run=upload.run, step=upload.step, error=error.message)
            self._staging.abort(upload.upload_id)
            raise
        failpoint("server.commit.verified")
        try:
            os.fsync(handle)
        except OSError:
            # After a failed sync the kernel may drop the pages and report success the next time:
            # these bytes cannot be trusted any more.
            self._staging.abort(upload.upload_id)
            raise
        failpoint("server.commit.part_synced")
        return verified.base

    def _publish(self, upload: Upload, base: BaseRef | None) -> CheckpointInfo:
        now_unix_ms = time.time_ns() // 1_000_000
        info = CheckpointInfo(
            run=upload.run,
            step=upload.step,
            digest=upload.digest,
            raw_size_bytes=upload.raw_size_bytes,
            created_unix_ms=now_unix_ms,
            tags=tuple(sorted(set(upload.tags))),
            metrics=dict(upload.metrics),
            base_step=None if base is None else base.step,
            verified_unix_ms=now_unix_ms,
        )
        part = self._layout.part(upload.upload_id)
        self._shelf.prepare(part, info)
        with self._catalog.transaction():
            # Again, now that no other writer can come between.
            self._staging.check_fence(upload)
            stored = self._catalog.checkpoint(upload.run, upload.step)
            if base is not None:
                self._lookup.check_base(upload.run, upload.step, base, files=False)
            if stored is not None:
                check_same_content(stored, upload)
                info = _renewed(info, stored)
            self._shelf.publish(part, Note(info=info, fencing_token=upload.fencing_token))
            self._take_tags(info, upload)
            self._catalog.put_checkpoint(info)
            self._catalog.put_upload(mark_committed(upload))
            failpoint("server.commit.before_catalog")
        failpoint("server.commit.listed")
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
                self._shelf.write_note(Note(info=info, fencing_token=upload.fencing_token))
                failpoint("server.commit_again.note_written")
                self._take_tags(info, upload)
                self._catalog.put_checkpoint(info)
            self._layout.part(upload.upload_id).unlink(missing_ok=True)
            self._catalog.put_upload(mark_committed(upload))
        self._removal.after_commit(info)
        return info

    def _take_tags(self, info: CheckpointInfo, upload: Upload) -> None:
        """Take the tags of ``info`` off the notes that had them."""
        moved = {self._catalog.tagged_step(info.run, tag) for tag in info.tags}
        for step in moved - {None, info.step}:
            former = self._catalog.checkpoint(info.run, step) if step is not None else None
            if former is not None:
                tags = tuple(tag for tag in former.tags if tag not in info.tags)
                note = Note(info=replace(former, tags=tags), fencing_token=upload.fencing_token)
                self._shelf.write_note(note)
                failpoint("server.commit.tags_taken")


def _renewed(info: CheckpointInfo, stored: CheckpointInfo) -> CheckpointInfo:
    """A checkpoint whose damaged file is being replaced: it keeps what it was given before."""
    return replace(
        info,
        tags=tuple(sorted({*stored.tags, *info.tags})),
        metrics={**stored.metrics, **info.metrics},
        pinned=stored.pinned,
        created_unix_ms=stored.created_unix_ms,
    )
