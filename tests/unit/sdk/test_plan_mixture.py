import numpy as np
import pytest
from unit.sdk.episode_tables import episode_table, files, read_only

from penstock.errors import InvalidInput
from penstock.plan import Plan
from penstock.plan_view import PlanView

FILES = files("other/x.hdf5", "real/a.hdf5", "real/b.hdf5", "sim/deep/c.hdf5", "sim/d.hdf5")
# Two episodes a file, 10 transitions each: file f has the ids 20 f to 20 f + 19.
TABLE = episode_table([10] * 10, file=np.repeat(range(5), 2))
MIXTURE = (("sim/*", 1.0), ("real/*", 3.0))


def drawn(view, steps):
    return np.concatenate([view.transition_ids(step) for step in range(steps)])


def chi_square(observed, expected):
    observed, expected = np.asarray(observed, float), np.asarray(expected, float)
    return float(((observed - expected) ** 2 / expected).sum())


def test_parts_come_in_their_shares_and_evenly_within():
    plan = Plan(seed=1, batch_size=1000, split="all", mixture=MIXTURE)
    counts = np.bincount(drawn(PlanView(plan, TABLE, files=FILES), 40), minlength=100)
    assert counts[:20].sum() == 0
    # 40 000 draws: 3/4 over the 40 transitions of real, 1/4 over those of sim.
    assert chi_square([counts[20:60].sum(), counts[60:].sum()], [30_000, 10_000]) < 10.8
    # 39 degrees of freedom: above 73 once in a thousand seeds.
    assert chi_square(counts[20:60], [counts[20:60].sum() / 40] * 40) < 73
    assert chi_square(counts[60:], [counts[60:].sum() / 40] * 40) < 73


def test_a_file_belongs_to_the_first_part_that_matches_it():
    parts = (("sim/deep/*", 1.0), ("sim/*", 1.0), ("*", 2.0))
    view = PlanView(Plan(seed=1, batch_size=2000, split="all", mixture=parts), TABLE, files=FILES)
    counts = np.bincount(drawn(view, 10) // 20, minlength=5)
    assert chi_square(counts, [10_000 / 3, 10_000 / 3, 10_000 / 3, 5000, 5000]) < 18.5
    assert not any("match no part" in remark for remark in view.remarks)


def test_files_of_no_part_are_left_out_and_named():
    view = PlanView(Plan(split="all", batch_size=4, mixture=MIXTURE), TABLE, files=FILES)
    assert view.transitions == 80
    assert view.remarks == (
        "1 of 5 files match no part of the mixture and are left out, the first is other/x.hdf5",
    )


def test_a_part_without_transitions_is_named():
    plan = Plan(split="all", batch_size=4, mixture=(("real/*", 1.0), ("lab/*", 1.0)))
    with pytest.raises(InvalidInput, match=r"part 'lab/\*' has no transitions.*0 of 5") as caught:
        PlanView(plan, TABLE, files=FILES)
    assert caught.value.field == "plan.mixture"


def test_a_part_that_the_split_empties_is_named():
    """All of sim is in train, so a held-out mixture has nothing to draw from there."""
    table = episode_table([10] * 10, [2**64 - 1] * 6 + [0] * 4, np.repeat(range(5), 2))
    with pytest.raises(InvalidInput, match=r"part 'sim/\*' .* in split 'val' \(2 of 5"):
        PlanView(Plan(split="val", batch_size=4, mixture=MIXTURE), table, files=FILES)


def test_a_mixture_without_the_files_says_what_it_needs():
    with pytest.raises(InvalidInput, match="needs the dataset's files: 0 are given"):
        PlanView(Plan(split="all", mixture=MIXTURE), TABLE)


def test_windows_of_a_mixture_stay_in_their_episode():
    plan = Plan(seed=5, batch_size=50, split="all", mixture=MIXTURE, window=7)
    draw = PlanView(plan, TABLE, files=FILES).draw(3)
    ids, mask = draw.transition_ids.reshape(50, 7), draw.mask.reshape(50, 7)
    for row in range(50):
        first = ids[row, 0]
        last = first // 10 * 10 + 9
        assert ids[row].tolist() == [min(first + k, last) for k in range(7)]
        assert mask[row].tolist() == [first + k <= last for k in range(7)]


def test_weights_decide_within_a_part_and_shares_between_them():
    weights = np.zeros(100)
    weights[[25, 45, 70, 71]] = [1, 3, 500, 500]
    plan = Plan(seed=2, batch_size=4000, split="all", sampling="weighted", mixture=MIXTURE)
    view = PlanView(plan, TABLE, files=FILES, weights=read_only(weights))
    counts = np.bincount(drawn(view, 4), minlength=100)
    assert set(np.flatnonzero(counts)) == {25, 45, 70, 71}
    # 16 000 draws, 3/4 of them in real, 3 degrees of freedom.
    assert chi_square(counts[[25, 45, 70, 71]], [3000, 9000, 2000, 2000]) < 16.3


def test_a_part_whose_weights_are_zero_is_named():
    weights = np.zeros(100)
    weights[25] = 1.0
    plan = Plan(split="all", sampling="weighted", mixture=MIXTURE)
    with pytest.raises(InvalidInput, match=r"weights of part 'sim/\*' are all zero"):
        PlanView(plan, TABLE, files=FILES, weights=read_only(weights))


def test_equal_shares_however_they_are_scaled_give_equal_draws():
    one = Plan(seed=3, batch_size=64, split="all", mixture=(("sim/*", 0.25), ("real/*", 0.75)))
    other = Plan(seed=3, batch_size=64, split="all", mixture=(("sim/*", 1.0), ("real/*", 3.0)))
    first, second = (PlanView(plan, TABLE, files=FILES) for plan in (one, other))
    assert drawn(first, 3).tolist() == drawn(second, 3).tolist()


def test_known_draws_of_a_mixture_stay_as_they_are_for_ever():
    """Worked out by hand from the two streams of words and the order of the parts."""
    plan = Plan(seed=11, batch_size=6, split="all", mixture=MIXTURE, rank=1, world=2)
    block = 4 * 2 + 1
    place = np.random.Philox(key=11, counter=[0, block, 0, 0]).random_raw(6)
    part = np.random.Philox(key=11, counter=[0, block, 0, 2]).random_raw(6)
    expected = []
    for where, which in zip(place.tolist(), part.tolist(), strict=True):
        begin = 60 if (which >> 11) * 4 < 2**53 else 20
        expected.append(begin + ((where * 40) >> 64))
    assert PlanView(plan, TABLE, files=FILES).transition_ids(4).tolist() == expected
