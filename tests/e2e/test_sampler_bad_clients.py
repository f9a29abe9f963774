"""Clients that stop reading, die, or ask for absurd sizes leave the memory of a server flat."""

import contextlib
import random
import socket
import struct
import subprocess
import sys
from pathlib import Path

import grpc
import numpy as np
import psutil
import pytest
import tenacity
from h2.settings import SettingCodes
from http2_client import Http2Client
from sampler_replicas import assert_same, write_files
from service_process import ServiceProcess

import penstock
from penstock.client.messages import ACCEPTED_CODECS
from penstock.client.plan_messages import plan_to_message
from penstock.v1 import sampler_pb2 as pb
from penstock.v1.sampler_pb2_grpc import SamplerServiceStub

pytestmark = pytest.mark.e2e

IMAGE_SIZE = (224, 224)  # two observations of three cameras: 0.9 MB a transition, one a message
PLAN = penstock.Plan(batch_size=32, split="all")
STREAMS, STALL_S = 8, 0.5
WARM_UP, ROUNDS = 3, 6
# 48 clients that each left one message of 1 MiB behind, a quarter of what a stream holds, would
# take 48 MiB; without any, the least of some rounds was within 3 MiB of the least of others.
TOLERANCE_BYTES = 8 << 20
# Freed memory that an allocator keeps for later, up to tens of MiB, would hide what a server holds.
GIVE_BACK = {
    "PENSTOCK_MALLOPT": "0",
    "MALLOC_MMAP_THRESHOLD_": "131072",
    "MALLOC_TRIM_THRESHOLD_": "131072",
}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_files(tmp_path_factory.mktemp("all") / "data", rows=(120, 90), size=(48, 64))


@pytest.fixture
def server(data, tmp_path, monkeypatch, request):
    for name, value in GIVE_BACK.items():
        monkeypatch.setenv(name, value)
    # Only what is cached goes over the direct port; the others are to be read for.
    cache = str(tmp_path / "cache") if "direct_port" in request.fixturenames else "none"
    # All but 8 of the workers may hold a stream.
    options = ("--stall-s", str(STALL_S), "--workers", str(STREAMS + 8), "--cache-dir", cache)
    with ServiceProcess(
        "sampler", "--data", f"{data}/*.hdf5", *options, log=tmp_path / "server.log"
    ) as process:
        yield process


@pytest.fixture
def stub(server):
    options = [("grpc.max_receive_message_length", 64 << 20)]
    with grpc.insecure_channel(address(server), options) as channel:
        yield SamplerServiceStub(channel)


def address(server):
    return server.target.removeprefix("grpc://")


def anonymous_bytes(server):
    status = Path(f"/proc/{server.process.pid}/status").read_text()
    sizes = dict(line.split(":", 1) for line in status.splitlines())
    return int(sizes["RssAnon"].split()[0]) * 1024


@tenacity.retry(
    retry=tenacity.retry_if_exception_type(AssertionError),
    wait=tenacity.wait_fixed(0.05),
    stop=tenacity.stop_after_delay(60),
    reraise=True,
)
def wait_until_idle(stub):
    assert stub.GetStatus(pb.GetStatusRequest()).calls_in_flight == 0


def assert_flat(server, stub, data, misbehave):
    """More such clients take no more memory, and good clients are served as ever."""
    spec = {"image_size": IMAGE_SIZE, "retry_s": 60}

    def least_bytes():
        found = []
        for _ in range(ROUNDS):
            misbehave()
            wait_until_idle(stub)
            found.append(anonymous_bytes(server))
        return min(found)

    with (
        penstock.open_sampler(server.target, **spec, local=False) as client,
        penstock.open_sampler(f"file://{data}/*.hdf5", **spec) as embedded,
    ):
        client.sample(PLAN, 0)
        # What the first ones cost stays: threads, and memory that is used again.
        for _ in range(WARM_UP):
            misbehave()
        before = least_bytes()
        grown = least_bytes() - before
        assert grown < TOLERANCE_BYTES, f"{grown >> 20} MiB more"
        assert_same(client.sample(PLAN, 1), embedded.sample(PLAN, 1))
        return client.transfer


def endless(height_px=IMAGE_SIZE[0], width_px=IMAGE_SIZE[1]):
    return pb.SampleRequest(
        plan=plan_to_message(PLAN),
        steps=10**6,
        frame_spec=pb.FrameSpec(height_px=height_px, width_px=width_px),
        accepted_codecs=ACCEPTED_CODECS,
    )


def test_clients_that_stop_reading(server, stub, data):
    def misbehave():
        with contextlib.ExitStack() as stack:
            streams = []
            for _ in range(STREAMS):
                # A connection each: they would share one otherwise, and its window.
                options = [("grpc.use_local_subchannel_pool", 1)]
                channel = stack.enter_context(grpc.insecure_channel(address(server), options))
                streams.append(SamplerServiceStub(channel).Sample(endless()))
                next(streams[-1])
            wait_until_idle(stub)
            for stream in streams:
                with pytest.raises(grpc.RpcError) as caught:
                    list(stream)
                assert caught.value.code() == grpc.StatusCode.CANCELLED

    assert_flat(server, stub, data, misbehave)


DYING = """
import sys
import grpc
from penstock.v1 import sampler_pb2 as pb
from penstock.v1.sampler_pb2_grpc import SamplerServiceStub

request = pb.SampleRequest.FromString(bytes.fromhex(sys.argv[2]))
stub = SamplerServiceStub(grpc.insecure_channel(sys.argv[1]))
streams = [stub.Sample(request) for _ in range(int(sys.argv[3]))]
for stream in streams:
    next(stream)
print("reading", flush=True)
for message in streams[0]:
    pass
"""


def test_clients_that_are_killed_while_they_read(server, stub, data):
    def misbehave():
        arguments = [address(server), endless().SerializeToString().hex(), str(STREAMS)]
        command = [sys.executable, "-c", DYING, *arguments]
        with subprocess.Popen(command, stdout=subprocess.PIPE) as client:
            assert client.stdout.readline() == b"reading\n"
            client.kill()

    assert_flat(server, stub, data, misbehave)


def test_clients_that_ask_for_absurd_sizes(server, stub, data):
    version = stub.GetDataset(pb.GetDatasetRequest()).dataset.version

    def fetch(ids, **fields):
        fields.setdefault("dataset_version", version)
        return stub.Fetch(pb.FetchRequest(transition_ids=ids, **fields))

    huge = pb.FrameSpec(height_px=4096, width_px=4096)
    refused = {
        "ids": lambda: fetch(np.full(1 << 20, 2**56 - 1, np.uint64)),
        "id": lambda: fetch([2**64 - 1]),
        "version": lambda: fetch([0], dataset_version="v" * (1 << 20)),
        "largest image": lambda: fetch(np.zeros(65_536, np.uint64), frame_spec=huge),
        "image": lambda: fetch([0], frame_spec=pb.FrameSpec(height_px=2**31, width_px=2**31)),
        "steps": lambda: stub.Sample(pb.SampleRequest(plan=plan_to_message(PLAN), steps=2**63)),
        "batch": lambda: stub.Sample(
            pb.SampleRequest(plan=pb.Plan(batch_size=2**31, split=pb.SPLIT_ALL), steps=1)
        ),
        "weights": lambda: stub.ListWeights(pb.ListWeightsRequest(column="w" * (1 << 20))),
    }

    def misbehave():
        for name, ask in refused.items():
            with pytest.raises(grpc.RpcError) as caught:
                list(ask())
            assert caught.value.code() in REFUSALS, name
        # Served, for once: messages of 58 MB, and as many rows as one call may ask for.
        for stream in (
            stub.Sample(endless(1800, 1800), timeout=60),
            fetch(np.zeros(65_536, np.uint64), frame_spec=endless().frame_spec),
        ):
            next(stream)
            stream.cancel()

    assert_flat(server, stub, data, misbehave)


REFUSALS = (
    grpc.StatusCode.INVALID_ARGUMENT,
    grpc.StatusCode.ABORTED,
    grpc.StatusCode.NOT_FOUND,
    grpc.StatusCode.RESOURCE_EXHAUSTED,
)


class DirectPort:
    """The direct port of a server whose frames are all cached, as bad clients see it."""

    def __init__(self, server, stub):
        self.server, self.stub = server, stub
        described = stub.GetDataset(pb.GetDatasetRequest())
        self.port, self.version = described.direct_port, described.dataset.version
        with penstock.open_sampler(server.target, image_size=IMAGE_SIZE, local=False) as client:
            self.fill(client)

    @tenacity.retry(
        retry=tenacity.retry_if_exception_type(AssertionError),
        wait=tenacity.wait_fixed(0.5),
        stop=tenacity.stop_after_delay(120),
        reraise=True,
    )
    def fill(self, client):
        before = client.transfer.direct_bytes
        client.fetch(np.arange(client.info.transitions, step=7))
        assert client.transfer.direct_bytes > before

    def connected(self, settings=None):
        return Http2Client(("127.0.0.1", self.port), settings)

    @contextlib.contextmanager
    def plainly_connected(self, data):
        with socket.create_connection(("127.0.0.1", self.port), timeout=30) as client:
            client.sendall(data)
            yield client

    def request(self, ids, **fields):
        fields = {
            "dataset_version": self.version,
            "frame_spec": endless().frame_spec,
            "accepted_codecs": ACCEPTED_CODECS,
            **fields,
        }
        return pb.FetchRequest(transition_ids=ids, **fields).SerializeToString()

    @tenacity.retry(
        retry=tenacity.retry_if_exception_type(AssertionError),
        wait=tenacity.wait_fixed(0.05),
        stop=tenacity.stop_after_delay(60),
        reraise=True,
    )
    def wait_until_left_alone(self, connections):
        wait_until_idle(self.stub)
        assert self.connections() <= connections

    def connections(self):
        found = psutil.Process(self.server.process.pid).net_connections("tcp4")
        return sum(each.laddr.port == self.port and each.status != "LISTEN" for each in found)


@pytest.fixture
def direct_port(server, stub):
    return DirectPort(server, stub)


def until_closed(client):
    with contextlib.suppress(ConnectionResetError):
        while client.recv(1 << 20):
            pass


LARGEST_WINDOW = 2**31 - 1


def test_clients_of_the_direct_port_that_stop_reading_or_are_gone(server, stub, data, direct_port):
    everything = direct_port.request(np.arange(200))

    def misbehave():
        kept = direct_port.connections()
        with contextlib.ExitStack() as stack:
            clients = []
            for number in range(STREAMS):
                # Of some the window is full, of others the socket.
                wide = number % 4 < 2
                settings = {SettingCodes.INITIAL_WINDOW_SIZE: LARGEST_WINDOW} if wide else {}
                clients.append(stack.enter_context(direct_port.connected(settings)))
                if wide:
                    clients[-1].h2.increment_flow_control_window(LARGEST_WINDOW - 65_535)
                stream = clients[-1].ask(everything)
                while not clients[-1].answers[stream].data:
                    clients[-1].take()
            # Half of them are gone in the middle of a message, the others do not read on.
            for client in clients[::2]:
                client.socket.setsockopt(
                    socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0)
                )
                client.socket.close()
            wait_until_idle(stub)
            for client in clients[1::2]:
                until_closed(client.socket)
        direct_port.wait_until_left_alone(kept)

    assert assert_flat(server, stub, data, misbehave).direct_bytes > 0


def test_clients_of_the_direct_port_that_ask_for_nonsense(server, stub, data, direct_port):
    dice = random.Random(1)  # noqa: S311 - dice, no secret
    huge = pb.FrameSpec(height_px=4096, width_px=4096)
    refused = [
        direct_port.request(np.full(1 << 16, 2**56 - 1, np.uint64)),
        direct_port.request(np.zeros((1 << 16) + 1, np.uint64)),
        direct_port.request([2**64 - 1]),
        direct_port.request([0], dataset_version="v" * (1 << 19)),
        direct_port.request([0], frame_spec=pb.FrameSpec(height_px=2**31, width_px=2**31)),
        direct_port.request(np.zeros(1 << 16, np.uint64), frame_spec=huge),
        b"\xff" * (1 << 20),
        b"\xff" * (2 << 20),
        b"",
    ]
    preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
    greetings = [
        b"GET / HTTP/1.1\r\n\r\n",
        bytes(1 << 16),
        dice.randbytes(16),
        preface + b"\xff\xff\xff" + bytes(1 << 16),  # a frame of 16 MiB
        b"",
    ]

    def misbehave():
        kept = direct_port.connections()
        with direct_port.connected() as client:
            for request in [*refused, *(dice.randbytes(dice.randrange(300)) for _ in range(50))]:
                assert client.answer(client.ask(request)).status > 0
            client.ask(b"", head=b"\0\xff\xff\xff\xf0", whole=False)
        for greeting in greetings:
            with direct_port.plainly_connected(greeting) as client:
                if greeting:
                    until_closed(client)
        with direct_port.connected() as client:
            client.ask(refused[0][: 1 << 18], whole=False)  # and no more of it
        with contextlib.ExitStack() as stack:
            for _ in range(400):  # more than are taken at a time
                with contextlib.suppress(ConnectionResetError, BrokenPipeError):
                    stack.enter_context(direct_port.plainly_connected(preface[:4]))
        direct_port.wait_until_left_alone(kept)

    assert assert_flat(server, stub, data, misbehave).direct_bytes > 0
