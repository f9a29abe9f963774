import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.dataset import EpisodeTable
from penstock.errors import InvalidInput
from penstock.plan import Plan
from penstock.plan_view import PlanView


def episode_table(lengths, keys=None):
    count = len(lengths)
    if keys is None:
        keys = np.random.default_rng(1).integers(0, 2**64, count, dtype=np.uint64)
    return EpisodeTable(
        file=np.zeros(count, np.int32),
        first_row=np.concatenate([[0], np.cumsum(lengths)])[:count].astype(np.int64),
        length=np.array(lengths, np.int32),
        outcome=np.zeros(count, np.uint8),
        split_key=np.array(keys, np.uint64),
    )


def ids_of(plan, table, steps):
    view = PlanView(plan, table)
    return np.concatenate([view.transition_ids(step) for step in range(steps)])


@given(
    lengths=st.lists(st.integers(0, 9), min_size=1, max_size=30).filter(lambda x: sum(x) >= 1),
    batch_size=st.integers(1, 7),
    seed=st.integers(0, 2**63 - 1),
)
def test_an_epoch_gives_every_transition_exactly_once(lengths, batch_size, seed):
    total = sum(lengths)
    batch_size = min(batch_size, total)
    plan = Plan(seed=seed, batch_size=batch_size, split="all", sampling="epoch")
    ids = ids_of(plan, episode_table(lengths), 2 * -(-total // batch_size) + 2)
    assert sorted(ids[:total]) == list(range(total))
    assert sorted(ids[total : 2 * total]) == list(range(total))


def test_epochs_differ_in_order():
    plan = Plan(batch_size=100, split="all", sampling="epoch")
    ids = ids_of(plan, episode_table([100]), 2)
    assert ids[:100].tolist() != ids[100:].tolist()
    assert ids[:100].tolist() != list(range(100))


def test_ranks_share_an_epoch_without_overlap():
    table = episode_table([12, 20, 16])
    plans = [
        Plan(batch_size=4, split="all", sampling="epoch", rank=rank, world=3) for rank in range(3)
    ]
    together = np.concatenate([ids_of(plan, table, 4) for plan in plans])
    assert sorted(together) == list(range(48))


def test_uniform_draws_are_uniform_and_differ_by_step_rank_and_seed():
    table = episode_table([10] * 10)
    ids = ids_of(Plan(batch_size=1000, split="all"), table, 100)
    counts = np.bincount(ids, minlength=100)
    # 100 000 draws over 100 values: standard deviation 31.5, six of them either way.
    assert counts.min() > 1000 - 190
    assert counts.max() < 1000 + 190
    first = ids[:1000].tolist()
    assert first != ids[1000:2000].tolist()
    assert first != ids_of(Plan(batch_size=1000, split="all", seed=1), table, 1).tolist()
    other_rank = Plan(batch_size=1000, split="all", rank=1, world=2)
    assert first != ids_of(other_rank, table, 1).tolist()


def test_a_step_is_the_same_whenever_it_is_asked_for():
    plan, table = Plan(batch_size=64), episode_table([30] * 40)
    view = PlanView(plan, table)
    expected = [view.transition_ids(step).tolist() for step in (5, 1_000_000_007)]
    again = PlanView(plan, table)
    assert [again.transition_ids(step).tolist() for step in (5, 1_000_000_007)] == expected


def test_known_draws_stay_as_they_are_for_ever():
    """A plan's draws are a file format: runs resume on them after an upgrade."""
    table = episode_table([1000])
    uniform = PlanView(Plan(seed=7, batch_size=6, split="all"), table)
    epoch = PlanView(Plan(seed=7, batch_size=6, split="all", sampling="epoch"), table)
    # Philox 4x64-10, key 7, counter word 1 = step 3; high word of raw * 1000.
    raw = np.random.Philox(key=7, counter=[0, 3, 0, 0]).random_raw(6)
    assert uniform.transition_ids(3).tolist() == [(int(value) * 1000) >> 64 for value in raw]
    assert uniform.transition_ids(3).tolist() == KNOWN_UNIFORM
    assert epoch.transition_ids(3).tolist() == KNOWN_EPOCH


KNOWN_UNIFORM = [439, 165, 982, 464, 369, 53]
KNOWN_EPOCH = [934, 403, 531, 526, 844, 732]


def test_whole_episodes_are_in_one_split():
    lengths = [7] * 200
    table = episode_table(lengths)
    starts = table.first_transition
    episode_of = {
        split: set(
            np.searchsorted(starts, ids_of(Plan(batch_size=500, split=split), table, 20), "right")
        )
        for split in ("train", "val")
    }
    assert not episode_of["train"] & episode_of["val"]
    assert 160 <= len(episode_of["train"]) <= 195


def test_adding_files_moves_no_episode_between_splits():
    keys = np.random.default_rng(3).integers(0, 2**64, 100, dtype=np.uint64)
    before = PlanView(Plan(split="val", batch_size=1), episode_table([1] * 60, keys[:60]))
    after = PlanView(Plan(split="val", batch_size=1), episode_table([1] * 100, keys))
    held_out = {int(i) for step in range(2000) for i in before.transition_ids(step)}
    later = {int(i) for step in range(4000) for i in after.transition_ids(step)}
    assert held_out == {i for i in later if i < 60}


def test_num_traj_limits_episodes_not_transitions():
    view = PlanView(Plan(num_traj=3, split="all", batch_size=2), episode_table([5, 6, 7, 8]))
    assert (view.episodes, view.transitions) == (3, 18)


def test_empty_episodes_are_never_drawn():
    table = episode_table([0, 3, 0, 0, 2, 0])
    ids = ids_of(Plan(batch_size=50, split="all"), table, 4)
    assert set(ids) == {0, 1, 2, 3, 4}


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"batch_size": 0}, "plan.batch_size"),
        ({"batch_size": 10**9}, "plan.batch_size"),
        ({"split": "test"}, "plan.split"),
        ({"sampling": "random"}, "plan.sampling"),
        ({"train_fraction": 0.0}, "plan.train_fraction"),
        ({"num_traj": 0}, "plan.num_traj"),
        ({"world": 2, "rank": 2}, "plan.rank"),
        ({"seed": -1}, "plan.seed"),
        ({"colour": 1}, "plan.colour"),
        ({"batch_size": "8"}, "plan.batch_size"),
        ({"seed": 1.5}, "plan.seed"),
        ({"num_traj": 2.5}, "plan.num_traj"),
        ({"train_fraction": "half"}, "plan.train_fraction"),
    ],
)
def test_a_bad_field_is_named(change, field):
    with pytest.raises(InvalidInput) as caught:
        Plan.from_dict(change)
    assert caught.value.field == field
    assert repr(next(reversed(change.values()))) in str(caught.value)


def test_an_epoch_batch_larger_than_the_split_is_refused():
    with pytest.raises(InvalidInput, match=r"batch_size 11.*10 transitions"):
        PlanView(Plan(batch_size=11, split="all", sampling="epoch"), episode_table([10]))


def test_a_split_without_episodes_is_refused():
    with pytest.raises(InvalidInput, match="split 'val' has no transitions"):
        PlanView(Plan(split="val", train_fraction=1.0), episode_table([10, 10]))


def test_an_unknown_field_is_answered_with_the_known_ones():
    with pytest.raises(InvalidInput, match="no 'batchsize': its fields are batch_size, mixture, num_traj"):
        Plan.from_dict({"batchsize": 8})


def test_numpy_integers_become_plain_ones():
    plan = Plan(batch_size=np.int64(8), seed=np.uint8(3), num_traj=np.int32(2))
    assert plan == Plan(batch_size=8, seed=3, num_traj=2)
    assert {type(plan.batch_size), type(plan.seed), type(plan.num_traj)} == {int}
