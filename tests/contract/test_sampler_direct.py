"""Frames over the direct port are the bytes of the recording, whatever happens to a server."""

import contextlib
import re
import signal

import cv2
import grpc
import h5py
import numpy as np
import psutil
import pytest
import tenacity
from sampler_replicas import CAMERAS, addresses, assert_same, share_out, write_files
from service_process import ServiceProcess

import penstock
from penstock.client.errors import translated_errors
from penstock.client.messages import ACCEPTED_CODECS
from penstock.client.sampler.replica import State
from penstock.errors import Unavailable, Unsupported
from penstock.v1 import sampler_pb2 as pb
from penstock.v1.sampler_pb2_grpc import SamplerServiceStub

IMAGE_SIZE = (10, 9)
ROWS = (30, 41, 25)  # of each file; the last row of each, and the one a third in, is terminal
PLAN = penstock.Plan(seed=2, batch_size=32, split="all")
ALL = np.arange(96)


class Machine:
    """Servers with a frame cache of their own, and clients that read nothing but the network."""

    def __init__(self, data, folder):
        self.data, self.folder, self.stack = data, folder, contextlib.ExitStack()
        self.cache = folder / "cache"
        self.processes = []

    def serve(self, files=None, **settings):
        name = str(len(self.processes))
        held = self.data if files is None else share_out(self.data, self.folder / name, files)
        settings = {"cache_dir": self.cache} | settings
        flags = [f"--{key.replace('_', '-')}={value}" for key, value in settings.items()]
        process = ServiceProcess(
            "sampler", "--data", f"{held}/*.hdf5", *flags, log=self.folder / f"{name}.log"
        )
        self.processes.append(process)
        self.stack.callback(process.resume)
        return self.stack.enter_context(process)

    def open(self, **options):
        target = addresses(*(process.target for process in self.processes))
        options = {"image_size": IMAGE_SIZE, "retry_s": 30, "local": False} | options
        return self.stack.enter_context(penstock.open_sampler(target, **options))

    def open_with_all_cached(self, **options):
        """A client that has got a whole batch directly."""
        client = self.open(**options)
        until(lambda: came_directly(client, lambda: client.fetch(ALL)))
        return client


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_files(tmp_path_factory.mktemp("all") / "data", ROWS)


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
    stop=tenacity.stop_after_delay(60),
    reraise=True,
)
def until(condition):
    assert condition()


def came_directly(client, fetch):
    """Whether all frames of a batch did, none of them twice."""
    transfer = client.transfer
    before = transfer.wire_bytes, transfer.direct_bytes
    fetch()
    wire_bytes = transfer.wire_bytes - before[0]
    return 0 < wire_bytes == transfer.direct_bytes - before[1]


def read_plainly(data, transition):
    """A transition by h5py and cv2 alone."""
    file, row = 0, transition
    while row >= ROWS[file]:
        file, row = file + 1, row - ROWS[file]
    with h5py.File(data / f"{file}.hdf5") as source:
        terminal = bool(source["terminals"][row])
        following = row if terminal else row + 1
        frames = [
            [
                cv2.resize(
                    source["observations"][camera][index],
                    IMAGE_SIZE[::-1],
                    interpolation=cv2.INTER_LINEAR,
                )
                for camera in CAMERAS
            ]
            for index in (row, following)
        ]
        return {
            "frames": np.array(frames),
            "joint": source["observations/joint"][row],
            "next_joint": source["observations/joint"][following],
            "action": source["actions"][row],
            "reward": source["rewards"][row],
            "terminal": terminal,
        }


@pytest.mark.parametrize("codec", ["raw", "lz4", "bitplanes", "bitplanes_lz4"])
def test_bytes_are_those_of_the_recording_of_an_embedded_target_and_of_grpc(
    machine, data, embedded, codec
):
    machine.serve(codec=codec)
    client, over_grpc = machine.open_with_all_cached(), machine.open(direct=False)
    # Terminal rows and those before them, across files, some more than once.
    ids = np.array([95, 0, 95, 9, 10, 11, 28, 29, 30, 43, 44, 70, 71, 0])
    batches = []
    assert came_directly(client, lambda: batches.append(client.fetch(ids)))
    batch = batches[0]
    assert batch.columns["terminal"].sum() == 6
    for row, transition in enumerate(ids.tolist()):
        expected = read_plainly(data, transition)
        assert batch.frames[row].tobytes() == expected["frames"].tobytes()
        for name, values in batch.columns.items():
            assert values[row].tobytes() == np.asarray(expected[name], values.dtype).tobytes()
    assert_same(batch, embedded.fetch(ids))
    assert_same(batch, over_grpc.fetch(ids))
    for step in (0, 5, 123_456_789):
        assert_same(client.sample(PLAN, step), embedded.sample(PLAN, step))
    assert client.transfer.direct_faults == 0
    assert over_grpc.transfer.direct_bytes == 0


def test_batches_of_many_messages_with_images_as_stored_are_the_same(tmp_path):
    data = write_files(tmp_path / "large", rows=[20], size=(150, 160))
    machine = Machine(data, tmp_path)
    with machine.stack, penstock.open_sampler(f"file://{data}/*.hdf5") as embedded:
        machine.serve(codec="raw")
        client = machine.open(image_size=None)
        ids = np.array([19, 3, 7, 7, 0, 12, 18, 5, 6, 11] * 3)  # 7 messages of at most 2 MiB
        until(lambda: came_directly(client, lambda: client.fetch(ids)))
        assert_same(client.fetch(ids), embedded.fetch(ids))


def test_as_much_as_one_call_may_ask_for_is_the_same(machine, embedded):
    machine.serve()
    client = machine.open_with_all_cached()
    ids = np.resize(np.append(ALL, 5), 65_536)
    batches = []
    assert came_directly(client, lambda: batches.append(client.fetch(ids)))
    assert_same(batches[0], embedded.fetch(ids))


def test_rows_before_those_that_are_not_cached_come_directly(machine, embedded):
    machine.serve()
    client = machine.open()
    first = np.arange(ROWS[0])
    until(lambda: came_directly(client, lambda: client.fetch(first)))
    transfer = client.transfer
    before = transfer.wire_bytes, transfer.direct_bytes
    ids = np.append(np.resize(first, 6000), ALL)
    batch = client.fetch(ids)
    assert 0 < transfer.direct_bytes - before[1] < transfer.wire_bytes - before[0]
    assert transfer.direct_faults == 0
    assert_same(batch, embedded.fetch(ids))


def test_any_client_of_grpc_may_fetch_there(machine, embedded):
    process = machine.serve()
    machine.open_with_all_cached()
    address = process.target.removeprefix("grpc://")
    with grpc.insecure_channel(address) as channel:
        first = SamplerServiceStub(channel)
        described = first.GetDataset(pb.GetDatasetRequest())
        request = pb.FetchRequest(
            dataset_version=described.dataset.version,
            transition_ids=range(96),
            frame_spec=pb.FrameSpec(height_px=IMAGE_SIZE[0], width_px=IMAGE_SIZE[1]),
            accepted_codecs=ACCEPTED_CODECS,
        )
        parts = [answer.part for answer in first.Fetch(request)]
    there = f"{address.rpartition(':')[0]}:{described.direct_port}"
    with grpc.insecure_channel(there) as channel:
        direct = SamplerServiceStub(channel)
        directly = [answer.part for answer in direct.Fetch(request)]
        request.frame_spec.height_px += 1
        with pytest.raises(Unsupported, match="not all of it is cached"), translated_errors(there):
            list(direct.Fetch(request))
    # Parts may be cut differently; what is in them is the same.
    ids = [
        [number for part in each for number in part.transition_ids] for each in (directly, parts)
    ]
    assert ids[0] == ids[1] == list(range(96))
    images = [b"".join(part.observations.data for part in each) for each in (directly, parts)]
    assert images[0] == images[1]
    assert all(part.observations.hashes for part in directly)


def test_what_is_not_cached_yet_comes_over_grpc(machine, embedded):
    machine.serve()
    client = machine.open()
    batches = [client.fetch(ALL)]
    assert client.transfer.direct_bytes == 0
    assert client.transfer.wire_bytes > 0
    until(lambda: came_directly(client, lambda: batches.append(client.fetch(ALL))))
    expected = embedded.fetch(ALL)
    for batch in batches:
        assert_same(batch, expected)
    assert client.transfer.direct_faults == 0


@pytest.mark.parametrize("option", ["--direct-port=none", "--cache-dir=none"])
def test_a_server_without_the_port_is_asked_over_grpc(machine, embedded, option):
    name, value = option.removeprefix("--").split("=")
    machine.serve(**{name.replace("-", "_"): value})
    client = machine.open()
    for step in range(5):
        assert_same(client.sample(PLAN, step), embedded.sample(PLAN, step))
    assert (client.transfer.direct_bytes, client.transfer.direct_faults) == (0, 0)


def test_a_port_that_is_named_is_the_one(machine, embedded, unused_port):
    process = machine.serve(direct_port=unused_port)
    machine.open_with_all_cached()
    listening = psutil.Process(process.process.pid).net_connections("tcp4")
    assert unused_port in [c.laddr.port for c in listening if c.status == psutil.CONN_LISTEN]


def test_a_damaged_record_is_found_here_brought_over_grpc_and_built_again(machine, data, embedded):
    process = machine.serve()
    client = machine.open_with_all_cached()
    damaged = sorted(machine.cache.glob("*.frames"))[1]
    content = bytearray(damaged.read_bytes())
    content[-1] ^= 1
    damaged.write_bytes(content)
    assert_same(client.fetch(ALL), embedded.fetch(ALL))
    assert client.transfer.direct_faults == 1
    until(lambda: came_directly(client, lambda: client.fetch(ALL)))
    assert_same(client.fetch(ALL), embedded.fetch(ALL))
    assert client.transfer.direct_faults == 1
    assert re.search("hash.* until it is built again", process.log.read_text())


@pytest.mark.parametrize("change", ["unlink", "truncate"])
def test_cached_files_that_go_away_or_shrink_leave_batches_right(machine, embedded, change):
    machine.serve()
    client = machine.open_with_all_cached()
    for path in machine.cache.glob("*.frames"):
        if change == "unlink":
            path.unlink()
        else:
            with path.open("r+b") as file:
                file.truncate(path.stat().st_size - 100)
    for step in range(3):
        assert_same(client.sample(PLAN, step), embedded.sample(PLAN, step))
    until(lambda: came_directly(client, lambda: client.fetch(ALL)))
    assert_same(client.fetch(ALL), embedded.fetch(ALL))


def test_a_restarted_server_at_the_same_ports_is_another_one(machine, embedded, unused_port):
    process = machine.serve(direct_port=unused_port)
    client = machine.open_with_all_cached()
    for stop in (process.stop, process.kill):
        stop()
        process.start()
        faults = client.transfer.direct_faults
        assert_same(client.fetch(ALL), embedded.fetch(ALL))
        # Over gRPC it answers as before; that it is another one shows at the direct port.
        until(lambda: came_directly(client, lambda: client.fetch(ALL)))
        assert_same(client.fetch(ALL), embedded.fetch(ALL))
        assert client.transfer.direct_faults == faults + 1


def test_a_server_that_drains_loses_no_batch(machine, embedded):
    first, _ = machine.serve(), machine.serve()
    client = machine.open_with_all_cached()
    expected = [embedded.sample(PLAN, step) for step in range(40)]
    for step, batch in enumerate(client.batches(PLAN, stop_step=40, prefetch=2)):
        assert_same(batch, expected[step])
        if step == 5:
            first.process.send_signal(signal.SIGTERM)
    assert first.process.wait(60) == 0


def test_a_paused_server_holds_up_nobody(machine, embedded):
    paused, other = machine.serve(), machine.serve()
    client = machine.open_with_all_cached()
    fresh = machine.open()  # has no connection to a direct port yet
    paused.process.send_signal(signal.SIGSTOP)
    for each in (client, fresh):
        for step in range(4):
            assert_same(each.sample(PLAN, step), embedded.sample(PLAN, step))
        assert each.transfer.replicas[other.target].rows > 0
        (found,) = [r for r in each._backend.fleet.replicas if r.name == paused.target]
        assert found.state is not State.LIVE
    paused.resume()
    assert_same(client.fetch(ALL), embedded.fetch(ALL))


def test_a_client_closes_although_its_only_server_is_paused(machine):
    process = machine.serve()
    client = machine.open_with_all_cached()
    batches = client.batches(PLAN, prefetch=2)
    next(batches)
    process.process.send_signal(signal.SIGSTOP)
    client.close()
    with pytest.raises(penstock.errors.PenstockError):
        list(batches)


def test_each_of_several_processes_has_a_port_of_its_own(machine, embedded):
    machine.serve(processes=2)
    # The kernel gives each connection to one of them, by chance.
    clients, ports = [], set()
    while len(ports) < 2:
        clients.append(machine.open_with_all_cached())
        (replica,) = clients[-1]._backend.fleet.replicas
        ports.add(replica.direct.port)
    for client in clients:
        assert came_directly(client, lambda client=client: client.fetch(ALL))
        assert_same(client.fetch(ALL), embedded.fetch(ALL))
        assert client.transfer.direct_faults == 0


def test_replicas_with_shards_are_each_asked_directly(machine, embedded):
    processes = [machine.serve([0, 2], cache_dir=machine.folder / "a"), machine.serve([1])]
    client = machine.open_with_all_cached()
    assert_same(client.fetch(ALL), embedded.fetch(ALL))
    assert set(client.transfer.replicas) == {process.target for process in processes}


def test_errors_are_those_of_grpc(machine):
    process = machine.serve()
    client = machine.open_with_all_cached(retry_s=0.5)
    with pytest.raises(penstock.errors.InvalidInput, match="96"):
        client.fetch(np.array([3, 96]))
    process.kill()
    with pytest.raises(Unavailable):
        client.fetch(ALL)


def test_connections_are_closed_with_the_client(machine):
    process = machine.serve()
    client = machine.open_with_all_cached()
    (replica,) = client._backend.fleet.replicas
    port = replica.direct.port

    def established():
        connections = psutil.Process(process.process.pid).net_connections("tcp4")
        return sum(
            c.laddr.port == port and c.status == psutil.CONN_ESTABLISHED for c in connections
        )

    for _ in client.batches(PLAN, stop_step=20, prefetch=3):
        pass
    assert 1 <= established() <= 5
    client.close()
    until(lambda: not established())
