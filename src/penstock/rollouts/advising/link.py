"""How fast rollouts go to a target: a few pushes of noise, deleted again."""

from __future__ import annotations

import logging
import secrets
import time
from contextlib import suppress

import numpy as np

from penstock.client.rollout import RolloutClient
from penstock.errors import NotFound, PenstockError
from penstock.rollout_file import Encoding
from penstock.rollouts.advising.plans import Link

__all__ = ["PROBE_STREAM", "link_of", "measure_link"]

log = logging.getLogger(__name__)

PROBE_STREAM = "penstock-probe"
"""The stream that probes go through; nothing stays in it."""

_SIZES_BYTES = (64 << 10, 64 << 10, 512 << 10, 4 << 20, 16 << 20)
"""The first one opens connections and files, which later pushes need not."""
_LONG_ENOUGH_S = 0.1
_RAW = Encoding(codec="raw", rebuild_next=False)


def measure_link(client: RolloutClient, most_bytes: int) -> Link:
    """Push more and more until it takes long enough to tell, at most ``most_bytes`` at a time.

    Raises:
        PenstockError: The target takes no rollouts.
    """
    producer = f"probe-{secrets.token_hex(8)}"
    times: list[tuple[int, float]] = []
    sequences: list[int] = []
    try:
        for iteration, size_bytes in enumerate(_SIZES_BYTES):
            if iteration > 1 and size_bytes > max(most_bytes, _SIZES_BYTES[2]):
                break
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
    finally:
        for sequence in sequences:
            _delete(client, sequence)
    return link_of(times[1:])


def link_of(times: list[tuple[int, float]]) -> Link:
    """The way's speed and latency by the smallest and the largest push: bytes and seconds."""
    (small_bytes, small_s), (large_bytes, large_s) = times[0], times[-1]
    if large_s <= small_s or large_bytes == small_bytes:
        return Link(large_bytes / max(large_s, 1e-9), 0.0)
    bytes_per_s = (large_bytes - small_bytes) / (large_s - small_s)
    return Link(bytes_per_s, max(0.0, small_s - small_bytes / bytes_per_s))


def _delete(client: RolloutClient, sequence: int) -> None:
    with suppress(NotFound):
        try:
            client.delete(PROBE_STREAM, sequence)
        except PenstockError as error:
            log.warning("rollout %s/%d was not deleted: %s", PROBE_STREAM, sequence, error)
            raise
