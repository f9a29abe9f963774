"""What a step costs, counted: comparisons and bytes instead of seconds."""

import tracemalloc

import numpy as np
import pytest
from unit.sdk.episode_tables import episode_table, read_only

from penstock.plan import Plan
from penstock.plan_view import PlanView
from penstock.weights import Priorities

BATCH = 64


class Counted(float):
    """A number that counts how often it is compared."""

    comparisons = 0

    def __lt__(self, other):
        Counted.comparisons += 1
        return float(self) < float(other)

    def __le__(self, other):
        Counted.comparisons += 1
        return float(self) <= float(other)


def counted_search(monkeypatch):
    """Have searches compare counted numbers; what they find stays the same."""
    searched = []
    plain = np.searchsorted

    def search(values, keys, side="left", sorter=None):
        searched.append(len(values))
        if sorter is not None:
            return plain(values, keys, side=side, sorter=sorter)
        found = plain(values, keys, side=side)
        objects = np.array([Counted(key) for key in np.atleast_1d(keys)], object)
        again = plain(values.astype(object), objects, side=side)
        assert (again == np.atleast_1d(found)).all()
        return found

    monkeypatch.setattr(np, "searchsorted", search)
    return searched


@pytest.mark.parametrize("sampling", ["uniform", "epoch", "weighted"])
def test_a_draw_compares_as_often_as_episodes_have_bits(monkeypatch, sampling):
    """2**16 episodes: a draw may double its comparisons over 2**8, not multiply them by 256."""
    comparisons = {}
    for bits in (8, 16):
        weights = read_only(np.ones(2 * 2**bits)) if sampling == "weighted" else None
        plan = Plan(batch_size=BATCH, split="all", sampling=sampling, window=3)
        view = PlanView(plan, episode_table([2] * 2**bits), weights=weights)
        with monkeypatch.context() as patch:
            searched = counted_search(patch)
            Counted.comparisons = 0
            view.draw(5)
        comparisons[bits] = Counted.comparisons / BATCH
        assert max(searched) == 2**bits
        # One search among episodes; by weights another two, one of them in two transitions.
        assert comparisons[bits] <= (2 * bits + 8 if sampling == "weighted" else bits + 2)
    assert comparisons[16] > comparisons[8]


@pytest.mark.parametrize("sampling", ["uniform", "epoch", "weighted"])
def test_a_step_allocates_the_same_for_few_and_for_many_episodes(sampling):
    peaks = []
    for episodes in (300, 300_000):
        weights = read_only(np.ones(4 * episodes)) if sampling == "weighted" else None
        plan = Plan(batch_size=BATCH, split="all", sampling=sampling, window=4)
        view = PlanView(plan, episode_table([4] * episodes), weights=weights)
        view.draw(0)
        tracemalloc.start()
        view.draw(1)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < peaks[0] + 4096


def test_a_changed_priority_is_summed_alone(monkeypatch):
    """Of 3 million transitions, an update of two looks at their two segments."""
    rng = np.random.default_rng(6)
    priorities = Priorities(np.ones(3_000_000))
    view = PlanView(
        Plan(batch_size=BATCH, sampling="weighted", split="all"),
        episode_table([300] * 10_000),
        weights=priorities,
    )
    priorities.update(rng.integers(0, 3_000_000, 2), 2.0)
    summed = []
    plain = np.bincount

    def count(number, weights=None, minlength=0):
        summed.append(len(number))
        return plain(number, weights, minlength=minlength)

    monkeypatch.setattr(np, "bincount", count)
    view.draw(0)
    view.draw(1)
    assert 300 <= sum(summed) <= 600


def test_a_view_of_a_million_episodes_is_a_few_arrays():
    """100 million transitions: two arrays of 8 bytes an episode, and no object for any."""
    table = episode_table(np.full(1_000_000, 100))
    tracemalloc.start()
    view = PlanView(Plan(batch_size=BATCH, sampling="epoch"), table)
    kept = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    assert 0.85e8 < view.transitions < 0.95e8
    assert kept < 17 * view.episodes + 100_000
