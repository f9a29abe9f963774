"""A collector whose rollouts are encoded and stored while the next one is being collected."""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import nullcontext, suppress
from typing import Any, Self

from penstock.client.rollout import RolloutClient, open_rollouts
from penstock.errors import NotFound, PenstockError
from penstock.monitor import PerformanceMonitor
from penstock.rollout_file import Encoder, Encoding
from penstock.rollouts.advising import Advisor
from penstock.rollouts.background import Background, Job, WhenFull
from penstock.rollouts.collected import CollectedBatch
from penstock.rollouts.encodings import EncodingChoice, encoding_of
from penstock.rollouts.history import Kept, RolloutHistory
from penstock.rollouts.snapshots import Snapshots
from penstock.rollouts.storage import RolloutStorage
from penstock.rollouts.tensors import kinds_of, leaves_of
from penstock.streams import DEFAULT_PRODUCER, RolloutInfo
from penstock.targets import Target

__all__ = ["CompressedDataCollector"]

log = logging.getLogger(__name__)


class CompressedDataCollector:
    """Wraps a collector; stores what it yields in the background.

    Iterating yields a ``CollectedBatch`` for each rollout as soon as it is copied: the base
    collector may use its buffers again (``SyncDataCollector(return_same_td=True)`` does), the copy
    stays as it is for as long as anything refers to it. A thread encodes the copy and stores it.

    An error in the background is raised by the next batch, ``wait`` or ``close``, and nothing is
    lost by it: iterating again goes on. When the program ends, what waits is still stored for up to
    ``drain_s``.

    What is not an attribute here is one of the base collector: ``set_seed``, ``state_dict``, ...

    Args:
        base_collector: Yields rollouts: nested dicts of arrays or torch tensors, or TensorDicts,
            each leaf ``[env, time, ...]``.
        target: Where the rollouts go (``grpc://host:50053``, ``file:///rollouts``), or a client
            that is open; None for nowhere.
        stream: Name of the stream there.
        producer: Name of this collector; two that push to one stream must have different ones.
        storage: Saves the rollouts as well, every n-th as it says.
        encoding: An ``Encoding``, ``lz4``, ``zstd``, ``raw``, or ``auto``: what is fastest to the
            target, measured again now and then.
        threads: That encode.
        max_queue_size: Copies that may wait.
        when_full: ``block`` until there is room, ``drop-oldest`` (counted and logged), or ``raise``
            LimitExceeded.
        history_bytes: Keep the newest rollouts in memory, encoded, in so many bytes; 0 keeps none.
        first_iteration: Number of the first rollout; None goes on after the highest one that the
            stream, or else the storage, has of this producer.
        wait_s: How long to wait while the stream is full; None for ever.
        drain_s: How long to go on storing when the program is ended.

    Attributes:
        policy_version: Version of the policy that acts, stored with each rollout;
            ``update_policy_weights_`` adds 1, and it may be set.
        history: What is kept; None without ``history_bytes``.
        counts: ``collected``, ``stored``, ``dropped``, ``failed``, ``waits`` (the loop waited for
            room), ``decoded`` and ``forgotten`` (of the history).
        monitor: Times of ``copy``, ``stall`` and ``store``.

    Raises:
        InvalidInput: An argument is not valid.
    """

    def __init__(
        self,
        base_collector: Iterable[Any],
        target: str | Target | RolloutClient | None = None,
        *,
        stream: str = "rollouts",
        producer: str = DEFAULT_PRODUCER,
        storage: RolloutStorage | None = None,
        encoding: EncodingChoice | None = None,
        threads: int = 1,
        max_queue_size: int = 2,
        when_full: WhenFull = "block",
        history_bytes: int = 0,
        first_iteration: int | None = None,
        wait_s: float | None = None,
        drain_s: float = 60.0,
    ) -> None:
        self._base = base_collector
        self._iterator: Iterator[Any] | None = None
        self._stream, self._producer = stream, producer
        self._storage = storage
        self._encoding = encoding_of(encoding)
        self._threads, self._wait_s, self._drain_s = threads, wait_s, drain_s
        self.policy_version = 0
        self.counts: Counter[str] = Counter()
        self.monitor = PerformanceMonitor()
        self.history = RolloutHistory(history_bytes, self.counts) if history_bytes else None
        self._snapshots = Snapshots(spare=max_queue_size + 1)
        self._owned = target is not None and not isinstance(target, RolloutClient)
        self._client = open_rollouts(target) if isinstance(target, str | Target) else target
        self._advisor = Advisor(self._client, threads=threads) if self._encoding is None else None
        try:
            self._next = self._first() if first_iteration is None else first_iteration
            self._background = Background(
                self._store,
                max_queue_size=max_queue_size,
                when_full=when_full,
                drain_s=drain_s,
                counts=self.counts,
            )
        except BaseException:
            self._close_client()
            raise

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> CollectedBatch:
        self._background.raise_errors()
        self._background.expect(self._next)
        if self._iterator is None:
            self._iterator = iter(self._base)
        # Of the policy that is about to act, not of one that is set meanwhile.
        policy_version = self.policy_version
        try:
            source = next(self._iterator)
        except StopIteration:
            # A loop that ended may be begun again, as one over the base collector.
            self._iterator = None
            raise
        iteration = self._next
        stores = self._client is not None or self._storage is not None or self.history is not None
        if stores:
            self.monitor.record("stall", self._background.make_room())
        begun_s = time.perf_counter()
        kinds = kinds_of(source)
        leaves = self._snapshots.take(leaves_of(source), already=kinds.off_host)
        self.monitor.record("copy", time.perf_counter() - begun_s)
        self._next += 1
        self.counts["collected"] += 1
        job = Job(leaves, iteration, policy_version, kinds.torch)
        if stores:
            self._background.hand_over(job)
        envs, steps = next(iter(leaves.values())).shape[:2]
        return CollectedBatch(
            lambda: leaves,
            envs=envs,
            steps=steps,
            iteration=iteration,
            policy_version=policy_version,
            torch_paths=kinds.torch,
            info=job.info if stores else None,
            source=source,
        )

    def update_policy_weights_(self, *args: Any, **options: Any) -> Any:
        """Hand new weights to the base collector; the next rollouts are of the next version."""
        result = self._base_attribute("update_policy_weights_")(*args, **options)
        self.policy_version += 1
        return result

    def wait(self, timeout_s: float | None = None) -> None:
        """Wait until everything that was collected is stored.

        Raises:
            TimedOut: It took longer than ``timeout_s``; storing goes on.
            PenstockError: Storing failed.
        """
        self._background.wait(timeout_s)

    def close(self, timeout_s: float | None = None) -> None:
        """Store what waits and stop; leaves the base collector alone. May be called twice.

        Args:
            timeout_s: How long to go on storing; what is not stored then is given up, and logged.

        Raises:
            PenstockError: Storing failed.
        """
        try:
            self._background.close(timeout_s)
        finally:
            self._close_client()

    def shutdown(self, *args: Any, **options: Any) -> Any:
        """Store what waits, then shut the base collector down.

        Raises:
            PenstockError: Storing failed; the base collector was shut down.
        """
        try:
            self.close()
        finally:
            result = self._base_attribute("shutdown")(*args, **options)
        return result

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        ended = kind is not None and not issubclass(kind, Exception)
        try:
            self.close(self._drain_s if ended else None)
        except PenstockError as error:
            if kind is None:
                raise
            # The block's own exception goes on; it must not be hidden by this one.
            log.exception("a rollout could not be stored", exc_info=error)

    def __bool__(self) -> bool:
        return True

    def __len__(self) -> int:
        return len(self._base)  # pyright: ignore[reportArgumentType] - if the base has a length

    def __getattr__(self, name: str) -> Any:
        """An attribute of the base collector."""
        if name.startswith("_"):
            raise AttributeError(name)
        return self._base_attribute(name)

    def _base_attribute(self, name: str) -> Any:
        try:
            return getattr(self._base, name)
        except AttributeError as error:
            raise AttributeError(
                f"neither CompressedDataCollector nor {type(self._base).__name__} has {name!r}"
            ) from error

    def _close_client(self) -> None:
        if self._client is not None and self._owned:
            self._client.close()

    def _first(self) -> int:
        last: int | None = None
        if self._client is not None:
            with suppress(NotFound):
                last = self._client.stream(self._stream).last_iteration(self._producer)
        elif self._storage is not None:
            last = max(self._storage.iterations(), default=None)
        return 0 if last is None else last + 1

    def _store(self, job: Job) -> RolloutInfo | None:
        begun_s = time.perf_counter()
        info: RolloutInfo | None = None
        encoding = self._encoding
        if encoding is None and self._advisor is not None:
            encoding = self._advisor.encoding(job.leaves)
        kept: Kept | None = None
        if self.history is not None:
            kept = self._kept(job)
            self.history.add(kept)
        if self._client is not None:
            # What is encoded for the history goes to the target as it is, unless that wants another
            # encoding than memory does.
            encoded = None if kept is None or self._encoding is None else kept.data
            info = self._push(self._client, job, encoding or Encoding(), encoded)
        if self._storage is not None:
            saved = self._storage.save(job.leaves, job.iteration, job.policy_version)
            info = info or saved
        self.monitor.record("store", time.perf_counter() - begun_s)
        return info

    def _push(
        self, client: RolloutClient, job: Job, encoding: Encoding, encoded: bytes | None
    ) -> RolloutInfo:
        if encoded is not None:
            return client.push_encoded(
                encoded,
                self._stream,
                job.iteration,
                producer=self._producer,
                policy_version=job.policy_version,
                wait_s=self._wait_s,
            )
        with nullcontext() if self._advisor is None else self._advisor.watching(client):
            return client.push(
                job.leaves,
                self._stream,
                job.iteration,
                producer=self._producer,
                policy_version=job.policy_version,
                encoding=encoding,
                threads=self._threads,
                wait_s=self._wait_s,
            )

    def _kept(self, job: Job) -> Kept:
        # Memory is what a history is to save, whatever is fastest to the target.
        encoder = Encoder(job.leaves, self._encoding or Encoding(), threads=self._threads)
        data = b"".join(encoder)
        envs, steps = encoder.index.envs, encoder.index.steps
        return Kept(data, envs, steps, job.iteration, job.policy_version, job.torch_paths)
