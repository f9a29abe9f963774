"""Chaos: replicas die, restart, hang, come and go, and their caches rot, under one exact epoch.

``PENSTOCK_CHAOS_S`` is how long that goes on, in seconds, over all layouts of replicas;
``PENSTOCK_CHAOS_SEED`` throws the same dice again.
"""

import contextlib
import os
import random
import secrets
import shutil
import signal
import sys
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import pytest
from sampler_replicas import assert_same, write_files
from service_process import ServiceProcess

import penstock
from penstock.client.sampler import RemoteSampler, SamplerClient, TransferStatistics
from penstock.client.sampler.fleet import Fleet
from penstock.targets import Target

ALL = (0, 1, 2, 3, 4, 5)
IMAGE_SIZE = (48, 64)
BATCH_SIZE = 64
BATCHES_PER_S = 4
BATCHES_BETWEEN = 5
PREFETCH = 3
RETRY_S = 300
EVENTS = ("kill", "restart", "pause", "add", "remove_cached", "damage_cached")
DOWN_S, PAUSED_S, BETWEEN_S = (0.0, 2.0), (0.1, 3.0), (0.2, 1.2)
MOST_EXTRAS, CACHES = 2, 5


@dataclass(frozen=True)
class Layout:
    """Which files each replica serves at first, and by which ways frames may come."""

    replicas: tuple[tuple[int, ...], ...]
    shared_cache: bool
    local: bool
    direct: bool


LAYOUTS = {
    "shards": Layout(((0, 1), (2, 3), (4, 5)), shared_cache=False, local=False, direct=True),
    "copies": Layout((ALL, ALL), shared_cache=True, local=True, direct=True),
    "mixture": Layout(
        (ALL, (0, 1, 2), (3, 4), (1, 5)), shared_cache=True, local=False, direct=False
    ),
}

TOTAL_S = float(os.environ.get("PENSTOCK_CHAOS_S", "60"))
SEED = int(os.environ.get("PENSTOCK_CHAOS_SEED") or secrets.randbelow(2**32))
LAYOUT_S = TOTAL_S / len(LAYOUTS)
# Whole batches of six files: 64 x 3 n transitions make 32 n of each.
STEPS = 3 * max(10, round(LAYOUT_S * BATCHES_PER_S / 3))
# Half of what all frames take: every read meets cached and uncached files.
CACHE_BYTES = STEPS * BATCH_SIZE * 3 * IMAGE_SIZE[0] * IMAGE_SIZE[1] * 3 // 2
PLAN = penstock.Plan(seed=5, batch_size=BATCH_SIZE, split="all", sampling="epoch")

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(LAYOUT_S * 2 + RETRY_S + 300)]


class Chaos:
    """Throws dice over replicas until it is told to end, then until each event came up.

    Args:
        data: Folder of the six files.
        folder: Of caches and logs.
        layout: Replicas at first.
        dice: Decides everything; which replicas are busy when it is thrown, timing decides.
    """

    def __init__(self, data, folder, layout, dice):
        self.data, self.folder, self.layout, self.dice = data, folder, layout, dice
        self.counts = Counter()
        self.history = []
        self.over = threading.Event()
        self.named = []
        self.batches = 0
        self._begun = time.monotonic()
        self._stack = contextlib.ExitStack()
        self._made = 0
        self._idle, self._extras = [], []
        self._changed = threading.Condition()
        self._tasks = []
        self._workers = ThreadPoolExecutor(8, "chaos-event")
        self._dealer = ThreadPoolExecutor(1, "chaos-dice")

    def __enter__(self):
        first = [self._new(files) for files in self.layout.replicas]
        list(self._workers.map(self._start, first))
        self.named.extend(process.target for process in first)
        self._idle.extend(first)
        return self

    def __exit__(self, *_):
        self.over.set()
        with self._changed:
            self._changed.notify_all()
        self._dealer.shutdown()
        self._workers.shutdown()
        self._stack.close()
        for cache in self.folder.glob("cache-*"):
            shutil.rmtree(cache)

    def begin(self, seconds):
        """Throw dice for so long; ``over`` is set afterwards, all replicas up again."""
        self._dealing = self._dealer.submit(self._deal, time.monotonic() + seconds)

    def result(self):
        """Wait for the end, and raise what went wrong with a replica."""
        self._dealing.result()

    def find(self, _):
        """Addresses of the replicas that have a name now, some of which are not there."""
        return [target.replace("grpc://", "ipv4:") for target in tuple(self.named)]

    def _new(self, files):
        name, self._made = str(self._made), self._made + 1
        # One that comes late finds the cache that another one left.
        cache = "shared" if self.layout.shared_cache else self._made % CACHES
        return ServiceProcess(
            "sampler",
            *("--data", ",".join(f"{self.data}/{number}.hdf5" for number in files)),
            *("--cache-dir", str(self.folder / f"cache-{cache}")),
            *("--cache-bytes", str(CACHE_BYTES)),
            log=self.folder / f"{name}.log",
        )

    def _start(self, process):
        # Entered once, for its end; later starts are events.
        self._stack.push(process)
        process.start()

    def _deal(self, until):
        try:
            deck = []
            while time.monotonic() < until or len(self.counts) < len(EVENTS):
                if not deck:
                    self._wait_for_batches()
                    deck = self.dice.sample(EVENTS, len(EVENTS))
                self._throw(deck.pop())
                self.over.wait(self.dice.uniform(*BETWEEN_S))
                if self.over.is_set():
                    break
            for task in self._tasks:
                task.result()
        finally:
            self.over.set()

    def took_batch(self):
        """The consumer goes on, which every few events wait for."""
        with self._changed:
            self.batches += not self.over.is_set()
            self._changed.notify_all()

    def _wait_for_batches(self):
        with self._changed:
            wanted = self.batches + BATCHES_BETWEEN
            self._changed.wait_for(lambda: self.batches >= wanted or self.over.is_set())

    def _throw(self, event):
        if event.endswith("_cached"):
            if getattr(self, f"_{event}")():
                self._note(event)
        elif event == "add":
            files = self.dice.choice((ALL, *self.layout.replicas))
            process, early = self._new(files), self.dice.random() < 0.5
            self._tasks.append(self._workers.submit(self._add, process, self._retired(), early))
        else:
            with self._changed:
                while not self._idle:
                    self._changed.wait()
                process = self._idle.pop(self.dice.randrange(len(self._idle)))
            seconds = self.dice.uniform(*(PAUSED_S if event == "pause" else DOWN_S))
            self._tasks.append(self._workers.submit(self._strike, event, process, seconds))

    def _strike(self, event, process, seconds):
        self._note(event, process)
        try:
            getattr(self, f"_{event}")(process, seconds)
        finally:
            with self._changed:
                self._idle.append(process)
                self._changed.notify_all()

    def _kill(self, process, seconds):
        process.kill()
        self.over.wait(seconds)
        process.start()

    def _restart(self, process, seconds):
        assert process.stop(timeout_s=60) == 0
        self.over.wait(seconds)
        process.start()

    def _pause(self, process, seconds):
        process.process.send_signal(signal.SIGSTOP)
        try:
            self.over.wait(seconds)
        finally:
            process.resume()

    def _add(self, process, retired, early):
        """Start a replica; half of them have their name before they are there."""
        if early:
            self.named.append(process.target)
        self._start(process)
        if not early:
            self.named.append(process.target)
        self._note("add", process)
        if retired is not None:
            retired.kill()
            self.named.remove(retired.target)
        with self._changed:
            self._extras.append(process)
            self._idle.append(process)
            self._changed.notify_all()

    def _retired(self):
        """An added replica that is to go for good when the next one is there."""
        with self._changed:
            idle = [process for process in self._extras if process in self._idle]
            if len(self._extras) < MOST_EXTRAS or not idle:
                return None
            self._extras.remove(idle[0])
            self._idle.remove(idle[0])
            return idle[0]

    def _cached(self):
        found = [*self.folder.rglob("*.frames"), *self.folder.rglob("*.index")]
        return self.dice.choice(sorted(found)) if found else None

    def _remove_cached(self):
        path = self._cached()
        if path is None:
            return False
        path.unlink(missing_ok=True)
        return True

    def _damage_cached(self):
        path = self._cached()
        try:
            with (path or self.folder / "none").open("r+b") as file:
                size = os.fstat(file.fileno()).st_size
                for _ in range(64):
                    place = self.dice.randrange(size)
                    file.seek(place)
                    flipped = file.read(1)[0] ^ self.dice.randrange(1, 256)
                    file.seek(place)
                    file.write(bytes([flipped]))
        except FileNotFoundError:
            return False
        return True

    def _note(self, event, process=None):
        self.counts[event] += 1
        at = time.monotonic() - self._begun
        self.history.append(f"{at:6.1f} s  {event}  {process.log.stem if process else ''}")


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    each = STEPS * BATCH_SIZE // len(ALL)
    rows = [each + more for more in (-15, 15, -7, 7, -1, 1)]
    return write_files(tmp_path_factory.mktemp("all") / "data", rows, size=(24, 32))


@pytest.fixture(scope="module")
def embedded(data):
    with penstock.open_sampler(f"file://{data}/*.hdf5", image_size=IMAGE_SIZE) as client:
        yield client


@contextlib.contextmanager
def open_all(chaos, transfer):
    target = Target.parse(chaos.named[0])
    fleet = Fleet(target, chaos.find)
    ways = {"local": chaos.layout.local, "direct": chaos.layout.direct}
    backend = RemoteSampler(target, transfer, RETRY_S, fleet=fleet, **ways)
    with SamplerClient(backend, penstock.FrameSpec(*IMAGE_SIZE), transfer) as client:
        yield client


@contextlib.contextmanager
def told(layout, chaos, capsys):
    """Say by which seed a run can be had again, and after a failure what happened in it."""
    seed = f"PENSTOCK_CHAOS_SEED={SEED} PENSTOCK_CHAOS_S={TOTAL_S:g}"
    with capsys.disabled():
        sys.stdout.write(f"\nchaos over {layout}: {seed}\n")
    try:
        yield
    except BaseException as error:
        error.add_note("\n".join([f"again by {seed}", *chaos.history]))
        raise


def counters(transfer):
    names = ("retries", "reissues", "hedges", "duplicate_rows", "local_faults", "direct_faults")
    return ", ".join(f"{getattr(transfer, name)} {name}" for name in names)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_chaos_loses_repeats_and_alters_nothing(layout, data, embedded, tmp_path, capsys):
    transfer = TransferStatistics()
    dice = random.Random(f"{SEED} {layout}")  # noqa: S311 - dice, no secret
    seen = []
    with (
        Chaos(data, tmp_path, LAYOUTS[layout], dice) as chaos,
        told(layout, chaos, capsys),
        open_all(chaos, transfer) as client,
    ):
        chaos.begin(LAYOUT_S)
        batches = client.batches(PLAN, stop_step=STEPS, prefetch=PREFETCH)
        for step, batch in enumerate(batches):
            assert_same(batch, embedded.sample(PLAN, step))
            seen.append(batch.transition_ids)
            chaos.took_batch()
            # The epoch lasts a little longer than the chaos, whose rest comes at once.
            chaos.over.wait(1.05 * LAYOUT_S / STEPS)
        chaos.result()
        planned = [embedded.view(PLAN).transition_ids(step) for step in range(STEPS)]
        order = np.concatenate(seen)
        assert order.tolist() == np.concatenate(planned).tolist()
        assert sorted(order.tolist()) == list(range(BATCH_SIZE * STEPS))
        assert chaos.batches > BATCHES_BETWEEN
        assert set(chaos.counts) == set(EVENTS)
        assert transfer.reissues > 0
        assert transfer.retries > 0
        assert (transfer.local_bytes > 0) == LAYOUTS[layout].local
        if not LAYOUTS[layout].local:
            assert (transfer.direct_bytes > 0) == LAYOUTS[layout].direct
        assert transfer.skipped_rows == 0
    with capsys.disabled():
        sys.stdout.write(f"{dict(chaos.counts)}, then: {counters(transfer)}\n")
