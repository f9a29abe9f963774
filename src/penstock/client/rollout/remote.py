"""A store of rollouts behind a checkpointer service.

Whatever breaks off goes on where it was when the service comes back: a push from the first byte
that is missing there, a pull with the same rollout, a subscription behind the last one seen.
"""

from __future__ import annotations

import logging
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from typing import TypeVar

from penstock.client.channel import answers, open_channel, retrying
from penstock.client.errors import translated_errors
from penstock.client.rollout.encoded import Encoded
from penstock.client.rollout.messages import (
    rollout_from_message,
    settings_to_message,
    stream_from_message,
)
from penstock.client.rollout.operations import Pulled
from penstock.client.rollout.patience import Patience
from penstock.client.rollout.pulling import Pulling
from penstock.client.rollout.pushing import Pushing
from penstock.errors import InvalidInput, NotFound, PenstockError, Unavailable
from penstock.streams import (
    PushRequest,
    RolloutInfo,
    Selection,
    StreamSettings,
    StreamState,
    Which,
)
from penstock.targets import Target
from penstock.v1 import rollout_pb2 as pb
from penstock.v1.rollout_pb2_grpc import RolloutServiceStub

__all__ = ["RemoteRollouts"]

log = logging.getLogger(__name__)

_POLL_S = 0.2
"""How often a stream is listed when the service lets no more calls wait."""

T = TypeVar("T")


class RemoteRollouts:
    """Calls a service.

    Args:
        target: Of scheme ``grpc``.
        retry_s: How long to wait for a service that is away; any progress starts anew.
        counts: Counts retries, resumed transfers and so on, by name.

    Raises:
        InvalidInput: The target names several servers; a store is one.
    """

    def __init__(self, target: Target, retry_s: float, counts: Counter[str]) -> None:
        if len(target.locations) != 1 or target.options:
            raise InvalidInput(f"{target}: a rollout store is one server", field="target")
        self._target, self._retry_s, self._counts = target, retry_s, counts
        self._closed = threading.Event()
        self._channel = open_channel(target)
        self._stub = RolloutServiceStub(self._channel)
        self._pushing = Pushing(self._channel, target, counts, self._closed)
        self._pulling = Pulling(self._channel, target, counts, self._closed)

    def configure(self, stream: str, settings: StreamSettings) -> StreamState:
        """Set what a stream holds."""
        request = pb.ConfigureStreamRequest(stream=stream, settings=settings_to_message(settings))
        return stream_from_message(self._retry(lambda: self._stub.ConfigureStream(request)).stream)

    def push(self, request: PushRequest, encoded: Encoded, wait_s: float | None) -> RolloutInfo:
        """Store a rollout; when this returns it is durable."""

        def received() -> tuple[int, RolloutInfo | None]:
            message = pb.GetPushRequest(push_id=request.push_id)
            answer = self._retry(lambda: self._stub.GetPush(message))
            stored = answer.HasField("rollout")
            return answer.received_bytes, rollout_from_message(answer.rollout) if stored else None

        patience = Patience(self._retry_s, self._closed)
        return self._pushing(request, encoded, received, patience, wait_s)

    def pull(
        self, stream: str, which: Which, selection: Selection, wait_s: float, threads: int
    ) -> Pulled:
        """Find a rollout and fetch it, or a part of it."""
        patience = Patience(self._retry_s, self._closed)
        return self._pulling(stream, which, selection, wait_s, threads, patience)

    def settle(
        self, stream: str, consumer: str, sequence: int, *, done: bool, member: str = ""
    ) -> None:
        """A consumer is through with a rollout, or its member gives it back."""
        request = pb.SettleRolloutRequest(
            stream=stream,
            consumer=consumer,
            sequence=sequence,
            settlement=pb.SETTLEMENT_DONE if done else pb.SETTLEMENT_GIVEN_BACK,
            member=member,
        )
        self._retry(lambda: self._stub.SettleRollout(request))

    def forget_consumer(self, stream: str, consumer: str) -> None:
        """Forget a consumer."""
        request = pb.ForgetConsumerRequest(stream=stream, consumer=consumer)
        self._remove(lambda: self._stub.ForgetConsumer(request))

    def stream(self, stream: str) -> StreamState:
        """Describe a stream."""
        request = pb.GetStreamRequest(stream=stream)
        return stream_from_message(self._retry(lambda: self._stub.GetStream(request)).stream)

    def streams(self) -> list[StreamState]:
        """All streams."""
        answer = self._retry(lambda: self._stub.ListStreams(pb.ListStreamsRequest()))
        return [stream_from_message(message) for message in answer.streams]

    def list(self, stream: str, after_sequence: int, limit: int) -> list[RolloutInfo]:
        """Some rollouts of a stream by ascending sequence."""
        request = pb.ListRolloutsRequest(stream=stream, after_sequence=after_sequence, limit=limit)
        answer = self._retry(lambda: self._stub.ListRollouts(request))
        return [rollout_from_message(message) for message in answer.rollouts]

    def delete(self, stream: str, sequence: int) -> None:
        """Delete one rollout."""
        request = pb.DeleteRolloutRequest(stream=stream, sequence=sequence)
        self._remove(lambda: self._stub.DeleteRollout(request))

    def subscribe(self, stream: str, after_sequence: int) -> Iterator[RolloutInfo]:
        """Rollouts as they become durable, until the client is closed."""
        after, patience = after_sequence, Patience(self._retry_s, self._closed)
        while not self._closed.is_set():
            try:
                for info in self._announced(stream, after):
                    patience.progress()
                    # One that broke off may be announced again.
                    if info.sequence > after:
                        after = info.sequence
                        yield info
            except Unavailable as error:
                if self._closed.is_set():
                    return
                if error.reason == "BUSY":
                    for info in self._listed(stream, after):
                        after = info.sequence
                        yield info
                    patience.progress()
                    self._closed.wait(_POLL_S)
                    continue
                self._counts["subscriptions_resumed"] += 1
                log.warning("%s: subscription broke off, resuming: %s", self._target, error)
                patience.wait(error)

    def close(self) -> None:
        """Close the connection; calls that wait end."""
        self._closed.set()
        self._channel.close()

    def _announced(self, stream: str, after_sequence: int) -> Iterator[RolloutInfo]:
        request = pb.SubscribeRolloutsRequest(stream=stream, after_sequence=after_sequence)
        try:
            with translated_errors(self._target):
                for message in answers(self._stub.SubscribeRollouts(request)):
                    yield rollout_from_message(message.rollout)
        except PenstockError:
            if not self._closed.is_set():
                raise
        except ValueError:
            # gRPC's word for a channel that is closed.
            if not self._closed.is_set():
                raise
        if not self._closed.is_set():
            raise Unavailable(f"{self._target} ended the subscription")

    def _listed(self, stream: str, after_sequence: int) -> list[RolloutInfo]:
        try:
            return self.list(stream, after_sequence, 0)
        except NotFound:
            return []

    def _remove(self, ask: Callable[[], object]) -> None:
        tries: list[int] = []

        def call() -> None:
            tries.append(1)
            ask()

        try:
            self._retry(call)
        except NotFound:
            # A second try may find that the first one, whose answer was lost, did its work.
            if len(tries) == 1:
                raise

    def _retry(self, ask: Callable[[], T]) -> T:
        def call() -> T:
            with translated_errors(self._target):
                return ask()

        def note(_: PenstockError) -> None:
            self._counts["retries"] += 1

        return retrying(call, target=self._target, retry_s=self._retry_s, on_retry=note)
