"""What a sample of a rollout says of the whole."""

import numpy as np
import pytest

from penstock.rollouts.advising import costs


@pytest.fixture
def timed(monkeypatch):
    """A clock by which a file takes 3 s to encode and 2 s to decode, and each environment more."""

    def by_envs(leaves, encoding):
        envs = len(next(iter(leaves.values())))
        return 100 + 10 * envs, 3 + 0.5 * envs, 2 + 0.25 * envs

    monkeypatch.setattr(costs, "_timed", by_envs)


def test_what_a_file_takes_however_small_is_not_counted_for_each_sample_that_fits(timed):
    (group,) = costs.measure({"x": np.zeros((64, 4), np.float32)}, 16.0, ("plain",))
    cost = group.costs["plain"]
    assert (cost.size_bytes, cost.encode_s, cost.decode_s) == pytest.approx((10_240, 512, 256))


def test_a_sample_too_small_to_tell_is_taken_as_it_is(timed):
    (group,) = costs.measure({"x": np.zeros((8, 4), np.float32)}, 2.0, ("plain",))
    cost = group.costs["plain"]
    assert (cost.size_bytes, cost.encode_s, cost.decode_s) == pytest.approx((360, 14, 8))
