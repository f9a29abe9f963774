import logging
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from penstock import errors, open_trainer
from penstock.client.channel import open_channel, retrying
from penstock.client.errors import translated_errors
from penstock.client.health import check_health
from penstock.server import ServerSettings, start
from penstock.server.port import free_port, free_ports, hold_port
from penstock.targets import Target
from penstock.v1 import sampler_pb2 as pb
from penstock.v1 import sampler_pb2_grpc


class Faulty(sampler_pb2_grpc.SamplerServiceServicer):
    """Raises what it is told to, at the start of a call or after the first message."""

    def __init__(self, error):
        self.error = error

    def GetDataset(self, request, context):  # noqa: N802 - named by the proto
        raise self.error

    def ListEpisodes(self, request, context):  # noqa: N802 - named by the proto
        yield pb.ListEpisodesResponse()
        raise self.error


@pytest.fixture
def serve():
    running = []

    def begin(error=None, *, shared_port=False, **settings):
        def register(server):
            sampler_pb2_grpc.add_SamplerServiceServicer_to_server(Faulty(error), server)
            return ["penstock.v1.SamplerService"]

        running.append(
            start("sampler", ServerSettings(**settings), register, shared_port=shared_port)
        )
        return running[-1]

    yield begin
    for server in running:
        server.stop(drain_s=0)


def call(target, *, stream):
    with open_channel(Target.parse(target)) as channel, translated_errors(target):
        stub = sampler_pb2_grpc.SamplerServiceStub(channel)
        if stream:
            list(stub.ListEpisodes(pb.ListEpisodesRequest()))
        else:
            stub.GetDataset(pb.GetDatasetRequest())


EVERY_ERROR = [
    errors.InvalidInput("batch_size is 0", field="plan.batch_size", reason="TOO_SMALL"),
    errors.DataFault("a.hdf5: no joint", metadata={"file": "a.hdf5"}),
    errors.NotFound("no run x"),
    errors.AlreadyExists("step 5 exists"),
    errors.Conflict("another writer", reason="FENCED"),
    errors.LimitExceeded("queue is full"),
    errors.Unavailable("come back", retry_after_s=2.5),
    errors.TimedOut("too slow"),
    errors.Cancelled("called off"),
    errors.Corrupt("bad hash"),
    errors.Unauthenticated("no token"),
    errors.PermissionDenied("not yours"),
    errors.Unsupported("not here"),
]


@pytest.mark.parametrize("stream", [False, True], ids=["unary", "stream"])
@pytest.mark.parametrize("error", EVERY_ERROR, ids=lambda error: error.status)
def test_an_error_arrives_as_it_was_raised(serve, error, stream):
    with pytest.raises(errors.PenstockError) as caught:
        call(serve(error).target, stream=stream)
    arrived = caught.value
    assert type(arrived) is type(error)
    assert str(arrived) == str(error)
    assert (arrived.reason, arrived.metadata) == (error.reason, error.metadata)
    assert getattr(arrived, "field", None) == getattr(error, "field", None)
    assert getattr(arrived, "retry_after_s", None) == getattr(error, "retry_after_s", None)


def test_an_unforeseen_fault_tells_the_client_no_details_and_the_log_all(serve, capfd):
    secret = KeyError("/secret/path")
    with pytest.raises(errors.Internal) as caught:
        call(serve(secret).target, stream=False)
    assert "secret" not in str(caught.value)
    captured = capfd.readouterr()
    assert "/secret/path" in captured.out + captured.err


def test_a_full_disk_is_called_so(serve):
    with pytest.raises(errors.LimitExceeded, match="disk is full") as caught:
        call(serve(OSError(28, "No space left on device")).target, stream=False)
    assert caught.value.reason == "DISK_FULL"


def test_health_and_reflection_answer(serve):
    server = serve()
    health = check_health(Target.parse(server.target))
    assert health.serving
    assert "penstock.v1.SamplerService" in health.services
    with open_channel(Target.parse(server.target)) as channel:
        stub = health_pb2_grpc.HealthStub(channel)
        request = health_pb2.HealthCheckRequest(service="penstock.v1.SamplerService")
        assert stub.Check(request).status == health_pb2.HealthCheckResponse.SERVING


def test_metrics_count_calls_by_status(serve, unused_port):
    server = serve(errors.NotFound("no"), metrics_port=unused_port)
    with pytest.raises(errors.NotFound):
        call(server.target, stream=True)
    url = f"http://127.0.0.1:{unused_port}/metrics"
    text = urllib.request.urlopen(url).read().decode()
    line = 'code="NOT_FOUND",method="/penstock.v1.SamplerService/ListEpisodes"'
    assert any(line in each and "calls_total" in each for each in text.splitlines())


def test_two_servers_never_share_a_port(serve):
    port = int(serve().address.rpartition(":")[2])
    with pytest.raises(errors.Unavailable, match="another"):
        serve(port=port)


HOSTS = ["127.0.0.1", "localhost", "0.0.0.0", "[::]"]  # noqa: S104 - both wildcards are claims


@pytest.mark.parametrize("host", HOSTS)
def test_a_held_port_admits_servers_that_share_it_and_no_others(serve, host):
    with hold_port("sampler", host, 0) as held:
        for _ in range(2):  # before any server listens there, and while two of them do
            with pytest.raises(errors.Unavailable, match="another"):
                serve(host=host, port=held.port)
            with pytest.raises(errors.Unavailable, match="another") as caught:
                hold_port("sampler", host, held.port)
            assert caught.value.reason == "PORT_TAKEN"
            for _ in range(2):
                running = serve(host=host, port=held.port, shared_port=True)
                assert check_health(Target.parse(running.target)).serving


def test_free_ports_are_different_and_not_those_that_the_system_gives():
    """The system would give one of its own to the next connection, or to a port of the server."""
    given = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    ports = free_ports(20)
    assert len(set(ports)) == 20
    assert max(ports) < max(given, 20_000)
    for port in ports:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", port))


@pytest.mark.parametrize("host", HOSTS)
def test_a_port_that_a_server_listens_on_cannot_be_held(serve, host):
    port = int(serve(host=host).address.rpartition(":")[2])
    with pytest.raises(errors.Unavailable, match=f":{port}: another"):
        hold_port("sampler", host, port)


def test_a_held_port_is_answered_by_nobody_until_a_server_is_there():
    """A connection that the holder took would wait for ever."""
    with hold_port("sampler", "127.0.0.1", 0) as held, pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", held.port), 20)


def test_a_port_can_be_held_although_connections_of_an_earlier_server_linger():
    with socket.create_server(("127.0.0.1", 0)) as earlier:
        address = earlier.getsockname()
        with socket.create_connection(address, 20) as client:
            accepted, _ = earlier.accept()
            accepted.close()  # who closes first has the connection lingering on its side
            assert client.recv(1) == b""
    with pytest.raises(OSError, match="in use"), socket.socket() as plain:
        plain.bind(address)
    with hold_port("sampler", *address) as held:
        assert held.port == address[1]


@pytest.mark.parametrize("host", ["192.0.2.1", "no.such.name.invalid"])
def test_an_address_that_is_not_here_cannot_be_held(host):
    with pytest.raises(errors.Unavailable, match=f"{host}.*no such address"):
        hold_port("sampler", host, 0)


def test_a_metrics_port_that_is_taken_names_its_flag(serve):
    port = int(serve().address.rpartition(":")[2])
    with pytest.raises(errors.Unavailable, match=f"metrics on .*:{port}.*--metrics-port"):
        serve(metrics_port=port)


def test_another_service_at_the_address_is_said(serve):
    server = serve()
    with (
        open_trainer(server.target) as trainer,
        pytest.raises(
            errors.Unsupported, match=f"{server.target} does not offer this call.*status"
        ),
    ):
        trainer.list()


def test_a_server_that_is_away_is_named():
    with pytest.raises(errors.Unavailable, match=r"grpc://127.0.0.1:1 does not answer.*running"):
        call("grpc://127.0.0.1:1", stream=False)


def test_retries_are_said_and_end(caplog):
    attempts = []

    def away():
        attempts.append(1)
        raise errors.Unavailable("away")

    with caplog.at_level(logging.WARNING), pytest.raises(errors.Unavailable):
        retrying(away, target="there", retry_s=0.5)
    assert len(attempts) >= 2
    assert len(caplog.records) == len(attempts) - 1


def test_only_unavailable_is_retried():
    attempts = []

    def wrong():
        attempts.append(1)
        raise errors.InvalidInput("wrong")

    with pytest.raises(errors.InvalidInput):
        retrying(wrong, target="there", retry_s=5)
    assert len(attempts) == 1


def test_a_server_with_no_call_to_spare_is_tried_again_until_it_has(serve):
    """One call at a time: eight clients at once all get their answer."""
    error = errors.NotFound("answered")
    target = serve(error, max_calls=1).target

    def ask(_):
        def once():
            call(target, stream=False)

        with pytest.raises(errors.NotFound, match="answered"):
            retrying(once, target=target, retry_s=30)
        return True

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(ask, range(64)))


SERVER = """
from penstock.server import ServerSettings, serve
from penstock.v1 import sampler_pb2, sampler_pb2_grpc
import threading
import time
class Slow(sampler_pb2_grpc.SamplerServiceServicer):
    def ListEpisodes(self, request, context):
        yield sampler_pb2.ListEpisodesResponse()
        draining.wait(20)
        yield sampler_pb2.ListEpisodesResponse()
def register(server):
    sampler_pb2_grpc.add_SamplerServiceServicer_to_server(Slow(), server)
    return ["penstock.v1.SamplerService"]
draining = threading.Event()
serve("sampler", ServerSettings(port=PORT), register, on_drain=draining.set)
"""


def test_sigterm_lets_calls_in_flight_finish(unused_port):
    process = subprocess.Popen([sys.executable, "-c", SERVER.replace("PORT", str(unused_port))])
    try:
        with open_channel(Target.parse(f"grpc://127.0.0.1:{unused_port}")) as channel:
            stub = sampler_pb2_grpc.SamplerServiceStub(channel)
            stream = stub.ListEpisodes(pb.ListEpisodesRequest(), wait_for_ready=True, timeout=30)
            next(stream)
            process.send_signal(signal.SIGTERM)
            assert len(list(stream)) == 1
            assert stream.code() is grpc.StatusCode.OK
        assert process.wait(20) == 0
    finally:
        process.kill()
        process.wait()


def test_call_that_an_ending_server_gives_up_may_be_tried_elsewhere(serve):
    """It arrives as a cancellation, which nobody on this side asked for."""
    entered, ended = threading.Event(), threading.Event()

    class Slow(sampler_pb2_grpc.SamplerServiceServicer):
        def GetDataset(self, request, context):  # noqa: N802 - named by the proto
            entered.set()
            ended.wait(30)
            return pb.GetDatasetResponse()

    def register(server):
        sampler_pb2_grpc.add_SamplerServiceServicer_to_server(Slow(), server)
        return ["penstock.v1.SamplerService"]

    running = start("sampler", ServerSettings(), register)
    with ThreadPoolExecutor(2) as pool:
        answer = pool.submit(call, running.target, stream=False)
        entered.wait(30)
        stopped = pool.submit(running.stop, drain_s=0)
        try:
            with pytest.raises(errors.Unavailable):
                answer.result()
        finally:
            ended.set()
        stopped.result()


def test_cancellation_of_our_own_is_no_reason_to_try_again(serve):
    running = serve()
    with open_channel(Target.parse(running.target)) as channel:
        stub = sampler_pb2_grpc.SamplerServiceStub(channel)
        stream = stub.ListEpisodes(pb.ListEpisodesRequest())
        stream.cancel()
        with pytest.raises(errors.Cancelled), translated_errors(running.target):
            list(stream)


def test_a_new_client_does_not_wait_because_an_old_one_failed(serve):
    serve()  # in a process that has served before the waiting shows each time
    for _ in range(2):
        target = Target.parse(f"grpc://127.0.0.1:{(port := free_port())}")
        with open_channel(target) as old:
            stub = sampler_pb2_grpc.SamplerServiceStub(old)
            until_s = time.monotonic() + 2
            while time.monotonic() < until_s:  # it waits longer and longer between tries
                with pytest.raises(errors.Unavailable), translated_errors(target):
                    stub.GetDataset(pb.GetDatasetRequest(), timeout=1)
            serve(errors.NotFound("no"), port=port)
            with pytest.raises(errors.NotFound):
                call(str(target), stream=False)
