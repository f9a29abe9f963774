"""Normalisation and the range of values."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from penstock_trainer.normalise import Normaliser, value_range

from penstock.dataset import ColumnStatistics, DatasetInfo
from penstock.errors import Corrupt, DataFault


def column(mean, std, low, high) -> ColumnStatistics:
    return ColumnStatistics(*(np.asarray(x, np.float32) for x in (mean, std, low, high)), 10)


def dataset(**changes) -> DatasetInfo:
    statistics = {
        "joint": column([1, 2], [2, 4], [-3, -6], [5, 10]),
        "action": column([0.5], [0.25], [-1], [1]),
        "reward": column([0], [1], [-2], [3]),
    }
    return DatasetInfo("v", (), 2, 1, 10, 1, (), statistics={**statistics, **changes})


def test_states_and_actions_become_z_scores_and_actions_come_back():
    normaliser = Normaliser.from_dataset(dataset())
    joint = normaliser.joint(torch.tensor([[3.0, -2.0]]))
    assert joint.tolist() == [[1.0, -1.0]]
    raw = torch.tensor([[-0.75], [0.0], [1.0]])
    assert normaliser.action(raw).flatten().tolist() == [-5.0, -2.0, 2.0]
    torch.testing.assert_close(normaliser.robot_action(normaliser.action(raw)), raw)


def test_actions_never_leave_what_was_recorded():
    normaliser = Normaliser.from_dataset(dataset())
    assert normaliser.robot_action(torch.tensor([[-100.0], [100.0]])).flatten().tolist() == [-1, 1]


def test_reward_scale_scales_the_bounds():
    normaliser = Normaliser.from_dataset(dataset(), reward_scale=0.5)
    assert (normaliser.reward_min, normaliser.reward_max) == (-1.0, 1.5)


def test_a_constant_column_is_centred_and_not_blown_up():
    info = dataset(joint=column([1, 2], [1e-9, 4], [1, 0], [1, 4]))
    normaliser = Normaliser.from_dataset(info)
    assert normaliser.joint(torch.tensor([[1.001, 2.0]]))[0, 0] == pytest.approx(0.001, abs=1e-6)


def test_missing_or_infinite_statistics_are_refused_by_name():
    info = dataset()
    without = DatasetInfo("v", (), 2, 1, 10, 1, (), statistics={"joint": info.statistics["joint"]})
    with pytest.raises(DataFault, match="'action'"):
        Normaliser.from_dataset(without)
    with pytest.raises(DataFault, match="'reward' are not finite"):
        Normaliser.from_dataset(dataset(reward=column([math.nan], [1], [0], [1])))


def test_state_round_trip_and_a_missing_field(normaliser):
    again = Normaliser.from_state(normaliser.state_dict())
    assert again.state_dict().keys() == normaliser.state_dict().keys()
    for name, value in normaliser.state_dict().items():
        assert torch.equal(torch.as_tensor(again.state_dict()[name]), torch.as_tensor(value)), name
    state = normaliser.state_dict()
    del state["action_std"]
    with pytest.raises(Corrupt, match="action_std"):
        Normaliser.from_state(state)


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [
        (-2.0, 1.0, (-20.0, 10.0)),  # both signs: [r_min, r_max] / (1 - discount)
        (1.0, 3.0, (1.0, 30.0)),  # all positive: the worst is one reward and the end
        (-3.0, -1.0, (-30.0, -1.0)),  # all negative: the best is one reward and the end
        (0.0, 1.0, (0.0, 10.0)),
        (-1.0, 0.0, (-10.0, 0.0)),
    ],
)
def test_value_range_holds_every_possible_return(low, high, expected):
    found = value_range(low, high, 0.9)
    assert found == pytest.approx(expected)
    for rewards in ([low], [high], [low] * 400, [high] * 400, [low, high] * 200):
        value = sum(reward * 0.9**step for step, reward in enumerate(rewards))
        assert found[0] - 1e-9 <= value <= found[1] + 1e-9
