"""How a push becomes a rollout: verified, synced, named, listed.

The rename and the row belong to one transaction. A process that dies between them leaves a file
without a row, and the file ``publishing``, by which the next writer finds it.
"""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import replace

import structlog

from penstock.chunks import Digest
from penstock.disk import sync_directory
from penstock.errors import (
    AlreadyExists,
    Corrupt,
    InvalidInput,
    LimitExceeded,
    PenstockError,
)
from penstock.failpoints import failpoint
from penstock.rollout_file import Index, verify
from penstock.streams import PushRequest, RolloutInfo
from penstock_checkpointer.database import Database
from penstock_checkpointer.durable import locked_file
from penstock_checkpointer.rollouts.admission import Admission
from penstock_checkpointer.rollouts.catalog import RolloutCatalog
from penstock_checkpointer.rollouts.faults import disk_fault
from penstock_checkpointer.rollouts.layout import RolloutLayout, StreamNote
from penstock_checkpointer.rollouts.rebuild import Rebuild
from penstock_checkpointer.rollouts.removal import Removal
from penstock_checkpointer.rollouts.staging import RolloutStaging, unknown_push

__all__ = ["Commit"]

log = structlog.get_logger(__name__)

_SEQUENCES_AHEAD = 1024
"""So many sequences a stream's note allows at a time, so that few commits write it."""

_MAX_INDEX_BYTES = 32 << 20
"""An index travels in one message."""


class Commit:
    """Makes rollouts of pushes. Safe among threads and processes.

    Args:
        layout: Where.
        database: Of the same store.
        catalog: Its rows.
        staging: Where the pushes are.
        admission: Whether the queue has a place.
        removal: Drops what the full queue does not hold.
        rebuild: Finds what a process that died has left.
        counts: Counts what happens, by name.
    """

    def __init__(
        self,
        layout: RolloutLayout,
        database: Database,
        catalog: RolloutCatalog,
        staging: RolloutStaging,
        admission: Admission,
        removal: Removal,
        rebuild: Rebuild,
        counts: Counter[str],
    ) -> None:
        self._layout, self._database, self._catalog = layout, database, catalog
        self._staging, self._admission = staging, admission
        self._removal, self._rebuild, self._counts = removal, rebuild, counts

    def __call__(self, push_id: str, digest: Digest) -> tuple[RolloutInfo, bool]:
        """See ``RolloutBackend.commit``."""
        push = self._staging.pushes.get(push_id)
        if push is None:
            raise unknown_push(push_id)
        request = push.request
        stored = self._staging.stored(request)
        if stored is not None:
            self._check_same(request, stored, digest)
            if push.sequence is None:
                self._finish_repeated(request, stored)
            return stored, push.sequence is None or push.was_stored
        try:
            with locked_file(self._layout.part(push_id)) as handle:
                index = self._verified(request, handle, digest)
                failpoint("rollouts.commit.verified")
                created_ms = self._synced(request, handle)
                failpoint("rollouts.commit.part_synced")
                info = self._publish(request, index, digest, created_ms)
        except FileNotFoundError:
            # Another call has just committed or removed it: the catalogue knows.
            stored = self._staging.stored(request)
            if stored is None:
                raise unknown_push(push_id) from None
            self._check_same(request, stored, digest)
            return stored, False
        except OSError as error:
            self._counts["disk_faults"] += 1
            raise disk_fault(error, f"committing {_name(request)}") from error
        if info is None:
            return self._not_published(request, digest)
        self._staging.forget(push_id)
        self._counts["pushed"] += 1
        failpoint("rollouts.commit.before_answer")
        return info, False

    def _verified(self, request: PushRequest, handle: int, digest: Digest) -> Index:
        size, name = os.fstat(handle).st_size, _name(request)
        if size < digest.size_bytes:
            raise InvalidInput(
                f"{name}: {size} of {digest.size_bytes} bytes arrived: send the rest first",
                field="digest",
                reason="PUSH_INCOMPLETE",
                metadata={"received_bytes": str(size)},
            )
        with self._given_up_on_fault(request):
            found = self._staging.digest(request.push_id, handle)
            if found != digest:
                raise Corrupt(f"{name} arrived as {found}, announced is {digest}", reason="DIGEST")
            with os.fdopen(os.dup(handle), "rb") as file:
                index = verify(file)
            if len(index.data) > _MAX_INDEX_BYTES:
                raise LimitExceeded(
                    f"{name}: an index of {len(index.data)} bytes, the limit is "
                    f"{_MAX_INDEX_BYTES}: collect fewer environments or steps a rollout",
                    reason="LIMIT",
                )
        return index

    def _synced(self, request: PushRequest, handle: int) -> int:
        created_ms = time.time_ns() // 1_000_000
        # The time outlives the catalogue as the time of the file.
        os.utime(handle, ns=(created_ms * 1_000_000, created_ms * 1_000_000))
        try:
            os.fsync(handle)
        except OSError:
            # The kernel may drop the pages and report success the next time: these bytes cannot
            # be trusted any more.
            self._staging.abort(request.push_id)
            raise
        return created_ms

    def _publish(
        self, request: PushRequest, index: Index, digest: Digest, created_ms: int
    ) -> RolloutInfo | None:
        """Give a sequence, name and list; None where another push came first, or the queue is full.

        When this fails behind the rename, the next writer lists what stands there.
        """
        with self._database.transaction():
            self._rebuild.after_a_death()
            if self._staging.stored(request) is not None:
                return None
            if not self._admission.has_place(request, with_pushes=False):
                return None
            self._catalog.make_stream(request.stream)
            self._catalog.check_producer(request.stream, request.producer)
            info = RolloutInfo(
                stream=request.stream,
                sequence=self._next_sequence(request.stream),
                producer=request.producer,
                iteration=request.iteration,
                policy_version=request.policy_version,
                envs=index.envs,
                steps=index.steps,
                raw_size_bytes=index.raw_size_bytes,
                digest=digest,
                created_unix_ms=created_ms,
            )
            self._layout.say_publishing(info)
            failpoint("rollouts.commit.before_rename")
            self._layout.part(request.push_id).rename(self._layout.content(info))
            failpoint("rollouts.commit.renamed")
            sync_directory(self._layout.stream(info.stream))
            failpoint("rollouts.commit.directory_synced")
            self._catalog.add_rollout(info)
            self._staging.pushes.finish(request.push_id, info.sequence, was_stored=False)
            stream = self._catalog.known_stream(info.stream)
            self._removal.drop_beyond(stream)
            failpoint("rollouts.commit.before_catalog")
        failpoint("rollouts.commit.listed")
        return info

    def _not_published(self, request: PushRequest, digest: Digest) -> tuple[RolloutInfo, bool]:
        stored = self._staging.stored(request)
        if stored is None:
            raise self._admission.refusal(request)
        self._check_same(request, stored, digest)
        self._finish_repeated(request, stored)
        return stored, True

    def _next_sequence(self, stream: str) -> int:
        row = self._catalog.known_stream(stream)
        self._layout.make_stream(stream)
        sequence = row.last_sequence + 1
        if sequence >= row.sequences_below:
            below = sequence + _SEQUENCES_AHEAD
            self._layout.write_note(stream, StreamNote(row.settings, below))
            self._catalog.put_stream(replace(row, sequences_below=below))
        return sequence

    def _check_same(self, request: PushRequest, stored: RolloutInfo, digest: Digest) -> None:
        if stored.digest == digest:
            return
        self._staging.abort(request.push_id)
        self._counts["pushes_of_other_content"] += 1
        raise AlreadyExists(
            f"{_name(request)} was stored with other content ({stored.digest}, offered {digest}): "
            "go on with the next iteration, or use another producer name",
            reason="ITERATION_EXISTS",
        )

    def _finish_repeated(self, request: PushRequest, stored: RolloutInfo) -> None:
        with self._database.transaction(durable=False):
            self._staging.pushes.finish(request.push_id, stored.sequence, was_stored=True)
            self._layout.part(request.push_id).unlink(missing_ok=True)
        self._staging.forget(request.push_id)
        self._counts["pushed_again"] += 1

    @contextmanager
    def _given_up_on_fault(self, request: PushRequest) -> Generator[None]:
        try:
            yield
        except PenstockError as error:
            self._counts["pushes_refused"] += 1
            log.warning("push refused", push=_name(request), error=error.message)
            self._staging.abort(request.push_id)
            raise


def _name(request: PushRequest) -> str:
    return f"{request.stream}/{request.producer}/{request.iteration}"
