"""A store of rollouts in this process."""

from __future__ import annotations

import logging
import threading
from collections import Counter
from collections.abc import Iterator

from penstock.backends import RolloutBackend
from penstock.chunks import CHUNK_BYTES
from penstock.client.rollout.encoded import Encoded
from penstock.client.rollout.operations import Pulled, damaged
from penstock.client.rollout.patience import QUEUE_FULL, QueuePatience
from penstock.errors import Corrupt, InvalidInput, LimitExceeded, NotFound, Unavailable
from penstock.rollout_file import Decoder, read_index
from penstock.streams import (
    Opened,
    PushRequest,
    RolloutInfo,
    Selection,
    StreamSettings,
    StreamState,
    Which,
)

__all__ = ["EmbeddedRollouts"]

log = logging.getLogger(__name__)

_LOOK_S = 1.0


class EmbeddedRollouts:
    """Calls a store directly.

    Args:
        backend: The store.
        counts: Counts what happens, by name.
    """

    def __init__(self, backend: RolloutBackend, counts: Counter[str]) -> None:
        self._backend, self._counts = backend, counts
        self._closed = threading.Event()

    def configure(self, stream: str, settings: StreamSettings) -> StreamState:
        """Set what a stream holds."""
        return self._backend.configure(stream, settings)

    def push(self, request: PushRequest, encoded: Encoded, wait_s: float | None) -> RolloutInfo:
        """Store a rollout; when this returns it is durable."""
        place = QueuePatience(wait_s, self._closed)
        try:
            while True:
                received, _ = self._backend.received(request.push_id)
                try:
                    self._backend.begin(request, received)
                    for offset, piece in encoded.pieces(received):
                        self._backend.append(request.push_id, offset, piece)
                    return self._backend.commit(request.push_id, encoded.digest)[0]
                except LimitExceeded as error:
                    if error.reason != QUEUE_FULL:
                        raise
                    self._counts["queue_full"] += 1
                    place.wait(error)
        except BaseException:
            self._backend.abort(request.push_id)
            raise

    def pull(
        self, stream: str, which: Which, selection: Selection, wait_s: float, threads: int
    ) -> Pulled:
        """Find a rollout and read it, or a part of it."""
        while True:
            opened = self._backend.find(stream, which, wait_s)
            try:
                return self._read(opened, which, selection, threads)
            except NotFound:
                # Removed in this moment: another one may be the newest, or the next.
                if which.sequence is not None or which.iteration is not None:
                    raise

    def settle(
        self, stream: str, consumer: str, sequence: int, *, done: bool, member: str = ""
    ) -> None:
        """A consumer is through with a rollout, or its member gives it back."""
        self._backend.settle(stream, consumer, sequence, done=done, member=member)

    def forget_consumer(self, stream: str, consumer: str) -> None:
        """Forget a consumer."""
        self._backend.forget_consumer(stream, consumer)

    def stream(self, stream: str) -> StreamState:
        """Describe a stream."""
        return self._backend.stream(stream)

    def streams(self) -> list[StreamState]:
        """All streams."""
        return self._backend.streams()

    def list(self, stream: str, after_sequence: int, limit: int) -> list[RolloutInfo]:
        """Some rollouts of a stream by ascending sequence."""
        return self._backend.list(stream, after_sequence, limit)

    def delete(self, stream: str, sequence: int) -> None:
        """Delete one rollout."""
        self._backend.delete(stream, sequence)

    def subscribe(self, stream: str, after_sequence: int) -> Iterator[RolloutInfo]:
        """Rollouts as they become durable, until the client is closed."""
        after = after_sequence
        while not self._closed.is_set():
            try:
                if not self._backend.wait(stream, after, _LOOK_S):
                    continue
            except Unavailable:
                return
            for info in self._backend.list(stream, after):
                yield info
                after = info.sequence

    def close(self) -> None:
        """Close the store; calls that wait end."""
        self._closed.set()
        self._backend.close()

    def _read(self, opened: Opened, which: Which, selection: Selection, threads: int) -> Pulled:
        info = opened.info
        with self._backend.open_content(info.stream, info.sequence) as file:
            try:
                index = read_index(file)
                decoder = Decoder(index, selection, threads=threads)
                for begin, size in index.ranges(selection):
                    file.seek(begin)
                    for offset in range(begin, begin + size, CHUNK_BYTES):
                        decoder.feed(offset, file.read(min(CHUNK_BYTES, begin + size - offset)))
                return Pulled(opened, decoder.finish(), index)
            except InvalidInput:
                take = which.take
                if take is not None:
                    key = info.stream, take.consumer, info.sequence
                    self.settle(*key, done=False, member=take.member)
                raise
            except Corrupt as error:
                raise damaged(info, error) from error
