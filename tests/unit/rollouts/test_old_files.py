"""Old files: pickles of tensors are read, and nothing that a pickle names is run."""

import io
import os
import pickle
import struct
from pathlib import Path

import lz4.frame
import numpy as np
import pytest
import torch
from rollout_collectors import rollout_of, same
from tensordict import TensorDict, lazy_stack

from penstock.errors import Corrupt, DataFault, InvalidInput, LimitExceeded, NotFound
from penstock.rollouts.old_files import iteration_of_name, read_old


def tensors(tree):
    if isinstance(tree, dict):
        return {key: tensors(value) for key, value in tree.items()}
    return torch.from_numpy(tree)


def frame(path, state, protocol=4):
    path.write_bytes(lz4.frame.compress(pickle.dumps(state, protocol=protocol)))
    return path


@pytest.fixture
def path(tmp_path):
    return tmp_path / "rollout_000007.lz4"


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
@pytest.mark.parametrize("convert", [lambda data: data, tensors], ids=["numpy", "torch"])
def test_nested_dicts_come_back_bit_by_bit(path, protocol, convert):
    old = read_old(frame(path, convert(rollout_of(3)), protocol), trusted=True)
    assert same(old.data, rollout_of(3))
    assert old.left_out == ()


@pytest.mark.parametrize("protocol", [2, 4])
def test_tensordicts_become_dicts(path, protocol):
    whole = TensorDict(tensors(rollout_of(3)), [16, 4])
    nested = {"batch": whole, "stacked": lazy_stack([whole[i] for i in range(16)], 0)}
    old = read_old(frame(path, nested, protocol), trusted=True)
    assert same(old.data, {"batch": rollout_of(3), "stacked": rollout_of(3)})
    assert same(read_old(frame(path, whole, protocol), trusted=True).data, rollout_of(3))


def test_views_shared_memory_and_repeated_elements_come_back(path):
    whole = torch.arange(240.0).reshape(4, 6, 10)
    state = {
        "slice": whole[1:3, ::2, 3:],
        "transposed": whole.transpose(0, 1),
        "repeated": torch.arange(4.0).reshape(4, 1, 1).expand(4, 6, 10),
        "parameter": torch.nn.Parameter(torch.ones(4, 6)),
        "fortran": np.asfortranarray(np.arange(24).reshape(2, 3, 4)),
        "empty": torch.zeros(4, 6, 0),
    }
    old = read_old(frame(path, state), trusted=True)
    for key, value in state.items():
        expected = value.detach() if isinstance(value, torch.Tensor) else value
        np.testing.assert_array_equal(np.asarray(old.data[key]), np.asarray(expected))


def test_bfloat16_becomes_float32_and_the_rest_is_left_out_and_named(path):
    state = {
        "x": torch.full((2, 3), 1.5, dtype=torch.bfloat16),
        "meta": {"iteration": 7, "name": "run", "score": np.float32(2)},
        "tags": ["a"],
    }
    old = read_old(frame(path, state), trusted=True)
    assert old.data.keys() == {"x"}
    assert old.data["x"].dtype == torch.float32
    assert old.data["x"].tolist() == [[1.5] * 3] * 2
    assert old.widened == ("x",)
    assert old.left_out == ("meta/iteration", "meta/name", "meta/score", "tags")


def test_files_of_torch_save_need_no_trust(path):
    data = io.BytesIO()
    torch.save(tensors(rollout_of(3)), data)
    path.write_bytes(lz4.frame.compress(data.getvalue()))
    assert same(read_old(path, trusted=False).data, rollout_of(3))


def test_pickle_is_read_only_where_the_user_says_so(path):
    frame(path, rollout_of(3))
    with pytest.raises(DataFault, match="--trust") as caught:
        read_old(path, trusted=False)
    assert caught.value.reason == "PICKLE_REFUSED"


class Runs:
    """Makes a directory when it is unpickled."""

    def __init__(self, what, *arguments):
        self.call = (what, arguments)

    def __reduce__(self):
        return self.call


@pytest.mark.parametrize("wrap", [lambda x: x, lambda x: [x], lambda x: {"a": {"b": x}}])
def test_nothing_that_a_pickle_names_is_run(path, tmp_path, wrap):
    trap = tmp_path / "trap"
    frame(path, wrap(Runs(os.mkdir, str(trap))))
    with pytest.raises(DataFault, match=r"posix\.mkdir.*not run"):
        read_old(path, trusted=True)
    assert not trap.exists()


@pytest.mark.parametrize("what", [eval, getattr, __import__, Path, io.open, torch.load, np.load])
def test_functions_of_known_modules_are_refused_too(path, what):
    with pytest.raises(DataFault) as caught:
        read_old(frame(path, {"x": Runs(what, "1")}), trusted=True)
    assert caught.value.reason == "PICKLE_REFUSED"


def test_pickle_inside_the_bytes_of_a_tensor_is_not_run(path, tmp_path):
    trap = tmp_path / "trap"
    inner = io.BytesIO()
    torch.save(Runs(os.mkdir, str(trap)), inner, _use_new_zipfile_serialization=False)
    load = torch.storage._load_from_bytes
    with pytest.raises(Corrupt, match="damaged"):
        read_old(frame(path, {"x": Runs(load, inner.getvalue())}), trusted=True)
    assert not trap.exists()


def tensor_of(storage, offset, size, stride):
    rebuild, requires_grad = torch._utils._rebuild_tensor_v2, False
    return Runs(rebuild, storage, offset, size, stride, requires_grad, {})


@pytest.mark.parametrize(
    ("offset", "size", "stride"),
    [
        (0, (4, 4), (4, 1)),
        (9, (2,), (1,)),
        (0, (2, 2), (9, 1)),
        (-1, (2,), (1,)),
        (0, (2,), (-1,)),
        (0, (1 << 40,), (1,)),
        (0, (2, 2), (1,)),
    ],
)
def test_tensor_beyond_its_memory_is_refused(path, offset, size, stride):
    storage = torch.arange(10.0)._typed_storage()
    with pytest.raises((Corrupt, LimitExceeded)):
        read_old(frame(path, {"x": tensor_of(storage, offset, size, stride)}), trusted=True)


def test_tensor_that_repeats_itself_without_end_is_refused(path):
    storage = torch.arange(10.0)._typed_storage()
    with pytest.raises(LimitExceeded):
        read_old(
            frame(path, {"x": tensor_of(storage, 0, (1 << 20, 1 << 20), (0, 0))}), trusted=True
        )


def test_array_without_content_is_refused(path):
    for what in (
        Runs(np.ndarray, (1 << 40,)),
        Runs(np._core.multiarray._reconstruct, np.ndarray, (1 << 40,), b"b"),
    ):
        with pytest.raises(Corrupt):
            read_old(frame(path, {"x": what}), trusted=True)


def test_pickle_that_holds_itself_is_refused(path):
    state = {"x": np.zeros((2, 2))}
    state["again"] = state
    with pytest.raises(Corrupt):
        read_old(frame(path, state), trusted=True)


def test_damage_is_told_and_crashes_nothing(path):
    data = pickle.dumps({"data": tensors(rollout_of(1)), "array": np.arange(6.0).reshape(2, 3)})
    dice = np.random.default_rng(5)
    for _ in range(300):
        broken = bytearray(data)
        for place in dice.integers(0, len(data), 3):
            broken[place] = dice.integers(0, 256)
        path.write_bytes(lz4.frame.compress(bytes(broken)))
        try:
            read_old(path, trusted=True)
        except (Corrupt, DataFault, LimitExceeded):
            continue


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\x04\x22\x4d\x18cut",
        lz4.frame.compress(b""),
        lz4.frame.compress(b"\x80\x04"),
        b"text",
    ],
)
def test_what_is_no_rollout_is_told(path, content):
    path.write_bytes(content)
    with pytest.raises((Corrupt, DataFault)):
        read_old(path, trusted=True)


def test_file_without_tensors_or_that_is_not_there_is_told(path):
    with pytest.raises(NotFound):
        read_old(path, trusted=True)
    with pytest.raises(DataFault, match="no tensor"):
        read_old(frame(path, {"a": 1}), trusted=True)
    with pytest.raises(DataFault, match="list"):
        read_old(frame(path, [1]), trusted=True)


def test_iteration_is_the_last_number_of_the_name():
    assert iteration_of_name(Path("rollout_000120.lz4")) == 120
    assert iteration_of_name(Path("run2/it7_v3.pkl.lz4")) == 3
    with pytest.raises(InvalidInput, match="--first-iteration"):
        iteration_of_name(Path("run2/last.lz4"))


def test_storage_that_claims_to_be_larger_allocates_nothing(path):
    inner = io.BytesIO()
    torch.save(torch.arange(4.0)._typed_storage(), inner, _use_new_zipfile_serialization=False)
    data = inner.getvalue()
    count = struct.pack("<q", 4)
    assert data.count(count) == 1
    huge = data.replace(count, struct.pack("<q", 1 << 50))
    with pytest.raises(Corrupt):
        read_old(frame(path, {"x": Runs(torch.storage._load_from_bytes, huge)}), trusted=True)
