"""TensorDicts go in and come out; batch size [envs, steps]."""

import sys

import pytest
import torch
from rollout_collectors import ENVS, STEPS, Fresh, Reusing, rollout_of, same
from tensordict import TensorDict

from penstock.errors import InvalidInput, Unsupported
from penstock.rollouts import CompressedDataCollector, RolloutStorage


def tensors(tree):
    if isinstance(tree, dict):
        return {key: tensors(value) for key, value in tree.items()}
    return torch.from_numpy(tree)


def tensordict(data):
    return TensorDict(tensors(data), [ENVS, STEPS])


def test_tensordict_is_saved_and_loaded(tmp_path):
    saved = tensordict(rollout_of(1))
    with RolloutStorage(tmp_path) as storage:
        storage.save(saved, 1)
        storage.save({"inner": saved, "x": torch.zeros(ENVS, STEPS)}, 2)
        loaded = storage.load(1, as_tensordict=True)
        assert loaded.batch_size == (ENVS, STEPS)
        assert (loaded == saved).all()
        assert loaded["observation"].batch_size == (ENVS, STEPS)
        part = storage.load(1, as_tensordict=True, envs=(3, 1), steps=(1, 4))
        assert part.batch_size == (2, 3)
        assert (part == saved[[3, 1], 1:4]).all()
        assert same(storage.load(2, "cpu")["inner"], rollout_of(1))


def test_tensordict_without_environments_is_told_the_way_out(tmp_path):
    with RolloutStorage(tmp_path) as storage:
        lone = TensorDict({"x": torch.zeros(STEPS, 3)}, [STEPS])
        with pytest.raises(InvalidInput, match=r"unsqueeze\(0\)"):
            storage.save(lone, 1)
        storage.save(lone.unsqueeze(0), 1)
        assert storage.load(1)["x"].shape == (1, STEPS, 3)


def test_collector_that_yields_the_same_tensordict_corrupts_nothing(tmp_path):
    target = f"file://{tmp_path}"
    with CompressedDataCollector(Reusing(5, tensordict), target) as collector:
        batches = list(collector)
    with RolloutStorage(target) as storage:
        for number, batch in enumerate(batches):
            assert same(batch.data, rollout_of(number))
            assert (batch.tensordict() == tensordict(rollout_of(number))).all()
            assert same(storage.load(number), rollout_of(number))


def test_minibatches_are_tensordicts_where_asked():
    (batch,) = CompressedDataCollector(Fresh(1, tensordict))
    parts = list(batch.minibatches(10, seed=0, as_tensordict=True))
    assert [part.batch_size[0] for part in parts] == [10] * 6 + [4]
    assert sorted(torch.cat([part["id"] for part in parts]).tolist()) == list(range(64))
    assert parts[0]["observation", "state"].shape == (10, 3)


def test_missing_tensordict_is_told_with_the_way_out(tmp_path, monkeypatch):
    with RolloutStorage(tmp_path) as storage:
        storage.save(rollout_of(1), 1)
        monkeypatch.setitem(sys.modules, "tensordict", None)
        with pytest.raises(Unsupported, match=r"penstock\[rollouts\]"):
            storage.load(1, as_tensordict=True)
