"""Pushes under way: one part file each, as long as what was received without a gap.

Nothing about progress is stored elsewhere, so a push goes on after a restart where its file ends.
What a loss of power may have torn is found when the whole is verified.
"""

from __future__ import annotations

import os
import shutil
import time
from collections import Counter, OrderedDict
from dataclasses import dataclass, field

import structlog
import xxhash

from penstock.checkpoints import check_name
from penstock.chunks import CHUNK_BYTES, Digest
from penstock.errors import AlreadyExists, InvalidInput, LimitExceeded, NotFound
from penstock.failpoints import failpoint
from penstock.streams import PushRequest, RolloutInfo
from penstock_checkpointer.database import Database
from penstock_checkpointer.durable import locked_file
from penstock_checkpointer.rollouts.catalog import RolloutCatalog
from penstock_checkpointer.rollouts.faults import disk_fault
from penstock_checkpointer.rollouts.layout import RolloutLayout, check_push_id
from penstock_checkpointer.rollouts.limits import RolloutLimits
from penstock_checkpointer.rollouts.pushes import Push, Pushes

__all__ = ["RolloutStaging", "check_number", "check_request", "unknown_push"]

log = structlog.get_logger(__name__)

_MAX_NUMBER = (1 << 63) - 1
_EXPIRE_EVERY_S = 60.0
_MAX_HASHES = 1024


@dataclass(slots=True)
class _Hash:
    """Of the first bytes of a part file, as far as they came through this process in order."""

    state: xxhash.xxh3_128 = field(default_factory=xxhash.xxh3_128)
    size_bytes: int = 0


class RolloutStaging:
    """Takes pushes in. Safe among threads and processes.

    Args:
        layout: Where.
        database: Of the same store.
        catalog: Rows of the same database.
        limits: What is taken.
        counts: Counts what happens, by name.
    """

    def __init__(
        self,
        layout: RolloutLayout,
        database: Database,
        catalog: RolloutCatalog,
        limits: RolloutLimits,
        counts: Counter[str],
    ) -> None:
        self._layout, self._database, self._catalog = layout, database, catalog
        self._limits, self._counts = limits, counts
        self.pushes = Pushes(database)
        self._expired_s = 0.0
        self._hashes: OrderedDict[str, _Hash] = OrderedDict()

    def expire_now_and_then(self) -> None:
        """Remove what stands still, unless that was done a moment ago."""
        if time.monotonic() - self._expired_s > _EXPIRE_EVERY_S:
            self.expire()

    def resumable(self, request: PushRequest, offset_bytes: int) -> Push | None:
        """A push that was begun before, if it can go on at an offset.

        Raises:
            InvalidInput: It was begun as something else, or the offset leaves a gap.
            NotFound: Nothing was received of it, and the offset is not 0.
        """
        push = self.pushes.get(request.push_id)
        if push is None:
            if offset_bytes:
                raise unknown_push(request.push_id)
            return None
        if push.request != request:
            raise InvalidInput(
                f"push {request.push_id} was begun as {push.request}, not as {request}: choose "
                "another push_id",
                field="push_id",
            )
        if push.sequence is None:
            received = self.received_bytes(request.push_id)
            if received is None and offset_bytes:
                raise unknown_push(request.push_id)
            if offset_bytes > (received or 0):
                raise _gap(request.push_id, offset_bytes, received or 0)
        return push

    def begin(self, request: PushRequest, offset_bytes: int) -> None:
        """Make the part file of a push; from 0 on it begins anew. Needs a transaction.

        Raises:
            LimitExceeded: The disk has no room, or too many pushes are under way.
        """
        self._check_room(request)
        if len(self.pushes.under_way()) >= self._limits.pushes:
            raise LimitExceeded(
                f"{self._limits.pushes} pushes are under way, which is the most: finish them, or "
                "wait until those that stand still expire",
                reason="LIMIT",
            )
        self.pushes.begin(request)
        path = self._layout.part(request.push_id)
        try:
            if offset_bytes == 0:
                # What an earlier try left may be torn: it is not gone on with.
                os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o644))
        except OSError as error:
            raise disk_fault(error, f"beginning a push in {path.parent}") from error
        failpoint("rollouts.begin.part_made")

    def append(self, push_id: str, offset_bytes: int, data: bytes | memoryview) -> int:
        """Add bytes; what was received before is skipped. Returns all that is received.

        Raises:
            NotFound: No such push.
            InvalidInput: The offset leaves a gap, or the piece is too large.
            LimitExceeded: The rollout is too large, or the disk is full; what was received before
                is kept.
        """
        if len(data) > CHUNK_BYTES:
            raise InvalidInput(
                f"a piece has {len(data)} bytes, at most {CHUNK_BYTES} are taken", field="data"
            )
        limit = self._limits.rollout_size_bytes
        if not 0 <= offset_bytes <= limit - len(data):
            raise LimitExceeded(
                f"push {push_id}: {offset_bytes + len(data)} bytes, the limit is {limit}: raise "
                "--max-rollout-bytes of the checkpointer, or collect fewer steps a rollout",
                reason="LIMIT",
            )
        try:
            with locked_file(self._layout.part(push_id)) as handle:
                received = os.fstat(handle).st_size
                if offset_bytes > received:
                    raise _gap(push_id, offset_bytes, received)
                fresh = memoryview(data)[received - offset_bytes :]
                if len(fresh):
                    self._check_free(push_id, len(fresh))
                    _write_all(handle, received, fresh)
                    self._hash(push_id, received, fresh)
                failpoint("rollouts.append.written")
                return received + len(fresh)
        except FileNotFoundError:
            raise unknown_push(push_id) from None
        except OSError as error:
            self._counts["disk_faults"] += 1
            raise disk_fault(error, f"receiving push {push_id}") from error

    def digest(self, push_id: str, handle: int) -> Digest:
        """Of a part file that the caller has locked."""
        size = os.fstat(handle).st_size
        known = self._hashes.get(push_id)
        if known is not None and known.size_bytes == size:
            return Digest(size, known.state.digest())
        state = xxhash.xxh3_128()
        for offset in range(0, size, CHUNK_BYTES):
            state.update(os.pread(handle, CHUNK_BYTES, offset))
        return Digest(size, state.digest())

    def received_bytes(self, push_id: str) -> int | None:
        """How much of a push has arrived; None without a part file."""
        try:
            return self._layout.part(push_id).stat().st_size
        except FileNotFoundError:
            return None

    def abort(self, push_id: str) -> None:
        """Give up a push and free its space; unknown and finished ones are no error."""
        check_push_id(push_id)
        with self._database.transaction(durable=False):
            push = self.pushes.get(push_id)
            if push is not None and push.sequence is None:
                self.pushes.remove(push_id)
                self._layout.part(push_id).unlink(missing_ok=True)
        self.forget(push_id)

    def forget(self, push_id: str) -> None:
        """Let go of what is held in memory of a push."""
        self._hashes.pop(push_id, None)

    def places_taken(self, request: PushRequest) -> int:
        """Rollouts that others are pushing to the same stream, those that stand still left out."""
        since_s = time.time() - self._limits.push_idle_s
        taken: set[tuple[str, int]] = set()
        for push in self.pushes.under_way(request.stream):
            other = push.request.producer, push.request.iteration
            if other == (request.producer, request.iteration):
                continue
            # One that is stored already needs no place.
            key = request.stream, *other
            if self._touched_s(push) > since_s and self._catalog.of_iteration(*key) is None:
                taken.add(other)
        return len(taken)

    def stored(self, request: PushRequest) -> RolloutInfo | None:
        """What a producer pushed as this iteration, whether or not it stands there still.

        Raises:
            AlreadyExists: That was so long ago that it is not known any more.
        """
        key = request.stream, request.producer, request.iteration
        found = self._catalog.of_iteration(*key) or self._catalog.removed(*key)
        if found is None:
            forgotten = self._catalog.forgotten(request.stream, request.producer)
            if request.iteration <= forgotten:
                raise AlreadyExists(
                    f"{request.stream}/{request.producer}/{request.iteration}: up to iteration "
                    f"{forgotten} it is not known any more what this producer has pushed: go on "
                    "above it, or use another name",
                    reason="ITERATION_FORGOTTEN",
                )
        return found

    def expire(self) -> int:
        """Remove pushes that nothing was added to for too long; returns how many."""
        self._expired_s = time.monotonic()
        before_s = time.time() - self._limits.push_expiry_s
        expired = 0
        with self._database.transaction(durable=False):
            self.pushes.forget_finished(before_s)
            for push in self.pushes.under_way():
                if self._touched_s(push) < before_s:
                    log.warning("push expired", push=str(push.request))
                    self._layout.part(push.request.push_id).unlink(missing_ok=True)
                    self.pushes.remove(push.request.push_id)
                    self.forget(push.request.push_id)
                    expired += 1
            known = {push.request.push_id for push in self.pushes.under_way()}
            for push_id, part in self._layout.parts():
                if push_id not in known:
                    log.warning("part file of no push removed", path=str(part))
                    part.unlink(missing_ok=True)
                    expired += 1
        self._counts["pushes_expired"] += expired
        return expired

    def _touched_s(self, push: Push) -> float:
        try:
            return self._layout.part(push.request.push_id).stat().st_mtime
        except FileNotFoundError:
            return push.created_unix_ms / 1000

    def _hash(self, push_id: str, offset_bytes: int, data: memoryview) -> None:
        known = self._hashes.get(push_id)
        if offset_bytes == 0 or known is None:
            known = _Hash()
        if known.size_bytes != offset_bytes:
            self._hashes.pop(push_id, None)
            return
        known.state.update(data)
        known.size_bytes += len(data)
        self._hashes[push_id] = known
        while len(self._hashes) > _MAX_HASHES:
            self._hashes.popitem(last=False)

    def _check_room(self, request: PushRequest) -> None:
        free = shutil.disk_usage(self._layout.root).free
        if free < self._limits.free_bytes:
            self._counts["pushes_without_room"] += 1
            raise LimitExceeded(
                f"{request.stream}/{request.producer}/{request.iteration}: {self._layout.root} has "
                f"{free} bytes free, of which {self._limits.free_bytes} stay free: delete rollouts "
                "or add space",
                reason="DISK_FULL",
            )

    def _check_free(self, push_id: str, size_bytes: int) -> None:
        usage = os.statvfs(self._layout.root)
        free = usage.f_bavail * usage.f_frsize
        if free - size_bytes < self._limits.free_bytes:
            self._counts["pushes_without_room"] += 1
            raise LimitExceeded(
                f"push {push_id}: {self._layout.root} has {free} bytes free, of which "
                f"{self._limits.free_bytes} stay free: delete rollouts or add space; what was "
                "received is kept",
                reason="DISK_FULL",
            )


def check_request(request: PushRequest) -> None:
    """Refuse names and numbers that cannot be.

    Raises:
        InvalidInput: One is not valid.
    """
    check_push_id(request.push_id)
    check_name(request.stream, "stream")
    check_name(request.producer, "producer")
    check_number(request.iteration, "iteration")
    check_number(request.policy_version, "policy_version")


def check_number(number: int, name: str) -> int:
    """Return a sequence, iteration or version if it can be one.

    Raises:
        InvalidInput: It is negative or has more than 63 bits.
    """
    if not 0 <= number <= _MAX_NUMBER:
        raise InvalidInput(f"{name} {number} is not between 0 and 2**63 - 1", field=name)
    return number


def unknown_push(push_id: str) -> NotFound:
    """The error for a push of which nothing is here."""
    return NotFound(
        f"nothing is known of push {push_id!r:.80}: it expired, was refused or never began: begin "
        "at 0",
        reason="PUSH_UNKNOWN",
    )


def _gap(push_id: str, offset_bytes: int, received: int) -> InvalidInput:
    return InvalidInput(
        f"push {push_id}: a piece at {offset_bytes} leaves a gap: go on at {received}",
        field="offset_bytes",
        reason="PUSH_GAP",
        metadata={"received_bytes": str(received)},
    )


def _write_all(handle: int, offset_bytes: int, data: memoryview) -> None:
    done = 0
    try:
        while done < len(data):
            done += os.pwrite(handle, data[done:], offset_bytes + done)
    except OSError:
        # The file's length is the only record of what was received: no half piece may stay.
        os.ftruncate(handle, offset_bytes)
        raise
