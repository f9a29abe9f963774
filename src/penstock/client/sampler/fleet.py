"""All replicas behind a target: found, described, asked again when they fail, made into a union."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from functools import partial

from penstock.client.sampler.addresses import resolve
from penstock.client.sampler.replica import (
    DESCRIBE_S,
    LIST_S,
    Described,
    Replica,
    State,
    describe,
    list_dataset,
)
from penstock.client.sampler.threads import DaemonThreads
from penstock.errors import Cancelled, Conflict, Corrupt, PenstockError, TimedOut, Unavailable
from penstock.targets import Target
from penstock.union import ReplicaDataset as Dataset
from penstock.union import Union, hold, merge
from penstock.v1.sampler_pb2_grpc import SamplerServiceStub

__all__ = ["Fleet"]

log = logging.getLogger(__name__)

RESOLVE_EVERY_S = 3.0
DESCRIBE_EVERY_S = 60.0
OPENING_GRACE_S = 5.0
_MIN_RESOLVE_S = 0.5
_TICK_S = 0.5
_CLOSE_S = 1.0
_MAX_DESCRIBING = 16


class Fleet:
    """The replicas of one target.

    Everything about replicas and about calls in flight is guarded by ``changed``, which is notified
    when any of it changes.

    Args:
        target: A ``grpc`` target.
        find: Turns the target into addresses; tests give their own.
    """

    def __init__(self, target: Target, find: Callable[[Target], list[str]] = resolve) -> None:
        self.target, self._find = target, find
        self.changed = threading.Condition()
        self.replicas: list[Replica] = []
        self.union: Union | None = None
        self.closed = False
        self.on_retry: Callable[[], None] = lambda: None
        self.on_direct_fault: Callable[[], None] | None = None
        self._error: PenstockError | None = None
        self._resolving = False
        self._resolve_at = 0.0
        self._said: set[str] = set()
        self._lists: dict[str, Dataset] = {}
        self._threads = DaemonThreads("penstock-replicas", _MAX_DESCRIBING)
        self._wake = threading.Event()
        self._watcher = threading.Thread(
            target=self._watch, name="penstock-replica-watch", daemon=True
        )
        self._watcher.start()

    def open(self, retry_s: float) -> Union:
        """Wait until the replicas have said what they hold, and make it one dataset.

        Replicas that do not answer within 5 seconds of the first answer are gone without; they are
        asked for the files that others hold too once they are there.

        Raises:
            Unavailable: Nobody answered within ``retry_s`` seconds; each is asked once at least.
            PenstockError: Nobody has anything to serve; what the first replica said.
        """
        begun = time.monotonic()
        end, once = begun + retry_s, begun + max(retry_s, DESCRIBE_S)
        grace: float | None = None
        with self.changed:
            while True:
                now = time.monotonic()
                datasets = [r for r in self.replicas if r.dataset is not None]
                pending = [r for r in self.replicas if r.dataset is None and _may_yet_answer(r)]
                if datasets and grace is None:
                    grace = min(end, now + OPENING_GRACE_S)
                if self.replicas and not pending:
                    break
                until = grace if grace is not None else end if self._all_asked() else once
                if now >= until:
                    break
                self.changed.wait(max(0.01, min(_TICK_S, until - now)))
            errors = [r.error for r in self.replicas if r.error is not None]
            if not datasets:
                raise errors[0] if errors else self._error or _nobody(self.target)
            for replica in pending:
                log.warning(
                    "%s does not answer; the dataset is opened without the files that only it "
                    "holds: %s",
                    replica.name,
                    replica.error or "no answer yet",
                )
            union = merge([r.dataset for r in datasets if r.dataset is not None])
            self.union = union
            for left_out in union.left_out:
                self._say_once(left_out.message)
            for replica in datasets:
                replica.dataset = None
                if replica.described is not None:
                    self._take(replica, replica.described)
            self._lists.clear()
            self.changed.notify_all()
        return union

    def _all_asked(self) -> bool:
        """Whether each replica has answered or failed once, or no name leads to one."""
        if not self.replicas:
            return self._error is not None
        return all(r.dataset is not None or r.error is not None for r in self.replicas)

    def failed(self, replica: Replica, error: PenstockError) -> None:
        """Ask ``replica`` for nothing until it has answered again. The lock must be held."""
        if replica.state is State.LIVE:
            log.warning("%s is not asked until it answers again: %s", replica.name, error)
        replica.fail(error, time.monotonic())
        self._resolve_at = min(self._resolve_at, time.monotonic())
        for other in self.replicas:
            if other.state is State.LEFT_OUT:
                other.next_try = 0.0  # it may be another address of the same server
        self._wake.set()
        self.changed.notify_all()

    def outdated(self, replica: Replica, error: PenstockError) -> None:
        """Have ``replica`` described again, as its files have changed. The lock must be held."""
        if replica.state is State.LIVE:
            log.warning("%s serves other files now, it is described again: %s", replica.name, error)
            replica.state, replica.asked_again = State.ASKING, False
            replica.next_try = 0.0
            self._wake.set()

    def _note_direct_fault(self, replica: Replica) -> None:
        """Another process may be there by now, which calls at the other port do not show."""
        with self.changed:
            replica.next_try = min(replica.next_try, time.monotonic())
        if self.on_direct_fault is not None:
            self.on_direct_fault()

    def close(self) -> None:
        """End all threads and connections; calls in flight fail."""
        with self.changed:
            self.closed = True
            for replica in self.replicas:
                replica.close()
            self.changed.notify_all()
        self._wake.set()
        self._watcher.join()
        self._threads.close(_CLOSE_S)

    def _watch(self) -> None:
        while not self.closed:
            self._wake.clear()
            with self.changed:
                now = time.monotonic()
                if now >= self._resolve_at and not self._resolving:
                    self._resolving = True
                    self._threads.submit(self._resolve)
                for replica in self.replicas:
                    if not replica.describing and now >= replica.next_try:
                        replica.describing = True
                        self._threads.submit(partial(self._ask, replica))
                waits = [r.next_try - now for r in self.replicas if not r.describing]
            self._wake.wait(max(0.02, min([_TICK_S, *waits])))

    def _resolve(self) -> None:
        error: PenstockError | None = None
        addresses: list[str] = []
        try:
            addresses = self._find(self.target)
        except PenstockError as failure:
            error = failure
        with self.changed:
            self._resolving = False
            self._resolve_at = time.monotonic() + (RESOLVE_EVERY_S if addresses else _MIN_RESOLVE_S)
            self._error = error
            if addresses and not self.closed:
                self._update(addresses)
            self._wake.set()
            self.changed.notify_all()

    def _update(self, addresses: list[str]) -> None:
        known = {replica.address: replica for replica in self.replicas}
        for replica in self.replicas:
            replica.named = replica.address in addresses
        for address in addresses:
            if address not in known:
                self.replicas.append(Replica(address))
        for replica in list(self.replicas):
            # As long as it answers it is used: a name may go before what it stands for.
            if not replica.named and replica.state is State.FAILED and not replica.calls:
                log.info("%s is not named any more and does not answer: forgotten", replica.name)
                self.replicas.remove(replica)
                replica.give_up()

    def _ask(self, replica: Replica) -> None:
        with self.changed:
            if self.closed:
                return
            if replica.error is not None:
                replica.reconnect()
            connection, opened = replica.connection, self.union is not None
            stub = connection.use()
        try:
            described, dataset = self._describe(replica, stub, opened=opened)
        except (PenstockError, ValueError, OverflowError) as raised:
            error = raised if isinstance(raised, PenstockError) else _message_fault(replica, raised)
            with self.changed:
                replica.describing = False
                if not self.closed:
                    if replica.state is State.LIVE:
                        self.failed(replica, error)
                    else:
                        self.on_retry()
                        replica.fail(error, time.monotonic())
                self.changed.notify_all()
            return
        finally:
            connection.leave()
        with self.changed:
            replica.describing = False
            replica.dataset = dataset if self.union is None else None
            back = replica.error is not None
            replica.answered()
            self._take(replica, described)
            if back and replica.state is State.LIVE:
                log.warning("%s answers again", replica.name)
            self.changed.notify_all()

    def _describe(
        self, replica: Replica, stub: SamplerServiceStub, *, opened: bool
    ) -> tuple[Described, Dataset | None]:
        described = describe(replica.name, stub, DESCRIBE_S if opened else LIST_S)
        if opened:
            return described, None
        with self.changed:
            same = self._lists.get(described.info.version)
        if same is not None:
            # A copy of all files: what its twin said holds for it, too.
            return described, Dataset(replica.name, same.info, same.episodes)
        try:
            dataset = list_dataset(replica.name, stub, described.info)
            dataset.check()
        except Conflict as error:
            raise Unavailable(f"{replica.name} is changing its files: {error}") from error
        with self.changed:
            self._lists[described.info.version] = dataset
        return described, dataset

    def _take(self, replica: Replica, described: Described) -> None:
        """Note what a replica holds; the lock must be held."""
        replica.described = described
        replica.next_try = time.monotonic() + DESCRIBE_EVERY_S
        if self.on_direct_fault is not None:
            replica.offer_direct(described, partial(self._note_direct_fault, replica))
        if self.union is None:
            replica.state = State.LIVE
            return
        twin = next((r for r in self.replicas if r is not replica and _same(r, described)), None)
        holding = hold(self.union, replica.name, described.info)
        replica.holding = holding
        for left_out in holding.left_out:
            self._say_once(left_out.message)
        if holding.extra:
            shown = ", ".join(holding.extra[:3]) + (", ..." if len(holding.extra) > 3 else "")  # noqa: PLR2004
            self._say_once(
                f"{replica.name} has {len(holding.extra)} files that were not there when the "
                f"dataset was opened ({shown}): open it again to sample from them"
            )
        if twin is not None:
            replica.state = State.LEFT_OUT
        elif (holding.first_local >= 0).any():
            replica.state = State.LIVE
        else:
            replica.state = State.LEFT_OUT
            self._say_once(f"{replica.name} holds no file of the dataset that was opened")

    def _say_once(self, message: str) -> None:
        if message not in self._said:
            self._said.add(message)
            log.warning("%s", message)


def _message_fault(replica: Replica, error: Exception) -> PenstockError:
    return Corrupt(f"{replica.name}: its description is out of range: {error}")


def _may_yet_answer(replica: Replica) -> bool:
    """Whether waiting may help: it was not asked yet, or nobody answered there."""
    return replica.error is None or isinstance(replica.error, (Unavailable, TimedOut, Cancelled))


def _same(replica: Replica, described: Described) -> bool:
    return (
        replica.state is State.LIVE
        and replica.described is not None
        and described.replica_id != 0
        and replica.described.replica_id == described.replica_id
    )


def _nobody(target: Target) -> Unavailable:
    return Unavailable(f"{target} has no address that answers: is the service running there?")
