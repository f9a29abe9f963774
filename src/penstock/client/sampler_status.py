"""Asks every replica of a sampler what it has done, one by one."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Self

import grpc

from penstock.client.channel import open_address
from penstock.client.errors import translated_errors
from penstock.client.messages import CODEC_NAMES
from penstock.client.sampler.addresses import resolve
from penstock.errors import PenstockError
from penstock.targets import Target
from penstock.v1 import sampler_pb2 as pb
from penstock.v1.sampler_pb2_grpc import SamplerServiceStub

__all__ = ["ReplicaStatus", "SamplerStatus", "rates"]

_SIBLINGS = 8
"""Connections opened to an address at first: processes that share a port answer in turn."""


@dataclass(frozen=True)
class ReplicaStatus:
    """What one server process answers to ``GetStatus``.

    Attributes:
        address: As gRPC names it.
        error: Why there is no answer; everything below is unset then.
        asked_s: When it answered, ``time.monotonic()``.
        replica_id: Of the process.
        version: Of the dataset.
        uptime_s: Since it began to serve.
        calls_in_flight: Streams of transitions.
        transitions: Sent since the start.
        raw_bytes: Frames before encoding.
        sent_bytes: Frames as sent.
        cache_hits: Observations read from the frame cache.
        cache_misses: Observations read from their source.
        cache_rebuilds: Cached files made again because they were stale or damaged.
        cache_evictions: Cached files removed to stay under the limit.
        cache_bytes: Size of the frame cache.
        cache_limit_bytes: What it may grow to.
        cached_files: Source files that are cached.
        files: Source files that are served.
        refused_files: Source files that are not.
        local_descriptors: Handed to clients of the same machine.
        fetch_p50_s: Median of the last 1024 Fetch calls.
        fetch_p99_s: Their 99th percentile.
        codec: Of the frames sent last; empty before.
        resident_bytes: Memory of the process.
    """

    address: str
    error: str = ""
    asked_s: float = 0.0
    replica_id: int = 0
    version: str = ""
    uptime_s: float = 0.0
    calls_in_flight: int = 0
    transitions: int = 0
    raw_bytes: int = 0
    sent_bytes: int = 0
    cache_hits: int = 0
    cache_misses: int = 0
    cache_rebuilds: int = 0
    cache_evictions: int = 0
    cache_bytes: int = 0
    cache_limit_bytes: int = 0
    cached_files: int = 0
    files: int = 0
    refused_files: int = 0
    local_descriptors: int = 0
    fetch_p50_s: float = 0.0
    fetch_p99_s: float = 0.0
    codec: str = ""
    resident_bytes: int = 0

    @property
    def hit_rate(self) -> float | None:
        """Share of observations that came from the cache; None before the first."""
        read = self.cache_hits + self.cache_misses
        return self.cache_hits / read if read else None


@dataclass
class SamplerStatus:
    """Connections to every replica behind a target, kept from one look to the next.

    Args:
        target: A ``grpc`` target; its names are resolved anew at every look.
        timeout_s: Seconds that each replica has to answer.
    """

    target: Target
    timeout_s: float = 5.0
    _channels: dict[tuple[str, int], grpc.Channel] = field(
        default_factory=dict[tuple[str, int], grpc.Channel]
    )

    def ask(self) -> list[ReplicaStatus]:
        """The status of every replica by address; one that is away says why.

        Raises:
            Unavailable: The target's names have no address.
        """
        found: dict[int, ReplicaStatus] = {}
        away: list[ReplicaStatus] = []
        for address in resolve(self.target):
            kept = [key for key in self._channels if key[0] == address]
            answers = [self._ask(address, self._channels.pop(key)) for key in kept]
            # Another connection may reach another process behind the same port.
            for _ in range(1 if kept else _SIBLINGS):
                answers.append(self._ask(address, open_address(address)))
                if answers[-1].error:
                    break
            alive = [answer for answer in answers if not answer.error]
            found.update({answer.replica_id: answer for answer in reversed(alive)})
            if not alive:
                away.append(answers[-1])
        return [*found.values(), *away]

    def close(self) -> None:
        """Close the connections."""
        for channel in self._channels.values():
            channel.close()
        self._channels.clear()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _ask(self, address: str, channel: grpc.Channel) -> ReplicaStatus:
        with contextlib.ExitStack() as stack:
            stack.callback(channel.close)
            try:
                with translated_errors(address):
                    message = SamplerServiceStub(channel).GetStatus(
                        pb.GetStatusRequest(), timeout=self.timeout_s
                    )
            except PenstockError as error:
                return ReplicaStatus(address, error=error.message)
            status = _from_message(address, message)
            if (address, status.replica_id) not in self._channels:
                self._channels[address, status.replica_id] = channel
                stack.pop_all()
            return status


def rates(
    before: Sequence[ReplicaStatus], after: Sequence[ReplicaStatus]
) -> dict[int, tuple[float, float]]:
    """Transitions and bytes that each replica sent per second between two looks.

    Returns:
        By ``replica_id``; replicas that were not there before are left out.
    """
    earlier = {status.replica_id: status for status in before if not status.error}
    found: dict[int, tuple[float, float]] = {}
    for status in after:
        first = earlier.get(status.replica_id)
        if status.error or first is None or status.asked_s <= first.asked_s:
            continue
        seconds = status.asked_s - first.asked_s
        found[status.replica_id] = (
            (status.transitions - first.transitions) / seconds,
            (status.sent_bytes - first.sent_bytes) / seconds,
        )
    return found


def _from_message(address: str, message: pb.GetStatusResponse) -> ReplicaStatus:
    return ReplicaStatus(
        address,
        asked_s=time.monotonic(),
        replica_id=message.replica_id,
        version=message.dataset_version,
        uptime_s=message.uptime_s,
        calls_in_flight=message.calls_in_flight,
        transitions=message.transitions_sent,
        raw_bytes=message.raw_bytes,
        sent_bytes=message.sent_bytes,
        cache_hits=message.cache_hits,
        cache_misses=message.cache_misses,
        cache_rebuilds=message.cache_rebuilds,
        cache_evictions=message.cache_evictions,
        cache_bytes=message.cache_bytes,
        cache_limit_bytes=message.cache_limit_bytes,
        cached_files=message.cached_files,
        files=message.files,
        refused_files=message.refused_files,
        local_descriptors=message.local_descriptors,
        fetch_p50_s=message.fetch_p50_s,
        fetch_p99_s=message.fetch_p99_s,
        codec=CODEC_NAMES.get(message.codec, ""),
        resident_bytes=message.resident_bytes,
    )
