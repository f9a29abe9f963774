"""Chaos: client, uploader and server are killed at every place where dying could matter.

``PENSTOCK_CHAOS_KILLS`` is how often; ``PENSTOCK_CHAOS_SEED`` throws the same dice again. After
every kill all that was acknowledged must be listed, verify, and load with the exact content.
"""

import contextlib
import itertools
import json
import os
import random
import re
import secrets
import socket
import time
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from checkpointer_chaos import RUN, state_of
from penstock_checkpointer.staging import StoreLimits
from penstock_checkpointer.store import Store
from process_forks import Forks

from penstock import container
from penstock.server.port import free_port

ROOT = Path(__file__).resolve().parents[2]

CLIENT = (
    "client.before_begin",
    "client.begun",
    "client.chunk_sent",
    "client.before_commit",
    "client.committed",
)
UPLOADER = ("uploader.received", "uploader.encoded", "uploader.saved")
SERVER = (
    "server.begin.part_made",
    "server.begin.before_answer",
    "server.append.written",
    "server.append.before_sync",
    "server.append.synced",
    "server.commit.verified",
    "server.commit.part_synced",
    "server.publish.note_written",
    "server.publish.renamed",
    "server.publish.directory_synced",
    "server.commit.tags_taken",
    "server.commit.before_catalog",
    "server.commit.listed",
    "server.commit.before_answer",
    "server.commit_again.note_written",
    "server.delete.content_removed",
    "server.delete.note_removed",
    "server.delete.before_catalog",
    "server.delete.before_answer",
)
# Those of the other shelf are reached by tests/unit/checkpointer/test_object_shelf.py.
OBJECT = "server.object."
# Those of the converter by tests/e2e/test_converter_chaos.py, of rollouts by test_rollout_chaos.py.
CONVERTER, ROLLOUTS = "converter.", "rollouts."
# How often a round comes by, at least; the others: twice.
REACHED = {"client.chunk_sent": 18, "server.append.written": 18}

KILLS = int(os.environ.get("PENSTOCK_CHAOS_KILLS", "60"))
SEED = int(os.environ.get("PENSTOCK_CHAOS_SEED") or secrets.randbelow(2**32))
SERVED, EXPIRED = 0.08, 0.25
UPLOADER_EVERY = 4
MOST_KEPT = 6
ROUND_S = 120

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(300 + 10 * KILLS)]


class Expected:
    """What must be in the store, by what was acknowledged and what was found after a kill."""

    def __init__(self):
        self.seeds = {}
        self.best = None
        self.next_step = 0
        self.unfinished = None

    def acknowledge(self, task):
        if task["do"] == "save":
            self.seeds[task["step"]] = task["seed"]
            if "best" in task["tags"]:
                self.best = task["step"]
        else:
            del self.seeds[task["step"]]
            self.best = None if self.best == task["step"] else self.best

    def tasks(self, dice):
        """Saves of two steps, moves of a tag between them, deletions; in a random order."""
        first, second = self.next_step, self.next_step + 1
        seeds = {step: dice.randrange(1 << 30) for step in (first, second)}
        self.next_step += 2
        left = self.unfinished
        if left is not None and left["do"] == "save" and left["step"] not in self.seeds:
            # What a kill left is taken up, or another content comes in its place.
            first = left["step"]
            seeds[first] = left["seed"] if dice.random() < 0.5 else dice.randrange(1 << 30)

        def save(step, *tags):
            return {"do": "save", "step": step, "seed": seeds[step], "tags": tags}

        saves = [save(first, "best"), save(second, "best")]
        again = [save(first, "best", f"first-{first}"), save(second, "best", f"second-{second}")]
        old = sorted(self.seeds)
        count = max(2, len(old) - MOST_KEPT)
        deletions = [
            {"do": "delete", "step": step} for step in dice.sample(old, min(count, len(old)))
        ]
        tasks = saves + again
        for deletion in deletions:
            tasks.insert(dice.randrange(len(tasks) + 1), deletion)
        return tasks


class Chaos:
    """One store, one round after the other."""

    def __init__(self, folder, forks, dice):
        self.root, self.journal = folder / "store", folder / "journal"
        self.forks, self.dice = forks, dice
        self.expected = Expected()
        self.hits, self.plain = Counter(), Counter()

    def round(self, name):
        """Kill at one place and check everything."""
        dice = self.dice
        tasks = self.expected.tasks(dice)
        failpoint = f"{name}:{dice.randint(1, REACHED.get(name, 2))}"
        self.journal.write_text("")
        if name in UPLOADER:
            hit = self._wait(self._start("write_in_background", failpoint, tasks)) == 9
        elif dice.random() < SERVED:
            hit = self._served_round(name, failpoint, tasks)
        else:
            hit = self._wait(self._start("write", failpoint, tasks)) == -9
        (self.hits if hit else self.plain)[name] += 1
        self._take_journal()
        self._check(StoreLimits(upload_expiry_s=-1) if dice.random() < EXPIRED else None)

    def _start(self, function, failpoint, tasks, target=None):
        return self.forks.start(
            f"checkpointer_chaos:{function}",
            failpoint,
            target=target or f"file://{self.root}",
            journal=str(self.journal),
            tasks=tasks,
        )

    def _served_round(self, name, failpoint, tasks):
        """A server over gRPC: when it dies it is started again while the client retries."""
        port = free_port()
        serve = {"root": str(self.root), "port": port}
        of_server = name.startswith("server.")
        server = self.forks.start(
            "checkpointer_chaos:serve", failpoint if of_server else "", **serve
        )
        self._wait_until_it_listens(server, port)
        client = self._start(
            "write", "" if of_server else failpoint, tasks, f"grpc://127.0.0.1:{port}"
        )
        died = []

        def watch():
            nonlocal server
            if server.poll() is not None:
                died.append(server.poll())
                assert died == [-9], self._said()
                server = self.forks.start("checkpointer_chaos:serve", **serve)

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
        assert status in (0, -9, 9), self._said()
        return status

    def _take_journal(self):
        begun = None
        for line in self.journal.read_text().splitlines():
            what, task = json.loads(line)
            begun = task if what == "begun" else None
            if what == "done":
                self.expected.acknowledge(task)
        self.expected.unfinished = begun

    def _check(self, limits):
        expected, unfinished = self.expected, self.expected.unfinished
        store = Store(self.root, limits)
        with contextlib.closing(store):
            listed = {info.step: info for info in store.list(RUN)} if store.runs() else {}
            maybe = set() if unfinished is None else {unfinished["step"]}
            assert set(expected.seeds) - listed.keys() <= maybe
            assert listed.keys() - set(expected.seeds) <= maybe
            if unfinished is not None:
                self._resolve(unfinished, listed)
            for step, info in listed.items():
                store.verify(RUN, step)
                with store.open_content(RUN, info.step) as file:
                    found = container.read(file)
                wanted = state_of(step, expected.seeds[step])
                assert (found["step"], found["seed"]) == (step, wanted["seed"])
                np.testing.assert_array_equal(found["w"], wanted["w"])
            tagged = [step for step, info in listed.items() if "best" in info.tags]
            assert tagged == ([] if expected.best is None else [expected.best])
            self._check_files(store, listed, expired=limits is not None)

    def _resolve(self, task, listed):
        """What was not acknowledged has happened or not; from now on it is known which."""
        info = listed.get(task["step"])
        if task["do"] == "delete":
            if info is None:
                self.expected.acknowledge(task)
        elif info is not None:
            tagged = set(task["tags"]) <= set(info.tags)
            assert tagged or task["step"] in self.expected.seeds, f"listed without its tags: {info}"
            if tagged:
                self.expected.acknowledge(task)

    def _check_files(self, store, listed, *, expired):
        parts = {path.stem for path in (self.root / "staging").iterdir()}
        assert parts <= {upload.upload_id for upload in store._catalog.open_uploads()}
        assert not (expired and parts)
        files = {path.name for path in (self.root / "runs").glob("*/*")}
        files |= {path.name for path in (self.root / "runs").glob("*/.*")}
        assert files == {f"{step:019d}{end}" for step in listed for end in (".pstk", ".json")}

    def _said(self):
        return self.forks.log.read_text()[-4000:]


def turns(dice):
    """Names without end, each as often as the others, but for those whose rounds are slow."""
    for cycle in itertools.count():
        names = CLIENT + SERVER + (UPLOADER if cycle % UPLOADER_EVERY == 0 else ())
        yield from dice.sample(names, len(names))


def test_killed_anywhere_nothing_acknowledged_is_lost(tmp_path, capsys):
    names = CLIENT + UPLOADER + SERVER
    dice = random.Random(SEED)  # noqa: S311 - to be thrown again
    begun_s = time.monotonic()
    modules = ("penstock.cli", "penstock.client.checkpoint", "penstock_checkpointer.cli")
    loaded = (*modules, "penstock.server", "penstock_checkpointer.service", "checkpointer_chaos")
    with Forks(*loaded, log=tmp_path / "log") as forks:
        chaos = Chaos(tmp_path, forks, dice)
        for number, name in enumerate(itertools.islice(turns(dice), KILLS)):
            try:
                chaos.round(name)
            except BaseException:
                with capsys.disabled():
                    print(f"\nround {number}, {name}: PENSTOCK_CHAOS_SEED={SEED}")  # noqa: T201
                raise
    with capsys.disabled():
        print(  # noqa: T201
            f"\nseed {SEED}: {chaos.hits.total()} kills at {len(chaos.hits)} of {len(names)} "
            f"places, {chaos.plain.total()} rounds that did not come by ({dict(chaos.plain)}), "
            f"{chaos.expected.next_step} steps, {time.monotonic() - begun_s:.0f} s"
        )
    missed = set(names) - chaos.hits.keys()
    if len(names) * 10 <= KILLS:
        assert not missed
    elif len(names) * 2 <= KILLS:
        assert len(missed) <= len(names) // 4


def test_every_failpoint_of_the_code_has_its_turn():
    sources = [*ROOT.glob("src/penstock/**/*.py"), *ROOT.glob("services/**/*.py")]
    found = {
        name
        for path in sources
        for name in re.findall(r'\bfailpoint\("([a-z_.]+)"\)', path.read_text())
        if not name.startswith((OBJECT, CONVERTER, ROLLOUTS))
    }
    assert found == {*CLIENT, *UPLOADER, *SERVER}
