"""A collected batch: decoded once, and minibatches that go through it."""

from collections import Counter

import numpy as np
import pytest
import torch
from rollout_collectors import ENVS, STEPS, rollout_of, same

from penstock.errors import InvalidInput
from penstock.rollout_file import flatten
from penstock.rollouts.collected import CollectedBatch

COUNT = ENVS * STEPS


def batch_of(number=0, torch_paths=frozenset()):
    loads = Counter()

    def load():
        loads["load"] += 1
        return flatten(rollout_of(number))

    batch = CollectedBatch(
        load, envs=ENVS, steps=STEPS, iteration=number, policy_version=0, torch_paths=torch_paths
    )
    return batch, loads


@pytest.mark.parametrize("size", [1, 7, 16, COUNT, COUNT + 5])
def test_each_epoch_has_each_transition_once(size):
    batch, _ = batch_of(3)
    per_epoch = -(-COUNT // size)
    found = [part["id"] for part in batch.minibatches(size, seed=1, epochs=3)]
    assert len(found) == 3 * per_epoch
    for epoch in range(3):
        ids = np.concatenate(found[epoch * per_epoch : (epoch + 1) * per_epoch])
        assert sorted(ids.tolist()) == list(range(3000, 3000 + COUNT))


def test_transition_stays_together_across_fields():
    batch, _ = batch_of(2)
    for part in batch.minibatches(10, seed=0):
        np.testing.assert_array_equal(part["reward"], part["id"] / 3)
        np.testing.assert_array_equal(part["done"], part["id"] % 7 == 0)
        np.testing.assert_array_equal(part["observation"]["state"][:, 1], part["id"])


def test_epochs_and_seeds_differ_and_repeat():
    def orders(seed):
        batch, _ = batch_of()
        return [part["id"].tolist() for part in batch.minibatches(COUNT, seed, epochs=2)]

    assert orders(1) == orders(1)
    assert orders(1)[0] != orders(1)[1]
    assert orders(1) != orders(2)


def test_rest_is_left_out_where_asked():
    batch, _ = batch_of()
    sizes = [len(part["id"]) for part in batch.minibatches(10, 0, epochs=2, drop_last=True)]
    assert sizes == [10] * 12
    assert COUNT == 64


def test_rollout_is_decoded_once_however_it_is_used():
    batch, loads = batch_of(1)
    assert loads["load"] == 0
    for _ in range(2):
        assert same(batch.data, rollout_of(1))
        assert sum(1 for _ in batch.minibatches(8, 0, epochs=4)) == 4 * 8
        assert same(batch.to("cpu"), rollout_of(1))
    assert loads["load"] == 1


def test_leaves_that_were_tensors_are_tensors():
    batch, _ = batch_of(1, frozenset({"id", "observation/state"}))
    data = batch.data
    assert isinstance(data["observation"]["state"], torch.Tensor)
    assert isinstance(data["reward"], np.ndarray)
    part = next(batch.minibatches(5, 0))
    assert isinstance(part["id"], torch.Tensor)
    assert part["observation"]["state"].shape == (5, 3)
    assert part["reward"].tolist() == (part["id"].double() / 3).tolist()


def test_minibatches_on_a_device_are_tensors_of_it():
    batch, _ = batch_of(1)
    ids = [part["id"] for part in batch.minibatches(16, 0, device="cpu")]
    assert all(isinstance(part, torch.Tensor) for part in ids)
    assert sorted(torch.cat(ids).tolist()) == list(range(1000, 1000 + COUNT))


@pytest.mark.parametrize("wrong", [{"size": 0}, {"epochs": 0}, {"seed": -1}])
def test_what_cannot_be_is_refused_at_once(wrong):
    batch, _ = batch_of()
    with pytest.raises(InvalidInput, match=next(iter(wrong))):
        batch.minibatches(**({"size": 4, "seed": 0} | wrong))
