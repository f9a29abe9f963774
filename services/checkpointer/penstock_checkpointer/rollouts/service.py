"""Rollouts on the wire: translates ``penstock.v1.RolloutService`` to the store.

Calls that wait (pulls without a rollout yet, subscriptions) hold a thread of the server each. So
only some may wait, none for long, and all stop when the client hangs up or the server drains;
clients ask again.
"""

from __future__ import annotations

import os
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from typing import BinaryIO, cast

import grpc
import structlog
import xxhash
from google.protobuf.message import DecodeError

from penstock.backends import RolloutBackend
from penstock.chunks import CHUNK_BYTES
from penstock.client.rollout.messages import (
    digest_from_message,
    opened_to_message,
    push_from_message,
    rollout_to_message,
    selection_from_message,
    settings_from_message,
    stream_to_message,
    which_from_message,
)
from penstock.client.rollout.pieces import Piece, read_piece
from penstock.errors import (
    Cancelled,
    Corrupt,
    InvalidInput,
    LimitExceeded,
    NotFound,
    PenstockError,
    TimedOut,
    Unavailable,
)
from penstock.rollout_file import Index, read_index
from penstock.server.joined import Unserialised, joined
from penstock.streams import Opened, Which
from penstock.v1 import rollout_pb2 as pb
from penstock.v1.rollout_pb2_grpc import (
    RolloutServiceServicer,
    add_RolloutServiceServicer_to_server,
)
from penstock_checkpointer.rollouts.slots import Slots

__all__ = ["RolloutService"]

log = structlog.get_logger(__name__)

_LONGEST_WAIT_S = 10.0
_LOOK_S = 0.25
"""How soon a call that waits notices that its client is gone, or that the server drains."""

_ANNOUNCED_AT_ONCE = 100
_PIECE = pb.PullRolloutResponse.PIECE_FIELD_NUMBER, pb.RolloutPiece.DATA_FIELD_NUMBER


class RolloutService(RolloutServiceServicer):
    """Serves one store.

    Args:
        backend: The store.
        waiting_calls: How many calls may wait at a time.
        counts: Counts what happens, by name.
    """

    def __init__(
        self, backend: RolloutBackend, waiting_calls: int = 16, counts: Counter[str] | None = None
    ) -> None:
        self._backend, self._slots = backend, Slots(waiting_calls)
        self._counts: Counter[str] = Counter() if counts is None else counts
        self._draining = threading.Event()

    def register(self, server: grpc.Server) -> list[str]:
        """Add this service to a server; returns its full name."""
        stand_in = Unserialised(server, {"PullRollout"}, frozenset({"PushRollout"}))
        add_RolloutServiceServicer_to_server(self, cast("grpc.Server", stand_in))
        return [pb.DESCRIPTOR.services_by_name["RolloutService"].full_name]

    def drain(self) -> None:
        """End calls that wait; their clients turn to whoever takes this server's place."""
        self._draining.set()

    def ConfigureStream(  # noqa: N802 - the protocol's name
        self, request: pb.ConfigureStreamRequest, context: grpc.ServicerContext
    ) -> pb.ConfigureStreamResponse:
        """Set what a stream holds."""
        del context
        state = self._backend.configure(request.stream, settings_from_message(request.settings))
        log.info("stream configured", stream=state.name, settings=str(state.settings))
        return pb.ConfigureStreamResponse(stream=stream_to_message(state))

    def GetStream(  # noqa: N802 - the protocol's name
        self, request: pb.GetStreamRequest, context: grpc.ServicerContext
    ) -> pb.GetStreamResponse:
        """Describe a stream."""
        del context
        return pb.GetStreamResponse(stream=stream_to_message(self._backend.stream(request.stream)))

    def ListStreams(  # noqa: N802 - the protocol's name
        self, request: pb.ListStreamsRequest, context: grpc.ServicerContext
    ) -> pb.ListStreamsResponse:
        """Describe all streams."""
        del request, context
        return pb.ListStreamsResponse(streams=map(stream_to_message, self._backend.streams()))

    def PushRollout(  # noqa: N802 - the protocol's name
        self, request_iterator: Iterator[bytes], context: grpc.ServicerContext
    ) -> pb.PushRolloutResponse:
        """Take a rollout."""
        del context
        push_id = ""
        for data in request_iterator:
            piece = read_piece(data)
            message = _parsed(data) if piece is None else None
            part = "piece" if message is None else message.WhichOneof("part")
            if (part == "begin") == bool(push_id):
                raise InvalidInput(
                    f"{part} came {'a second time' if push_id else 'before begin'}: send begin, "
                    "pieces, finish",
                    field="part",
                )
            if message is None and piece is not None:
                self._append(push_id, piece)
            elif message is not None and part == "begin":
                push_id = message.begin.push_id
                self._backend.begin(push_from_message(message.begin), message.begin.offset_bytes)
            elif message is not None and part == "piece":
                self._append(push_id, _piece_of(message.piece))
            elif message is not None and part == "finish":
                digest = digest_from_message(message.finish.digest)
                info, already_stored = self._backend.commit(push_id, digest)
                return pb.PushRolloutResponse(
                    rollout=rollout_to_message(info), already_stored=already_stored
                )
            else:
                raise InvalidInput("a message without content: send begin, pieces, finish")
        raise InvalidInput(
            f"push {push_id!r} ended without finish: go on where GetPush says", field="finish"
        )

    def GetPush(  # noqa: N802 - the protocol's name
        self, request: pb.GetPushRequest, context: grpc.ServicerContext
    ) -> pb.GetPushResponse:
        """Say how much of a push was received."""
        del context
        received, info = self._backend.received(request.push_id)
        return pb.GetPushResponse(
            received_bytes=received, rollout=None if info is None else rollout_to_message(info)
        )

    def PullRollout(  # noqa: N802 - the protocol's name
        self, request: pb.PullRolloutRequest, context: grpc.ServicerContext
    ) -> Iterator[bytes]:
        """Send a rollout, or parts of it."""
        which = which_from_message(request)
        opened, file = self._open(request.stream, which, request.wait_ms / 1000, context)
        with file:
            index = self._index(opened, file)
            try:
                ranges = index.ranges(selection_from_message(request))
            except InvalidInput:
                if which.take is not None:
                    self._backend.settle(
                        request.stream,
                        which.take.consumer,
                        opened.info.sequence,
                        done=False,
                        member=which.take.member,
                    )
                raise
            message = opened_to_message(opened, index.data)
            yield pb.PullRolloutResponse(opened=message).SerializeToString()
            for begin, size in ranges:
                for offset in range(begin, begin + size, CHUNK_BYTES):
                    if not context.is_active():
                        return
                    count = min(CHUNK_BYTES, begin + size - offset)
                    layers = (
                        (pb.PullRolloutResponse(), _PIECE[0]),
                        (pb.RolloutPiece(offset_bytes=offset), _PIECE[1]),
                    )
                    yield joined(layers, count, _reading(file, offset))

    def SettleRollout(  # noqa: N802 - the protocol's name
        self, request: pb.SettleRolloutRequest, context: grpc.ServicerContext
    ) -> pb.SettleRolloutResponse:
        """Take a rollout out of a consumer's queue, or give it back."""
        del context
        if request.settlement not in (pb.SETTLEMENT_DONE, pb.SETTLEMENT_GIVEN_BACK):
            raise InvalidInput(
                f"settlement {request.settlement} is none: done, or given back", field="settlement"
            )
        self._backend.settle(
            request.stream,
            request.consumer,
            request.sequence,
            done=request.settlement == pb.SETTLEMENT_DONE,
            member=request.member,
        )
        return pb.SettleRolloutResponse()

    def ForgetConsumer(  # noqa: N802 - the protocol's name
        self, request: pb.ForgetConsumerRequest, context: grpc.ServicerContext
    ) -> pb.ForgetConsumerResponse:
        """Forget a consumer."""
        del context
        self._backend.forget_consumer(request.stream, request.consumer)
        return pb.ForgetConsumerResponse()

    def ListRollouts(  # noqa: N802 - the protocol's name
        self, request: pb.ListRolloutsRequest, context: grpc.ServicerContext
    ) -> pb.ListRolloutsResponse:
        """List a stream."""
        del context
        found = self._backend.list(request.stream, request.after_sequence, request.limit)
        return pb.ListRolloutsResponse(rollouts=map(rollout_to_message, found))

    def DeleteRollout(  # noqa: N802 - the protocol's name
        self, request: pb.DeleteRolloutRequest, context: grpc.ServicerContext
    ) -> pb.DeleteRolloutResponse:
        """Delete a rollout."""
        del context
        self._backend.delete(request.stream, request.sequence)
        log.info("rollout deleted", stream=request.stream, sequence=request.sequence)
        return pb.DeleteRolloutResponse()

    def SubscribeRollouts(  # noqa: N802 - the protocol's name
        self, request: pb.SubscribeRolloutsRequest, context: grpc.ServicerContext
    ) -> Iterator[pb.SubscribeRolloutsResponse]:
        """Announce rollouts until the client hangs up."""
        after = request.after_sequence
        with self._slots.taken() as may_wait:
            if not may_wait:
                self._counts["waits_refused"] += 1
                raise LimitExceeded(
                    "as many calls wait as may: list the stream now and then, or raise --workers",
                    reason="BUSY",
                    retry_after_s=1.0,
                )
            while context.is_active():
                self._check_not_draining()
                if not self._backend.wait(request.stream, after, _LOOK_S):
                    continue
                for info in self._backend.list(request.stream, after, _ANNOUNCED_AT_ONCE):
                    yield pb.SubscribeRolloutsResponse(rollout=rollout_to_message(info))
                    after = info.sequence

    def _append(self, push_id: str, piece: Piece) -> None:
        if len(piece.data) <= CHUNK_BYTES and piece.xxh3_64 is not None:
            found = xxhash.xxh3_64_intdigest(piece.data)
            if found != piece.xxh3_64:
                raise Corrupt(
                    f"the piece at byte {piece.offset_bytes} does not match its hash: send it "
                    "again",
                    reason="PIECE_HASH",
                )
        self._backend.append(push_id, piece.offset_bytes, piece.data)

    def _open(
        self, stream: str, which: Which, wait_s: float, context: grpc.ServicerContext
    ) -> tuple[Opened, BinaryIO]:
        until_s = time.monotonic() + min(wait_s, _LONGEST_WAIT_S)
        while True:
            opened = self._find(stream, which, until_s, context)
            try:
                return opened, self._backend.open_content(stream, opened.info.sequence)
            except NotFound:
                # Removed in this moment: another one may be the newest, or the next.
                if which.sequence is not None or which.iteration is not None:
                    raise

    def _find(
        self, stream: str, which: Which, until_s: float, context: grpc.ServicerContext
    ) -> Opened:
        waits = until_s > time.monotonic()
        try:
            return self._backend.find(stream, which)
        except NotFound as error:
            if error.reason != "NO_ROLLOUT" or not waits:
                raise
        with self._slots.taken() as may_wait:
            if not may_wait:
                self._counts["waits_refused"] += 1
            while may_wait and (left_s := until_s - time.monotonic()) > 0:
                self._check_not_draining()
                if not context.is_active():
                    raise Cancelled("the client hung up while it waited")
                try:
                    return self._backend.find(stream, which, min(left_s, _LOOK_S))
                except TimedOut:
                    continue
        raise TimedOut(f"no such rollout came to stream {stream!r}", reason="NO_ROLLOUT")

    def _check_not_draining(self) -> None:
        if self._draining.is_set():
            raise Unavailable("the checkpointer is ending", reason="ENDING")

    def _index(self, opened: Opened, file: BinaryIO) -> Index:
        try:
            return read_index(file)
        except PenstockError as error:
            self._counts["damage_found"] += 1
            log.exception("stored rollout is damaged", rollout=str(opened.info))
            raise Corrupt(
                f"{opened.info} is damaged on the disk of the store ({error.message}): delete it",
                reason="DAMAGED",
                metadata={"sequence": str(opened.info.sequence)},
            ) from error


def _parsed(data: bytes) -> pb.PushRolloutRequest:
    try:
        return pb.PushRolloutRequest.FromString(data)
    except DecodeError as error:
        raise InvalidInput(f"a message of {len(data)} bytes is none: {error}") from error


def _piece_of(message: pb.RolloutPiece) -> Piece:
    return Piece(message.offset_bytes, memoryview(message.data), message.xxh3_64)


def _reading(file: BinaryIO, offset_bytes: int) -> Callable[[memoryview], None]:
    def fill(view: memoryview) -> None:
        done = 0
        while done < len(view):
            count = os.preadv(file.fileno(), [view[done:]], offset_bytes + done)
            if not count:
                raise Corrupt(f"a stored rollout ends at byte {offset_bytes + done}: delete it")
            done += count

    return fill
