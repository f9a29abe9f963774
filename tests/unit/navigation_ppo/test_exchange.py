"""Collector and trainer, whatever ends them: each rollout is learned from exactly once."""

import threading
from dataclasses import replace

import numpy as np
import pytest
import torch
from navigation_ppo.collecting import collect
from navigation_ppo.collector import Collector
from navigation_ppo.journal import Journal, checksum
from navigation_ppo.navigation import NavigationEnvs
from navigation_ppo.ppo import Learner, dice_of, policy_of
from navigation_ppo.settings import Settings
from navigation_ppo.trainer import CONSUMER, Trainer

import penstock
from penstock.errors import InvalidInput
from penstock.rollouts import Encoding, open_rollouts
from penstock.streams import StreamSettings, Take, Which

RUN = "unit"
SETTINGS = Settings(envs=4, steps=8, rollouts=5, epochs=1, minibatches=2, width=8, judged=2)


class Killed(BaseException):
    """Stands for SIGKILL: nothing of the code under test can hold it up."""


class Mortal:
    """Passes calls on; when its time has come it dies, before or after the call."""

    def __init__(self, part, method=None, *, after=False, calls=1):
        self._part, self._method, self._after, self._left = part, method, after, calls

    def __getattr__(self, name):
        value = getattr(self._part, name)
        if name != self._method:
            return value

        def call(*args, **kwargs):
            self._left -= 1
            if self._left == 0 and not self._after:
                raise Killed
            result = value(*args, **kwargs)
            if self._left == 0:
                raise Killed
            return result

        return call


@pytest.fixture
def target(tmp_path):
    return f"file://{tmp_path}/store"


@pytest.fixture
def streams(target):
    with open_rollouts(target) as client:
        yield client


@pytest.fixture
def checkpoints(target):
    with penstock.open_checkpoints(target) as client:
        yield client


@pytest.fixture
def trainer(streams, checkpoints, tmp_path):
    def make(settings=SETTINGS, max_staleness=None, **parts):
        parts = {
            "rollouts": streams,
            "checkpoints": checkpoints,
            "journal": Journal(tmp_path / "trainer.jsonl"),
        } | parts
        return Trainer(RUN, settings, max_staleness=max_staleness, say=print, **parts)

    return make


@pytest.fixture
def collector(streams, checkpoints, tmp_path):
    def make(**parts):
        parts = {
            "rollouts": streams,
            "checkpoints": checkpoints,
            "journal": Journal(tmp_path / "collector.jsonl"),
        } | parts
        return Collector(RUN, producer="main", encoding=Encoding(), say=print, **parts)

    return make


def some_rollouts(count):
    envs, network = NavigationEnvs(SETTINGS.envs, 7), Learner(SETTINGS).network
    return [collect(envs, policy_of(network, dice_of(i)), SETTINGS.steps) for i in range(count)]


def push_all(streams, rollouts, versions=None):
    streams.configure(RUN, StreamSettings())
    versions = versions or [0] * len(rollouts)
    for iteration, (rollout, version) in enumerate(zip(rollouts, versions, strict=True)):
        streams.push(rollout, RUN, iteration, policy_version=version)


def trained_to_the_end(trainer):
    records = []
    trainer.train(records.append)
    return records


def weights(trainer):
    return torch.cat([part.flatten() for part in trainer.learner.network.state_dict().values()])


def test_rollouts_are_learned_from_in_order_and_settled(trainer, streams, tmp_path):
    rollouts = some_rollouts(5)
    push_all(streams, rollouts, versions=(0, 0, 1, 1, 4))
    records = trained_to_the_end(trainer())
    assert [record.sequence for record in records] == [1, 2, 3, 4, 5]
    assert [record.iteration for record in records] == [0, 1, 2, 3, 4]
    assert [record.staleness for record in records] == [0, 1, 1, 2, 0]
    assert [record.checksum for record in records] == [checksum(rollout) for rollout in rollouts]
    assert [line["sequence"] for line in Journal(tmp_path / "trainer.jsonl").read()] == [
        *(1, 2, 3, 4, 5)
    ]
    (consumer,) = streams.stream(RUN).consumers
    assert (consumer.settled, consumer.waiting) == (5, 0)


def test_what_the_wire_brings_is_learned_from_as_if_it_had_not_travelled(trainer, streams):
    rollouts = some_rollouts(5)
    push_all(streams, rollouts)
    over_the_wire = trainer()
    over_the_wire.train(lambda record: None)
    at_home = Learner(SETTINGS)
    for rollout in rollouts:
        at_home.learn(rollout)
    expected = torch.cat([part.flatten() for part in at_home.network.state_dict().values()])
    assert torch.equal(weights(over_the_wire), expected)


@pytest.mark.parametrize(
    ("part", "method", "after"),
    [
        ("rollouts", "pull", True),
        ("checkpoints", "save", False),
        ("checkpoints", "save", True),
        ("journal", "write", True),
        ("rollouts", "settle", False),
        ("rollouts", "settle", True),
    ],
)
def test_a_trainer_that_dies_anywhere_learns_from_each_rollout_once(
    trainer, streams, checkpoints, tmp_path, part, method, after
):
    push_all(streams, some_rollouts(5))
    journal = Journal(tmp_path / "trainer.jsonl")
    whole = {"rollouts": streams, "checkpoints": checkpoints, "journal": journal}
    # Save is called once before the first rollout.
    calls = 3 if method == "save" else 2
    mortal = Mortal(whole[part], method, after=after, calls=calls)
    with pytest.raises(Killed):
        trainer(**{part: mortal}).train(lambda record: None)
    second = trainer()
    second.train(lambda record: None)

    lines = journal.read()
    assert [line["sequence"] for line in lines] == [1, 2, 3, 4, 5]
    assert [line["rollout"] for line in lines] == [1, 2, 3, 4, 5]
    assert [info.step for info in checkpoints.list(RUN)] == [0, 1, 2, 3, 4, 5]
    (consumer,) = streams.stream(RUN).consumers
    assert (consumer.settled, consumer.waiting) == (5, 0)

    undisturbed = Learner(SETTINGS)
    for rollout in some_rollouts(5):
        undisturbed.learn(rollout)
    expected = torch.cat([part.flatten() for part in undisturbed.network.state_dict().values()])
    assert torch.equal(weights(second), expected)


def test_a_rollout_that_was_learned_from_is_given_again_and_only_settled(
    trainer, streams, tmp_path, capsys
):
    push_all(streams, some_rollouts(5))
    with pytest.raises(Killed):
        trainer(rollouts=Mortal(streams, "settle")).train(lambda record: None)
    records = trained_to_the_end(trainer())
    assert "number 1 is in checkpoint 1: settled" in capsys.readouterr().out
    assert [record.sequence for record in records] == [2, 3, 4, 5]


def test_a_rollout_that_was_not_saved_is_given_again(trainer, streams, checkpoints):
    push_all(streams, some_rollouts(5))
    with pytest.raises(Killed):
        trainer(checkpoints=Mortal(checkpoints, "save", calls=2)).train(lambda record: None)
    records = trained_to_the_end(trainer())
    assert [record.attempt for record in records] == [2, 1, 1, 1, 1]


def test_rollouts_of_old_weights_are_skipped_and_counted(trainer, streams):
    push_all(streams, some_rollouts(7), versions=(0, 1, 0, 0, 2, 3, 4))
    records = trained_to_the_end(trainer(max_staleness=1))
    # After two, version 2 learns: 0 is too old for it.
    assert [record.sequence for record in records] == [1, 2, 5, 6, 7]
    assert [record.skipped_stale for record in records] == [0, 0, 2, 0, 0]
    assert max(record.staleness for record in records) <= 1


def test_a_damaged_rollout_is_passed_over_and_counted(trainer, streams, tmp_path):
    push_all(streams, some_rollouts(6))
    second = sorted((tmp_path / "store").rglob("*.rollout"))[1]
    content = bytearray(second.read_bytes())
    content[len(content) // 2] ^= 1
    second.write_bytes(content)
    records = trained_to_the_end(trainer())
    assert [record.sequence for record in records] == [1, 3, 4, 5, 6]
    assert [record.damaged for record in records] == [0, 1, 0, 0, 0]


def test_other_settings_do_not_continue_a_run(trainer, streams):
    push_all(streams, some_rollouts(5))
    trainer().train(lambda record: None)
    with pytest.raises(InvalidInput, match=r"was begun with seed 0, gamma 0\.98: give the same"):
        trainer(replace(SETTINGS, seed=1, gamma=0.9)).train(lambda record: None)


def test_a_run_that_is_over_stays_over(trainer, streams):
    push_all(streams, some_rollouts(6))
    trainer().train(lambda record: None)
    assert trained_to_the_end(trainer()) == []


def test_collector_and_trainer_meet_and_end_together(trainer, collector, streams, tmp_path):
    collecting = threading.Thread(target=lambda: collector().collect())
    collecting.start()
    records = trained_to_the_end(trainer())
    collecting.join(60)
    assert not collecting.is_alive()
    assert [record.iteration for record in records] == [0, 1, 2, 3, 4]
    # Newer weights act as they come: what waits is bounded, and so is staleness.
    assert records[-1].policy_version > 0
    assert max(record.staleness for record in records) <= 3
    collected = Journal(tmp_path / "collector.jsonl").read()
    sent = {(line["iteration"], line["checksum"]) for line in collected}
    assert {(record.iteration, record.checksum) for record in records} <= sent


@pytest.mark.parametrize("after", [False, True])
def test_a_collector_that_dies_goes_on_where_the_stream_ends(trainer, collector, streams, after):
    training = threading.Thread(target=lambda: trainer().train(lambda record: None))
    training.start()
    with pytest.raises(Killed):
        collector(rollouts=Mortal(streams, "push", after=after, calls=2)).collect()
    collector().collect()
    training.join(60)
    assert not training.is_alive()
    (producer,) = streams.stream(RUN).producers
    # No iteration is missing and none came twice.
    assert producer.pushed == producer.last_iteration + 1 >= 5


def test_a_collector_that_begins_again_does_not_live_through_the_same_again(
    trainer, collector, streams, checkpoints
):
    with pytest.raises(Killed):
        trainer(checkpoints=Mortal(checkpoints, "save", after=True)).train(lambda record: None)
    streams.configure(RUN, StreamSettings())
    for _ in range(2):
        with pytest.raises(Killed):
            collector(rollouts=Mortal(streams, "push", after=True)).collect()
    pulled = [
        streams.pull(RUN, Which(sequence=sequence)).data["observation"]["lidar"]
        for sequence in (1, 2)
    ]
    assert not np.array_equal(*pulled)


def test_nothing_is_taken_for_another_consumer(trainer, streams):
    push_all(streams, some_rollouts(5))
    streams.pull(RUN, Which(take=Take(consumer="other")))
    trainer().train(lambda record: None)
    waiting = {consumer.name: consumer.waiting for consumer in streams.stream(RUN).consumers}
    assert waiting == {CONSUMER: 0, "other": 5}
