import json

import numpy as np
import pytest
import xxhash
from hypothesis import given
from hypothesis import strategies as st
from unit.sdk.episode_tables import episode_table, read_only

from penstock.errors import InvalidInput
from penstock.plan import Plan
from penstock.plan_view import PlanView


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


@pytest.mark.parametrize(
    ("settings", "first", "digest"),
    [
        ({}, [89, 2116, 1008, 4872], 0xFC3EAB62EA8E6F1A),
        (
            {"seed": 9, "batch_size": 33, "split": "val"},
            [1390, 6898, 3249, 7300],
            0x9DF7888504238724,
        ),
        (
            {"seed": 2**62 + 5, "batch_size": 7, "split": "all"},
            [2357, 7910, 8554, 432],
            0x5F5DB4C8A68F958E,
        ),
        (
            {"seed": 1, "batch_size": 50, "split": "all", "num_traj": 40},
            [343, 959, 176, 35],
            0x6D8497B269F1ADED,
        ),
        (
            {"seed": 4, "batch_size": 16, "rank": 1, "world": 3},
            [387, 2567, 3893, 681],
            0x81481BE5376BCFB4,
        ),
        (
            {"seed": 5, "batch_size": 64, "sampling": "epoch"},
            [58, 4877, 7225, 5084],
            0xE194BB948A81F122,
        ),
        (
            {
                "seed": 6,
                "batch_size": 31,
                "sampling": "epoch",
                "split": "val",
                "train_fraction": 0.5,
            },
            [7755, 3908, 2885, 3110],
            0x9AFE716464A850B0,
        ),
        (
            {
                "seed": 7,
                "batch_size": 16,
                "sampling": "epoch",
                "split": "all",
                "rank": 2,
                "world": 4,
            },
            [4429, 823, 6575, 3696],
            0xCEF273EDB9373BD5,
        ),
    ],
)
def test_plans_of_the_first_version_give_the_ids_they_gave_then(settings, first, digest):
    """Taken from the first version, before there were windows, mixtures and weights."""
    rng = np.random.default_rng(20)
    lengths = rng.integers(0, 60, 300)
    table = episode_table(lengths, rng.integers(0, 2**64, 300, dtype=np.uint64))
    view = PlanView(Plan(**settings), table)
    ids = np.concatenate([view.transition_ids(step) for step in (0, 1, 2, 3, 500, 10**9 + 7)])
    assert ids[:4].tolist() == first
    assert xxhash.xxh3_64_intdigest(ids.astype("<i8").tobytes()) == digest


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
        ({"split": ["train"]}, "plan.split"),
        ({"window": 0}, "plan.window"),
        ({"window": 65537}, "plan.window"),
        ({"window": "4"}, "plan.window"),
        ({"batch_size": 4096, "window": 17}, "plan.window"),
        ({"mixture": "sim/*"}, "plan.mixture"),
        ({"mixture": 3}, "plan.mixture"),
        ({"mixture": ["sim/*"]}, "plan.mixture"),
        ({"mixture": [["sim/*", 0.0]]}, "plan.mixture"),
        ({"mixture": [["sim/*", float("nan")]]}, "plan.mixture"),
        ({"mixture": [["sim/*", float("inf")]]}, "plan.mixture"),
        ({"mixture": [["sim/*", "much"]]}, "plan.mixture"),
        ({"mixture": [["", 1.0]]}, "plan.mixture"),
        ({"mixture": [[7, 1.0]]}, "plan.mixture"),
        ({"mixture": [["a", 1.0], ["a", 2.0]]}, "plan.mixture"),
        ({"sampling": "epoch", "mixture": [["a", 1.0]]}, "plan.mixture"),
        ({"sampling": "epoch", "weight_column": "priority"}, "plan.weight_column"),
        ({"sampling": "weighted", "weight_column": 7}, "plan.weight_column"),
    ],
)
def test_a_bad_field_is_named(change, field):
    with pytest.raises(InvalidInput) as caught:
        Plan.from_dict(change)
    assert caught.value.field == field
    value = next(reversed(change.values()))
    part = value[0] if isinstance(value, list) and len(value) == 1 else value
    assert repr(value) in str(caught.value) or repr(part) in str(caught.value)


def test_plans_are_the_same_after_a_trip_through_json():
    plan = Plan(
        seed=3,
        batch_size=8,
        sampling="weighted",
        window=4,
        mixture=[["sim/*", 0.3], ("real/*", 0.7)],
        weight_column="priority",
    )
    assert Plan.from_dict(json.loads(json.dumps(plan.to_dict()))) == plan
    assert hash(plan) == hash(Plan.from_dict(plan.to_dict()))
    assert plan.mixture == (("sim/*", 0.3), ("real/*", 0.7))


def test_a_stored_plan_names_what_is_new_only_where_it_is_used():
    """States that were stored before windows existed compare equal to those stored now."""
    assert set(Plan().to_dict()) == {
        "seed",
        "batch_size",
        "split",
        "train_fraction",
        "sampling",
        "num_traj",
        "rank",
        "world",
    }
    assert Plan(window=2).to_dict()["window"] == 2


@pytest.mark.parametrize("sampling", ["uniform", "epoch", "weighted"])
@pytest.mark.parametrize("window", [1, 3])
def test_processes_share_out_the_steps_of_one(sampling, window):
    """Rank r of W draws at step s what one process draws at step s * W + r."""
    table, weights = episode_table([30, 1, 700, 42]), read_only(np.linspace(0, 5, 773))
    settings = {"batch_size": 9, "split": "all", "sampling": sampling, "window": window}
    given = weights if sampling == "weighted" else None
    alone = PlanView(Plan(**settings), table, weights=given)
    for rank in range(3):
        shared = PlanView(Plan(**settings, rank=rank, world=3), table, weights=given)
        for step in (0, 1, 2, 77):
            expected = alone.draw(step * 3 + rank)
            assert shared.transition_ids(step).tolist() == expected.transition_ids.tolist()
            assert shared.mask(step).tolist() == expected.mask.tolist()


def test_an_epoch_batch_larger_than_the_split_is_refused():
    with pytest.raises(InvalidInput, match=r"batch_size 11.*10 transitions"):
        PlanView(Plan(batch_size=11, split="all", sampling="epoch"), episode_table([10]))


def test_a_split_without_episodes_is_refused():
    with pytest.raises(InvalidInput, match="split 'val' has no transitions"):
        PlanView(Plan(split="val", train_fraction=1.0), episode_table([10, 10]))


def test_an_unknown_field_is_answered_with_the_known_ones():
    with pytest.raises(
        InvalidInput, match="no 'batchsize': its fields are batch_size, mixture, num_traj"
    ):
        Plan.from_dict({"batchsize": 8})


def test_numpy_integers_become_plain_ones():
    plan = Plan(batch_size=np.int64(8), seed=np.uint8(3), num_traj=np.int32(2))
    assert plan == Plan(batch_size=8, seed=3, num_traj=2)
    assert {type(plan.batch_size), type(plan.seed), type(plan.num_traj)} == {int}
