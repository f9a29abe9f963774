"""Collectors for tests: what they yield is known, and how they treat their buffers."""

from __future__ import annotations

import numpy as np

__all__ = ["ENVS", "STEPS", "Fresh", "Reusing", "rollout_of", "same"]

ENVS, STEPS = 16, 4


def rollout_of(number):
    """The rollout of an iteration; every transition of every iteration differs from all others."""
    transition = np.arange(ENVS * STEPS).reshape(ENVS, STEPS) + 1000 * number
    return {
        "observation": {"state": np.repeat(transition[..., None], 3, 2).astype(np.float32)},
        "reward": transition.astype(np.float64) / 3,
        "done": transition % 7 == 0,
        "id": transition.astype(np.int64),
    }


def same(found, expected):
    """Whether two nested rollouts are equal in names, dtypes and every bit."""
    if isinstance(expected, dict):
        return found.keys() == expected.keys() and all(
            same(found[key], expected[key]) for key in expected
        )
    found, expected = np.asarray(found), np.asarray(expected)
    return (
        found.dtype == expected.dtype
        and found.shape == expected.shape
        and found.tobytes() == expected.tobytes()
    )


class Fresh:
    """Yields a new rollout each time."""

    def __init__(self, count=3, convert=lambda data: data):
        self.count, self._convert = count, convert
        self.collected = 0
        self.seeds = []
        self.weights = []
        self.is_shut_down = False

    def __iter__(self):
        for _ in range(self.count):
            data = rollout_of(self.collected)
            self.collected += 1
            yield self._convert(data)

    def set_seed(self, seed):
        self.seeds.append(seed)
        return seed + 1

    def state_dict(self):
        return {"collected": self.collected}

    def update_policy_weights_(self, weights=None):
        self.weights.append(weights)

    def shutdown(self):
        self.is_shut_down = True


class Reusing(Fresh):
    """Yields the same buffers each time, and spoils them before it fills them again."""

    def __init__(self, count=3, convert=lambda data: data):
        super().__init__(count, convert)
        self.buffer = self._convert(rollout_of(0))

    def __iter__(self):
        for _ in range(self.count):
            _fill(self.buffer, self._convert(rollout_of(self.collected)))
            self.collected += 1
            yield self.buffer
            _spoil(self.buffer)


def _fill(buffer, data):
    for key, value in data.items():
        if isinstance(value, dict):
            _fill(buffer[key], value)
        else:
            buffer[key][...] = value


def _spoil(buffer):
    for value in buffer.values():
        if isinstance(value, dict):
            _spoil(value)
        else:
            value[...] = 1
