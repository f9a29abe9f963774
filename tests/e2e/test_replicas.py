"""Replicas that die, hang, come back and change under a client that samples."""

import contextlib
import signal

import numpy as np
import pytest
import tenacity
from sampler_replicas import addresses, assert_same, share_out, write_files
from service_process import ServiceProcess

import penstock
from penstock.client.sampler import RemoteSampler, SamplerClient, TransferStatistics
from penstock.client.sampler.fleet import Fleet
from penstock.client.sampler.replica import State
from penstock.errors import Unavailable
from penstock.targets import Target

IMAGE_SIZE = (10, 9)
PLAN = penstock.Plan(seed=2, batch_size=32, split="all")
EPOCH = penstock.Plan(seed=3, batch_size=16, split="all", sampling="epoch")
ALL = [0, 1, 2]


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_files(tmp_path_factory.mktemp("all") / "data")


@pytest.fixture(scope="module")
def embedded(data):
    with penstock.open_sampler(f"file://{data}/*.hdf5", image_size=IMAGE_SIZE) as client:
        yield client


class Replicas:
    """Sampler processes, each over some of the files."""

    def __init__(self, data, folder):
        self.data, self.folder, self.stack = data, folder, contextlib.ExitStack()
        self.processes = []

    def add(self, files):
        name = str(len(self.processes))
        held = share_out(self.data, self.folder / name, files)
        process = ServiceProcess(
            "sampler", "--data", f"{held}/*.hdf5", log=self.folder / f"{name}.log"
        )
        self.processes.append(process)
        # Paused processes must go on before they can be killed and waited for.
        self.stack.callback(process.resume)
        return self.stack.enter_context(process)

    @property
    def target(self):
        return addresses(*(process.target for process in self.processes))


@pytest.fixture
def replicas(data, tmp_path):
    found = Replicas(data, tmp_path)
    with found.stack:
        yield found


def open_all(replicas, **options):
    return penstock.open_sampler(replicas.target, image_size=IMAGE_SIZE, **options)


@tenacity.retry(
    retry=tenacity.retry_if_exception_type(AssertionError),
    wait=tenacity.wait_fixed(0.05),
    stop=tenacity.stop_after_delay(30),
    reraise=True,
)
def wait_until(condition):
    assert condition()


def state_of(client, process):
    for replica in client._backend.fleet.replicas:
        if replica.name == process.target:
            return replica.state
    return None


def test_killed_replica_loses_no_transition_when_another_has_copies(replicas, embedded):
    first, _ = replicas.add(ALL), replicas.add(ALL)
    seen = []
    with open_all(replicas, retry_s=20) as client:
        for step, batch in enumerate(client.batches(EPOCH, stop_step=6, prefetch=2)):
            if step == 1:
                first.kill()
            assert_same(batch, embedded.sample(EPOCH, step))
            seen.extend(batch.transition_ids.tolist())
        assert_same(client.sample(PLAN, 0), embedded.sample(PLAN, 0))
    assert sorted(seen) == list(range(96))


def test_only_holder_is_waited_for_and_found_again_when_it_is_restarted(replicas, embedded):
    process = replicas.add(ALL)
    with open_all(replicas, retry_s=60) as client:
        client.sample(PLAN, 0)
        process.kill()
        batches = client.batches(PLAN, 1, stop_step=4, prefetch=2)
        process.start()
        for step, batch in enumerate(batches, start=1):
            assert_same(batch, embedded.sample(PLAN, step))


def test_paused_replica_is_hedged_and_used_again_when_it_goes_on(replicas, embedded):
    paused, _ = replicas.add(ALL), replicas.add(ALL)
    with open_all(replicas, retry_s=30) as client:
        client.sample(PLAN, 0)
        paused.process.send_signal(signal.SIGSTOP)
        for step in range(1, 12):
            assert_same(client.sample(PLAN, step), embedded.sample(PLAN, step))
        assert client.transfer.hedges >= 1
        # One wait of half a second, not one for each batch.
        assert client.transfer.batch_p50_s < 0.4
        assert state_of(client, paused) is not State.LIVE
        paused.resume()
        wait_until(lambda: state_of(client, paused) is State.LIVE)
        before = client.transfer.replicas[paused.target].rows
        for step in range(12, 20):
            assert_same(client.sample(PLAN, step), embedded.sample(PLAN, step))
        assert client.transfer.replicas[paused.target].rows > before


def test_rolling_restart_of_all_replicas_loses_and_repeats_nothing(replicas, embedded):
    shards = [replicas.add(files) for files in ([0, 1], [1, 2], [2, 0])]
    seen = []
    with open_all(replicas, retry_s=60) as client:
        for step, batch in enumerate(client.batches(EPOCH, stop_step=6, prefetch=1)):
            if step < len(shards):
                shards[step].stop()
                shards[step].start()
            assert_same(batch, embedded.sample(EPOCH, step))
            seen.extend(batch.transition_ids.tolist())
    assert sorted(seen) == list(range(96))


def test_replica_that_joins_takes_over_for_one_that_dies(replicas, embedded):
    first = replicas.add(ALL)
    named = [first.target]
    fleet = Fleet(Target.parse(first.target), lambda _: [to_address(name) for name in named])
    transfer = TransferStatistics()
    backend = RemoteSampler(Target.parse(first.target), transfer, 30, fleet=fleet)
    with SamplerClient(backend, penstock.FrameSpec(*IMAGE_SIZE), transfer) as client:
        assert_same(client.sample(PLAN, 0), embedded.sample(PLAN, 0))
        second = replicas.add(ALL)
        named.append(second.target)
        wait_until(lambda: state_of(client, second) is State.LIVE)
        first.kill()
        for step in range(1, 4):
            assert_same(client.sample(PLAN, step), embedded.sample(PLAN, step))
        assert transfer.replicas[second.target].rows > 0
        named.remove(first.target)
        wait_until(lambda: state_of(client, first) is None)


def to_address(target):
    return target.replace("grpc://", "ipv4:")


def test_replica_whose_version_changed_goes_on_with_the_files_it_still_has(
    replicas, embedded, data
):
    process, _ = replicas.add([0, 1]), replicas.add(ALL)
    with open_all(replicas, retry_s=30) as client:
        client.sample(PLAN, 0)
        process.stop()
        # One file is another recording by now, one is gone, one is new, one is as it was.
        (replicas.folder / "0" / "0.hdf5").unlink()
        write_files(replicas.folder / "other", rows=(20, 41))
        (replicas.folder / "other" / "0.hdf5").rename(replicas.folder / "0" / "new.hdf5")
        process.start()
        wait_until(lambda: state_of(client, process) is State.LIVE)
        before = client.transfer.replicas[process.target].rows
        for step in range(1, 8):
            assert_same(client.sample(PLAN, step), embedded.sample(PLAN, step))
        assert client.transfer.replicas[process.target].rows > before


def test_lost_file_is_named_with_the_replicas_that_were_asked(replicas):
    lost, kept = replicas.add([0]), replicas.add([1, 2])
    with open_all(replicas, on_lost="fail", retry_s=30) as client:
        lost.kill()
        with pytest.raises(Unavailable, match=r"no replica that answers holds 0\.hdf5") as raised:
            client.fetch(np.arange(96))
        assert lost.target in raised.value.message
        assert raised.value.metadata == {"file": "0.hdf5"}
        assert len(client.fetch(np.arange(30, 96))) == 66
        assert kept.process.poll() is None


def test_lost_rows_are_skipped_and_counted_when_asked_for(replicas, embedded):
    lost, _ = replicas.add([0]), replicas.add([1, 2])
    with open_all(replicas, on_lost="skip", retry_s=30) as client:
        lost.kill()
        batch = client.fetch(np.arange(20, 50))
        assert_same(batch, embedded.fetch(np.arange(30, 50)))
        assert client.transfer.skipped_rows == 10


def test_waiting_for_a_lost_file_ends_with_the_time_given(replicas):
    lost, _ = replicas.add([0]), replicas.add([1, 2])
    with open_all(replicas, retry_s=2) as client:
        lost.kill()
        with pytest.raises(Unavailable, match=r"0\.hdf5"):
            client.fetch(np.arange(96))


def test_a_consumer_that_stops_does_not_wait_for_a_replica_that_is_away(replicas):
    process = replicas.add(ALL)
    with open_all(replicas, retry_s=600) as client:
        batches = client.batches(PLAN, prefetch=4)
        next(batches)
        process.kill()
        batches.close()
