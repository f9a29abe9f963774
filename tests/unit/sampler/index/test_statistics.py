from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from penstock_sampler.index.statistics import RunningStatistics


@given(st.lists(st.integers(0, 30), min_size=1, max_size=6), st.integers(0, 1000))
def test_blocks_give_what_one_pass_over_all_rows_gives(sizes: list[int], seed: int) -> None:
    rng = np.random.default_rng(seed)
    blocks = [rng.normal(50.0, 3.0, (size, 3)).astype(np.float32) for size in sizes]
    rows = np.concatenate(blocks).astype(np.float64)
    running = RunningStatistics({"joint": 3})
    for block in blocks:
        running.add({"joint": block})
    found = running.moments["joint"].statistics()
    assert found.count == len(rows)
    if len(rows):
        np.testing.assert_allclose(found.mean, rows.mean(axis=0), rtol=1e-6)
        np.testing.assert_allclose(found.std, rows.std(axis=0), rtol=1e-5, atol=1e-6)
        np.testing.assert_array_equal(found.min, rows.min(axis=0).astype(np.float32))
        np.testing.assert_array_equal(found.max, rows.max(axis=0).astype(np.float32))


def test_a_small_spread_far_from_zero_keeps_its_digits() -> None:
    values = (1e6 + np.array([[0.0], [1.0], [2.0]])).astype(np.float32)
    running = RunningStatistics({"joint": 1})
    for row in values:
        running.add({"joint": row[None]})
    np.testing.assert_allclose(
        running.moments["joint"].statistics().std, [np.sqrt(2 / 3)], rtol=1e-6
    )


def test_rows_that_are_not_finite_are_left_out_of_their_column_and_counted() -> None:
    joint = np.array([[1.0, 2.0], [np.nan, 3.0], [5.0, np.inf], [3.0, 4.0]], np.float32)
    reward = np.array([[1.0], [2.0], [3.0], [4.0]], np.float32)
    running = RunningStatistics({"joint": 2, "reward": 1})
    running.add({"joint": joint, "reward": reward})
    assert (running.moments["joint"].count, running.left_out["joint"]) == (2, 2)
    assert running.moments["joint"].statistics().mean.tolist() == [2.0, 3.0]
    assert (running.moments["reward"].count, running.left_out["reward"]) == (4, 0)
    assert running.moments["reward"].statistics().mean.tolist() == [2.5]


def test_nothing_seen_gives_zeros() -> None:
    found = RunningStatistics({"joint": 2}).moments["joint"].statistics()
    assert (found.count, found.mean.tolist(), found.max.tolist()) == (0, [0.0, 0.0], [0.0, 0.0])
