"""Channels: how a ``grpc`` target becomes a connection, and how idempotent calls are retried."""

from __future__ import annotations

import json
import logging
import socket
from collections.abc import Callable, Generator, Iterable
from typing import Any, TypeVar

import grpc
import tenacity
from grpc.experimental import ChannelOptions

from penstock.errors import InvalidInput, Unavailable
from penstock.targets import Target

__all__ = ["RETRY_S", "answers", "let_go", "open_address", "open_channel", "retrying"]

log = logging.getLogger(__name__)

RETRY_S = 120.0
"""How long a client waits for a service that is away: time enough to restart it."""

MAX_MESSAGE_BYTES = 64 << 20
_FIRST_WAIT_S, _LONGEST_WAIT_S = 0.1, 3.0

_OPTIONS: list[tuple[str, int]] = [
    ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
    ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
    ("grpc.keepalive_time_ms", 30_000),
    ("grpc.keepalive_timeout_ms", 10_000),
    ("grpc.http2.max_pings_without_data", 0),
    # A service that comes back is found within seconds, not after the default two minutes.
    ("grpc.initial_reconnect_backoff_ms", 200),
    ("grpc.max_reconnect_backoff_ms", 3_000),
    # Channels to one address share a connection by default, and how long they wait for it: one
    # that hangs would hang them all, and a new client would fail where an old one has failed.
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.dns_min_time_between_resolutions_ms", 2_000),
    # A message arrives in a few large pieces instead of a hundred small ones, which Python would
    # join one by one, holding its lock.
    ("grpc.http2.max_frame_size", 4 << 20),
    ("grpc.http2.lookahead_bytes", 4 << 20),
    ("grpc.experimental.tcp_read_chunk_size", 1 << 20),
    ("grpc.experimental.tcp_min_read_chunk_size", 1 << 20),
    ("grpc.experimental.tcp_max_read_chunk_size", 4 << 20),
    # Reads a stream in the calling thread: a third faster than one thread per call.
    (ChannelOptions.SingleThreadedUnaryStream, 1),
]

T = TypeVar("T")


def open_channel(target: Target) -> grpc.Channel:
    """A channel that spreads its calls over every address of ``target``.

    Raises:
        InvalidInput: ``target`` is not a ``grpc`` target, or a host of a list has no address.
    """
    if target.scheme != "grpc":
        raise InvalidInput(f"{target} is not served over gRPC: use grpc://host:port")
    policy = {"loadBalancingConfig": [{"round_robin": {}}]}
    return grpc.insecure_channel(
        _address(target),
        options=[*_OPTIONS, ("grpc.service_config", json.dumps(policy))],
    )


def open_address(address: str) -> grpc.Channel:
    """A channel to one server.

    Args:
        address: As gRPC names it: ``ipv4:127.0.0.1:50051``, ``ipv6:[::1]:50051``, ``unix:/path``.
    """
    return grpc.insecure_channel(address, options=_OPTIONS)


def let_go(stream: Any) -> None:
    """Cancel a stream of answers, in the thread that reads it; nothing happens after its end.

    A stream that is read in the calling thread tells its end to who reads on, and gRPC reads no
    further once it is cancelled: the call would stay in memory, with the message that had come,
    for as long as the process runs (grpcio 1.73). So what is on its way is taken here.
    """
    stream.cancel()
    take, state = getattr(stream, "_consume_next_event", None), getattr(stream, "_state", None)
    while take is not None and getattr(state, "due", None):
        take()


def answers(stream: Iterable[T]) -> Generator[T]:
    """The messages of a stream, which is let go of wherever its reading ends."""
    try:
        yield from stream
    finally:
        # The service must not go on sending, either.
        let_go(stream)


def retrying(
    call: Callable[[], T],
    *,
    target: object,
    retry_s: float = RETRY_S,
    on_retry: Callable[[Unavailable], None] | None = None,
) -> T:
    """Run an idempotent ``call`` until it is answered, for up to ``retry_s`` seconds.

    Only :class:`Unavailable` is retried; each retry is logged and handed to ``on_retry``.

    Raises:
        Unavailable: Nobody answered in that time.
    """

    def note(state: tenacity.RetryCallState) -> None:
        error = state.outcome.exception() if state.outcome else None
        left_s = retry_s - (state.seconds_since_start or 0.0)
        log.warning(
            "%s: attempt %d failed, trying for another %.0f s: %s",
            target,
            state.attempt_number,
            left_s,
            error,
        )
        if on_retry is not None and isinstance(error, Unavailable):
            on_retry(error)

    return tenacity.Retrying(
        retry=tenacity.retry_if_exception_type(Unavailable),
        wait=tenacity.wait_random_exponential(multiplier=_FIRST_WAIT_S, max=_LONGEST_WAIT_S),
        stop=tenacity.stop_after_delay(retry_s),
        before_sleep=note,
        reraise=True,
    )(call)


def _address(target: Target) -> str:
    if len(target.locations) == 1:
        location = target.locations[0]
        return location if location.startswith("unix:") else f"dns:///{location}"
    resolved: list[str] = []
    for location in target.locations:
        host, _, port = location.rpartition(":")
        try:
            found = socket.getaddrinfo(host, int(port), socket.AF_INET, socket.SOCK_STREAM)
        except OSError as error:
            raise Unavailable(f"{target}: {host!r} has no address: {error}") from error
        resolved.extend(f"{entry[4][0]}:{entry[4][1]}" for entry in found)
    return "ipv4:" + ",".join(dict.fromkeys(resolved))
