"""How fast rollouts go to a target and back: a few pushes of noise, deleted again."""

from __future__ import annotations

import logging
import secrets
import time
from collections.abc import Sequence
from contextlib import suppress

import numpy as np

from penstock.client.rollout import RolloutClient
from penstock.errors import NotFound, PenstockError
from penstock.rollout_file import Encoding
from penstock.rollouts.advising.plans import PULL_S_PER_BYTE, Link
from penstock.streams import Which

__all__ = ["PROBE_STREAM", "link_of", "measure_link"]

log = logging.getLogger(__name__)

PROBE_STREAM = "penstock-probe"
"""The stream that probes go through; nothing stays in it."""

_SIZES_BYTES = (64 << 10, 64 << 10, 512 << 10, 4 << 20, 16 << 20)
"""The first one opens connections and files, which later pushes need not."""
_RUNS = 3
"""Pushes and pulls of the largest size, where they take so little that noise counts."""
_LONG_ENOUGH_S = 0.1
_RAW = Encoding(codec="raw", rebuild_next=False)


def measure_link(client: RolloutClient, most_bytes: int) -> Link:
    """Push more and more until it takes long enough to tell, at most ``most_bytes`` at a time.

    The last one is pulled where pushes were fast. That tells what a trainer needs where the way
    hardly counts; elsewhere the trainer is taken to be at the other end of it.

    Raises:
        PenstockError: The target takes no rollouts.
    """
    producer = f"probe-{secrets.token_hex(8)}"
    times: list[tuple[int, float]] = []
    sequences: list[int] = []
    pull_s_per_byte = PULL_S_PER_BYTE
    sizes = [size for size in _SIZES_BYTES if size <= max(most_bytes, _SIZES_BYTES[2])]
    try:
        for iteration, size_bytes in enumerate(sizes + sizes[-1:] * (_RUNS - 1)):
            noise = np.frombuffer(secrets.token_bytes(size_bytes), np.uint8).reshape(8, 8, -1)
            begun_s = time.perf_counter()
            info = client.push(
                {"noise": noise}, PROBE_STREAM, iteration, producer=producer, encoding=_RAW
            )
            taken_s = time.perf_counter() - begun_s
            sequences.append(info.sequence)
            times.append((size_bytes, taken_s))
            if iteration > 1 and taken_s >= _LONG_ENOUGH_S:
                break
        else:
            pull_s_per_byte = min(pull_s_per_byte, _pull_s(client, sequences[-1]) / sizes[-1])
    finally:
        for sequence in sequences:
            _delete(client, sequence)
    return link_of(times[1:], pull_s_per_byte)


def link_of(times: Sequence[tuple[int, float]], pull_s_per_byte: float = PULL_S_PER_BYTE) -> Link:
    """The way's speed and latency by the smallest and the largest push: bytes and seconds.

    Of several that were as large the fastest counts: what else goes on only ever adds.
    """
    (small_bytes, small_s), (large_bytes, large_s) = min(times), min(times, key=_largest_fastest)
    if large_s <= small_s or large_bytes == small_bytes:
        return Link(large_bytes / max(large_s, 1e-9), 0.0, pull_s_per_byte)
    bytes_per_s = (large_bytes - small_bytes) / (large_s - small_s)
    latency_s = max(0.0, small_s - small_bytes / bytes_per_s)
    return Link(bytes_per_s, latency_s, pull_s_per_byte)


def _largest_fastest(push: tuple[int, float]) -> tuple[int, float]:
    size_bytes, taken_s = push
    return -size_bytes, taken_s


def _pull_s(client: RolloutClient, sequence: int) -> float:
    def pull() -> float:
        begun_s = time.perf_counter()
        client.pull(PROBE_STREAM, Which(sequence=sequence))
        return time.perf_counter() - begun_s

    return min(pull() for _ in range(_RUNS))


def _delete(client: RolloutClient, sequence: int) -> None:
    with suppress(NotFound):
        try:
            client.delete(PROBE_STREAM, sequence)
        except PenstockError as error:
            log.warning("rollout %s/%d was not deleted: %s", PROBE_STREAM, sequence, error)
            raise
