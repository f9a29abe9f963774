"""What encoding and decoding a rollout take, measured on a part of its environments."""

from __future__ import annotations

import io
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from penstock.rollout_file import Encoder, Encoding, Index, read
from penstock.rollouts.advising.plans import Cost, Group, Way

__all__ = ["WAYS", "measure", "sample", "with_way"]

WAYS: Mapping[Way, Encoding] = {
    "plain": Encoding(codec="raw", rebuild_next=False),
    "raw": Encoding(codec="raw"),
    "lz4": Encoding(),
    "zstd": Encoding(codec="zstd"),
}

_BLOCK_ENVS = 8
"""As many as a segment has at least, so that a sample is cut as the rollout is."""
_RUNS = 3

Leaves = Mapping[str, NDArray[Any]]


def sample(leaves: Leaves, envs: int) -> tuple[dict[str, NDArray[Any]], float]:
    """Some environments of a rollout, in blocks spread over all of it.

    Returns:
        A copy of them, and how many times as large the rollout is.
    """
    present = next(iter(leaves.values())).shape[0]
    if present <= envs:
        return dict(leaves), 1.0
    blocks = max(1, envs // _BLOCK_ENVS)
    first = np.linspace(0, present - _BLOCK_ENVS, blocks).astype(np.int64)
    chosen = np.unique((first[:, None] + np.arange(_BLOCK_ENVS)).clip(0, present - 1))
    return {path: leaf[chosen] for path, leaf in leaves.items()}, present / len(chosen)


def measure(leaves: Leaves, scale: float, ways: Sequence[Way]) -> list[Group]:
    """Measure each field of a sample, with those that are rebuilt from it.

    Args:
        leaves: The sample.
        scale: How many times as large the rollout is.
        ways: How to store the fields.
    """
    groups: list[Group] = []
    for fields in _grouped(leaves):
        part = {path: leaves[path] for path in fields}
        raw_bytes = int(scale * sum(leaf.nbytes for leaf in part.values()))
        costs: dict[Way, Cost] = {way: _cost(part, WAYS[way], scale) for way in ways}
        if len(fields) == 1 and "plain" in costs:
            # The same, measured twice: the difference is noise.
            costs["raw"] = costs["plain"]
        groups.append(Group(fields, raw_bytes, costs))
    return groups


def with_way(groups: Sequence[Group], leaves: Leaves, scale: float, way: Way) -> list[Group]:
    """The same groups with one more way measured."""
    return [
        replace(
            group,
            costs={
                **group.costs,
                way: _cost({path: leaves[path] for path in group.fields}, WAYS[way], scale),
            },
        )
        for group in groups
    ]


def _grouped(leaves: Leaves) -> list[tuple[str, ...]]:
    index, _ = _encode(leaves, WAYS["raw"])
    groups: dict[str, list[str]] = {}
    for field in index.fields:
        groups.setdefault(field.next_of or field.name, []).append(field.name)
    return [tuple(names) for names in groups.values()]


def _cost(leaves: Leaves, encoding: Encoding, scale: float) -> Cost:
    """What the whole rollout costs, by what more environments cost more.

    A file takes some time however little it holds. That is paid once a rollout, not once a field
    and again for each sample that would fit into it: the latency of the link has it, for that is
    told by pushes of whole files.
    """
    envs = next(iter(leaves.values())).shape[0]
    whole = _timed(leaves, encoding)
    if envs <= _BLOCK_ENVS:
        return Cost(*(scale * each for each in whole))
    least = _timed({path: leaf[:_BLOCK_ENVS] for path, leaf in leaves.items()}, encoding)
    share = scale * envs / (envs - _BLOCK_ENVS)
    return Cost(*(share * max(0.0, more - less) for more, less in zip(whole, least, strict=True)))


def _timed(leaves: Leaves, encoding: Encoding) -> tuple[float, float, float]:
    """Bytes, seconds to encode and seconds to decode, the shortest of a few runs."""
    size_bytes, encode_s, decode_s = 0, float("inf"), float("inf")
    for _ in range(_RUNS):
        begun_s = time.perf_counter()
        _, data = _encode(leaves, encoding)
        encoded_s = time.perf_counter()
        read(io.BytesIO(data))
        encode_s = min(encode_s, encoded_s - begun_s)
        decode_s = min(decode_s, time.perf_counter() - encoded_s)
        size_bytes = len(data)
    return size_bytes, encode_s, decode_s


def _encode(leaves: Leaves, encoding: Encoding) -> tuple[Index, bytes]:
    encoder = Encoder(dict(leaves), encoding)
    data = b"".join(encoder)
    return encoder.index, data
