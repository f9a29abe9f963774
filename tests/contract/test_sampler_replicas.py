"""Shards, copies and mixtures of them are one dataset: that of an embedded target over all."""

import contextlib

import numpy as np
import pytest
from sampler_replicas import addresses, assert_same, replica, share_out, write_files

import penstock
from penstock.errors import InvalidInput

IMAGE_SIZE = (10, 9)
LAYOUTS = {
    "one": [[0, 1, 2]],
    "two shards": [[2], [0, 1]],
    "three shards": [[1], [2], [0]],
    "two copies": [[0, 1, 2], [0, 1, 2]],
    "mixture": [[0, 1], [1, 2], [0, 2]],
    "a copy and a shard": [[0, 1, 2], [1]],
}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_files(tmp_path_factory.mktemp("all") / "data")


@pytest.fixture(scope="module")
def embedded(data):
    with penstock.open_sampler(f"file://{data}/*.hdf5", image_size=IMAGE_SIZE) as client:
        yield client


@pytest.fixture(scope="module", params=LAYOUTS)
def client(request, data, tmp_path_factory):
    folder = tmp_path_factory.mktemp("replicas")
    with contextlib.ExitStack() as stack:
        targets = [
            stack.enter_context(replica(share_out(data, folder / str(place), files))).target
            for place, files in enumerate(LAYOUTS[request.param])
        ]
        yield stack.enter_context(
            penstock.open_sampler(addresses(*targets), image_size=IMAGE_SIZE, retry_s=20)
        )


def test_replicas_describe_the_dataset_of_an_embedded_target(client, embedded):
    ours, theirs = client.info, embedded.info
    assert ours.version == theirs.version
    assert ours.files == theirs.files
    assert ours.cameras == theirs.cameras
    assert (ours.transitions, ours.episodes) == (96, 6)
    assert ours.dropped_rows == theirs.dropped_rows
    for name, column in theirs.statistics.items():
        for part in ("mean", "std", "min", "max"):
            assert getattr(ours.statistics[name], part).tobytes() == getattr(column, part).tobytes()
    for name in ("file", "first_row", "length", "outcome", "split_key"):
        assert (
            getattr(client.episodes, name).tobytes() == getattr(embedded.episodes, name).tobytes()
        )


def test_replicas_give_the_bytes_of_an_embedded_target(client, embedded):
    plan = penstock.Plan(seed=4, batch_size=33)
    for step in (0, 7, 123_456_789):
        assert_same(client.sample(plan, step), embedded.sample(plan, step))
    epoch = penstock.Plan(batch_size=96, split="all", sampling="epoch")
    assert_same(client.sample(epoch, 0), embedded.sample(epoch, 0))


def test_a_repeated_transition_is_given_as_often_as_it_is_asked_for(client, embedded):
    ids = np.array([95, 0, 95, 95, 30, 71, 0])
    assert_same(client.fetch(ids), embedded.fetch(ids))


def test_an_id_that_is_out_of_range_is_refused_and_the_next_call_is_answered(client):
    for wrong in (-1, 96):
        with pytest.raises(InvalidInput, match=f"{wrong}: ids go from 0 to 95"):
            client.fetch(np.array([3, wrong]))
    assert len(client.fetch(np.array([3, 95]))) == 2


def test_prefetched_batches_are_those_of_an_embedded_target_in_order(client, embedded):
    plan = penstock.Plan(seed=1, batch_size=8)
    for step, batch in enumerate(client.batches(plan, stop_step=6)):
        assert batch.step == step
        assert_same(batch, embedded.sample(plan, step))
    assert client.transfer.loop_s >= client.transfer.wait_s > 0
