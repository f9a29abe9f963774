"""Codecs on rollouts that are as regular as those which the wanted figures were measured on.

How small a rollout becomes is for its data to say more than for any codec. The wanted ratios come
from observations of 820 B a step of which LZ4 alone, in the natural layout, leaves 1 / 2.55. Here
the lidar of the example reaches so far that LZ4 alone leaves as much; with its own reach of 4 m,
which the table of all codecs uses, it sees more, and all ratios are lower.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Mapping

import lz4.block
import numpy as np
from navigation_ppo.collecting import collect_random
from worker import Leaves

from penstock.rollout_file import Decoder, Encoder, Encoding, flatten

__all__ = ["REACH_M", "time_calibrated"]

REACH_M = 3.1
_OBSERVATION = "observation/"
_WAYS = {
    "lz4": Encoding(rebuild_next=False),
    "zstd": Encoding(codec="zstd", rebuild_next=False),
    "next": Encoding(),
    "zstd_next": Encoding(codec="zstd"),
}


def time_calibrated(envs: int, steps: int, seed: int, turns: int) -> dict[str, dict[str, float]]:
    """Ratio and speed, by CPU seconds of one core, of each encoding.

    Args:
        envs: Environments.
        steps: Steps of each.
        seed: Of the rollout.
        turns: Of each encoding, besides one to warm up.

    Returns:
        By encoding: ratio, in_mb_s, out_mb_s; of ``natural_lz4`` the ratio alone. Encodings with
        ``next`` have the whole rollout, the others its observations.

    Raises:
        RuntimeError: What comes out is not what went in.
    """
    whole = flatten(collect_random(envs, steps, seed, reach_m=REACH_M))
    observations = {name: each for name, each in whole.items() if name.startswith(_OBSERVATION)}
    raw_bytes = _size(observations)
    natural = sum(len(lz4.block.compress(each)) for each in observations.values())
    found = {"natural_lz4": {"ratio": raw_bytes / natural}}
    times: dict[str, list[tuple[float, float]]] = {way: [] for way in _WAYS}
    for turn in range(turns + 1):
        for way, encoding in _WAYS.items():
            leaves = whole if way.endswith("next") else observations
            size_bytes, in_s, out_s = _once(leaves, encoding)
            if turn:
                times[way].append((in_s, out_s))
            found.setdefault(way, {})["ratio"] = _size(leaves) / size_bytes
    for way, taken in times.items():
        megabytes = _size(whole if way.endswith("next") else observations) / 1e6
        found[way]["in_mb_s"] = megabytes / statistics.median(each for each, _ in taken)
        found[way]["out_mb_s"] = megabytes / statistics.median(each for _, each in taken)
    return found


def _once(leaves: Leaves, encoding: Encoding) -> tuple[int, float, float]:
    begun_s = time.process_time()
    encoder = Encoder(leaves, encoding)
    pieces = [bytes(piece) for piece in encoder]
    in_s = time.process_time() - begun_s
    content = memoryview(b"".join(pieces))
    index = encoder.index
    begun_s = time.process_time()
    decoder = Decoder(index)
    for begin, size in index.ranges():
        for at in range(begin, begin + size, 1 << 20):
            decoder.feed(at, content[at : min(at + (1 << 20), begin + size)])
    decoded = decoder.finish()
    out_s = time.process_time() - begun_s
    if not _same(leaves, decoded):
        raise RuntimeError(f"{encoding}: what comes out is not what went in")
    return len(content), in_s, out_s


def _same(one: Mapping[str, np.ndarray], other: Mapping[str, np.ndarray]) -> bool:
    return one.keys() == other.keys() and all(
        one[name].tobytes() == other[name].tobytes() for name in one
    )


def _size(leaves: Mapping[str, np.ndarray]) -> int:
    return sum(array.nbytes for array in leaves.values())
