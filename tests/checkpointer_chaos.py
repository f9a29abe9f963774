"""What the processes do that ``tests/e2e/test_checkpointer_chaos.py`` kills."""

from __future__ import annotations

import json
import os
import sys

import numpy as np

import penstock
from penstock.client.checkpoint import WriterTokens
from penstock.client.checkpoint import stores as checkpoint_store

__all__ = ["RUN", "serve", "state_of", "write", "write_in_background"]

RUN = "arm"
SIZE_BYTES = 600_000
CHUNK_BYTES, SYNC_BYTES = 1 << 16, 1 << 18


def state_of(step, seed):
    """What is saved as ``step``: bytes that nothing can shrink, different for every seed."""
    dice = np.random.default_rng([step, seed])
    return {"step": step, "seed": seed, "w": dice.integers(0, 256, SIZE_BYTES, np.uint8)}


class _Journal:
    """Says which tasks were begun and which were acknowledged, for who comes after a kill."""

    def __init__(self, path):
        self._handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)

    def note(self, what, task):
        os.write(self._handle, f"{json.dumps([what, task])}\n".encode())


def write(target, journal, tasks):
    """Save and delete as ``tasks`` say, one after the other."""
    # Small pieces, so that a small checkpoint has many of them.
    checkpoint_store.CHUNK_BYTES, checkpoint_store.SYNC_BYTES = CHUNK_BYTES, SYNC_BYTES
    notes = _Journal(journal)
    with penstock.open_checkpoints(target, retry_s=60, tokens=WriterTokens()) as client:
        for task in tasks:
            notes.note("begun", task)
            if task["do"] == "save":
                state = state_of(task["step"], task["seed"])
                client.save(state, RUN, task["step"], tags=task["tags"], compress="none")
            else:
                client.delete(RUN, task["step"])
            notes.note("done", task)


def write_in_background(target, journal, tasks):
    """The same saves through the saver, whose uploader is the process that dies; 9 if it did."""
    notes = _Journal(journal)
    with penstock.AsyncCheckpointSaver(
        target, run=RUN, compress="none", retry_s=60, tokens=WriterTokens()
    ) as saver:
        # Only the first uploader dies: the one that takes its place finds nothing set.
        del os.environ["PENSTOCK_FAILPOINT"]
        for task in tasks:
            if task["do"] == "save":
                notes.note("begun", task)
                saver.save_async(state_of(task["step"], task["seed"]), task["step"], task["tags"])
                saver.wait()
                notes.note("done", task)
    if saver.counts["uploader_restarts"]:
        raise SystemExit(9)


def serve(root, port):
    """Run the checkpointer as its command does."""
    from penstock.cli import main

    sys.argv = ["penstock", "serve", "checkpointer", "--root", root, "--port", str(port)]
    main()
