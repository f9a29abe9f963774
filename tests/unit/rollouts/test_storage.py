"""Storage: what was saved comes back bit by bit, whole and in parts, as arrays and tensors."""

import numpy as np
import pytest
import torch
from rollout_collectors import rollout_of, same

from penstock.errors import AlreadyExists, InvalidInput, LimitExceeded, NotFound, Unsupported
from penstock.rollouts import Encoding, RolloutStorage, open_rollouts
from penstock.streams import StreamSettings

SPECIAL = np.array([np.nan, -0.0, np.inf, 5e-324], np.float64)


@pytest.fixture
def storage(target):
    with RolloutStorage(target) as storage:
        yield storage


def of_torch(tree):
    if isinstance(tree, dict):
        return {key: of_torch(value) for key, value in tree.items()}
    return torch.from_numpy(tree)


@pytest.mark.parametrize(
    "options",
    [{}, {"compression_level": 3}, {"compression_level": -4}, {"encoding": "raw"}],
    ids=["lz4", "zstd", "fast-lz4", "raw"],
)
def test_rollout_comes_back_bit_by_bit(tmp_path, options):
    rollout = rollout_of(5)
    rollout["special"] = np.broadcast_to(SPECIAL, (16, 4, 4)).copy()
    with RolloutStorage(tmp_path, **options) as storage:
        info = storage.save(rollout, 5, policy_version=17)
        assert (info.iteration, info.policy_version, info.envs, info.steps) == (5, 17, 16, 4)
        assert same(storage.load(5), rollout)


def test_tensors_are_saved_and_loaded_bit_by_bit(storage):
    storage.save(of_torch(rollout_of(1)), 1)
    loaded = storage.load(1, device="cpu")
    assert loaded["observation"]["state"].dtype == torch.float32
    assert loaded["done"].dtype == torch.bool
    assert same(loaded, rollout_of(1))
    assert same(storage.load(1), rollout_of(1))


def test_tensors_that_need_gradients_and_slices_are_saved(storage):
    whole = torch.arange(96.0).reshape(4, 8, 3).requires_grad_()
    storage.save({"x": whole[:, ::2]}, 0)
    assert storage.load(0)["x"].tolist() == whole.detach()[:, ::2].tolist()


def test_parts_are_what_slices_of_the_whole_are(storage):
    storage.save(rollout_of(2), 2)
    part = storage.load(
        2, fields=("observation", "reward"), envs=(9, 1, 14), steps=slice(1, 3), device="cpu"
    )
    whole = rollout_of(2)
    assert part.keys() == {"observation", "reward"}
    expected = whole["observation"]["state"][[9, 1, 14], 1:3]
    assert same(part["observation"]["state"], expected)
    assert same(part["reward"], whole["reward"][[9, 1, 14], 1:3])


@pytest.mark.parametrize("steps", [range(2, 4), (2, 4), slice(2, None)])
def test_steps_may_be_given_in_any_of_three_ways(storage, steps):
    storage.save(rollout_of(2), 2)
    assert same(storage.load(2, fields="id", steps=steps)["id"], rollout_of(2)["id"][:, 2:])


def test_iterations_in_between_are_passed_over_and_counted(tmp_path):
    with RolloutStorage(tmp_path, save_every=3) as storage:
        infos = [storage.save(rollout_of(n), n) for n in range(7)]
        assert [info is not None for info in infos] == [True, False, False] * 2 + [True]
        assert storage.iterations() == [0, 3, 6]
        assert storage.counts["saved"] == 3
        assert storage.counts["passed_over"] == 4


def test_latest_is_what_was_stored_last(storage):
    assert storage.latest() is None
    assert storage.iterations() == []
    storage.save(rollout_of(9), 9)
    storage.save(rollout_of(4), 4)
    assert storage.latest() == 4
    assert storage.iterations() == [4, 9]


def test_deleted_iteration_is_gone_and_may_be_saved_anew(storage):
    storage.save(rollout_of(1), 1)
    with pytest.raises(AlreadyExists):
        storage.save(rollout_of(2), 1)
    storage.delete(1)
    with pytest.raises(NotFound):
        storage.load(1)
    with pytest.raises(NotFound, match=r"iterations\(\)"):
        storage.delete(1)
    storage.save(rollout_of(3), 2)
    assert storage.iterations() == [2]
    storage.save(rollout_of(2), 1)
    assert same(storage.load(1), rollout_of(2))
    storage.delete(1)
    storage.save(rollout_of(2), 1)
    assert same(storage.load(1), rollout_of(2))


def test_same_content_may_be_saved_again(storage):
    assert storage.save(rollout_of(1), 1) == storage.save(rollout_of(1), 1)


def test_producers_have_iterations_of_their_own(target):
    with open_rollouts(target) as client:
        left, right = (RolloutStorage(client, producer=name) for name in ("left", "right"))
        left.save(rollout_of(1), 1)
        right.save(rollout_of(2), 1)
        right.save(rollout_of(3), 8)
        assert left.iterations() == [1]
        assert right.latest() == 8
        assert same(left.load(1), rollout_of(1))
        assert same(right.load(1), rollout_of(2))
        left.close()
        assert [info.iteration for info in client.list("rollouts")] == [1, 1, 8]


def test_full_stream_is_told_after_the_time_to_wait(target):
    with open_rollouts(target) as client:
        client.configure("rollouts", StreamSettings(capacity=1))
        storage = RolloutStorage(client, wait_s=0.0)
        storage.save(rollout_of(1), 1)
        with pytest.raises(LimitExceeded) as caught:
            storage.save(rollout_of(2), 2)
        assert caught.value.reason == "QUEUE_FULL"


def test_what_cannot_be_stored_is_named_with_its_path(storage):
    with pytest.raises(InvalidInput, match="observation/name"):
        storage.save({"observation": {"name": "robot"}, "x": np.zeros((2, 2))}, 1)
    with pytest.raises(InvalidInput, match="observation/y"):
        storage.save({"observation": {"y": np.zeros((3, 2))}, "x": np.zeros((2, 2))}, 1)


def test_dtype_that_torch_lacks_is_told_with_the_way_out(storage, monkeypatch):
    storage.save(rollout_of(1), 1)

    def refuse(_):
        raise TypeError("no such dtype")

    monkeypatch.setattr(torch, "from_numpy", refuse)
    with pytest.raises(Unsupported, match="without a device"):
        storage.load(1, device="cpu")


def test_encoding_and_level_exclude_each_other(tmp_path):
    with pytest.raises(InvalidInput, match="give one of them"):
        RolloutStorage(tmp_path, 3, encoding=Encoding())
    with pytest.raises(InvalidInput, match="save_every"):
        RolloutStorage(tmp_path, save_every=0)


def test_auto_encodes_nothing_within_a_process_or_a_host(target):
    with RolloutStorage(target, encoding="auto") as storage:
        info = storage.save({"x": np.zeros((64, 32, 8), np.float32)}, 1)
        assert info.digest.size_bytes > 64 * 32 * 8 * 4
        assert same(storage.load(1), {"x": np.zeros((64, 32, 8), np.float32)})
