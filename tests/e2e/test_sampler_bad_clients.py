"""Clients that stop reading, die, or ask for absurd sizes leave the memory of a server flat."""

import contextlib
import subprocess
import sys
from pathlib import Path

import grpc
import numpy as np
import pytest
import tenacity
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
ROUNDS = 6
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
def server(data, tmp_path, monkeypatch):
    for name, value in GIVE_BACK.items():
        monkeypatch.setenv(name, value)
    # All but 8 of the workers may hold a stream.
    options = ("--stall-s", str(STALL_S), "--workers", str(STREAMS + 8), "--cache-dir", "none")
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
        misbehave()
        before = least_bytes()
        grown = least_bytes() - before
        assert grown < TOLERANCE_BYTES, f"{grown >> 20} MiB more"
        assert_same(client.sample(PLAN, 1), embedded.sample(PLAN, 1))


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
