"""Uploads under way: one part file each, as long as what was received without a gap.

Nothing about progress is stored elsewhere, so an upload goes on after a restart where its file
ends. What a crash may have torn is found when the whole is verified.
"""

from __future__ import annotations

import os
import secrets
import shutil
import time
from collections import Counter
from dataclasses import dataclass, replace

import structlog

from penstock.checkpoints import (
    CheckpointInfo,
    UploadRequest,
    UploadState,
    check_run,
    check_step,
    check_tag,
)
from penstock.container import MAGIC, check_magic
from penstock.disk import sync_directory
from penstock.errors import AlreadyExists, Conflict, InvalidInput, LimitExceeded, NotFound
from penstock.failpoints import failpoint
from penstock_checkpointer.catalog import Catalog, Upload
from penstock_checkpointer.durable import locked_file
from penstock_checkpointer.faults import disk_fault
from penstock_checkpointer.layout import Layout
from penstock_checkpointer.quota import check_quotas

__all__ = ["Staging", "StoreLimits"]

log = structlog.get_logger(__name__)

_HASH_BYTES = 16
_MAX_TAGS = 64
_MAX_METRICS = 1024
_EXPIRE_EVERY_S = 60.0
_REMEMBER_S = 3600.0
"""A commit that is asked for again is answered for so long."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StoreLimits:
    """What a store takes.

    Attributes:
        upload_size_bytes: Largest checkpoint.
        free_bytes: What must stay free on the disk.
        upload_expiry_s: An upload that nothing was added to for so long is removed.
        run_bytes: What a run may hold, open uploads counted; 0 for no quota.
        store_bytes: What the store may hold, open uploads counted; 0 for no quota.
    """

    upload_size_bytes: int = 64 << 30
    free_bytes: int = 256 << 20
    upload_expiry_s: float = 86_400.0
    run_bytes: int = 0
    store_bytes: int = 0


class Staging:
    """Takes uploads in. Safe among threads and processes.

    Args:
        layout: Where.
        catalog: Of the same store.
        limits: What is taken.
        counts: Counts what happens, by name.
    """

    def __init__(
        self, layout: Layout, catalog: Catalog, limits: StoreLimits, counts: Counter[str]
    ) -> None:
        self._layout, self._catalog, self._limits = layout, catalog, limits
        self._counts = counts
        self._expired_s = 0.0

    def begin(self, request: UploadRequest) -> UploadState:
        """Open an upload, or take up one of the same content.

        Raises:
            InvalidInput: A name, the size or the digest is not valid.
            AlreadyExists: The step has other content.
            Conflict: A newer writer has taken over the run.
            LimitExceeded: Too large, the disk has no room, or a quota is used up.
        """
        self._check(request)
        if time.monotonic() - self._expired_s > _EXPIRE_EVERY_S:
            self.expire()
        with self._catalog.transaction():
            stored = self._catalog.checkpoint(request.run, request.step)
            if stored is not None:
                check_same_content(stored, request)
                if stored.damaged:
                    stored = None  # Sent again, it takes the place of the damaged file.
            token = self._grant(request.run, request.fencing_token)
            upload = self._find(request)
            if upload is None:
                upload_id = secrets.token_hex(16)
                received = 0
            else:
                upload_id = upload.upload_id
                received = self._received(upload)
            if stored is None:
                self._check_quotas(request, upload_id)
                self._check_room(request, received, upload_id)
                self._make_part(upload_id)
                failpoint("server.begin.part_made")
            self._catalog.put_upload(
                Upload(
                    upload_id=upload_id,
                    run=request.run,
                    step=request.step,
                    digest=request.digest,
                    raw_size_bytes=request.raw_size_bytes,
                    fencing_token=token,
                    tags=request.tags,
                    metrics=request.metrics,
                    created_unix_ms=time.time_ns() // 1_000_000,
                    committed=False,
                )
            )
        failpoint("server.begin.before_answer")
        if upload is not None:
            self._counts["uploads_resumed"] += 1
            if stored is None and received:
                # What is answered is acknowledged: it must not be lost with the machine.
                received = self.sync(upload_id)
        return UploadState(
            upload_id=upload_id,
            fencing_token=token,
            received_bytes=request.digest.size_bytes if stored else received,
            committed=stored is not None,
        )

    def append(self, upload_id: str, offset_bytes: int, data: bytes) -> int:
        """Add bytes; what was received before is skipped. Returns all that is received.

        Raises:
            NotFound: No such upload.
            InvalidInput: The offset leaves a gap, the announced size is exceeded, or the content
                is a pickle.
            Conflict: A newer writer has taken over the run.
            LimitExceeded: The disk is full; what was received before is kept.
        """
        upload = self.upload(upload_id)
        self.check_fence(upload)
        name = f"{upload.run}/{upload.step}"
        size = upload.digest.size_bytes
        if offset_bytes + len(data) > size:
            raise InvalidInput(
                f"{name}: bytes {offset_bytes} to {offset_bytes + len(data)} go beyond the "
                f"announced {size}",
                field="data",
            )
        try:
            with locked_file(self._layout.part(upload_id)) as handle:
                received = os.fstat(handle).st_size
                if offset_bytes > received:
                    raise InvalidInput(
                        f"{name}: a chunk at {offset_bytes} leaves a gap: go on at {received}",
                        field="offset_bytes",
                        reason="UPLOAD_GAP",
                        metadata={"received_bytes": str(received)},
                    )
                if offset_bytes == 0:
                    check_magic(data[: len(MAGIC)])
                fresh = memoryview(data)[received - offset_bytes :]
                _write_all(handle, received, fresh)
                failpoint("server.append.written")
                return received + len(fresh)
        except FileNotFoundError:
            # The content is stored already (then nothing is missing), or the upload was removed.
            if self._catalog.checkpoint(upload.run, upload.step) is not None:
                return size
            raise self._unknown(upload_id) from None
        except OSError as error:
            self._counts["disk_faults"] += 1
            raise disk_fault(error, f"receiving {name}") from error

    def sync(self, upload_id: str) -> int:
        """Make all that is received durable; returns how many bytes that are.

        Raises:
            NotFound: No such upload.
            LimitExceeded, Internal: The disk refused; the upload is removed, for after a failed
                sync the kernel may drop pages and report success the next time.
        """
        upload = self.upload(upload_id)
        try:
            with locked_file(self._layout.part(upload_id)) as handle:
                received = os.fstat(handle).st_size
                failpoint("server.append.before_sync")
                os.fdatasync(handle)
                failpoint("server.append.synced")
                return received
        except FileNotFoundError:
            if self._catalog.checkpoint(upload.run, upload.step) is not None:
                return upload.digest.size_bytes
            raise self._unknown(upload_id) from None
        except OSError as error:
            self._counts["disk_faults"] += 1
            self.abort(upload_id)
            raise disk_fault(error, f"syncing {upload.run}/{upload.step}") from error

    def abort(self, upload_id: str) -> None:
        """Give up an upload and free its space; unknown ones are no error."""
        with self._catalog.transaction():
            upload = self._catalog.upload(upload_id)
            if upload is not None:
                self._catalog.remove_upload(upload_id)
                self._layout.part(upload_id).unlink(missing_ok=True)

    def upload(self, upload_id: str) -> Upload:
        """An upload that is known.

        Raises:
            NotFound: It is not.
        """
        upload = self._catalog.upload(upload_id)
        if upload is None:
            raise self._unknown(upload_id)
        return upload

    def check_fence(self, upload: Upload) -> None:
        """Refuse a writer that another one has taken over from.

        Raises:
            Conflict: The run has a newer writer than the one of ``upload``.
        """
        newest = self._catalog.fencing_token(upload.run)
        if upload.fencing_token != newest:
            self._counts["writers_fenced"] += 1
            raise _fenced(upload.run, upload.fencing_token, newest)

    def expire(self) -> int:
        """Remove uploads that nothing was added to for too long; returns how many."""
        self._expired_s = time.monotonic()
        now_s, expiry_s = time.time(), self._limits.upload_expiry_s
        expired = 0
        with self._catalog.transaction():
            known = {upload.upload_id: upload for upload in self._catalog.uploads()}
            for upload in known.values():
                part = self._layout.part(upload.upload_id)
                touched_s = upload.created_unix_ms / 1000
                if part.exists():
                    touched_s = max(touched_s, part.stat().st_mtime)
                patience_s = min(expiry_s, _REMEMBER_S) if upload.committed else expiry_s
                if touched_s < now_s - patience_s:
                    part.unlink(missing_ok=True)
                    self._catalog.remove_upload(upload.upload_id)
                    if not upload.committed:
                        expired += 1
                        log.warning("upload expired", run=upload.run, step=upload.step)
            for upload_id, part in self._layout.parts():
                if upload_id not in known:
                    log.warning("part file of no upload removed", path=str(part))
                    part.unlink(missing_ok=True)
                    expired += 1
        self._counts["uploads_expired"] += expired
        return expired

    def _check(self, request: UploadRequest) -> None:
        check_run(request.run)
        check_step(request.step)
        for tag in request.tags:
            check_tag(tag)
        if len(request.tags) > _MAX_TAGS or len(request.metrics) > _MAX_METRICS:
            raise InvalidInput(
                f"{len(request.tags)} tags and {len(request.metrics)} metrics: at most {_MAX_TAGS} "
                f"and {_MAX_METRICS}",
                field="tags",
            )
        size, limit = request.digest.size_bytes, self._limits.upload_size_bytes
        if size <= 0 or len(request.digest.xxh3_128) != _HASH_BYTES:
            raise InvalidInput(
                f"digest {request.digest} is none: give the size and the 16 bytes of xxh3-128",
                field="digest",
            )
        if size > limit:
            raise LimitExceeded(
                f"{request.run}/{request.step} has {size} bytes, the limit is {limit}: raise "
                "--max-upload-bytes of the checkpointer",
                reason="UPLOAD_SIZE",
            )

    def _grant(self, run: str, token: int) -> int:
        newest = self._catalog.fencing_token(run)
        if token and token < newest:
            self._counts["writers_fenced"] += 1
            raise _fenced(run, token, newest)
        if not token:
            # Near the clock, so that tokens still rise after the catalogue was lost and rebuilt.
            token = max(newest + 1, time.time_ns() // 1000)
        if token != newest:
            self._catalog.put_fencing_token(run, token)
        return token

    def _find(self, request: UploadRequest) -> Upload | None:
        for upload in self._catalog.open_uploads():
            same = (upload.run, upload.step) == (request.run, request.step)
            if same and upload.digest == request.digest:
                return upload
        return None

    def _make_part(self, upload_id: str) -> None:
        part = self._layout.part(upload_id)
        if not part.exists():
            try:
                part.touch()
                # So that bytes which are acknowledged have a name after a power loss.
                sync_directory(part.parent)
            except OSError as error:
                raise disk_fault(error, f"beginning an upload in {part.parent}") from error

    def _received(self, upload: Upload) -> int:
        part = self._layout.part(upload.upload_id)
        return part.stat().st_size if part.exists() else 0

    def _check_quotas(self, request: UploadRequest, upload_id: str) -> None:
        others = [u for u in self._catalog.open_uploads() if u.upload_id != upload_id]
        try:
            check_quotas(
                self._catalog,
                request,
                others,
                run_bytes=self._limits.run_bytes,
                store_bytes=self._limits.store_bytes,
            )
        except LimitExceeded:
            self._counts["uploads_beyond_quota"] += 1
            raise

    def _check_room(self, request: UploadRequest, received: int, upload_id: str) -> None:
        promised = sum(
            upload.digest.size_bytes - self._received(upload)
            for upload in self._catalog.open_uploads()
            if upload.upload_id != upload_id
        )
        free = shutil.disk_usage(self._layout.root).free
        needed = request.digest.size_bytes - received
        if needed + promised + self._limits.free_bytes > free:
            self._counts["uploads_without_room"] += 1
            raise LimitExceeded(
                f"{request.run}/{request.step} needs {needed} bytes; {self._layout.root} has "
                f"{free} free, of which {promised} are promised to other uploads and "
                f"{self._limits.free_bytes} stay free: delete checkpoints or add space",
                reason="DISK_FULL",
            )

    def _unknown(self, upload_id: str) -> NotFound:
        return NotFound(
            f"there is no upload {upload_id!r:.80}: it expired, was aborted or failed: begin again",
            reason="UPLOAD_UNKNOWN",
        )


def check_same_content(stored: CheckpointInfo, request: UploadRequest | Upload) -> None:
    """Refuse other content for a step that is taken.

    Raises:
        AlreadyExists: The digests differ.
    """
    if stored.digest != request.digest:
        raise AlreadyExists(
            f"{stored.run}/{stored.step} exists with other content ({stored.digest}, offered "
            f"{request.digest}): use another run name, or delete it first",
            reason="CHECKPOINT_EXISTS",
        )


def mark_committed(upload: Upload) -> Upload:
    """The upload as it is remembered for a commit that is asked for again."""
    return replace(upload, committed=True)


def _fenced(run: str, token: int, newest: int) -> Conflict:
    return Conflict(
        f"run {run!r} was taken over by a newer writer (token {newest}, yours is {token}): this "
        "one must stop saving to it, or open the run again to take it back",
        reason="WRITER_FENCED",
    )


def _write_all(handle: int, offset_bytes: int, data: memoryview) -> None:
    done = 0
    try:
        while done < len(data):
            done += os.pwrite(handle, data[done:], offset_bytes + done)
    except OSError:
        # The file's length is the only record of what was received: no half chunk may stay.
        os.ftruncate(handle, offset_bytes)
        raise
