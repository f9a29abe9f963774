import re
from collections import UserDict

import numpy as np
import pytest
import torch

from penstock.errors import InvalidInput, LimitExceeded
from penstock.rollout_file import Limits, flatten, unflatten


def test_nested_arrays_become_paths_and_come_back():
    state, lidar = np.zeros((3, 5, 8), np.float32), np.ones((3, 5, 1, 36, 4), np.float32)
    done = np.zeros((3, 5), bool)
    data = {"observation": UserDict(state=state, lidar=lidar), "next": {"done": done}}
    leaves = flatten(data)
    assert list(leaves) == ["observation/state", "observation/lidar", "next/done"]
    back = unflatten(leaves)
    assert set(back) == {"observation", "next"}
    assert back["observation"]["lidar"] is lidar
    assert back["next"]["done"] is done


def test_leaves_stay_what_they_are():
    leaves = flatten({"a": {"b": np.zeros((2, 3))}, "c": np.zeros((2, 3, 4))})
    assert flatten(leaves).keys() == leaves.keys()


def test_tensors_share_their_memory():
    tensor = torch.arange(24, dtype=torch.int16).reshape(2, 3, 4)
    found = flatten({"x": tensor})["x"]
    tensor[1, 2, 3] = -7
    assert found[1, 2, 3] == -7
    learned = torch.zeros(2, 3, requires_grad=True)
    assert flatten({"x": learned})["x"].shape == (2, 3)


STEP = np.zeros((2, 3), np.float32)


@pytest.mark.parametrize(
    ("data", "named"),
    [
        ({}, "no field"),
        ({"a": {}}, "no field"),
        ({"a": 5}, "a is a int"),
        ({"a": {"b": None}}, "a/b is a NoneType"),
        ({"a": np.zeros(4)}, "a has the shape (4,)"),
        ({"a": STEP, "b": np.zeros((3, 3))}, "b has 3 envs x 3 steps, a has (2, 3)"),
        ({"a": np.zeros((2, 0))}, "a has 2 envs x 0 steps"),
        ({"a": np.zeros((2, 3), complex)}, "a is complex128"),
        ({"a": np.zeros((2, 3), object)}, "a is object"),
        ({"a": np.zeros((2, 3), "M8[s]")}, "a is datetime64"),
        ({"a": np.zeros((2, 3), "U3")}, "a is <U3"),
        ({"a": torch.zeros(2, 3, dtype=torch.bfloat16)}, "a is bfloat16"),
        ({"a": torch.zeros(2, 3, device="meta")}, "a is on the device meta"),
        ({"a": torch.eye(3).to_sparse()}, "a is no plain tensor"),
        ({3: STEP}, "name 3"),
        ({"": STEP}, "name ''"),
        ({"a//b": STEP}, "name 'a//b'"),
        ({"a\n": STEP}, "not printable"),
        ({"a": {"b": STEP}, "a/b": STEP}, "a/b is there twice"),
        ({"a": STEP, "a/b": STEP}, "a holds an array, and a/b is below it"),
        ({"a" * 2000: STEP}, "longer than 1024"),
    ],
)
def test_what_cannot_be_stored_is_named(data, named):
    with pytest.raises(InvalidInput, match=re.escape(named)):
        flatten(data)


def test_nesting_without_end_is_refused():
    data = {}
    data["again"] = data
    with pytest.raises(InvalidInput, match="nested deeper"):
        flatten(data)


def test_too_many_fields_are_refused():
    data = {str(number): STEP for number in range(5)}
    assert len(flatten(data, Limits(fields=5))) == 5
    with pytest.raises(LimitExceeded, match="more than 4 fields"):
        flatten(data, Limits(fields=4))


def test_paths_that_contradict_are_refused_when_put_together():
    for leaves in ({"a": STEP, "a/b": STEP}, {"a/b": STEP, "a": STEP}):
        with pytest.raises(InvalidInput, match="array"):
            unflatten(leaves)
