import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from unit.sdk.episode_tables import episode_table, read_only

from penstock.plan import Plan
from penstock.plan_view import PlanView

LENGTHS = st.lists(st.integers(0, 9), min_size=1, max_size=20).filter(lambda x: sum(x) >= 1)


@given(
    lengths=LENGTHS,
    window=st.integers(1, 12),
    seed=st.integers(0, 2**63 - 1),
    sampling=st.sampled_from(["uniform", "epoch", "weighted"]),
)
def test_a_window_is_consecutive_until_its_episode_ends_and_then_repeats(
    lengths, window, seed, sampling
):
    episode_of = np.repeat(np.arange(len(lengths)), lengths)
    plan = Plan(seed=seed, batch_size=1, split="all", sampling=sampling, window=window)
    weights = read_only(np.ones(sum(lengths))) if sampling == "weighted" else None
    view = PlanView(plan, episode_table(lengths), weights=weights)
    for step in range(4):
        draw = view.draw(step)
        assert (draw.transition_ids.dtype, draw.mask.dtype) == (np.int64, np.bool_)
        first = int(draw.transition_ids[0])
        last = max(i for i in range(len(episode_of)) if episode_of[i] == episode_of[first])
        expected = [min(first + k, last) for k in range(window)]
        assert draw.transition_ids.tolist() == expected
        assert draw.mask.tolist() == [first + k <= last for k in range(window)]


@given(lengths=LENGTHS, window=st.integers(2, 5), world=st.integers(1, 3))
def test_an_epoch_begins_one_window_at_every_transition(lengths, window, world):
    total, batch_size = sum(lengths), 1
    if batch_size * world > total:
        return
    views = [
        PlanView(
            Plan(
                seed=8,
                batch_size=batch_size,
                split="all",
                sampling="epoch",
                window=window,
                rank=rank,
                world=world,
            ),
            episode_table(lengths),
        )
        for rank in range(world)
    ]
    begun = [
        int(view.transition_ids(step)[0])
        for step in range(views[0].steps_per_epoch)
        for view in views
    ]
    assert sorted(begun[:total]) == list(range(total))


def test_windows_of_one_step_come_one_after_the_other():
    """An episode of 4 and windows of 3: what follows each first transition is known."""
    plan = Plan(batch_size=4, split="all", sampling="epoch", window=3)
    draw = PlanView(plan, episode_table([4])).draw(0)
    windows = {
        int(ids[0]): (ids.tolist(), mask.tolist())
        for ids, mask in zip(
            draw.transition_ids.reshape(4, 3), draw.mask.reshape(4, 3), strict=True
        )
    }
    assert windows == {
        0: ([0, 1, 2], [True, True, True]),
        1: ([1, 2, 3], [True, True, True]),
        2: ([2, 3, 3], [True, True, False]),
        3: ([3, 3, 3], [True, False, False]),
    }


@pytest.mark.parametrize("sampling", ["uniform", "epoch"])
def test_a_window_changes_where_no_draw_falls(sampling):
    """First transitions are those of the plan without windows: the position of a run keeps."""
    table = episode_table([30, 2, 55])
    plan = {"seed": 6, "batch_size": 11, "split": "all", "sampling": sampling}
    alone, windows = PlanView(Plan(**plan), table), PlanView(Plan(**plan, window=4), table)
    for step in range(5):
        first = windows.transition_ids(step).reshape(11, 4)[:, 0]
        assert first.tolist() == alone.transition_ids(step).tolist()


def test_a_window_stays_inside_its_split():
    """Split keys of 0 and the top of the range: episodes 0 and 2 train, 1 is held out."""
    table = episode_table([3, 3, 3], [0, 2**64 - 1, 0])
    view = PlanView(Plan(batch_size=64, window=5), table)
    assert set(view.transition_ids(0).tolist()) == {0, 1, 2, 6, 7, 8}


def test_steps_per_epoch_count_windows():
    view = PlanView(Plan(batch_size=4, split="all", window=6), episode_table([10]))
    assert (view.steps_per_epoch, len(view.transition_ids(0))) == (3, 24)
