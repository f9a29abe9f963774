"""A sampler with several server processes on one port."""

import contextlib
import signal
import subprocess
import sys
import urllib.request

import grpc
import numpy as np
import psutil
import pytest
import tenacity
from prometheus_client.parser import text_string_to_metric_families
from sampler_replicas import assert_same, write_files
from service_process import ServiceProcess

import penstock
from penstock.client.messages import ACCEPTED_CODECS
from penstock.client.part_messages import part_into_batch
from penstock.client.plan_messages import plan_to_message
from penstock.server.port import free_port
from penstock.v1 import sampler_pb2 as pb
from penstock.v1.sampler_pb2_grpc import SamplerServiceStub

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600)]

EPOCH = penstock.Plan(seed=3, batch_size=16, split="all", sampling="epoch")
PLAN = penstock.Plan(seed=2, batch_size=32, split="all")
IDS = np.array([5, 95, 30, 5, 71])
_MANY = 200

wait_until_true = tenacity.retry(
    retry=tenacity.retry_if_exception_type((AssertionError, grpc.RpcError)),
    wait=tenacity.wait_fixed(0.05),
    stop=tenacity.stop_after_delay(60),
    reraise=True,
)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_files(tmp_path_factory.mktemp("data") / "files")


@pytest.fixture(scope="module")
def embedded(data):
    with penstock.open_sampler(f"file://{data}/*.hdf5") as client:
        yield client


class Server(ServiceProcess):
    """A sampler of several processes, and a look at each of them."""

    def __init__(self, data, folder, *arguments, processes=2):
        self.metrics_port = free_port()
        super().__init__(
            "sampler",
            *("--data", f"{data}/*.hdf5", "--processes", str(processes)),
            *("--metrics-port", str(self.metrics_port), *arguments),
            log=folder / "sampler.log",
        )

    def children(self):
        return psutil.Process(self.process.pid).children(recursive=True)

    @contextlib.contextmanager
    def connections(self, count):
        """A stub for each of ``count`` processes, by replica_id: the kernel picks by chance."""
        found = {}
        with contextlib.ExitStack() as stack:
            for _ in range(_MANY):
                channel = stack.enter_context(
                    grpc.insecure_channel(
                        f"127.0.0.1:{self.port}", options=[("grpc.use_local_subchannel_pool", 1)]
                    )
                )
                stub = SamplerServiceStub(channel)
                found.setdefault(stub.GetDataset(pb.GetDatasetRequest()).replica_id, stub)
                if len(found) == count:
                    break
            assert len(found) == count
            yield found

    @wait_until_true
    def wait_until_all_serve(self, count):
        with self.connections(count):
            assert len(self.children()) == count

    def metrics(self):
        """Values of the samples without labels, and sums of those with labels."""
        url = f"http://127.0.0.1:{self.metrics_port}/metrics"
        text = urllib.request.urlopen(url).read().decode()
        values = {}
        for family in text_string_to_metric_families(text):
            for sample in family.samples:
                values[sample.name] = values.get(sample.name, 0) + sample.value
        return values


@pytest.fixture
def start_server(data, tmp_path):
    with contextlib.ExitStack() as stack:

        def begin(*arguments, processes=2, files=data):
            server = Server(files, tmp_path, *arguments, processes=processes)
            stack.enter_context(server)
            server.wait_until_all_serve(processes)
            return server

        yield begin


@pytest.fixture(scope="module")
def server(data, tmp_path_factory):
    with Server(data, tmp_path_factory.mktemp("log")) as running:
        running.wait_until_all_serve(2)
        yield running


@wait_until_true
def wait_until_gone(processes):
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            assert process.status() == psutil.STATUS_ZOMBIE, process


def fetch(stub, client):
    """The transitions IDS, from one process."""
    batch = client.fetch(IDS)
    batch.frames[:] = 0
    request = pb.FetchRequest(
        dataset_version=client.info.version,
        transition_ids=IDS.tolist(),
        accepted_codecs=ACCEPTED_CODECS,
    )
    for response in stub.Fetch(request):
        part_into_batch(response.part, batch)
    return batch


def test_every_process_answers_with_the_bytes_of_an_embedded_target(server, embedded):
    with server.connections(2) as stubs:
        sockets = set()
        for stub in stubs.values():
            described = stub.GetDataset(pb.GetDatasetRequest())
            assert described.dataset.version == embedded.info.version
            assert described.processes == 2
            sockets.add(described.local_socket)
            assert_same(fetch(stub, embedded), embedded.fetch(IDS))
        assert "" not in sockets
        assert len(sockets) == 2


def test_metrics_are_the_sums_over_all_processes(server, embedded):
    with server.connections(2) as stubs:
        for calls, stub in enumerate(stubs.values(), start=1):
            for _ in range(calls):
                fetch(stub, embedded)
        done = [stub.GetStatus(pb.GetStatusRequest()) for stub in stubs.values()]
    counted = server.metrics()
    assert min(status.transitions_sent for status in done) >= len(IDS)
    assert counted["penstock_sampler_transitions_total"] == sum(s.transitions_sent for s in done)
    assert counted["penstock_sampler_sent_bytes_total"] == sum(s.sent_bytes for s in done)
    # Not a sum: both serve the same three files.
    assert counted["penstock_sampler_files"] == 3
    assert counted["penstock_sampler_worker_restarts_total"] == 0


@pytest.mark.parametrize("processes", [1, 2])
def test_second_server_on_the_port_fails(server, data, processes):
    command = [sys.executable, "-m", "penstock.cli", "serve", "sampler", "--data", str(data)]
    command += ["--port", str(server.port), "--processes", str(processes)]
    second = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert second.returncode == 1
    assert f"127.0.0.1:{server.port}: another server runs there" in second.stderr
    server.wait_until_all_serve(2)


def test_killed_processes_are_replaced_and_no_batch_is_lost(start_server, embedded):
    server = start_server()
    seen = []
    with penstock.open_sampler(server.target, retry_s=60) as client:
        for step, batch in enumerate(client.batches(EPOCH, stop_step=6, prefetch=1)):
            if step in (1, 3):
                # Whichever of them the client is connected to: both have gone in the end.
                before = server.children()
                before[step // 2].kill()
                wait_until_gone(before[step // 2 : step // 2 + 1])
                server.wait_until_all_serve(2)
            assert_same(batch, embedded.sample(EPOCH, step))
            seen.extend(batch.transition_ids.tolist())
    assert sorted(seen) == list(range(96))
    assert server.metrics()["penstock_sampler_worker_restarts_total"] == 2
    assert "was ended by SIGKILL" in server.log.read_text()


def test_what_a_killed_process_counted_stays_and_what_it_held_does_not(start_server, embedded):
    server = start_server()
    with server.connections(2) as stubs:
        for stub in stubs.values():
            fetch(stub, embedded)
        # Both are busy with a stream that nobody reads.
        request = pb.SampleRequest(plan=plan_to_message(PLAN), steps=10**6)
        streams = [stub.Sample(request) for stub in stubs.values()]
        for stream in streams:
            next(stream)
        counted = server.metrics()
        assert counted["penstock_sampler_streams"] == 2
        killed = server.children()[0]
        killed.kill()
        wait_until_gone([killed])
        server.wait_until_all_serve(2)
        after = server.metrics()
    assert after["penstock_sampler_streams"] == 1
    for name, value in counted.items():
        if name.endswith("_total"):
            assert after[name] >= value, name


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signal_drains_all_processes(start_server, number):
    server = start_server()
    children = server.children()
    with server.connections(2) as stubs:
        request = pb.SampleRequest(plan=plan_to_message(PLAN), steps=300)
        streams = [stub.Sample(request) for stub in stubs.values()]
        for stream in streams:
            next(stream)
        server.process.send_signal(number)
        # 33 MB each: more than the connections hold, so they were being sent.
        for stream in streams:
            assert list(stream)[-1].step == 299
    assert server.process.wait(30) == 0
    assert not [child for child in children if child.is_running()]


def test_process_that_hangs_does_not_keep_the_server_from_ending(start_server):
    server = start_server("--drain-s", "0")
    children = server.children()
    children[1].suspend()
    assert server.stop(60) == 0
    assert not [child for child in children if child.is_running()]
    assert "does not end and is killed" in server.log.read_text()


def test_kill_of_the_parent_leaves_no_process_and_frees_the_port(start_server):
    server = start_server()
    children = server.children()
    assert len(children) == 2
    server.kill()
    wait_until_gone(children)
    server.start()


def test_data_that_cannot_be_served_ends_the_server_with_its_error(tmp_path):
    (tmp_path / "bad.hdf5").write_text("no")
    server = Server(tmp_path, tmp_path)
    with pytest.raises(AssertionError, match="sampler ended"):
        server.start()
    assert server.process.returncode == 1
    assert "bad.hdf5" in server.log.read_text().splitlines()[-1]


@pytest.fixture
def moving(tmp_path):
    """Data that can go away and come back."""
    home, away = write_files(tmp_path / "here"), tmp_path / "away"
    return home, lambda: home.rename(away), lambda: away.rename(home)


def test_replacement_that_cannot_start_is_tried_again_while_another_serves(
    start_server, moving, embedded
):
    files, go_away, come_back = moving
    server = start_server("--watch-s", "0", files=files)
    go_away()
    server.children()[0].kill()

    @wait_until_true
    def wait_until_it_has_failed():
        assert server.metrics()["penstock_sampler_worker_restarts_total"] >= 2

    wait_until_it_has_failed()
    with server.connections(1) as stubs:
        (stub,) = stubs.values()
        described = stub.GetDataset(pb.GetDatasetRequest())
        assert described.dataset.version == embedded.info.version
    come_back()
    server.wait_until_all_serve(2)


def test_server_ends_with_the_error_when_no_process_can_serve_any_more(start_server, moving):
    files, go_away, _ = moving
    server = start_server(files=files)
    go_away()
    for child in server.children():
        child.kill()
    assert server.process.wait(60) == 1
    assert str(files) in server.log.read_text().splitlines()[-1]


def test_one_process_serves_without_a_parent(data, tmp_path):
    with Server(data, tmp_path, processes=1) as server:
        assert server.children() == []
        with server.connections(1) as stubs:
            (stub,) = stubs.values()
            assert stub.GetDataset(pb.GetDatasetRequest()).processes == 1
