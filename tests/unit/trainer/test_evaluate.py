"""Evaluation on held-out episodes."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from penstock_trainer.build import learner, network_spec
from penstock_trainer.evaluate import HeldOut, summarise
from penstock_trainer.normalise import Normaliser

from penstock import Plan, open_sampler
from penstock.errors import InvalidInput

CPU = torch.device("cpu")


def flat(tree, prefix=""):
    if isinstance(tree, dict):
        for key, value in tree.items():
            yield from flat(value, f"{prefix}.{key}")
    elif isinstance(tree, list):
        yield from flat(dict(enumerate(tree)), prefix)
    else:
        yield prefix, tree


def same(a, b) -> bool:
    return torch.equal(a, b) if isinstance(a, torch.Tensor) else a == b


@pytest.mark.parametrize("algo", ["lapo", "lapo-v1", "bc"])
def test_evaluation_changes_neither_learner_nor_any_random_generator(dataset, settings, algo):
    with open_sampler(dataset) as sampler:
        options = settings(algo=algo)
        spec = network_spec(options, sampler.info, (8, 8), CPU)
        normaliser = Normaliser.from_dataset(sampler.info)
        algorithm = learner(options, spec, normaliser, CPU)
        plan = Plan(batch_size=8, train_fraction=0.7)
        held_out = HeldOut(sampler, plan, 1000)
        before = dict(flat(algorithm.state_dict()))
        before = {k: v.clone() if isinstance(v, torch.Tensor) else v for k, v in before.items()}
        torch_state, numpy_state = torch.get_rng_state(), np.random.get_state()  # noqa: NPY002
        first = held_out.measure(algorithm, normaliser, CPU)
        after = dict(flat(algorithm.state_dict()))
        assert all(same(before[name], value) for name, value in after.items())
        assert before.keys() == after.keys()
        assert torch.equal(torch.get_rng_state(), torch_state)
        assert np.array_equal(np.random.get_state()[1], numpy_state[1])  # noqa: NPY002
        assert held_out.measure(algorithm, normaliser, CPU) == first


def test_held_out_transitions_are_of_episodes_that_are_not_learned_from(dataset):
    with open_sampler(dataset) as sampler:
        plan = Plan(batch_size=7, train_fraction=0.7)
        held_out = HeldOut(sampler, plan, 1000)
        held = np.concatenate(held_out._parts)
        learned = {int(i) for step in range(200) for i in sampler.view(plan).transition_ids(step)}
        episode = lambda ids: {int(i) // 6 for i in ids}  # noqa: E731 - six transitions each
        assert not episode(held) & episode(learned)
        assert episode(held) | episode(learned) == set(range(20))
        assert len(set(held.tolist())) == len(held) == held_out.transitions


def test_limit_bounds_the_transitions_looked_at(dataset):
    with open_sampler(dataset) as sampler:
        held_out = HeldOut(sampler, Plan(batch_size=4, train_fraction=0.5), 10)
        assert sum(len(part) for part in held_out._parts) == held_out.transitions == 10


def test_a_split_that_holds_nothing_out_says_which_option_to_change(dataset):
    with open_sampler(dataset) as sampler, pytest.raises(InvalidInput, match="train_test_split"):
        HeldOut(sampler, Plan(batch_size=4, train_fraction=0.99999), 10)


def test_score_of_a_critic_is_the_policys_gain_and_its_error_is_by_episode():
    measures = {
        "error": torch.tensor([1.0, 2.0, 3.0, 6.0]),
        "advantage": torch.tensor([0.5, -0.5, 0.0, 2.0]),
        "td_error": torch.tensor([1.0, 0.0, 0.0, 1.0]),
        "policy_q": torch.tensor([3.0, 2.0, 5.0, 4.0]),
        "data_q": torch.tensor([1.0, 2.0, 1.0, 4.0]),
    }
    figures = summarise(measures, torch.tensor([1, 1, 2, 2]))
    assert figures["val_score"] == pytest.approx(1.5)  # gains 2, 0, 4, 0
    # deviations of the episodes' sums from the mean: (2 + 0 - 3) and (4 + 0 - 3)
    assert figures["val_score_error"] == pytest.approx(math.sqrt(2) / 4)
    assert figures["val_action_error"] == pytest.approx(3.0)
    assert figures["val_good_action_error"] == pytest.approx(3.5)
    assert figures["val_advantage_share"] == pytest.approx(0.5)
    assert figures["val_td_error"] == pytest.approx(0.5)
    assert figures["val_policy_q"] == pytest.approx(3.5)


def test_score_of_behaviour_cloning_falls_with_its_error():
    figures = summarise({"error": torch.tensor([1.0, 3.0])}, torch.tensor([1, 2]))
    assert figures["val_score"] == pytest.approx(-2.0)
    assert figures["val_action_error"] == pytest.approx(2.0)
