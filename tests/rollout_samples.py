"""Small rollouts for tests, each different from all others, and what they look like on the wire."""

from __future__ import annotations

import secrets
from dataclasses import dataclass

import numpy as np

from penstock.chunks import Digest
from penstock.rollout_file import Encoder, Encoding
from penstock.streams import PushRequest

__all__ = ["File", "file_of", "push_into", "request_of", "rollout_of"]

ENVS, STEPS = 16, 4


def rollout_of(seed, envs=ENVS, steps=STEPS, width=3):
    """A nested rollout of noise."""
    dice = np.random.default_rng(seed)
    return {
        "observation": {
            "state": dice.normal(size=(envs, steps, width)).astype(np.float32),
            "step": dice.integers(0, 1000, (envs, steps), np.int64),
        },
        "reward": dice.normal(size=(envs, steps)).astype(np.float32),
        "done": dice.random((envs, steps)) < 0.1,
    }


@dataclass(frozen=True)
class File:
    """The file of a rollout."""

    data: bytes
    digest: Digest
    raw_size_bytes: int


def file_of(seed, codec="raw", **shape):
    """What an encoder makes of ``rollout_of(seed)``."""
    encoder = Encoder(rollout_of(seed, **shape), Encoding(codec=codec))
    data = b"".join(bytes(buffer) for buffer in encoder)
    return File(data, encoder.digest, encoder.raw_size_bytes)


def request_of(iteration, stream="s", producer="main", policy_version=0, push_id=None):
    """A push of that iteration."""
    return PushRequest(
        stream=stream,
        producer=producer,
        iteration=iteration,
        policy_version=policy_version,
        push_id=push_id or secrets.token_hex(16),
    )


def push_into(store, iteration, *, seed=None, piece=1000, **names):
    """Push a rollout in pieces; the seed is the iteration if it is not given."""
    request, file = request_of(iteration, **names), file_of(iteration if seed is None else seed)
    store.begin(request, 0)
    for start in range(0, len(file.data), piece):
        store.append(request.push_id, start, file.data[start : start + piece])
    return store.commit(request.push_id, file.digest)
