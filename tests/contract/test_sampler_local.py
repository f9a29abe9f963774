"""A client on the server's machine reads cached frames itself: the same bytes, whatever happens."""

import contextlib
import gc
import re
import signal
from pathlib import Path

import numpy as np
import pytest
import tenacity
from sampler_replicas import addresses, assert_same, share_out, write_files
from service_process import ServiceProcess

import penstock
from penstock.client.sampler.replica import State

IMAGE_SIZE = (10, 9)
ROW_BYTES = 2 * 3 * 10 * 9 * 3
PLAN = penstock.Plan(seed=2, batch_size=32, split="all")
EPOCH = penstock.Plan(seed=3, batch_size=96, split="all", sampling="epoch")
ALL = np.arange(96)


class Machine:
    """Servers with a frame cache and a folder of sockets of their own."""

    def __init__(self, data, folder):
        self.data, self.folder, self.stack = data, folder, contextlib.ExitStack()
        self.cache = folder / "cache"
        self.processes = []

    def serve(self, files=None, **settings):
        name = str(len(self.processes))
        held = self.data if files is None else share_out(self.data, self.folder / name, files)
        settings = {"cache_dir": self.cache, "local_socket": self.folder / "sockets"} | settings
        flags = [f"--{key.replace('_', '-')}={value}" for key, value in settings.items()]
        process = ServiceProcess(
            "sampler", "--data", f"{held}/*.hdf5", *flags, log=self.folder / f"{name}.log"
        )
        self.processes.append(process)
        self.stack.callback(process.resume)
        return self.stack.enter_context(process)

    def open(self, **options):
        target = addresses(*(process.target for process in self.processes))
        options = {"image_size": IMAGE_SIZE, "retry_s": 30} | options
        return self.stack.enter_context(penstock.open_sampler(target, **options))

    def open_with_all_cached(self, **options):
        """A client that has all files open already."""
        client = self.open(**options)
        until(lambda: frames_all_local(client))
        return client


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_files(tmp_path_factory.mktemp("all") / "data")


@pytest.fixture(scope="module")
def embedded(data):
    with penstock.open_sampler(f"file://{data}/*.hdf5", image_size=IMAGE_SIZE) as client:
        yield client


@pytest.fixture
def machine(data, tmp_path):
    found = Machine(data, tmp_path)
    with found.stack:
        yield found


@tenacity.retry(
    retry=tenacity.retry_if_exception_type(AssertionError),
    wait=tenacity.wait_fixed(0.05),
    stop=tenacity.stop_after_delay(30),
    reraise=True,
)
def until(condition):
    assert condition()


def local_rows(client, fetch):
    """How many rows of a batch were read here, and the batch."""
    before = client.transfer.local_bytes
    batch = fetch()
    return (client.transfer.local_bytes - before) // ROW_BYTES, batch


def frames_all_local(client):
    return local_rows(client, lambda: client.fetch(ALL))[0] == len(ALL)


def descriptors_of(folder):
    """How many files of a folder this process has open."""
    links = [path.readlink() for path in Path("/proc/self/fd").iterdir() if path.is_symlink()]
    return sum(str(link).startswith(str(folder)) for link in links)


def state_of(client, process):
    (found,) = [r for r in client._backend.fleet.replicas if r.name == process.target]
    return found.state


@pytest.mark.parametrize("codec", ["raw", "lz4", "bitplanes", "bitplanes_lz4"])
def test_bytes_are_those_of_an_embedded_target_and_of_grpc(machine, embedded, codec):
    machine.serve(codec=codec)
    client, remote = machine.open_with_all_cached(), machine.open(local=False)
    ids = np.array([95, 0, 95, 95, 9, 10, 11, 29, 30, 71, 0])
    before = client.transfer.wire_bytes
    rows, batch = local_rows(client, lambda: client.fetch(ids))
    assert rows == len(ids)
    assert_same(batch, embedded.fetch(ids))
    assert_same(batch, remote.fetch(ids))
    for step in (0, 5, 123_456_789):
        assert_same(client.sample(PLAN, step), embedded.sample(PLAN, step))
    assert client.transfer.wire_bytes == before
    assert client.transfer.local_faults == 0
    assert remote.transfer.local_bytes == 0
    assert remote.transfer.wire_bytes > 0


def test_windows_and_images_as_stored_are_the_same_too(machine, data):
    machine.serve()
    plan = penstock.Plan(seed=1, batch_size=5, window=7, split="all")
    with penstock.open_sampler(f"file://{data}/*.hdf5") as embedded:
        client = machine.open(image_size=None)
        until(lambda: local_rows(client, lambda: client.sample(plan, 0))[0] > 0)
        for step in range(4):
            ours, theirs = client.sample(plan, step), embedded.sample(plan, step)
            assert_same(ours, theirs)
            assert ours.mask.tolist() == theirs.mask.tolist()


def test_batches_are_the_same_while_the_cache_fills(machine, embedded):
    machine.serve()
    client = machine.open()
    expected = embedded.sample(EPOCH, 0)
    seen = set()

    def filled():
        rows, batch = local_rows(client, lambda: client.sample(EPOCH, 0))
        assert_same(batch, expected)
        seen.add(rows)
        return rows == len(batch)

    until(filled)
    # Nothing was cached at first; rows of one file go over together.
    assert min(seen) == 0
    assert seen <= {0, 30, 41, 25, 71, 55, 66, 96}
    transfer = client.transfer
    assert transfer.local_bytes < transfer.raw_bytes
    assert transfer.raw_bytes == 96 * ROW_BYTES * transfer.batches


def test_rows_of_a_damaged_file_come_over_the_wire(machine, embedded, caplog):
    machine.serve()
    client = machine.open_with_all_cached()
    damaged = sorted(machine.cache.glob("*.frames"))[1]
    content = bytearray(damaged.read_bytes())
    content[-1] ^= 1
    damaged.write_bytes(content)
    assert_same(client.fetch(ALL), embedded.fetch(ALL))
    assert client.transfer.local_faults == 1
    (message,) = [m for m in caplog.messages if "cannot be used" in m]
    assert re.match(r"\d\.hdf5, cached by grpc://.* its rows come over the wire: .* hash", message)
    # The server found the same, and has built another one.
    until(lambda: frames_all_local(client))
    assert_same(client.fetch(ALL), embedded.fetch(ALL))


def test_evicted_files_are_read_on(machine, embedded):
    machine.serve()
    client = machine.open_with_all_cached()
    for path in machine.cache.glob("*.frames"):
        path.unlink()
    rows, batch = local_rows(client, lambda: client.fetch(ALL))
    assert rows == 96
    assert_same(batch, embedded.fetch(ALL))


def test_a_restarted_server_is_another_one(machine, embedded):
    process = machine.serve()
    client = machine.open_with_all_cached()
    process.stop()
    process.start()
    assert_same(client.fetch(ALL), embedded.fetch(ALL))
    until(lambda: frames_all_local(client))
    assert_same(client.fetch(ALL), embedded.fetch(ALL))
    assert descriptors_of(machine.cache) == 3


def test_a_file_that_was_replaced_is_not_read_from_the_old_cache(machine, embedded):
    machine.serve([0, 1, 2], watch_s=0.1)
    client = machine.open_with_all_cached()
    changed = write_files(machine.folder / "changed", rows=[33])
    (changed / "0.hdf5").rename(machine.folder / "0" / "0.hdf5")
    until(lambda: machine.open().info.version != client.info.version)
    fresh = machine.open()
    everything = np.arange(fresh.info.transitions)
    with penstock.open_sampler(
        f"file://{machine.folder}/0/*.hdf5", image_size=IMAGE_SIZE
    ) as expected:
        until(lambda: local_rows(fresh, lambda: fresh.fetch(everything))[0] == len(everything))
        assert_same(fresh.fetch(everything), expected.fetch(everything))
    # Whoever opened the dataset before goes on with it, as long as the server has it.
    assert_same(client.fetch(ALL[30:]), embedded.fetch(ALL[30:]))


def test_lost_rows_are_skipped_although_their_frames_are_here(machine, embedded):
    lost = machine.serve([0])
    machine.serve([1, 2])
    client = machine.open_with_all_cached(on_lost="skip")
    lost.kill()
    rows, batch = local_rows(client, lambda: client.fetch(np.arange(20, 50)))
    assert_same(batch, embedded.fetch(np.arange(30, 50)))
    assert client.transfer.skipped_rows == 10
    assert rows == 30


def test_a_paused_server_holds_up_nobody(machine, embedded):
    paused, other = machine.serve(), machine.serve()
    machine.open_with_all_cached()
    client = machine.open()  # has nothing open yet
    paused.process.send_signal(signal.SIGSTOP)
    for step in range(4):
        assert_same(client.sample(PLAN, step), embedded.sample(PLAN, step))
    # Its files come from the one that goes on.
    assert frames_all_local(client)
    assert client.transfer.replicas[other.target].rows > 0
    assert state_of(client, paused) is not State.LIVE


def test_frames_that_are_open_are_read_while_their_server_is_paused(machine, embedded):
    paused = machine.serve(cache_dir=machine.folder / "cache-of-the-paused")
    machine.serve(cache_dir="none", local_socket="none")
    client = machine.open_with_all_cached()
    paused.process.send_signal(signal.SIGSTOP)
    for step in range(4):
        rows, batch = local_rows(client, lambda step=step: client.sample(PLAN, step))
        assert rows == 32
        assert_same(batch, embedded.sample(PLAN, step))


def test_nothing_is_read_here_when_it_is_switched_off_on_either_side(machine, embedded):
    machine.serve(local_socket="none")
    client = machine.open()

    def cached():
        assert_same(client.fetch(ALL), embedded.fetch(ALL))
        return len(list(machine.cache.glob("*.frames"))) == 3

    until(cached)
    cached()
    assert client.transfer.local_bytes == 0
    assert client.transfer.local_faults == 0
    assert descriptors_of(machine.cache) == 0


def test_descriptors_are_kept_once_and_closed_with_the_client(machine):
    machine.serve()
    before = len(list(Path("/proc/self/fd").iterdir()))
    client = machine.open_with_all_cached()
    for _ in client.batches(PLAN, stop_step=30):
        pass
    assert descriptors_of(machine.cache) == 3
    client.close()
    assert descriptors_of(machine.cache) == 0
    until(lambda: len(list(Path("/proc/self/fd").iterdir())) <= before)


def test_memory_of_batches_comes_back_without_the_garbage_collector(machine):
    machine.serve()
    client = machine.open_with_all_cached()
    taken = []
    allocate = client._buffers._allocate
    client._buffers._allocate = lambda size: taken.append(size) or allocate(size)
    gc.collect()
    gc.disable()
    try:
        for step in range(30):
            client.sample(EPOCH, step)
            # A thread of the last call may not have let go yet.
            until(lambda: client._buffers.idle)
    finally:
        gc.enable()
    assert taken == []


def test_a_data_set_for_torch_reads_here_too(machine, embedded, monkeypatch):
    from penstock.torch import BatchDataset, batches

    process = machine.serve()
    machine.open_with_all_cached()
    opened = []

    def open_sampler(*args, **options):
        opened.append(penstock.open_sampler(*args, **options))
        return opened[0]

    monkeypatch.setattr(batches, "open_sampler", open_sampler)
    found = iter(BatchDataset(process.target, PLAN, image_size=IMAGE_SIZE))
    for step in range(3):
        frames = next(found)["frames"].numpy()
        assert frames.tobytes() == embedded.sample(PLAN, step).frames.tobytes()
    assert opened[0].transfer.local_bytes >= 3 * 32 * ROW_BYTES
    found.close()
