import numpy as np
import pytest

from penstock.client import messages
from penstock.dataset import (
    Camera,
    ColumnStatistics,
    DataFile,
    DatasetInfo,
    EpisodeTable,
    RefusedFile,
)
from penstock.errors import InvalidInput
from penstock.moments import Moments

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


def test_a_dataset_survives_the_wire():
    again = messages.dataset_from_message(messages.dataset_to_message(INFO))
    assert (again.cameras, again.files, again.refused) == (INFO.cameras, INFO.files, INFO.refused)
    assert (again.version, again.dropped_rows, again.codecs) == ("v", 3, INFO.codecs)
    assert again.statistics["reward"].max.tolist() == [3.0]


@pytest.mark.parametrize("count", [0, 1, 600])
def test_files_survive_the_wire_with_their_moments(count):
    rng = np.random.default_rng(0)
    files = tuple(
        DataFile(
            f"{number:04}.hdf5",
            2**40,
            9,
            digest=rng.bytes(16),
            transitions=8,
            episodes=2,
            dropped_rows=1,
            cameras=INFO.cameras,
            moments={"joint": Moments.of(rng.normal(size=(4, 3)))},
        )
        for number in range(count)
    )
    again = messages.files_from_messages(messages.files_to_messages(files))
    assert again == files
    for sent, come in zip(files, again, strict=True):
        assert come.moments["joint"].squares.tolist() == sent.moments["joint"].squares.tolist()
        assert come.moments["joint"].max.tolist() == sent.moments["joint"].max.tolist()


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


def test_a_tensor_that_lies_about_its_size_is_refused_before_allocation():
    message = messages.tensor_to_message("x", np.zeros(4, np.float32))
    message.shape[0] = 2**40
    with pytest.raises(InvalidInput, match="x: shape"):
        messages.tensor_from_message(message)
