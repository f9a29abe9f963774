"""Calls of a batch: which rows they bring, how they end, and what they leave behind."""

import contextlib
import gc

import numpy as np
import pytest
import tenacity
from prometheus_client import REGISTRY
from sampler_replicas import addresses, assert_same, replica, write_files

import penstock
from penstock.client.sampler.fetching import BatchFetch
from penstock.client.sampler.replica import State

PLAN = penstock.Plan(batch_size=48, split="all", sampling="epoch")
IMAGE_SIZE = (10, 9)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_files(tmp_path_factory.mktemp("all") / "data")


@pytest.fixture
def clients(data):
    """Opens a client of so many replicas in this process."""
    with contextlib.ExitStack() as stack:

        def open_client(count):
            targets = [stack.enter_context(replica(data)).target for _ in range(count)]
            return stack.enter_context(
                penstock.open_sampler(addresses(*targets), image_size=IMAGE_SIZE, retry_s=20)
            )

        yield open_client


@tenacity.retry(
    retry=tenacity.retry_if_exception_type(AssertionError),
    wait=tenacity.wait_fixed(0.01),
    stop=tenacity.stop_after_delay(10),
    reraise=True,
)
def until(condition):
    assert condition()


def ended(code):
    """How many calls of Fetch ended with that status, as the servers count."""
    labels = {"method": "/penstock.v1.SamplerService/Fetch", "code": code}
    return REGISTRY.get_sample_value("penstock_calls_total", labels) or 0


def fetch(client, out, rows, **options):
    backend = client._backend
    return BatchFetch(
        backend._fetching, out.transition_ids, out, rows=rows, retry_s=5, **options
    ).run()


def blank(client, ids):
    out = penstock.Batch.allocate(len(ids), client.info, client.spec)
    out.transition_ids[:] = ids
    out.frames[:] = 99
    for values in out.columns.values():
        values[:] = 1
    return out


def test_calls_whose_rows_have_come_are_not_cut_short(clients):
    client = clients(1)
    cancelled, done = ended("CANCELLED"), ended("OK")
    for step in range(30):
        client.sample(PLAN, step)
    until(lambda: ended("OK") - done >= 30)
    assert ended("CANCELLED") == cancelled


def test_memory_of_batches_comes_back_without_the_garbage_collector(clients, monkeypatch):
    client = clients(2)
    client.sample(PLAN, 0)
    taken = []
    allocate = client._buffers._allocate
    monkeypatch.setattr(
        client._buffers, "_allocate", lambda size: taken.append(size) or allocate(size)
    )
    gc.collect()
    gc.disable()
    try:
        for step in range(30):
            client.sample(PLAN, step)
            # The thread of the last call may not have let go yet.
            until(lambda: client._buffers.idle)
    finally:
        gc.enable()
    assert taken == []


def test_only_the_rows_that_are_asked_for_are_touched(clients):
    client = clients(2)
    ids = np.arange(20, 60)
    expected, out = client.fetch(ids), blank(client, ids)
    rows = np.arange(40) % 3 == 0
    assert fetch(client, out, rows).all()
    assert_same(out.taken(rows), expected.taken(rows))
    assert (out.frames[~rows] == 99).all()
    assert (out.reward[~rows] == 1).all()


def test_columns_come_without_frames_in_one_call(clients):
    client = clients(1)
    done, out = ended("OK"), blank(client, np.arange(96))
    assert fetch(client, out, np.ones(96, np.bool_), with_frames=False).all()
    until(lambda: ended("OK") == done + 1)
    assert client.transfer.wire_bytes == client.transfer.raw_bytes == 0
    expected = client.fetch(np.arange(96))
    for name, values in expected.columns.items():
        assert values.tobytes() == out.columns[name].tobytes()
    assert (out.frames == 99).all()


def test_replicas_take_turns_with_columns(clients):
    client = clients(3)
    until(lambda: all(r.state is State.LIVE for r in client._backend.fleet.replicas))
    out = blank(client, np.arange(50))
    for _ in range(6):
        fetch(client, out, np.ones(50, np.bool_), with_frames=False)
    assert [share.rows for share in client.transfer.replicas.values()] == [100, 100, 100]


def test_nothing_is_asked_for_when_no_row_is_wanted(clients):
    client = clients(1)
    done, out = ended("OK"), blank(client, np.arange(5))
    assert fetch(client, out, np.zeros(5, np.bool_)).all()
    assert ended("OK") == done
    assert client.transfer.replicas == {}
