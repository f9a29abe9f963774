"""What the processes do that ``tests/e2e/test_rollout_chaos.py`` kills."""

from __future__ import annotations

import json
import os
import sys

from rollout_samples import rollout_of

from penstock.client.rollout import open_rollouts
from penstock.errors import NotFound, TimedOut
from penstock.streams import Take, Which

__all__ = [
    "CONSUMER",
    "SHAPE",
    "STREAM",
    "produce",
    "push",
    "push_and_train",
    "serve",
    "train",
    "train_many",
]

STREAM, CONSUMER = "navigation", "trainer"
SHAPE = {"envs": 32, "steps": 8, "width": 40}


class _Journal:
    """Says what was done and acknowledged, for who comes after a kill."""

    def __init__(self, path):
        self._handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)

    def note(self, what, *values):
        os.write(self._handle, f"{json.dumps([what, *values])}\n".encode())


def push(target, journal, iterations):
    """Push one rollout after the other."""
    notes = _Journal(journal)
    with open_rollouts(target, retry_s=60) as client:
        for iteration in iterations:
            info = client.push(rollout_of(iteration, **SHAPE), STREAM, iteration)
            notes.note("pushed", iteration, info.sequence)


def train(target, journal):
    """Take and settle until nothing is left."""
    notes = _Journal(journal)
    which = Which(take=Take(consumer=CONSUMER, member="only"))
    with open_rollouts(target, retry_s=60) as client:
        while True:
            try:
                pulled = client.pull(STREAM, which)
            except NotFound:
                return
            info = pulled.info
            notes.note("taken", info.iteration, info.sequence)
            client.settle(STREAM, CONSUMER, info.sequence, "only")
            notes.note("settled", info.iteration, info.sequence)


def push_and_train(target, journal, iterations):
    """One after the other."""
    push(target, journal, iterations)
    train(target, journal)


def produce(target, journal, producer, iterations):
    """Push what is the producer's own."""
    notes = _Journal(journal)
    with open_rollouts(target) as client:
        for iteration in iterations:
            data = rollout_of(iteration, **SHAPE)
            info = client.push(data, STREAM, iteration, producer=producer)
            notes.note("pushed", producer, iteration, info.sequence)


def train_many(target, journal, member, total):
    """Share the work with other members until all is done."""
    notes = _Journal(journal)
    which = Which(take=Take(consumer=CONSUMER, member=member))
    with open_rollouts(target) as client:
        while (state := client.stream(STREAM)).last_sequence < total or state.consumers[0].waiting:
            try:
                info = client.pull(STREAM, which, wait_s=0.2).info
            except TimedOut:
                continue
            notes.note("settled", info.producer, info.iteration, info.sequence)
            client.settle(STREAM, CONSUMER, info.sequence, member)


def serve(root, port):
    """Run the checkpointer as its command does."""
    from penstock.cli import main

    sys.argv = ["penstock", "serve", "checkpointer", "--root", root, "--port", str(port)]
    main()
