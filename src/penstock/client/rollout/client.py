"""Streams of rollouts as their users see them; embedded or remote."""

from __future__ import annotations

import io
import secrets
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any, Self

from penstock.backends import load_backend
from penstock.checkpoints import check_name
from penstock.client.channel import RETRY_S
from penstock.client.checkpoint import resolve_target
from penstock.client.rollout.embedded import EmbeddedRollouts
from penstock.client.rollout.encoded import Encoded, EncodedBefore
from penstock.client.rollout.operations import Pulled, RolloutAccess, check_selection
from penstock.client.rollout.remote import RemoteRollouts
from penstock.errors import InvalidInput
from penstock.rollout_file import Encoder, Encoding, read_index
from penstock.streams import (
    DEFAULT_PRODUCER,
    PushRequest,
    RolloutInfo,
    Selection,
    StreamSettings,
    StreamState,
    Which,
)
from penstock.targets import Target

__all__ = ["RolloutClient", "open_rollouts"]

_MAX_NUMBER = (1 << 63) - 1
_ALL = Selection()


class RolloutClient:
    """Pushes and pulls rollouts of one store. Safe to use from several threads.

    Args:
        target: Where the store is.
        access: How it is reached.
        counts: Counts retries and resumed transfers.

    Attributes:
        target: Where the store is.
        counts: ``retries``, ``queue_full``, ``pushes_resumed``, ``pushes_resent``,
            ``pulls_resumed``, ``pulls_resent``, ``subscriptions_resumed``.
    """

    def __init__(self, target: Target, access: RolloutAccess, counts: Counter[str]) -> None:
        self.target, self.counts = target, counts
        self._access = access

    def configure(self, stream: str, settings: StreamSettings) -> StreamState:
        """Set what a stream holds and does when it is full; creates the stream.

        Raises:
            InvalidInput: The name is not valid.
        """
        return self._access.configure(check_name(stream, "stream"), settings)

    def push(
        self,
        data: Mapping[str, Any],
        stream: str,
        iteration: int,
        *,
        producer: str = DEFAULT_PRODUCER,
        policy_version: int = 0,
        encoding: Encoding | None = None,
        threads: int = 1,
        wait_s: float | None = None,
    ) -> RolloutInfo:
        """Store a rollout; when this returns it is verified, durable and listed.

        It is encoded while it is sent. Pushing the same content again is no error.

        Args:
            data: Nested dicts of arrays or CPU tensors ``[env, time, ...]``, or leaves by path;
                they must not change before this returns.
            stream: Name of the stream; created if it is missing.
            iteration: Of this producer: each one is stored once.
            producer: Who collected it.
            policy_version: Of the policy that acted.
            encoding: How; LZ4 if None.
            threads: How many encode.
            wait_s: How long to wait while the queue is full; None for ever.

        Raises:
            InvalidInput: A name, a number or an array is not valid; named with its path.
            AlreadyExists: The iteration was stored with other content.
            LimitExceeded: The queue stayed full (``QUEUE_FULL``), the disk is, or the rollout is
                too large.
            Unavailable: The service stayed away.
        """
        request = _request(stream, iteration, producer, policy_version)
        encoder = Encoder(dict(data), encoding or Encoding(), threads=threads)
        return self._access.push(request, Encoded(encoder), wait_s)

    def push_encoded(
        self,
        data: bytes,
        stream: str,
        iteration: int,
        *,
        producer: str = DEFAULT_PRODUCER,
        policy_version: int = 0,
        wait_s: float | None = None,
    ) -> RolloutInfo:
        """Store a rollout that was encoded before, as it is.

        Args:
            data: Its whole file.
            stream: Name of the stream; created if it is missing.
            iteration: Of this producer: each one is stored once.
            producer: Who collected it.
            policy_version: Of the policy that acted.
            wait_s: How long to wait while the queue is full; None for ever.

        Raises:
            Corrupt: It is no rollout file.
            InvalidInput, AlreadyExists, LimitExceeded, Unavailable: As ``push``.
        """
        request = _request(stream, iteration, producer, policy_version)
        read_index(io.BytesIO(data))
        return self._access.push(request, Encoded(EncodedBefore(data)), wait_s)

    def pull(
        self,
        stream: str,
        which: Which,
        *,
        selection: Selection = _ALL,
        wait_s: float = 0.0,
        threads: int = 1,
    ) -> Pulled:
        """Fetch a rollout or a part of it, every byte checked; take it where ``which`` says so.

        Args:
            stream: Name of the stream; it need not exist yet when there is time to wait.
            which: Which one.
            selection: Which part.
            wait_s: How long to wait until there is one.
            threads: How many decode.

        Raises:
            InvalidInput: ``which`` or ``selection`` are not valid; a rollout that was taken is
                given back.
            NotFound: There is none (and no time to wait was given, or it can never come).
            TimedOut: None came in ``wait_s``: ``NO_ROLLOUT``.
            Corrupt: It is damaged; ``metadata["sequence"]`` names it, to be settled or deleted.
            Unavailable: The service stayed away.
        """
        check_name(stream, "stream")
        _check_which(which)
        check_selection(selection)
        return self._access.pull(stream, which, selection, max(0.0, wait_s), threads)

    def settle(self, stream: str, consumer: str, sequence: int, member: str = "") -> None:
        """A consumer is through with a rollout; settling it again is no error.

        Args:
            stream: Name of the stream.
            consumer: Which one.
            sequence: Of the rollout.
            member: The one that took it. What is done is done, whoever has the rollout now.

        Raises:
            NotFound: No such stream or consumer.
        """
        self._settle(stream, consumer, sequence, member, done=True)

    def give_back(self, stream: str, consumer: str, sequence: int, member: str = "") -> None:
        """Let another member of a consumer take a rollout now, before its lease runs out.

        Args:
            stream: Name of the stream.
            consumer: Which one.
            sequence: Of the rollout.
            member: The one that took it. Where another one has taken it meanwhile, nothing changes.

        Raises:
            NotFound: No such stream or consumer.
        """
        self._settle(stream, consumer, sequence, member, done=False)

    def forget_consumer(self, stream: str, consumer: str) -> None:
        """Forget a consumer that will not come back: nothing waits for it any more.

        If it was the last one, what it has not settled waits for whoever comes. One that takes
        again under this name begins anew, at all that is stored.

        Raises:
            NotFound: No such stream or consumer.
        """
        check_name(consumer, "consumer")
        self._access.forget_consumer(check_name(stream, "stream"), consumer)

    def stream(self, name: str) -> StreamState:
        """Describe a stream.

        Raises:
            NotFound: There is none.
        """
        return self._access.stream(check_name(name, "stream"))

    def streams(self) -> list[StreamState]:
        """All streams by name."""
        return self._access.streams()

    def list(self, stream: str, after_sequence: int = 0) -> Iterator[RolloutInfo]:
        """Rollouts of a stream by ascending sequence.

        Raises:
            NotFound: There is no such stream.
        """
        check_name(stream, "stream")
        _check_number("after_sequence", after_sequence)
        while found := self._access.list(stream, after_sequence, 0):
            yield from found
            after_sequence = found[-1].sequence

    def delete(self, stream: str, sequence: int) -> None:
        """Delete one rollout; its iteration may be pushed anew, and has a new sequence then.

        Raises:
            NotFound: There is none.
        """
        _check_number("sequence", sequence)
        self._access.delete(check_name(stream, "stream"), sequence)

    def subscribe(self, stream: str, after_sequence: int = 0) -> Iterator[RolloutInfo]:
        """Every rollout of a stream above a sequence, as it becomes durable, each once.

        Ends when the client is closed; takes nothing. The stream need not exist yet.

        Raises:
            Unavailable: The service stayed away.
        """
        check_name(stream, "stream")
        _check_number("after_sequence", after_sequence)
        return self._access.subscribe(stream, after_sequence)

    def close(self) -> None:
        """Close the connection or the store; calls that wait end."""
        self._access.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _settle(
        self, stream: str, consumer: str, sequence: int, member: str, *, done: bool
    ) -> None:
        check_name(stream, "stream")
        check_name(consumer, "consumer")
        _check_number("sequence", sequence)
        self._access.settle(stream, consumer, sequence, done=done, member=member)


def open_rollouts(target: str | Target, *, retry_s: float = RETRY_S) -> RolloutClient:
    """Open a store: ``file:///directory`` in this process, or ``grpc://host:50053``.

    A directory may be opened by several processes at once. One on shared memory
    (``file:///dev/shm/NAME``) is the quickest way between processes of one machine.

    Args:
        target: Where it is; a directory is created if it is missing.
        retry_s: How long to wait for a service that is away.

    Raises:
        InvalidInput: The target is not valid.
        Unsupported: An embedded store needs ``pip install 'penstock[checkpointer]'``.
    """
    target = resolve_target(target)
    counts: Counter[str] = Counter()
    if target.scheme == "grpc":
        return RolloutClient(target, RemoteRollouts(target, retry_s, counts), counts)
    access = EmbeddedRollouts(load_backend("rollouts", target), counts)
    return RolloutClient(target, access, counts)


def _request(stream: str, iteration: int, producer: str, policy_version: int) -> PushRequest:
    check_name(stream, "stream")
    check_name(producer, "producer")
    for name, number in (("iteration", iteration), ("policy_version", policy_version)):
        _check_number(name, number)
    return PushRequest(
        stream=stream,
        producer=producer,
        iteration=iteration,
        policy_version=policy_version,
        push_id=secrets.token_hex(16),
    )


def _check_number(name: str, number: int) -> None:
    if not 0 <= number <= _MAX_NUMBER:
        raise InvalidInput(f"{name} {number} is not between 0 and 2**63 - 1", field=name)


def _check_which(which: Which) -> None:
    """What does not fit on a wire; the store checks the rest."""
    ways = which.sequence, which.iteration, which.after_sequence, which.take
    if sum(way is not None for way in ways) + bool(which.latest) != 1:
        raise InvalidInput(
            f"{which}: name a sequence, an iteration, latest, after_sequence or take, one of them",
            field="which",
        )
    numbers = {"sequence": which.sequence, "after_sequence": which.after_sequence}
    if which.iteration is not None:
        numbers["iteration"] = which.iteration[1]
    if which.take is not None:
        numbers["policy_version"] = which.take.policy_version
        numbers["max_staleness"] = which.take.max_staleness
    for name, number in numbers.items():
        _check_number(name, number or 0)
    if which.take is not None and not 1 <= which.take.lease_s <= 7 * 86_400:
        raise InvalidInput(f"lease_s is {which.take.lease_s}: expected 1 s to 7 days", field="take")
