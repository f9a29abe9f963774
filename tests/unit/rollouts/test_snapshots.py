"""Copies: contiguous, equal, and in memory that is used again only when nobody looks at it."""

import numpy as np
import torch

from penstock.rollouts.snapshots import Snapshots
from penstock.rollouts.tensors import kinds_of


def leaves(value, envs=4):
    return {
        "a": np.full((envs, 3, 5), value, np.float32),
        "b/c": np.full((envs, 3), value, np.uint8)[:, ::-1],
        "b/d": np.full((3, envs), value, np.int64).T,
        "none": np.zeros((envs, 3, 0), np.float32),
    }


def test_copy_equals_its_source_and_is_contiguous():
    source = {"x": np.arange(24).reshape(2, 3, 4).transpose(1, 0, 2), **leaves(7, envs=3)}
    copies = Snapshots(spare=1).take(source)
    assert copies.keys() == source.keys()
    for path, copy in copies.items():
        np.testing.assert_array_equal(copy, source[path])
        assert copy.dtype == source[path].dtype
        assert copy.flags.c_contiguous
        assert not np.shares_memory(copy, source[path])


def test_memory_is_used_again_once_nobody_looks_at_it():
    snapshots = Snapshots(spare=2)
    for value in range(10):
        copies = snapshots.take(leaves(value))
        assert copies["a"].max() == value
        del copies
    assert snapshots.made == 1


def test_view_or_tensor_of_a_copy_keeps_its_content():
    snapshots = Snapshots(spare=2)
    copies = snapshots.take(leaves(1))
    view, tensor = copies["a"][2:, 1].reshape(-1), torch.from_numpy(copies["b/d"])[1:]
    del copies
    for value in range(2, 6):
        snapshots.take(leaves(value))
    assert view.tolist() == [1.0] * 10
    assert tensor.unique().tolist() == [1]
    assert snapshots.made == 2


def test_no_more_spare_memory_is_kept_than_asked_for():
    snapshots = Snapshots(spare=2)
    held = [snapshots.take(leaves(value)) for value in range(5)]
    del held
    held = [snapshots.take(leaves(value)) for value in range(5)]
    assert [copies["a"].max() for copies in held] == [0, 1, 2, 3, 4]
    assert snapshots.made == 5 + 3


def test_larger_rollout_gets_larger_memory():
    snapshots = Snapshots(spare=2)
    snapshots.take(leaves(1))
    assert snapshots.take(leaves(2, envs=100))["a"].shape == (100, 3, 5)
    assert snapshots.take(leaves(3))["a"].max() == 3
    assert snapshots.made == 2


def test_what_is_a_copy_already_is_not_copied_again():
    source = leaves(1)
    copies = Snapshots(spare=1).take(source, already={"a"})
    assert copies["a"] is source["a"]
    assert not np.shares_memory(copies["b/d"], source["b/d"])


def test_tensors_are_told_from_arrays_and_those_of_a_device_from_others():
    kinds = kinds_of(
        {
            "a": {"host": torch.zeros(2, 2), "device": torch.zeros(2, 2, device="meta")},
            "array": np.zeros((2, 2)),
        }
    )
    assert kinds.torch == {"a/host", "a/device"}
    assert kinds.off_host == {"a/device"}
