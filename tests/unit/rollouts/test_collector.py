"""The collector: nothing that was collected changes, and what fails is told."""

import gc
import threading
from concurrent.futures import TimeoutError as NotYet

import numpy as np
import pytest
import torch
from rollout_collectors import ENVS, STEPS, Fresh, Reusing, rollout_of, same

from penstock.errors import Corrupt, InvalidInput, LimitExceeded, TimedOut
from penstock.rollouts import CompressedDataCollector, RolloutStorage, open_rollouts
from penstock.streams import Which


def torch_tree(tree):
    if isinstance(tree, dict):
        return {key: torch_tree(value) for key, value in tree.items()}
    return torch.from_numpy(tree.copy())


class Gated:
    """A storage that saves when it is told to, and fails where it is told to."""

    def __init__(self, fails=()):
        self.fails = set(fails)
        self.gate = threading.Semaphore(0)
        self.began = threading.Semaphore(0)
        self.saved = []

    def iterations(self):
        return []

    def save(self, leaves, iteration, policy_version=0):
        self.began.release()
        self.gate.acquire()
        if iteration in self.fails:
            raise Corrupt(f"no place for {iteration}")
        self.saved.append((iteration, policy_version, leaves["id"][0, 0].item()))

    def open(self, count=100):
        self.gate.release(count)


def stored(target, number, stream="rollouts"):
    with open_rollouts(target) as client:
        return client.pull(stream, Which(iteration=("main", number)))


@pytest.mark.parametrize("convert", [lambda data: data, torch_tree], ids=["numpy", "torch"])
def test_buffer_that_is_used_again_corrupts_no_stored_rollout(target, convert):
    with CompressedDataCollector(Reusing(6, convert), target) as collector:
        batches = list(collector)
    for number, batch in enumerate(batches):
        assert same(batch.data, rollout_of(number))
        assert same(stored(target, number).data, rollout_of(number))
        assert batch.info.result().iteration == number


def test_batch_has_the_kind_of_leaves_that_was_collected():
    (arrays,) = CompressedDataCollector(Fresh(1))
    (tensors,) = CompressedDataCollector(Fresh(1, torch_tree))
    assert isinstance(arrays.data["id"], np.ndarray)
    assert isinstance(tensors.data["id"], torch.Tensor)
    assert (arrays.envs, arrays.steps, arrays.iteration) == (ENVS, STEPS, 0)
    assert arrays.info.result() is None


def test_batch_comes_before_it_is_stored():
    gated = Gated()
    with CompressedDataCollector(Fresh(3), storage=gated) as collector:
        first = next(collector)
        assert same(first.data, rollout_of(0))
        with pytest.raises(NotYet):
            first.info.result(timeout=0)
        with pytest.raises(TimedOut, match="0"):
            collector.wait(0)
        gated.open()
        collector.wait()
        assert first.info.done()
    assert gated.saved == [(0, 0, 0)]


def test_blocking_loses_nothing_and_is_counted():
    gated = Gated()
    with CompressedDataCollector(Fresh(8), storage=gated, max_queue_size=2) as collector:
        opener = threading.Timer(0, gated.open)
        for number, batch in enumerate(collector):
            assert batch.iteration == number
            if number == 2:
                # One is being saved and two wait: the next one waits for room.
                opener.start()
        collector.wait()
        opener.join()
    assert [number for number, _, _ in gated.saved] == list(range(8))
    assert [first for _, _, first in gated.saved] == [1000 * number for number in range(8)]
    assert collector.counts["stored"] == 8
    assert collector.counts["dropped"] == 0


def test_dropping_the_oldest_keeps_the_newest_and_tells_the_batch(caplog):
    gated = Gated()
    with CompressedDataCollector(
        Fresh(6), storage=gated, max_queue_size=2, when_full="drop-oldest"
    ) as collector:
        batches = [next(collector)]
        assert gated.began.acquire(timeout=60)
        batches += list(collector)
        gated.open()
    # The first one was being saved; of the five after it the two newest waited.
    assert [number for number, _, _ in gated.saved] == [0, 4, 5]
    assert collector.counts["dropped"] == 3
    assert "iteration 1 dropped" in caplog.text
    for batch in batches[1:4]:
        with pytest.raises(LimitExceeded) as caught:
            batch.info.result()
        assert caught.value.reason == "DROPPED"
        assert same(batch.data, rollout_of(batch.iteration))


def test_raising_collects_nothing_that_would_be_lost():
    gated, base = Gated(), Fresh(4)
    with CompressedDataCollector(
        base, storage=gated, max_queue_size=1, when_full="raise"
    ) as collector:
        next(collector)
        assert gated.began.acquire(timeout=60)
        next(collector)
        with pytest.raises(LimitExceeded) as caught:
            next(collector)
        assert caught.value.reason == "QUEUE_FULL"
        assert base.collected == 2
        gated.open()
        collector.wait()
        assert next(collector).iteration == 2
    assert [number for number, _, _ in gated.saved] == [0, 1, 2]


def test_error_comes_back_with_the_next_batch_and_collecting_goes_on():
    gated, base = Gated(fails={1}), Fresh(4)
    gated.open()
    with CompressedDataCollector(base, storage=gated) as collector:
        next(collector)
        failed = next(collector)
        assert isinstance(failed.info.exception(timeout=60), Corrupt)
        with pytest.raises(Corrupt, match="no place for 1") as caught:
            next(collector)
        assert "iteration 1" in caught.value.__notes__[0]
        assert base.collected == 2
        assert [next(collector).iteration, next(collector).iteration] == [2, 3]
    assert collector.counts["failed"] == 1
    assert [number for number, _, _ in gated.saved] == [0, 2, 3]


def test_error_of_the_last_rollout_comes_back_when_closing():
    gated = Gated(fails={0})
    collector = CompressedDataCollector(Fresh(1), storage=gated)
    next(collector)
    gated.open()
    with pytest.raises(Corrupt, match="no place for 0"):
        collector.close()
    collector.close()


def test_own_exception_of_the_block_is_not_hidden(caplog):
    gated = Gated(fails={0})
    gated.open()

    def train():
        with CompressedDataCollector(Fresh(1), storage=gated) as collector:
            next(collector)
            raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        train()
    assert "no place for 0" in caplog.text


def test_what_is_not_stored_in_time_is_given_up_and_said(caplog):
    gated = Gated()
    collector = CompressedDataCollector(Fresh(2), storage=gated)
    first = next(collector)
    assert gated.began.acquire(timeout=60)
    second = next(collector)
    collector.close(timeout_s=0)
    assert "[0, 1] were not stored" in caplog.text
    with pytest.raises(Exception, match="closed before"):
        second.info.result(timeout=0)
    gated.open()
    assert first.info.result(timeout=60) is None
    collector.close()
    assert [number for number, _, _ in gated.saved] == [0]


def test_rollout_that_cannot_be_stored_is_named_in_the_loop():
    def spoil(data):
        return {**data, "name": "robot"}

    with (
        CompressedDataCollector(Fresh(1, spoil)) as collector,
        pytest.raises(InvalidInput, match="name"),
    ):
        next(collector)


def test_memory_of_copies_is_used_again():
    gated = Gated()
    gated.open(1000)
    with CompressedDataCollector(Fresh(40), storage=gated, max_queue_size=2) as collector:
        for batch in collector:
            batch.info.result(timeout=60)
            del batch
        # The copy of the last one, of the one before it, and what waited at most.
        assert collector._snapshots.made <= 4
    gc.collect()


def test_attributes_of_the_base_collector_are_passed_through():
    base = Fresh(2)
    with CompressedDataCollector(base) as collector:
        assert collector.set_seed(4) == 5
        assert collector.state_dict() == {"collected": 0}
        assert collector.seeds == [4]
        with pytest.raises(AttributeError, match="nor Fresh has 'frames'"):
            _ = collector.frames
        assert not base.is_shut_down
        collector.shutdown()
    assert base.is_shut_down


def test_each_weight_update_is_a_new_policy_version(target):
    base = Fresh(3)
    with CompressedDataCollector(base, target) as collector:
        collector.policy_version = 7
        for batch in collector:
            assert batch.policy_version == 7 + batch.iteration
            collector.update_policy_weights_({"w": batch.iteration})
    assert [weights["w"] for weights in base.weights] == [0, 1, 2]
    assert stored(target, 2).info.policy_version == 9


def test_numbers_go_on_where_the_stream_was_left(target):
    with CompressedDataCollector(Fresh(2), target) as collector:
        assert [batch.iteration for batch in collector] == [0, 1]
    with CompressedDataCollector(Fresh(2), target) as collector:
        assert [batch.iteration for batch in collector] == [2, 3]
    with CompressedDataCollector(Fresh(1), target, producer="other") as collector:
        assert [batch.iteration for batch in collector] == [0]
    with CompressedDataCollector(Fresh(1), target, first_iteration=10) as collector:
        assert [batch.iteration for batch in collector] == [10]


def test_storage_keeps_every_third_while_the_stream_has_all(target, tmp_path):
    with (
        RolloutStorage(tmp_path / "kept", save_every=3) as storage,
        CompressedDataCollector(Fresh(7), target, storage=storage) as collector,
    ):
        assert sum(1 for _ in collector) == 7
        collector.wait()
        assert storage.iterations() == [0, 3, 6]
        assert same(storage.load(6), rollout_of(6))
    with open_rollouts(target) as client:
        assert [info.iteration for info in client.list("rollouts")] == list(range(7))


def test_history_keeps_what_fits_and_decodes_when_used(target):
    with CompressedDataCollector(
        Reusing(6), target, history_bytes=12_000, encoding="raw"
    ) as collector:
        assert sum(1 for _ in collector) == 6
        collector.wait()
        history = collector.history
        # 64 transitions of 29 bytes and an index: between 1856 and 4000 bytes each.
        assert 3 <= len(history) <= 6
        assert 1856 * len(history) <= history.size_bytes <= 12_000
        assert collector.counts["forgotten"] == 6 - len(history)
        assert collector.counts["decoded"] == 0
        newest = history[-1]
        assert newest.iteration == 5
        assert sum(len(part["id"]) for part in newest.minibatches(7, 0, epochs=3)) == 3 * 64
        assert same(newest.data, rollout_of(5))
        assert collector.counts["decoded"] == 1
        assert [same(batch.data, rollout_of(batch.iteration)) for batch in history] == [True] * len(
            history
        )
    assert same(stored(target, 0).data, rollout_of(0))


def test_rollout_beyond_the_history_is_counted_and_said(caplog):
    with CompressedDataCollector(Fresh(1), history_bytes=10) as collector:
        next(collector)
        collector.wait()
        assert len(collector.history) == 0
        assert collector.counts["too_large"] == 1
    assert "history_bytes=10" in caplog.text


@pytest.mark.parametrize(
    "wrong", [{"max_queue_size": 0}, {"when_full": "wait"}, {"encoding": "gzip"}]
)
def test_wrong_arguments_are_named(wrong):
    with pytest.raises(InvalidInput, match=next(iter(wrong))):
        CompressedDataCollector(Fresh(1), **wrong)
