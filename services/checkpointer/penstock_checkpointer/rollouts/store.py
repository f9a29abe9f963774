"""The store of rollouts: what it has acknowledged is on disk, verified and listed.

A push goes to a part file. A commit verifies the whole, syncs it, renames it into its stream, syncs
the directory, enters it into the catalogue, and only then answers. Whatever is killed in between
leaves either a push that can go on, or a whole rollout that the next writer lists.
"""

from __future__ import annotations

import time
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import BinaryIO

import structlog

from penstock.checkpoints import check_name
from penstock.chunks import Digest
from penstock.errors import InvalidInput, NotFound, TimedOut, Unavailable
from penstock.failpoints import failpoint
from penstock.streams import (
    Opened,
    PushRequest,
    RolloutInfo,
    StreamSettings,
    StreamState,
    Which,
)
from penstock_checkpointer.database import open_database
from penstock_checkpointer.faults import ROLLOUTS
from penstock_checkpointer.rollouts.admission import Admission
from penstock_checkpointer.rollouts.catalog import RolloutCatalog, StreamRow
from penstock_checkpointer.rollouts.commit import Commit
from penstock_checkpointer.rollouts.faults import disk_fault
from penstock_checkpointer.rollouts.layout import RolloutLayout, StreamNote, check_push_id
from penstock_checkpointer.rollouts.limits import RolloutLimits
from penstock_checkpointer.rollouts.lookup import Lookup, check_which
from penstock_checkpointer.rollouts.queue import Queue
from penstock_checkpointer.rollouts.rebuild import Rebuild
from penstock_checkpointer.rollouts.removal import Removal
from penstock_checkpointer.rollouts.schema import create_tables
from penstock_checkpointer.rollouts.staging import RolloutStaging, check_number, check_request
from penstock_checkpointer.rollouts.waiting import Changes

__all__ = ["RolloutStore"]

log = structlog.get_logger(__name__)

_MAX_LISTED = 1000


class RolloutStore:
    """Streams of rollouts below a directory; threads and processes may share it.

    Args:
        root: The directory; created if missing.
        limits: What it takes; the default ones if None.

    Attributes:
        limits: What it takes.
        counts: How often what happened: rollouts pushed, taken, dropped, adopted, and so on.

    Raises:
        InvalidInput, LimitExceeded, Internal: The directory cannot be used.
    """

    def __init__(self, root: Path, limits: RolloutLimits | None = None) -> None:
        self.counts: Counter[str] = Counter()
        self.limits = limits or RolloutLimits()
        doing = f"opening the rollout store {root}"
        try:
            self._layout = RolloutLayout(root)
            self._database = open_database(
                self._layout.catalog, ROLLOUTS, create_tables, self.counts
            )
        except (FileExistsError, NotADirectoryError) as error:
            raise InvalidInput(
                f"{doing}: it is, or lies below, a file: name a directory", field="root"
            ) from error
        except OSError as error:
            raise disk_fault(error, doing) from error
        layout, database = self._layout, self._database
        self._catalog = RolloutCatalog(database, self.limits)
        self._queue = Queue(database, self.limits, self.counts)
        self._staging = RolloutStaging(layout, database, self._catalog, self.limits, self.counts)
        self._removal = Removal(layout, self._catalog, self._queue, self.counts)
        self._admission = Admission(
            database, self._catalog, self._queue, self._staging, self.counts
        )
        rebuild = Rebuild(layout, self._catalog, self._staging.pushes, self._removal, self.counts)
        self._commit = Commit(
            *(layout, database, self._catalog, self._staging, self._admission),
            *(self._removal, rebuild, self.counts),
        )
        self._changes = Changes(database)
        self._lookup = Lookup(database, self._catalog, self._queue, self._removal)
        try:
            with database.transaction():
                rebuild.all_streams()
            self._staging.expire()
        except BaseException as error:
            database.close()
            if isinstance(error, OSError):
                raise disk_fault(error, doing) from error
            raise

    def close(self) -> None:
        """Close the catalogue; calls that wait return."""
        self._changes.close()
        self._database.close()

    def configure(self, stream: str, settings: StreamSettings) -> StreamState:
        """Set what a stream holds; creates it."""
        check_name(stream, "stream")
        with self._database.transaction():
            row = replace(self._catalog.make_stream(stream), settings=settings)
            self._catalog.put_stream(row)
            note = StreamNote(settings, row.sequences_below)
            if self._layout.note(stream) != note:
                self._layout.write_note(stream, note)
            self._removal.clear_settled(row)
            self._removal.drop_beyond(row)
        self._changes.announce()
        return self.stream(stream)

    def stream(self, stream: str) -> StreamState:
        """Describe a stream."""
        return self._state(self._catalog.known_stream(check_name(stream, "stream")))

    def streams(self) -> list[StreamState]:
        """All streams by name."""
        return [self._state(row) for row in self._catalog.streams()]

    def policy_lags(self, stream: str) -> dict[str, int]:
        """How many policy versions behind the newest one each consumer's last rollout was."""
        newest = self._catalog.known_stream(stream).newest_policy_version
        taken = self._queue.taken_policy_versions(stream)
        return {consumer: newest - version for consumer, version in taken.items()}

    def begin(self, request: PushRequest, offset_bytes: int) -> None:
        """Open a push, or take one up where ``received`` said."""
        check_request(request)
        check_number(offset_bytes, "offset_bytes")
        self._staging.expire_now_and_then()
        with self._database.transaction(durable=False):
            push = self._staging.resumable(request, offset_bytes)
            if push is not None and push.sequence is not None:
                return
            known = self._staging.stored(request) is not None
            refused = not known and not self._admission.has_place(request)
            if not refused:
                self._staging.begin(request, offset_bytes)
        if refused:
            raise self._admission.refusal(request)
        if push is not None:
            self.counts["pushes_resumed"] += 1
        failpoint("rollouts.begin.before_answer")

    def received(self, push_id: str) -> tuple[int, RolloutInfo | None]:
        """How many bytes of a push have arrived, and what it became once it is stored."""
        push = self._staging.pushes.get(check_push_id(push_id))
        if push is None:
            return 0, None
        if push.sequence is None:
            return self._staging.received_bytes(push_id) or 0, None
        info = self._staging.stored(push.request)
        return (0, None) if info is None else (info.digest.size_bytes, info)

    def append(self, push_id: str, offset_bytes: int, data: bytes | memoryview) -> int:
        """Add bytes; see ``RolloutStaging.append``."""
        return self._staging.append(push_id, offset_bytes, data)

    def commit(self, push_id: str, digest: Digest) -> tuple[RolloutInfo, bool]:
        """Verify, make durable, list, answer; asked again it answers the same."""
        check_push_id(push_id)
        done = self._commit(push_id, digest)
        self._changes.announce()
        return done

    def abort(self, push_id: str) -> None:
        """Give up a push; unknown ones are no error."""
        self._staging.abort(push_id)

    def find(self, stream: str, which: Which, wait_s: float = 0.0) -> Opened:
        """Find a rollout, and take it where ``which`` says so."""
        check_name(stream, "stream")
        check_which(which)
        until_s = time.monotonic() + wait_s
        while True:
            seen = self._changes.now()
            found = self._lookup.find(stream, which)
            if found is not None:
                failpoint("rollouts.find.before_answer")
                return found
            if wait_s <= 0:
                raise NotFound(f"stream {stream!r} has no such rollout (yet)", reason="NO_ROLLOUT")
            if not self._changes.wait(seen, until_s):
                self._check_open()
                raise TimedOut(
                    f"no such rollout came to stream {stream!r} in {wait_s:g} s",
                    reason="NO_ROLLOUT",
                )

    def settle(
        self, stream: str, consumer: str, sequence: int, *, done: bool, member: str = ""
    ) -> None:
        """A consumer is through with a rollout, or its member gives it back."""
        check_name(stream, "stream")
        check_name(consumer, "consumer")
        if member:
            check_name(member, "member")
        check_number(sequence, "sequence")
        with self._database.transaction():
            row = self._catalog.known_stream(stream)
            if done:
                if self._queue.settle(stream, consumer, sequence):
                    self.counts["settled"] += 1
                    failpoint("rollouts.settle.before_catalog")
                    self._removal.clear_settled(row)
            elif self._queue.give_back(stream, consumer, sequence, member):
                self.counts["given_back"] += 1
        self._changes.announce()
        failpoint("rollouts.settle.before_answer")

    def forget_consumer(self, stream: str, consumer: str) -> None:
        """Forget a consumer, and what it took: nothing waits for it any more."""
        check_name(stream, "stream")
        check_name(consumer, "consumer")
        with self._database.transaction():
            row = self._catalog.known_stream(stream)
            self._queue.forget_consumer(stream, consumer)
            self._removal.clear_settled(row)
            self._removal.drop_beyond(row)
        self.counts["consumers_forgotten"] += 1
        log.info("consumer forgotten", stream=stream, consumer=consumer)
        self._changes.announce()

    def open_content(self, stream: str, sequence: int) -> BinaryIO:
        """Open the file of a rollout, seekable; it stays readable if it is deleted meanwhile."""
        check_name(stream, "stream")
        info = self._catalog.rollout(stream, check_number(sequence, "sequence"))
        if info is not None:
            try:
                return self._layout.content(info).open("rb")
            except FileNotFoundError:
                with self._database.transaction():
                    if self._catalog.rollout(stream, sequence) == info:
                        self._removal.forget(info)
        raise _gone(stream, sequence)

    def list(self, stream: str, after_sequence: int = 0, limit: int = 1000) -> list[RolloutInfo]:
        """Rollouts of a stream by ascending sequence."""
        check_number(after_sequence, "after_sequence")
        self._catalog.known_stream(check_name(stream, "stream"))
        most = min(limit, _MAX_LISTED) if limit > 0 else _MAX_LISTED
        return self._catalog.rollouts(stream, after_sequence, most)

    def wait(self, stream: str, after_sequence: int, timeout_s: float) -> bool:
        """Wait until a stream has a rollout above a sequence; returns whether it has."""
        check_name(stream, "stream")
        check_number(after_sequence, "after_sequence")
        until_s = time.monotonic() + timeout_s
        while True:
            seen = self._changes.now()
            if self._catalog.rollouts(stream, after_sequence, 1):
                return True
            if not self._changes.wait(seen, until_s):
                self._check_open()
                return False

    def delete(self, stream: str, sequence: int) -> None:
        """Delete one rollout; its iteration may be pushed anew."""
        check_name(stream, "stream")
        check_number(sequence, "sequence")
        with self._database.transaction():
            info = self._catalog.rollout(stream, sequence)
            if info is None:
                raise _gone(stream, sequence)
            self._removal.delete(info)
        self.counts["deleted"] += 1
        self._changes.announce()
        try:
            self._removal.delete_file(info)
        except OSError as error:
            raise disk_fault(error, f"removing the file of {info}, which is deleted") from error
        with self._database.transaction(durable=False):
            self._catalog.forget_deleted(stream, sequence)

    def _check_open(self) -> None:
        if self._changes.closed:
            raise Unavailable("the rollout store is closing", reason="ENDING")

    def _state(self, row: StreamRow) -> StreamState:
        rollouts, stored_bytes = self._catalog.stored(row.name)
        return StreamState(
            name=row.name,
            settings=row.settings,
            rollouts=rollouts,
            stored_bytes=stored_bytes,
            last_sequence=row.last_sequence,
            newest_policy_version=row.newest_policy_version,
            dropped=row.dropped,
            refused=row.refused,
            producers=self._catalog.producers(row.name),
            consumers=self._queue.consumers(row.name),
        )


def _gone(stream: str, sequence: int) -> NotFound:
    return NotFound(
        f"stream {stream!r} has no rollout {sequence}: it was removed, or has not come yet",
        reason="ROLLOUT_GONE",
    )
