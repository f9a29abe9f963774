"""Rollouts of all kinds to encode."""

import numpy as np

from penstock.rollout_file import Encoder
from penstock.rollout_file.leaves import DTYPES

KINDS = ("noise", "smooth", "still", "again", "odd")
"""What numbers are like; ``odd`` are bit patterns that arithmetic would not keep."""


def numbers(rng, kind, dtype, shape):
    """Numbers ``[env, time, ...]`` of a kind, of any dtype."""
    dtype = DTYPES[dtype]
    count = int(np.prod(shape))
    if kind == "noise":
        raw = rng.integers(0, 256, count * dtype.itemsize, np.uint8).view(dtype)
    elif kind == "odd":
        chosen = rng.integers(0, 256, (4, dtype.itemsize), np.uint8)
        chosen[1:3] = (0, 255)[rng.integers(2)]
        chosen[2, -1] = 0x7F
        raw = chosen[rng.integers(0, 4, count)].reshape(-1).view(dtype)
    else:
        rough = rng.normal(0, 3, shape)
        if kind == "still":
            rough[rng.random(shape) < 0.9] = 0
        values = np.cumsum(rough, axis=1)
        if kind == "again" and values.ndim > 2 and values.shape[-1] > 1:
            values[..., 1:] = np.where(
                rng.random(values[..., 1:].shape) < 0.8, values[..., :-1], values[..., 1:]
            )
        raw = (values * 10).astype(np.int64).astype(dtype) if dtype.kind in "iub" else values
    if dtype.kind == "b":
        raw = raw.view(np.uint8) & 1
    return np.ascontiguousarray(raw).astype(dtype, copy=False).reshape(shape)


def encoded(leaves, encoding=None, **options):
    """The bytes of a file, and its encoder."""
    encoder = Encoder(leaves, encoding, **options)
    return b"".join(encoder), encoder


def same_bytes(found, expected):
    """Whether arrays are the same to the bit, dtype and shape included."""
    return (
        found.dtype == expected.dtype
        and found.shape == expected.shape
        and found.tobytes() == np.ascontiguousarray(expected).tobytes()
    )
