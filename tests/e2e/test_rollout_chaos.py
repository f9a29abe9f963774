"""Chaos: producer, trainer and server are killed at every place where dying could matter.

``PENSTOCK_CHAOS_KILLS`` is how often; ``PENSTOCK_CHAOS_SEED`` throws the same dice again. After
every kill all that was acknowledged must be stored with its content, or settled; no sequence may
be given twice, and nothing that is settled delivered again.
"""

import contextlib
import itertools
import json
import os
import random
import re
import secrets
import socket
import threading
import time
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from penstock_checkpointer.rollouts.store import RolloutStore
from process_forks import Forks
from rollout_chaos import CONSUMER, SHAPE, STREAM
from rollout_samples import rollout_of
from service_process import ServiceProcess

from penstock.client.rollout import open_rollouts
from penstock.errors import PenstockError, TimedOut
from penstock.rollout_file import read, unflatten
from penstock.server.port import free_port
from penstock.streams import StreamSettings, Take, Which

ROOT = Path(__file__).resolve().parents[2]

CLIENT = ("rollouts.client.piece_sent",)
PUSH = (
    "rollouts.begin.part_made",
    "rollouts.begin.before_answer",
    "rollouts.append.written",
    "rollouts.commit.verified",
    "rollouts.commit.part_synced",
    "rollouts.commit.before_rename",
    "rollouts.commit.renamed",
    "rollouts.commit.directory_synced",
    "rollouts.commit.before_catalog",
    "rollouts.commit.listed",
    "rollouts.commit.before_answer",
)
TRAIN = (
    "rollouts.find.before_answer",
    "rollouts.settle.before_catalog",
    "rollouts.settle.before_answer",
    "rollouts.remove.file_removed",
)

KILLS = int(os.environ.get("PENSTOCK_CHAOS_KILLS", "40"))
SEED = int(os.environ.get("PENSTOCK_CHAOS_SEED") or secrets.randbelow(2**32))
SERVED = 0.1
PUSHES = 3
ROUND_S = 120

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(300 + 10 * KILLS)]


class Chaos:
    """One store, one round after the other."""

    def __init__(self, folder, forks, dice):
        self.root, self.journal = folder / "store", folder / "journal"
        self.forks, self.dice = forks, dice
        self.next_iteration = 0
        self.sequences, self.settled = {}, set()
        self.hits, self.plain = Counter(), Counter()
        with contextlib.closing(RolloutStore(self.root)) as store:
            store.configure(STREAM, StreamSettings(keep_last=2))

    def round(self, name):
        """Kill at one place and check everything."""
        failpoint = f"{name}:{self.dice.randint(1, PUSHES)}"
        self.journal.write_text("")
        if name in CLIENT or self.dice.random() < SERVED:
            hit = self._served_round(name, failpoint)
        else:
            hit = self._wait(self._start("push_and_train", failpoint)) == -9
        (self.hits if hit else self.plain)[name] += 1
        self._take_journal()
        self._check()

    def finish(self):
        """Nothing dies any more: all must come through."""
        self.journal.write_text("")
        assert self._wait(self._start("push_and_train", "")) == 0
        self._take_journal()
        self._check()
        assert self.settled == set(self.sequences.values())
        assert set(self.sequences) == set(range(self.next_iteration))

    def _start(self, function, failpoint, target=None):
        # Those that a kill left are pushed again, before new ones.
        left = [i for i in range(self.next_iteration) if i not in self.sequences]
        new = range(self.next_iteration, self.next_iteration + PUSHES)
        self.next_iteration = new.stop
        return self.forks.start(
            f"rollout_chaos:{function}",
            failpoint,
            target=target or f"file://{self.root}",
            journal=str(self.journal),
            iterations=[*left, *new],
        )

    def _served_round(self, name, failpoint):
        """A server over gRPC: when it dies it is started again while the client retries."""
        port = free_port()
        serve = {"root": str(self.root), "port": port}
        of_server = name not in CLIENT
        server = self.forks.start("rollout_chaos:serve", failpoint if of_server else "", **serve)
        self._wait_until_it_listens(server, port)
        client = self._start(
            "push_and_train", "" if of_server else failpoint, f"grpc://127.0.0.1:{port}"
        )
        died = []

        def watch():
            nonlocal server
            if server.poll() is not None:
                died.append(server.poll())
                assert died == [-9], self._said()
                server = self.forks.start("rollout_chaos:serve", **serve)

        try:
            status = self._wait(client, watch)
        finally:
            client.kill()
            server.kill()
        assert status == 0 or not of_server, self._said()
        return bool(died) if of_server else status == -9

    def _wait_until_it_listens(self, server, port):
        # Else the client's first attempt fails, and the next one comes seconds later.
        while server.poll() is None:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port)):
                return
            time.sleep(0.01)

    def _wait(self, process, watch=lambda: None):
        deadline_s = time.monotonic() + ROUND_S
        while (status := process.poll()) is None:
            assert time.monotonic() < deadline_s, f"a round hangs:\n{self._said()}"
            watch()
            time.sleep(0.002)
        assert status in (0, -9), self._said()
        return status

    def _take_journal(self):
        for line in self.journal.read_text().splitlines():
            what, iteration, sequence = json.loads(line)
            known = self.sequences.setdefault(iteration, sequence)
            assert known == sequence, f"{iteration} was {known}, is {sequence}"
            if what == "taken":
                assert sequence not in self.settled, f"{sequence} was settled"
            elif what == "settled":
                self.settled.add(sequence)
        assert len(set(self.sequences.values())) == len(self.sequences)

    def _check(self):
        with contextlib.closing(RolloutStore(self.root)) as store:
            listed = {info.iteration: info for info in store.list(STREAM)}
            for iteration, info in listed.items():
                known = self.sequences.setdefault(iteration, info.sequence)
                assert known == info.sequence
                with store.open_content(STREAM, info.sequence) as file:
                    found = unflatten(read(file))
                np.testing.assert_equal(found, rollout_of(iteration, **SHAPE))
            for iteration, sequence in self.sequences.items():
                if iteration not in listed:
                    gone = store._catalog.removed(STREAM, "main", iteration)
                    assert gone.sequence == sequence
                    # Its settlement may not have been acknowledged any more.
                    self.settled.add(sequence)
            parts = {path.stem for path in (self.root / "rollouts" / "staging").glob("*.part")}
            under_way = {push.request.push_id for push in store._staging.pushes.under_way()}
            assert parts <= under_way
            files = list((self.root / "rollouts" / "streams" / STREAM).glob("*.rollout"))
            assert len(files) == len(listed)
            for push in under_way:
                store.abort(push)

    def _said(self):
        return self.forks.log.read_text()[-4000:]


def turns(dice):
    """Names without end, each as often as the others."""
    names = CLIENT + PUSH + TRAIN
    while True:
        yield from dice.sample(names, len(names))


def test_killed_anywhere_nothing_acknowledged_is_lost_or_delivered_twice(tmp_path, capsys):
    names = CLIENT + PUSH + TRAIN
    dice = random.Random(SEED)  # noqa: S311 - to be thrown again
    begun_s = time.monotonic()
    modules = ("penstock.cli", "penstock.client.rollout", "penstock_checkpointer.cli")
    loaded = (*modules, "penstock.server", "penstock_checkpointer.rollouts.service")
    with Forks(*loaded, "rollout_chaos", log=tmp_path / "log") as forks:
        chaos = Chaos(tmp_path, forks, dice)
        for number, name in enumerate(itertools.islice(turns(dice), KILLS)):
            try:
                chaos.round(name)
            except BaseException:
                with capsys.disabled():
                    print(f"\nround {number}, {name}: PENSTOCK_CHAOS_SEED={SEED}")  # noqa: T201
                raise
        chaos.finish()
    with capsys.disabled():
        print(  # noqa: T201
            f"\nseed {SEED}: {chaos.hits.total()} kills at {len(chaos.hits)} of {len(names)} "
            f"places, {chaos.plain.total()} rounds that did not come by ({dict(chaos.plain)}), "
            f"{chaos.next_iteration} rollouts, {time.monotonic() - begun_s:.0f} s"
        )
    missed = set(names) - chaos.hits.keys()
    if len(names) * 2 <= KILLS:
        assert len(missed) <= len(names) // 4


def test_every_failpoint_of_the_code_has_its_turn():
    sources = [*ROOT.glob("src/penstock/**/*.py"), *ROOT.glob("services/**/*.py")]
    found = {
        name
        for path in sources
        for name in re.findall(r'\bfailpoint\("(rollouts\.[a-z_.]+)"\)', path.read_text())
    }
    assert found == {*CLIENT, *PUSH, *TRAIN}


class Traffic:
    """Two producers and two members of a consumer, who go on while their server is killed."""

    def __init__(self, target):
        self.target = target
        self.acknowledged, self.settled, self.failures = [], [], []
        self.enough = threading.Event()
        self.producers = [self._start(self._produce, name) for name in ("a", "b")]
        self.trainers = [self._start(self._train, name) for name in ("x", "y")]

    def _start(self, work, name):
        def guarded():
            try:
                with open_rollouts(self.target, retry_s=60) as client:
                    work(client, name)
            except PenstockError as error:
                self.failures.append(error)

        thread = threading.Thread(target=guarded)
        thread.start()
        return thread

    def _produce(self, client, name):
        for iteration in itertools.count():
            if self.enough.is_set():
                return
            data = rollout_of(iteration, **SHAPE)
            self.acknowledged.append(client.push(data, STREAM, iteration, producer=name))

    def _train(self, client, name):
        which = Which(take=Take(consumer=CONSUMER, member=name))
        while True:
            # Before: what came after a wait was over is found by the next one.
            more_may_come = any(producer.is_alive() for producer in self.producers)
            try:
                pulled = client.pull(STREAM, which, wait_s=1)
            except TimedOut:
                if not more_may_come:
                    return
                continue
            np.testing.assert_equal(pulled.data, rollout_of(pulled.info.iteration, **SHAPE))
            client.settle(STREAM, CONSUMER, pulled.info.sequence, name)
            self.settled.append(pulled.info)

    def wait_for_more(self, count):
        """Wait until so many more are settled."""
        wanted, deadline_s = len(self.settled) + count, time.monotonic() + 120
        while len(self.settled) < wanted and not self.failures:
            assert time.monotonic() < deadline_s
            time.sleep(0.01)

    def finish(self):
        """Push no more, and wait until all is settled."""
        self.enough.set()
        for thread in (*self.producers, *self.trainers):
            thread.join(120)
            assert not thread.is_alive()


def test_server_killed_at_random_moments_loses_and_doubles_nothing(tmp_path, capsys):
    dice = random.Random(SEED)  # noqa: S311 - to be thrown again
    with capsys.disabled():
        print(f"\nseed {SEED}")  # noqa: T201
    root = tmp_path / "store"
    arguments = ("--root", str(root), "--drain-s", "0")
    with ServiceProcess("checkpointer", *arguments, log=tmp_path / "log") as server:
        with open_rollouts(server.target) as client:
            client.configure(STREAM, StreamSettings(capacity=4, keep_last=3))
        traffic = Traffic(server.target)
        for _ in range(3):
            traffic.wait_for_more(5)
            # Not a wait for something: the moment of the kill is what is varied.
            time.sleep(dice.uniform(0, 0.1))
            server.kill()
            server.start()
        traffic.finish()
    assert traffic.failures == []
    acknowledged = {info.sequence: info for info in traffic.acknowledged}
    assert len(acknowledged) == len(traffic.acknowledged)
    # Each was given until it was settled, and none again after that.
    assert sorted(info.sequence for info in traffic.settled) == sorted(acknowledged)
    assert all(acknowledged[info.sequence] == info for info in traffic.settled)
    with contextlib.closing(RolloutStore(root)) as store:
        assert store.stream(STREAM).rollouts == 3
        (consumer,) = store.stream(STREAM).consumers
        assert (consumer.settled, consumer.waiting) == (len(acknowledged), 0)


def test_processes_that_share_a_directory_lose_and_double_nothing(tmp_path):
    """Producers and members as processes of their own, on one embedded store."""
    producers, members, each = 3, 3, 15
    root, journal = tmp_path / "store", tmp_path / "journal"
    with contextlib.closing(RolloutStore(root)) as store:
        store.configure(STREAM, StreamSettings(capacity=3, keep_last=2))
    with Forks("penstock.client.rollout", "rollout_chaos", log=tmp_path / "log") as forks:
        shared = {"target": f"file://{root}", "journal": str(journal)}
        running = [
            forks.start(
                "rollout_chaos:produce", producer=f"p{number}", iterations=[*range(each)], **shared
            )
            for number in range(producers)
        ]
        running += [
            forks.start(
                "rollout_chaos:train_many", member=f"m{number}", total=producers * each, **shared
            )
            for number in range(members)
        ]
        deadline_s = time.monotonic() + ROUND_S
        while any(process.poll() is None for process in running):
            assert time.monotonic() < deadline_s, forks.log.read_text()[-4000:]
            time.sleep(0.01)
        assert [process.poll() for process in running] == [0] * 6, forks.log.read_text()[-4000:]
    notes = [json.loads(line) for line in journal.read_text().splitlines()]
    pushed = {tuple(values) for what, *values in notes if what == "pushed"}
    trained = [tuple(values) for what, *values in notes if what == "settled"]
    wanted = {(f"p{n}", iteration) for n in range(producers) for iteration in range(each)}
    assert {values[:2] for values in pushed} == wanted
    assert sorted(trained) == sorted(pushed)
    assert max(values[2] for values in pushed) == producers * each
