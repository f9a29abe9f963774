import numpy as np
import pytest

from penstock.batch import Batch, FrameSpec
from penstock.client import messages
from penstock.dataset import (
    Camera,
    ColumnStatistics,
    DataFile,
    DatasetInfo,
    EpisodeTable,
    RefusedFile,
)
from penstock.errors import Corrupt, InvalidInput
from penstock.plan import Plan
from penstock.v1 import sampler_pb2 as pb
from penstock.v1 import tensor_pb2 as tb

INFO = DatasetInfo(
    version="v",
    cameras=(Camera("left_image", 6, 5), Camera("global_image", 6, 5)),
    joint_dim=3,
    action_dim=2,
    transitions=100,
    episodes=4,
    files=(DataFile("a.hdf5", 10, 7), DataFile("b.hdf5", 11, 8, held=False)),
    refused=(RefusedFile("c.hdf5", "NOT_HDF5", "c.hdf5 is no HDF5 file"),),
    dropped_rows=3,
    statistics={
        "reward": ColumnStatistics(
            np.float32([1]), np.float32([2]), np.float32([0]), np.float32([3]), 9
        )
    },
)


def filled_batch(size=4):
    rng = np.random.default_rng(0)
    batch = Batch.allocate(size, INFO, FrameSpec())
    batch.transition_ids[:] = rng.integers(0, 100, size)
    batch.frames[:] = rng.integers(0, 9, batch.frames.shape)
    for name, values in batch.columns.items():
        values[:] = rng.random(values.shape) > 0.5 if name == "terminal" else rng.random()
    return batch


def test_a_dataset_survives_the_wire():
    again = messages.dataset_from_message(messages.dataset_to_message(INFO))
    assert (again.cameras, again.files, again.refused) == (INFO.cameras, INFO.files, INFO.refused)
    assert (again.version, again.dropped_rows, again.codecs) == ("v", 3, ("raw", "lz4"))
    assert again.statistics["reward"].max.tolist() == [3.0]


@pytest.mark.parametrize("count", [0, 1, 70_000])
def test_an_episode_table_survives_the_wire(count):
    rng = np.random.default_rng(0)
    table = EpisodeTable(
        rng.integers(0, 9, count).astype(np.int32),
        rng.integers(0, 2**40, count),
        rng.integers(0, 99, count).astype(np.int32),
        rng.integers(0, 3, count).astype(np.uint8),
        rng.integers(0, 2**64, count, dtype=np.uint64),
    )
    sent = list(messages.episodes_to_messages(table))
    assert all(message.ByteSize() < 4_000_000 for message in sent)
    again = messages.episodes_from_messages(sent)
    for name in ("file", "first_row", "length", "outcome", "split_key"):
        assert (getattr(again, name) == getattr(table, name)).all()
        assert getattr(again, name).dtype == getattr(table, name).dtype


@pytest.mark.parametrize("accepted", [("raw",), ("lz4", "raw")])
def test_a_part_fills_its_rows_and_no_others(accepted):
    source, out = filled_batch(), Batch.allocate(6, INFO, FrameSpec())
    out.transition_ids[:] = 0
    out.transition_ids[1:5] = source.transition_ids
    out.frames[:] = 99
    part = messages.part_to_message(source, 1, accepted)
    assert messages.part_into_batch(part, out) == 4
    assert (out.frames[1:5] == source.frames).all()
    assert (out.frames[[0, 5]] == 99).all()
    for name, values in source.columns.items():
        assert (out.columns[name][1:5] == values).all()


@pytest.mark.parametrize(
    "damage",
    [
        lambda part: setattr(part, "first_row", 3),
        lambda part: setattr(part, "rows", 0),
        lambda part: setattr(part, "rows", 2**31),
        lambda part: part.transition_ids.append(1),
        lambda part: part.frames.shape.append(1),
        lambda part: setattr(part.frames, "raw_size_bytes", 2**60),
        lambda part: setattr(part.frames, "data", part.frames.data[:-1]),
        lambda part: setattr(part.frames, "dtype", tb.DTYPE_INT8),
        lambda part: part.columns.pop(),
    ],
)
def test_a_part_that_does_not_fit_is_corrupt(damage):
    source = filled_batch()
    part = messages.part_to_message(source, 0, ("raw",))
    damage(part)
    with pytest.raises(Corrupt):
        messages.part_into_batch(part, filled_batch())


def test_a_tensor_that_lies_about_its_size_is_refused_before_allocation():
    message = messages.tensor_to_message("x", np.zeros(4, np.float32))
    message.shape[0] = 2**40
    with pytest.raises(InvalidInput, match="x: shape"):
        messages.tensor_from_message(message)


def test_a_plan_survives_the_wire():
    plan = Plan(5, 7, "val", 0.25, "epoch", 3, 1, 2)
    assert messages.plan_from_message(messages.plan_to_message(plan)) == plan
    assert messages.plan_from_message(pb.Plan(batch_size=8)) == Plan(batch_size=8)


def test_a_plan_field_of_a_newer_client_is_refused_not_passed_over():
    plan = pb.Plan()
    # Field 99, varint 1: what a client with a newer proto would send.
    plan.ParseFromString(messages.plan_to_message(Plan()).SerializeToString() + b"\x98\x06\x01")
    with pytest.raises(InvalidInput, match=r"numbers \[99\]"):
        messages.plan_from_message(plan)
