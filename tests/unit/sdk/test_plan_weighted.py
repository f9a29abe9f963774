import threading
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from unit.sdk.episode_tables import episode_table, read_only

from penstock.errors import InvalidInput
from penstock.plan import Plan
from penstock.plan_view import PlanView
from penstock.weights import Priorities


def weighted(table, weights, **settings):
    plan = Plan(**{"batch_size": 500, "split": "all", "sampling": "weighted"} | settings)
    return PlanView(plan, table, weights=weights)


def drawn(view, steps):
    return np.concatenate([view.transition_ids(step) for step in range(steps)])


def test_draws_are_in_proportion_to_the_weights():
    """Episodes of 1 to 2000 transitions, so that some have several segments."""
    rng = np.random.default_rng(2)
    lengths = [1, 40, 2000, 513, 512, 7]
    weights = (rng.random(sum(lengths)) ** 6).astype(np.float32)
    view = weighted(episode_table(lengths), read_only(weights), batch_size=50_000)
    counts = np.bincount(drawn(view, 4), minlength=sum(lengths))
    expected = weights.astype(float) / weights.sum(dtype=float) * 200_000
    # Transitions that are expected less than 20 times are looked at together.
    rare = expected < 20
    observed = np.append(counts[~rare], counts[rare].sum())
    wanted = np.append(expected[~rare], expected[rare].sum())
    degrees = len(wanted) - 1
    chi_square = float(((observed - wanted) ** 2 / wanted).sum())
    assert chi_square < degrees + 4 * (2 * degrees) ** 0.5


@given(
    lengths=st.lists(st.integers(0, 5), min_size=1, max_size=12).filter(lambda x: sum(x) > 0),
    seed=st.integers(0, 2**63 - 1),
    data=st.data(),
)
def test_a_draw_is_where_exact_arithmetic_puts_it(lengths, seed, data):
    """Weights of few bits sum without rounding, so fractions say what each word must give."""
    total = sum(lengths)
    values = data.draw(st.lists(st.integers(0, 15), min_size=total, max_size=total))
    if not any(values):
        values[0] = 1
    view = weighted(episode_table(lengths), read_only(values), batch_size=8, seed=seed)
    ends = np.cumsum(lengths)
    episodes = [(int(end - length), int(end)) for end, length in zip(ends, lengths, strict=True)]
    for step in (0, 5):
        which = np.random.Philox(key=seed, counter=[0, step, 0, 0]).random_raw(8).tolist()
        within = np.random.Philox(key=seed, counter=[0, step, 0, 3]).random_raw(8).tolist()
        expected = []
        for first_word, second_word in zip(which, within, strict=True):
            sums = [sum(values[begin:end]) for begin, end in episodes]
            episode = exact_pick(sums, first_word)
            begin, end = episodes[episode]
            expected.append(begin + exact_pick(values[begin:end], second_word))
        assert view.transition_ids(step).tolist() == expected


def exact_pick(weights, word):
    target, running = Fraction(word >> 11, 2**53) * sum(weights), Fraction(0)
    for place, weight in enumerate(weights):
        running += weight
        if running > target:
            return place
    raise AssertionError(weights)


@given(st.lists(st.sampled_from([0.0, 1e-30, 1.0, 3e38]), min_size=1, max_size=1200), st.data())
def test_what_weighs_nothing_is_never_drawn(values, data):
    """Neither beside weights that round every other away, nor at the ends of segments."""
    values[data.draw(st.integers(0, len(values) - 1))] = 1.0
    view = weighted(episode_table([len(values)]), read_only(values), batch_size=50)
    ids = view.transition_ids(0)
    assert (np.array(values, np.float32)[ids] > 0).all()


def test_the_same_draws_whatever_else_is_drawn_with_them():
    """Sums that depended on the batch would let ranks and machines differ in the last bit."""
    rng = np.random.default_rng(3)
    table, weights = episode_table([3000, 5, 900]), read_only(rng.random(3905))
    large = weighted(table, weights, batch_size=64).transition_ids(9)
    small = weighted(table, weights, batch_size=3).transition_ids(9)
    assert small.tolist() == large[:3].tolist()


def test_only_the_weights_of_the_split_count():
    table = episode_table([4, 4], [0, 2**64 - 1])
    weights = read_only([0, 1, 0, 0, 9, 9, 9, 9])
    assert set(drawn(weighted(table, weights, split="train"), 2)) == {1}


def test_known_weighted_draws_stay_as_they_are_for_ever():
    weights = read_only(np.arange(1000) % 17)
    view = weighted(episode_table([300, 700]), weights, seed=7, batch_size=6)
    assert view.transition_ids(3).tolist() == KNOWN_WEIGHTED


KNOWN_WEIGHTED = [465, 64, 900, 729, 808, 264]


@pytest.mark.parametrize(
    ("value", "shown"), [(-1.0, "-1.0"), (float("nan"), "nan"), (float("inf"), "inf")]
)
def test_a_value_that_is_no_weight_is_named_with_its_transition(value, shown):
    weights = np.ones(9, np.float32)
    weights[6] = value
    with pytest.raises(InvalidInput, match=f"weight {shown} of transition 6: expected a finite"):
        weighted(episode_table([4, 5]), read_only(weights))


def test_weights_that_are_all_zero_are_refused():
    with pytest.raises(InvalidInput, match="weights of split 'all' are all zero"):
        weighted(episode_table([4, 5]), read_only(np.zeros(9)))


def test_weights_that_are_no_numbers_are_refused():
    with pytest.raises(
        InvalidInput, match=r"weights have shape \(0,\) and dtype <U1: expected one"
    ):
        weighted(episode_table([2]), ["a", "b"])
    with pytest.raises(InvalidInput, match=r"shape \(0, 1\)"):
        weighted(episode_table([2]), [[1.0], [2.0]])


def test_a_wrong_number_of_weights_is_refused():
    with pytest.raises(InvalidInput, match="8 weights are given, the dataset has 9 transitions"):
        weighted(episode_table([4, 5]), read_only(np.ones(8)))


def test_a_weighted_plan_without_weights_is_refused():
    with pytest.raises(InvalidInput, match="no weights are given") as caught:
        weighted(episode_table([4, 5]), None)
    assert caught.value.field == "plan.weight_column"


def test_weights_for_a_plan_that_is_not_weighted_are_refused():
    with pytest.raises(InvalidInput, match=r"plan\.sampling is 'uniform': use 'weighted'"):
        weighted(episode_table([4, 5]), read_only(np.ones(9)), sampling="uniform")


def test_an_array_that_training_changes_counts_from_the_next_step():
    weights = np.ones(40)
    view = weighted(episode_table([20, 20]), weights)
    assert len(set(view.transition_ids(0).tolist())) == 40
    weights[:] = 0
    weights[33] = 2
    assert set(view.transition_ids(1).tolist()) == {33}
    weights[:] = 0
    with pytest.raises(InvalidInput, match="all zero"):
        view.transition_ids(2)
    weights[5] = -3
    with pytest.raises(InvalidInput, match=r"weight -3\.0 of transition 5"):
        view.transition_ids(2)


def test_updated_priorities_draw_as_if_they_had_always_been_so():
    rng = np.random.default_rng(4)
    lengths = [900, 3, 40, 1300]
    table, total = episode_table(lengths), sum(lengths)
    values = rng.random(total).astype(np.float32)
    priorities = Priorities(values)
    view = weighted(table, priorities)
    for step in range(5):
        ids = rng.integers(0, total, 70)
        new = rng.random(70).astype(np.float32)
        priorities.update(ids, new)
        for place, value in zip(ids, new, strict=True):
            values[place] = value
        fresh = weighted(table, read_only(values))
        assert view.transition_ids(step).tolist() == fresh.transition_ids(step).tolist()
    assert priorities.values.tolist() == values.tolist()


def test_a_view_that_missed_many_updates_catches_up():
    table = episode_table([30, 30])
    priorities = Priorities(np.ones(60))
    view = weighted(table, priorities)
    for place in range(59):
        priorities.update([place], 0.0)
        priorities.update([59], 5.0)
    assert set(view.transition_ids(0).tolist()) == {59}


def test_updates_outside_the_split_change_nothing():
    table = episode_table([4, 4, 4], [0, 2**64 - 1, 0])
    priorities = Priorities(np.ones(12))
    view = weighted(table, priorities, split="train")
    before = view.transition_ids(0).tolist()
    priorities.update([4, 7], 1000.0)
    assert view.transition_ids(0).tolist() == before


def test_bad_updates_leave_priorities_as_they_were():
    priorities = Priorities([1.0, 2.0, 3.0])
    with pytest.raises(InvalidInput, match="transition id 3: ids go from 0 to 2"):
        priorities.update([0, 3], [9.0, 9.0])
    with pytest.raises(InvalidInput, match="weight nan of transition 2"):
        priorities.update([0, 2], [9.0, float("nan")])
    with pytest.raises(InvalidInput, match="weight inf of transition 0"):
        priorities.update([0], 1e300)
    with pytest.raises(InvalidInput, match=r"weight -1\.0 of transition 1"):
        Priorities([0.0, -1.0])
    with pytest.raises(InvalidInput, match=r"shape \(1, 2\)"):
        Priorities([[0.0, 1.0]])
    assert priorities.values.tolist() == [1.0, 2.0, 3.0]
    with pytest.raises(ValueError, match="read-only"):
        priorities.values[0] = 1


def test_drawing_while_weights_change_draws_only_what_has_weight():
    """Even ids weigh something throughout, odd ones never; the others switch on and off."""
    table = episode_table([600, 600])
    values = np.zeros(1200)
    values[::2] = 1.0
    priorities = Priorities(values)
    view = weighted(table, priorities, batch_size=64)
    stop = threading.Event()

    def train():
        rng = np.random.default_rng(5)
        while not stop.is_set():
            priorities.update(rng.integers(0, 600, 50) * 2, rng.random(50) + 0.1)

    trainer = threading.Thread(target=train)
    trainer.start()
    try:
        ids = drawn(view, 100)
    finally:
        stop.set()
        trainer.join()
    assert (ids % 2 == 0).all()
