from __future__ import annotations

import contextlib
import socket
import struct
import threading
from collections.abc import Callable, Generator, Iterator
from typing import Any

import pytest
import tenacity
from penstock_sampler.serving import direct_connection, direct_server, process
from penstock_sampler.serving.direct_server import DirectServer
from penstock_sampler.serving.streams import Caller, Streams
from penstock_sampler.settings import SamplerSettings
from prometheus_client import REGISTRY

from penstock.errors import InvalidInput, Unavailable
from penstock.server import port as server_port

REPLICA = 2**63 + 5
HELLO = b"PSDIRECT" + struct.pack("<Q", REPLICA)
END, REFUSED = b"\0\0\0\0", b"\xff\xff\xff\xff"


class Message:
    """What is sent in pieces, as cached frames are."""

    def __init__(self, *pieces: bytes) -> None:
        self.pieces = pieces

    def __len__(self) -> int:
        return sum(map(len, self.pieces))

    def send(self, to: socket.socket, before: bytes) -> None:
        to.sendall(before)
        for piece in self.pieces:
            to.sendall(piece)


class Failing(Message):
    """Sends a part of itself."""

    def send(self, to: socket.socket, before: bytes) -> None:
        to.sendall(before + self.pieces[0][:2])
        raise RuntimeError("a fault of ours")


def answer(request: bytes, caller: Caller) -> Generator[Message]:
    """The bytes of the request, one after the other, until one of them says what to do instead."""
    del caller
    for byte in request:
        if byte == ord("!"):
            raise InvalidInput("no")
        if byte == ord("?"):
            raise ZeroDivisionError
        yield (Failing if byte == ord("-") else Message)(bytes([byte]) * 3, b"." * byte)


@contextlib.contextmanager
def serving(
    respond: Callable[[bytes, Caller], Generator[Any]] = answer, **options: Any
) -> Iterator[DirectServer]:
    server = DirectServer("127.0.0.1", 0, REPLICA, **{"drain_s": 10.0, **options}).start(respond)
    try:
        yield server
    finally:
        server.stop()


@pytest.fixture
def server() -> Iterator[DirectServer]:
    with serving() as server:
        yield server


@contextlib.contextmanager
def connected(server: DirectServer, hello: bytes = HELLO) -> Iterator[socket.socket]:
    with socket.create_connection(("127.0.0.1", server.port), timeout=10) as client:
        client.sendall(hello)
        if hello == HELLO:
            assert exactly(client, 16) == HELLO
        yield client


def exactly(client: socket.socket, size: int) -> bytes:
    found = b""
    while len(found) < size:
        piece = client.recv(size - len(found))
        assert piece, f"closed after {found!r}"
        found += piece
    return found


def ask(client: socket.socket, request: bytes) -> None:
    client.sendall(struct.pack("<I", len(request)) + request)


def expect(client: socket.socket, request: bytes, last: bytes) -> None:
    """Just the messages for ``request``, and ``last``."""
    for byte in request:
        message = bytes([byte]) * 3 + b"." * byte
        assert exactly(client, 4 + len(message)) == struct.pack("<I", len(message)) + message
    assert exactly(client, 4) == last


def until_closed(client: socket.socket) -> bytes:
    """What comes before the server closes."""
    found = b""
    try:
        while piece := client.recv(1 << 16):
            found += piece
    except ConnectionResetError:
        pass
    return found


@tenacity.retry(wait=tenacity.wait_fixed(0.01), stop=tenacity.stop_after_delay(10))
def until(condition: Callable[[], bool]) -> None:
    assert condition()


def counted(name: str, **labels: str) -> float:
    return REGISTRY.get_sample_value(f"penstock_sampler_direct_{name}", labels) or 0.0


def connections() -> float:
    return counted("connections")


def test_requests_of_one_connection_are_answered_one_after_the_other(server: DirectServer) -> None:
    before = counted("answers_total")
    with connected(server) as client:
        for request in (b"abc", b"", b"z"):
            ask(client, request)
            expect(client, request, END)
        for request in (b"one", b"two"):
            ask(client, request)
        for request in (b"one", b"two"):
            expect(client, request, END)
        assert connections() == 1
    until(lambda: connections() == 0)
    assert counted("answers_total") == before + 5


@pytest.mark.parametrize(
    ("request_", "sent", "reason"),
    [
        (b"!", b"", "INVALID_INPUT"),
        (b"ab!c", b"ab", "INVALID_INPUT"),
        (b"?", b"", "INTERNAL"),
        (b"a?", b"a", "INTERNAL"),
    ],
)
def test_what_is_refused_is_left_to_grpc_and_the_next_request_is_answered(
    server: DirectServer, request_: bytes, sent: bytes, reason: str
) -> None:
    before = counted("refusals_total", reason=reason)
    with connected(server) as client:
        ask(client, request_)
        expect(client, sent, REFUSED)
        ask(client, b"xy")
        expect(client, b"xy", END)
    assert counted("refusals_total", reason=reason) == before + 1


def test_nothing_follows_a_message_that_was_sent_in_part(server: DirectServer) -> None:
    with connected(server) as client:
        ask(client, b"a-b")
        whole = b"aaa" + b"." * ord("a")
        part = struct.pack("<I", 3 + ord("-")) + b"--"
        assert until_closed(client) == struct.pack("<I", len(whole)) + whole + part


@pytest.mark.parametrize(
    "hello",
    [
        b"PSDIRECT" + struct.pack("<Q", REPLICA - 1),
        b"psdirect" + struct.pack("<Q", REPLICA),
        b"GET / HTTP/1.1\r\nHost: penstock\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        bytes(16),
    ],
)
def test_who_names_another_replica_gets_nothing(server: DirectServer, hello: bytes) -> None:
    before = counted("refusals_total", reason="OTHER_REPLICA")
    with connected(server, hello) as client:
        assert until_closed(client) == b""
    assert counted("refusals_total", reason="OTHER_REPLICA") == before + 1
    with connected(server) as client:
        ask(client, b"a")
        expect(client, b"a", END)


def test_a_request_larger_than_any_is_not_read(server: DirectServer) -> None:
    before = counted("refusals_total", reason="TOO_LARGE")
    with connected(server) as client:
        client.sendall(struct.pack("<I", (1 << 20) + 1))
        assert until_closed(client) == b""
    assert counted("refusals_total", reason="TOO_LARGE") == before + 1


def test_the_largest_request_is_answered() -> None:
    found: list[int] = []

    def measure(request: bytes, _: Caller) -> Generator[Message]:
        found.append(len(request))
        yield Message(b"ok")

    with serving(measure) as server, connected(server) as client:
        ask(client, bytes(1 << 20))
        assert exactly(client, 10) == b"\2\0\0\0ok" + END
    assert found == [1 << 20]


@pytest.mark.parametrize("begun", [b"", HELLO[:5], HELLO + b"\5", HELLO + b"\5\0\0\0abc"])
def test_what_has_begun_and_does_not_go_on_is_cut_off(
    monkeypatch: pytest.MonkeyPatch, begun: bytes
) -> None:
    monkeypatch.setattr(direct_connection, "SHORT_S", 0.05)
    with serving() as server, connected(server, begun) as client:
        assert until_closed(client) in (b"", HELLO)
        until(lambda: connections() == 0)


def test_bytes_that_drip_do_not_hold_a_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(direct_connection, "SHORT_S", 0.3)
    with serving() as server, connected(server) as client:
        client.sendall(struct.pack("<I", 1 << 20))
        client.settimeout(0.01)

        def is_closed() -> bool:
            try:
                client.sendall(b"x")
                return client.recv(1) == b""
            except TimeoutError:
                return False
            except (BrokenPipeError, ConnectionResetError):
                return True

        until(is_closed)
        until(lambda: connections() == 0)


def test_a_silent_connection_is_closed() -> None:
    with serving(idle_s=0.05) as server, connected(server) as client:
        assert until_closed(client) == b""


def test_who_asks_and_never_reads_is_cut_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(direct_connection, "SHORT_S", 0.05)
    # Four bytes at a time it takes a million of them until a socket is full.
    monkeypatch.setattr(direct_connection, "_REFUSED", bytes(1 << 20))

    def ask_without_end(client: socket.socket) -> None:
        while True:
            ask(client, b"!" * 100)

    with serving() as server, connected(server) as client:
        with pytest.raises((BrokenPipeError, ConnectionResetError)):
            ask_without_end(client)
        until(lambda: connections() == 0)


def test_who_stops_reading_frames_is_cut_off_by_the_watch_of_streams() -> None:
    streams, closed = Streams(4, 0.2), threading.Event()

    def endless(_: bytes, caller: Caller) -> Generator[Message]:
        try:
            with streams.admit(caller.peer(), caller.cancel) as stream:
                while True:
                    stream.sending()
                    yield Message(bytes(1 << 20))
                    stream.sent()
        finally:
            closed.set()

    with serving(endless) as server, connected(server) as client:
        ask(client, b"a")
        exactly(client, 4)
        assert closed.wait(10)
        until(lambda: connections() == 0)


def test_connections_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(direct_server, "MAX_CONNECTIONS", 2)
    before = counted("refusals_total", reason="TOO_MANY")
    with serving() as server, contextlib.ExitStack() as stack:
        served = [stack.enter_context(connected(server)) for _ in range(2)]
        with socket.create_connection(("127.0.0.1", server.port), timeout=10) as third:
            assert until_closed(third) == b""
        for client in served:
            ask(client, b"a")
            expect(client, b"a", END)
    assert counted("refusals_total", reason="TOO_MANY") == before + 1


def test_clients_that_vanish_at_once_keep_nobody_from_being_served(server: DirectServer) -> None:
    for _ in range(50):
        client = socket.create_connection(("127.0.0.1", server.port))
        # Reset, not closed: it may be gone before it is accepted.
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        client.close()
    with connected(server) as client:
        ask(client, b"a")
        expect(client, b"a", END)
    until(lambda: connections() == 0)


def test_a_system_without_threads_left_leaves_clients_to_grpc(
    server: DirectServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patched:
        patched.setattr(threading.Thread, "start", fail)
        with socket.create_connection(("127.0.0.1", server.port), timeout=10) as client:
            assert until_closed(client) == b""
    with connected(server) as client:
        ask(client, b"a")
        expect(client, b"a", END)


def test_draining_finishes_what_has_begun_and_closes_the_rest() -> None:
    begun, goes_on = threading.Event(), threading.Event()

    def slow(_: bytes, caller: Caller) -> Generator[Message]:
        yield Message(b"one")
        begun.set()
        assert goes_on.wait(10)
        yield Message(b"two" if caller.is_active() else b"cut")

    with serving(slow) as server, connected(server) as busy, connected(server) as idle:
        ask(busy, b"a")
        assert begun.wait(10)
        server.drain()
        assert until_closed(idle) == b""
        stopping = threading.Thread(target=server.stop)
        stopping.start()
        ask(busy, b"b")
        goes_on.set()
        assert until_closed(busy) == b"\3\0\0\0one\3\0\0\0two" + END
        stopping.join(10)
        assert not stopping.is_alive()
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", server.port))


def test_who_connects_while_it_drains_is_left_to_grpc(server: DirectServer) -> None:
    before = counted("refusals_total", reason="DRAINING")
    server.drain()
    with socket.create_connection(("127.0.0.1", server.port), timeout=10) as client:
        assert until_closed(client) == b""
    assert counted("refusals_total", reason="DRAINING") == before + 1


def test_an_answer_that_nobody_reads_does_not_outlast_draining() -> None:
    ended = threading.Event()

    def endless(_: bytes, __: Caller) -> Generator[Message]:
        try:
            while True:
                yield Message(bytes(1 << 20))
        finally:
            ended.set()

    with serving(endless, drain_s=0.1) as server, connected(server) as client:
        ask(client, b"a")
        exactly(client, 4)
        server.stop()
        assert ended.is_set()


def test_a_port_that_is_taken_or_none_is_named(server: DirectServer) -> None:
    with pytest.raises(Unavailable, match=f"direct_port {server.port} of 127.0.0.1.*or none"):
        DirectServer("127.0.0.1", server.port, REPLICA, drain_s=0)
    with pytest.raises(InvalidInput, match="direct_port 99999: ports go to 65535"):
        DirectServer("127.0.0.1", 99_999, REPLICA, drain_s=0)
    with pytest.raises(Unavailable, match="no such address"):
        DirectServer("nowhere.invalid", 0, REPLICA, drain_s=0)


REACHED = {
    "0.0.0.0": ["127.0.0.1", "::1"],  # noqa: S104 - a name of all addresses, in a test
    "::": ["127.0.0.1", "::1"],
    "[::]": ["127.0.0.1", "::1"],
    "[::1]": ["::1"],
    "localhost": ["127.0.0.1"],
}


@pytest.mark.parametrize("host", list(REACHED))
def test_it_listens_where_grpc_does(host: str) -> None:
    if server_port.listened_addresses("test", "::", 0)[0][0] != socket.AF_INET6:
        pytest.skip("this machine has no IPv6")
    server = DirectServer(host, 0, REPLICA, drain_s=0).start(answer)
    try:
        for way in REACHED[host]:
            with socket.create_connection((way, server.port), timeout=10) as client:
                client.sendall(HELLO)
                assert exactly(client, 16) == HELLO
    finally:
        server.stop()


@pytest.mark.parametrize(
    ("changes", "platform"),
    [
        ({"direct_port": "none"}, "linux"),
        ({"cache_dir": "none"}, "linux"),
        ({}, "darwin"),
    ],
)
def test_it_is_not_offered_where_it_would_send_nothing(
    monkeypatch: pytest.MonkeyPatch, changes: dict[str, str], platform: str
) -> None:
    monkeypatch.setattr(direct_server, "sys", type("Sys", (), {"platform": platform}))
    settings = SamplerSettings.load(flags={"data": "x", **changes})
    activity: Any = type("Activity", (), {"replica_id": REPLICA})
    assert process._listen_directly(settings, activity) is None
