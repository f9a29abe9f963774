from __future__ import annotations

import contextlib
import errno
import gc
import random
import socket
import struct
import threading
import time
import weakref
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
import pytest
import tenacity
from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.settings import SettingCodes
from http2_client import FETCH, Http2Client
from hypothesis import given
from hypothesis import strategies as st
from penstock_sampler.serving import direct_server, process
from penstock_sampler.serving.direct_server import DirectServer
from penstock_sampler.serving.streams import Caller, Streams
from penstock_sampler.settings import SamplerSettings
from prometheus_client import REGISTRY

from penstock.client.errors import translated_errors
from penstock.errors import Conflict, InvalidInput, Unavailable, Unsupported
from penstock.server import http2
from penstock.server import port as server_port

REPLICA = 2**63 + 5
NAMED = [("penstock-replica-id", str(REPLICA))]
INVALID_ARGUMENT, RESOURCE_EXHAUSTED, ABORTED, UNIMPLEMENTED, INTERNAL = 3, 8, 10, 12, 13


class Message:
    """What is sent in pieces, as cached frames are."""

    def __init__(self, *pieces: bytes) -> None:
        self.pieces = pieces

    def __len__(self) -> int:
        return sum(map(len, self.pieces))

    def send(
        self, to: socket.socket, before: bytes, frame: Callable[[int], tuple[bytes, int]]
    ) -> None:
        left = before + b"".join(self.pieces)
        while left:
            start, room = frame(len(left))
            to.sendall(start + left[:room])
            left = left[room:]


class Failing(Message):
    """Sends a part of itself."""

    def send(
        self, to: socket.socket, before: bytes, frame: Callable[[int], tuple[bytes, int]]
    ) -> None:
        start, _ = frame(len(before) + len(self))
        to.sendall(start + before + self.pieces[0][:2])
        raise RuntimeError("a fault of ours")


def content(byte: int) -> bytes:
    """Of the message for a byte."""
    return bytes([byte]) * 3 + b"." * byte


def answer(request: bytes, caller: Caller) -> Generator[Message]:
    """The bytes of the request, one after the other, until one of them says what to do instead."""
    del caller
    for byte in request:
        if byte == ord("!"):
            raise InvalidInput("no: ä % \n", field="ids")
        if byte == ord("?"):
            raise ZeroDivisionError
        yield (Failing if byte == ord("-") else Message)(content(byte)[:3], content(byte)[3:])


def answer_at_length(request: bytes, caller: Caller) -> Generator[Message]:
    """Errors with as much text as was asked with."""
    del caller
    yield Message(b"one")
    raise InvalidInput(request.decode(), metadata={"again": request.decode()})


@contextlib.contextmanager
def serving(
    respond: Callable[[bytes, Caller], Generator[Any]] = answer, **options: Any
) -> Iterator[DirectServer]:
    server = DirectServer("127.0.0.1", 0, REPLICA, **{"drain_s": 10.0, **options})
    server.start({FETCH: respond})
    try:
        yield server
    finally:
        server.stop()


@pytest.fixture
def server() -> Iterator[DirectServer]:
    with serving() as server:
        yield server


def connected(server: DirectServer, **options: Any) -> Http2Client:
    return Http2Client(("127.0.0.1", server.port), **options)


def channel_to(server: DirectServer) -> grpc.Channel:
    """What any client of gRPC uses."""
    options = [("grpc.max_receive_message_length", 64 << 20)]
    return grpc.insecure_channel(f"127.0.0.1:{server.port}", options=options)


@contextlib.contextmanager
def plainly_connected(server: DirectServer, data: bytes = b"") -> Iterator[socket.socket]:
    with socket.create_connection(("127.0.0.1", server.port), timeout=10) as client:
        client.sendall(data)
        yield client


def expect(client: Http2Client, request: bytes) -> None:
    """Just the messages for a request, and that all is well."""
    found = client.answer(client.ask(request, headers=NAMED))
    assert (found.messages, found.status) == ([content(byte) for byte in request], 0)
    assert found.headers["penstock-replica-id"] == str(REPLICA)


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


def test_calls_of_one_connection_are_answered_one_after_the_other(server: DirectServer) -> None:
    before = counted("answers_total")
    with connected(server) as client:
        for request in (b"abc", b"", b"z", b"one", b"two"):
            expect(client, request)
        assert connections() == 1
    until(lambda: connections() == 0)
    assert counted("answers_total") == before + 5


@pytest.mark.parametrize(
    ("request_", "sent", "status", "reason"),
    [
        (b"!", b"", INVALID_ARGUMENT, "INVALID_INPUT"),
        (b"ab!c", b"ab", INVALID_ARGUMENT, "INVALID_INPUT"),
        (b"?", b"", INTERNAL, "INTERNAL"),
        (b"a?", b"a", INTERNAL, "INTERNAL"),
    ],
)
def test_what_is_refused_gets_a_status_and_the_next_call_is_answered(
    server: DirectServer, request_: bytes, sent: bytes, status: int, reason: str
) -> None:
    before = counted("refusals_total", reason=reason)
    with connected(server) as client:
        found = client.answer(client.ask(request_, headers=NAMED))
        assert found.messages == [content(byte) for byte in sent]
        assert found.status == status
        assert found.headers[":status"] == "200"
        expect(client, b"xy")
    assert counted("refusals_total", reason=reason) == before + 1


def test_errors_reach_clients_of_grpc_as_they_were_raised(server: DirectServer) -> None:
    with channel_to(server) as channel:
        fetch = channel.unary_stream(FETCH)
        with pytest.raises(InvalidInput) as raised, translated_errors("there"):
            list(fetch(b"ab!"))
        assert (raised.value.message, raised.value.field) == ("no: ä % \n", "ids")
        sample = channel.unary_stream(FETCH.replace("Fetch", "Sample"))
        not_here = pytest.raises(Unsupported, match=r"Sample is not answered here: .*Fetch is")
        with not_here, translated_errors("there"):
            list(sample(b"ab"))
        named = [("penstock-replica-id", str(REPLICA - 1))]
        with pytest.raises(Conflict, match="this is") as other, translated_errors("there"):
            list(fetch(b"ab", metadata=named))
        assert other.value.reason == "OTHER_REPLICA"
        assert list(fetch(b"ab")) == [content(byte) for byte in b"ab"]


@pytest.mark.parametrize("length", [200, 5000, 500_000])
def test_errors_of_any_length_are_told(length: int) -> None:
    with serving(answer_at_length) as server, channel_to(server) as channel:
        call = channel.unary_stream(FETCH)(b"\xc3\xa4" * (length // 2))
        assert next(call) == b"one"
        with pytest.raises(InvalidInput) as raised, translated_errors("there"):
            next(call)
        text = raised.value.message
        assert text == "ä" * len(text)
        # Of a long one the beginning, without what else was told with it.
        assert len(text) == 100 if length == 200 else 200 < len(text) < 400
        assert raised.value.metadata == ({"again": text} if length == 200 else {})


def test_clients_of_grpc_get_messages_of_any_size_and_may_call_side_by_side() -> None:
    sizes = [0, 1, 16_379, 16_384, 70_000, 5 << 20]
    dice = random.Random(3)  # noqa: S311 - dice, no secret
    contents = [dice.randbytes(size) for size in sizes]

    def send(request: bytes, _: Caller) -> Generator[Message]:
        yield from (Message(request), *map(Message, contents))

    with serving(send) as server, channel_to(server) as channel:
        fetch = channel.unary_stream(FETCH)

        def read(number: int) -> None:
            call = fetch(b"%d" % number)
            assert list(call) == [b"%d" % number, *contents]
            initial = dict(call.initial_metadata())
            assert initial["penstock-replica-id"] == str(REPLICA)

        with ThreadPoolExecutor(6) as pool:
            list(pool.map(read, range(6)))
        # One that is given up in between leaves the connection to the next.
        given_up = fetch(b"x")
        assert next(given_up) == b"x"
        given_up.cancel()
        assert list(fetch(b"y")) == [b"y", *contents]
        assert connections() == 1


@pytest.mark.parametrize(
    ("frame", "window"), [(None, None), (16_384, 1), (16_384, 70_000), (20_000, 2**31 - 1)]
)
def test_frames_and_windows_are_those_that_the_client_takes(
    server: DirectServer, frame: int | None, window: int | None
) -> None:
    settings = {
        code: value
        for code, value in (
            (SettingCodes.MAX_FRAME_SIZE, frame),
            (SettingCodes.INITIAL_WINDOW_SIZE, window),
        )
        if value is not None
    }
    if window == 1:  # takes a frame for each byte
        messages, size = b"a", 3 + ord("a")
    else:
        messages, size = b"z" * 3000, 3 + ord("z")
    with connected(server, settings=settings) as client:
        found = client.answer(client.ask(messages))
        assert found.messages == [content(byte) for byte in messages]
        assert max(found.frames) <= min(window or size + 5, size + 5)


def test_a_client_that_opens_no_window_is_waited_for_until_it_does(server: DirectServer) -> None:
    wanted = b"z" * 1000  # twice of what a connection takes at first
    with connected(server, acknowledge=False) as client:
        stream = client.ask(wanted)
        while client.h2.inbound_flow_control_window:
            client.take()
        assert not client.answers[stream].ended
        client.h2.ping(b"12345678")
        client.flush()
        while not client.pongs:
            client.take()
        client.h2.increment_flow_control_window(1 << 20)
        client.h2.increment_flow_control_window(1 << 20, stream)
        client.flush()
        assert client.answer(stream).messages == [content(byte) for byte in wanted]


def test_an_answer_that_is_called_off_ends_and_the_next_call_is_answered() -> None:
    ended = threading.Event()

    def endless(request: bytes, caller: Caller) -> Generator[Message]:
        if request == b"short":
            yield Message(b"short")
            return
        try:
            while True:
                yield Message(bytes(1 << 16))
        finally:
            assert not caller.is_active()
            ended.set()

    with serving(endless) as server, connected(server) as client:
        for _ in range(3):
            ended.clear()
            stream = client.ask(b"long")
            while not client.answers[stream].messages:
                client.take()
            client.h2.reset_stream(stream)
            client.flush()
            assert ended.wait(10)
        assert client.answer(client.ask(b"short")).messages == [b"short"]
        # Called off before it is whole, too.
        stream = client.ask(b"short", whole=False)
        client.h2.reset_stream(stream)
        assert client.answer(client.ask(b"short")).messages == [b"short"]


def test_what_comes_with_the_end_of_a_call_is_answered() -> None:
    def endless(_: bytes, __: Caller) -> Generator[Message]:
        while True:
            yield Message(bytes(1 << 16))

    with serving(endless) as server, connected(server) as client:
        stream = client.ask(b"long")
        while not client.answers[stream].messages:
            client.take()
        client.h2.reset_stream(stream)
        client.h2.ping(b"12345678")
        client.flush()
        while not client.pongs:
            client.take()


def test_a_client_that_leaves_gets_the_answer_it_still_waits_for(server: DirectServer) -> None:
    with connected(server) as client:
        goaway = bytes.fromhex("000008 07 00 00000000 00000000 00000000")
        stream = client.ask(b"abc")
        client.socket.sendall(goaway)
        client.until_closed()
        assert client.answers[stream].messages == [content(byte) for byte in b"abc"]
        assert client.answers[stream].status == 0
    with connected(server) as client:
        client.socket.sendall(goaway)
        client.until_closed()


def test_who_asks_twice_before_it_knows_better_is_asked_to_come_again(server: DirectServer) -> None:
    client = connected(server)  # its calls go out before it has read anything
    first, second = client.ask(b"abc"), client.ask(b"xyz")
    with client:
        assert client.answer(first).messages == [content(byte) for byte in b"abc"]
        assert client.answer(second).reset == 7  # REFUSED_STREAM
        expect(client, b"xyz")


@pytest.mark.parametrize(
    ("error", "status"),
    [(OSError(errno.EMFILE, "no"), INTERNAL), (OSError(errno.ENOSPC, "no"), RESOURCE_EXHAUSTED)],
)
def test_a_fault_of_the_system_is_no_broken_connection(error: OSError, status: int) -> None:
    def fail(request: bytes, _: Caller) -> Generator[Message]:
        yield Message(b"one")
        if request == b"fail":
            raise error

    with serving(fail) as server, connected(server) as client:
        found = client.answer(client.ask(b"fail"))
        assert (found.messages, found.status) == ([b"one"], status)
        assert client.answer(client.ask(b"other")).status == 0


def test_what_is_on_its_way_arrives_although_the_server_ends() -> None:
    before = counted("answers_total")

    def large(_: bytes, __: Caller) -> Generator[Message]:
        yield Message(bytes(2 << 20))

    settings = {SettingCodes.INITIAL_WINDOW_SIZE: 2**31 - 1}
    with serving(large) as server, connected(server, settings=settings) as client:
        client.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 16)
        client.h2.increment_flow_control_window(2**31 - 1 - 65_535)
        stream = client.ask(b"a")
        until(lambda: counted("answers_total") == before + 1)  # by the server, into its socket
        server.drain()
        stopping = threading.Thread(target=server.stop)
        stopping.start()
        for _ in range(20):  # a server that had closed would be told that nobody reads this
            client.h2.ping(bytes(8))
            client.flush()
            time.sleep(0.01)
        client.until_closed()
        assert client.answers[stream].messages == [bytes(2 << 20)]
        assert client.goodbye
        stopping.join(10)
        assert not stopping.is_alive()


def test_nothing_follows_a_message_that_was_sent_in_part(server: DirectServer) -> None:
    with connected(server) as client:
        stream = client.ask(b"a-b")
        client.until_closed()
        found = client.answers[stream]
        assert found.messages == [content(ord("a"))]
        assert not found.ended


@pytest.mark.parametrize(
    "data",
    [
        b"GET / HTTP/1.1\r\nHost: penstock\r\n\r\n",
        bytes(100),
        b"PRI * HTTP/2.1",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\xff" * 20,
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
        + bytes.fromhex("000000040000000000 000000040100000001"),
    ],
)
def test_who_speaks_otherwise_is_cut_off(server: DirectServer, data: bytes) -> None:
    before = counted("refusals_total", reason="NOT_HTTP2")
    with plainly_connected(server, data) as client:
        until_closed(client)
    until(lambda: counted("refusals_total", reason="NOT_HTTP2") == before + 1)
    with connected(server) as client:
        expect(client, b"a")


@pytest.mark.parametrize(
    ("headers", "path", "status", "reason"),
    [
        ([("penstock-replica-id", str(REPLICA - 1))], FETCH, ABORTED, "OTHER_REPLICA"),
        ([("penstock-replica-id", "x\xff")], FETCH, ABORTED, "OTHER_REPLICA"),
        (NAMED, "/", UNIMPLEMENTED, "NOT_HERE"),
        ([], FETCH + "es", UNIMPLEMENTED, "NOT_HERE"),
    ],
)
def test_who_means_something_else_gets_a_status(
    server: DirectServer, headers: list[tuple[str, str]], path: str, status: int, reason: str
) -> None:
    before = counted("refusals_total", reason=reason)
    with connected(server) as client:
        found = client.answer(client.ask(b"a", path, headers))
        assert (found.messages, found.status) == ([], status)
        assert found.headers["penstock-replica-id"] == str(REPLICA)
        expect(client, b"a")
    assert counted("refusals_total", reason=reason) == before + 1


@pytest.mark.parametrize(
    ("head", "request_", "status"),
    [
        (b"", b"", INVALID_ARGUMENT),
        (b"", b"\0\0\0\0", INVALID_ARGUMENT),
        (b"\0\0\0\0\2", b"a", INVALID_ARGUMENT),
        (b"\0\0\0\0\2", b"abc", INVALID_ARGUMENT),
        (b"\0\0\0\0\1a\0\0\0\0\1", b"b", INVALID_ARGUMENT),
        (b"\0\xff\xff\xff\xff", b"ab", INVALID_ARGUMENT),
        (b"\1\0\0\0\2", b"ab", UNIMPLEMENTED),
    ],
)
def test_a_request_that_is_not_one_message_is_refused(
    server: DirectServer, head: bytes, request_: bytes, status: int
) -> None:
    with connected(server) as client:
        found = client.answer(client.ask(request_, head=head))
        assert (found.messages, found.status) == ([], status)
        expect(client, b"a")


@pytest.mark.parametrize("size", [(1 << 20) + 1, 4 << 20])
def test_a_request_larger_than_any_is_not_kept(server: DirectServer, size: int) -> None:
    before = counted("refusals_total", reason="TOO_LARGE")
    with connected(server) as client:
        found = client.answer(client.ask(bytes(size)))
        assert (found.messages, found.status) == ([], RESOURCE_EXHAUSTED)
        expect(client, b"a")
    assert counted("refusals_total", reason="TOO_LARGE") == before + 1


def test_the_largest_request_is_answered() -> None:
    found: list[int] = []

    def measure(request: bytes, _: Caller) -> Generator[Message]:
        found.append(len(request))
        yield Message(b"ok")

    with serving(measure) as server, connected(server) as client:
        assert client.answer(client.ask(bytes(1 << 20))).messages == [b"ok"]
    assert found == [1 << 20]


PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"


@pytest.mark.parametrize("begun", [b"", PREFACE[:5], PREFACE, PREFACE + b"\0\0\0"])
def test_a_greeting_that_does_not_go_on_is_cut_off(
    monkeypatch: pytest.MonkeyPatch, begun: bytes
) -> None:
    monkeypatch.setattr(http2, "SHORT_S", 0.05)
    with serving() as server, plainly_connected(server, begun) as client:
        until_closed(client)
        until(lambda: connections() == 0)


def test_a_call_that_does_not_go_on_is_cut_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http2, "SHORT_S", 0.05)
    with serving() as server, connected(server) as client:
        client.ask(b"abc", whole=False)
        client.until_closed()
        until(lambda: connections() == 0)


def test_bytes_that_drip_do_not_hold_a_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http2, "SHORT_S", 0.3)
    with serving() as server, connected(server) as client:
        stream = client.ask(b"", whole=False)

        def drip() -> None:
            while True:  # without a moment in between
                client.h2.ping(bytes(8))
                client.h2.send_data(stream, b"x")
                client.flush()
                client.take()

        with pytest.raises((ConnectionError, AssertionError)):
            drip()
        until(lambda: connections() == 0)


def test_a_silent_connection_is_closed() -> None:
    with serving(idle_s=0.05) as server, connected(server) as client:
        client.until_closed()
        assert client.goodbye


def test_pings_do_not_keep_a_silent_connection_open() -> None:
    with serving(idle_s=0.3) as server, connected(server) as client:
        while not client.goodbye:
            client.h2.ping(bytes(8))
            client.flush()
            client.take()
            time.sleep(0.01)
        assert client.pongs > 3
        client.until_closed()
        until(lambda: connections() == 0)


def test_who_asks_and_never_reads_is_cut_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http2, "SHORT_S", 0.05)

    def ping_without_end(client: Http2Client) -> None:
        while True:
            for _ in range(1000):
                client.h2.ping(bytes(8))
            client.flush()

    with serving() as server, connected(server) as client:
        with pytest.raises((BrokenPipeError, ConnectionResetError)):
            ping_without_end(client)
        until(lambda: connections() == 0)


def test_who_stops_reading_frames_is_cut_off_by_the_watch_of_streams() -> None:
    for settings in ({}, {SettingCodes.INITIAL_WINDOW_SIZE: 2**31 - 1}):
        streams, closed = Streams(4, 0.2), threading.Event()

        def endless(
            _: bytes, caller: Caller, streams: Streams = streams, closed: threading.Event = closed
        ) -> Generator[Message]:
            try:
                with streams.admit(caller.peer(), caller.cancel) as stream:
                    while True:
                        stream.sending()
                        yield Message(bytes(1 << 20))
                        stream.sent()
            finally:
                closed.set()

        with serving(endless) as server, connected(server, settings=settings) as client:
            if settings:
                client.h2.increment_flow_control_window(2**31 - 1 - 65_535)
            client.ask(b"a")
            assert closed.wait(10)
            until(lambda: connections() == 0)


def test_a_connection_that_ended_leaves_nothing_for_the_collector(server: DirectServer) -> None:
    gc.collect()
    gc.disable()
    try:
        with connected(server) as client:
            expect(client, b"a")
            (connection,) = server._connections
            left = weakref.ref(connection._h2)
            del connection
        until(lambda: left() is None)
    finally:
        gc.enable()


def test_connections_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(direct_server, "MAX_CONNECTIONS", 2)
    before = counted("refusals_total", reason="TOO_MANY")
    with serving() as server, contextlib.ExitStack() as stack:
        served = [stack.enter_context(connected(server)) for _ in range(2)]
        with plainly_connected(server) as third:
            assert until_closed(third) == b""
        for client in served:
            expect(client, b"a")
    assert counted("refusals_total", reason="TOO_MANY") == before + 1


def test_clients_that_vanish_at_once_keep_nobody_from_being_served(server: DirectServer) -> None:
    for _ in range(50):
        client = socket.create_connection(("127.0.0.1", server.port))
        # Reset, not closed: it may be gone before it is accepted.
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        client.close()
    with connected(server) as client:
        expect(client, b"a")
    until(lambda: connections() == 0)


def conversation() -> bytes:
    """What a client sends that makes a call, and does some other things."""
    end = H2Connection(H2Configuration(client_side=True))
    end.initiate_connection()
    usual = {":method": "POST", ":scheme": "http", ":path": FETCH, ":authority": "test"}
    end.send_headers(1, [*usual.items(), *NAMED])
    end.send_data(1, struct.pack(">BI", 0, 3) + b"abc", end_stream=True)
    end.ping(b"12345678")
    end.increment_flow_control_window(1 << 20)
    end.reset_stream(1)
    return end.data_to_send()


CONVERSATION = conversation()


@pytest.fixture(scope="module")
def lasting_server() -> Iterator[DirectServer]:
    with serving() as server:
        yield server


@given(data=st.data())
def test_whatever_comes_the_server_goes_on(lasting_server: DirectServer, data: Any) -> None:
    recording = bytearray(CONVERSATION)
    for _ in range(data.draw(st.integers(1, 6))):
        at = data.draw(st.integers(0, len(recording) - 1))
        match data.draw(st.sampled_from(["flip", "cut", "insert", "repeat"])):
            case "flip":
                recording[at] ^= data.draw(st.integers(1, 255))
            case "cut":
                del recording[at : at + data.draw(st.integers(1, 40))]
            case "insert":
                recording[at:at] = data.draw(st.binary(max_size=40))
            case _:
                recording[at:at] = recording[at : at + data.draw(st.integers(1, 60))]
        if not recording:
            break
    with plainly_connected(lasting_server, bytes(recording)) as client:
        client.shutdown(socket.SHUT_WR)
        until_closed(client)
    with connected(lasting_server) as client:
        expect(client, b"a")


def test_a_system_without_threads_left_leaves_clients_to_grpc(
    server: DirectServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patched:
        patched.setattr(threading.Thread, "start", fail)
        with plainly_connected(server) as client:
            assert until_closed(client) == b""
    with connected(server) as client:
        expect(client, b"a")


def test_draining_finishes_what_has_begun_and_closes_the_rest() -> None:
    begun, goes_on = threading.Event(), threading.Event()

    def slow(_: bytes, caller: Caller) -> Generator[Message]:
        yield Message(b"one")
        begun.set()
        assert goes_on.wait(10)
        yield Message(b"two" if caller.is_active() else b"cut")

    with serving(slow) as server, connected(server) as busy, connected(server) as idle:
        stream = busy.ask(b"a")
        assert begun.wait(10)
        server.drain()
        idle.until_closed()
        stopping = threading.Thread(target=server.stop)
        stopping.start()
        goes_on.set()
        busy.until_closed()
        assert busy.answers[stream].messages == [b"one", b"two"]
        assert busy.answers[stream].status == 0
        assert busy.goodbye
        stopping.join(10)
        assert not stopping.is_alive()
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", server.port))


def test_who_connects_while_it_drains_is_left_to_grpc(server: DirectServer) -> None:
    before = counted("refusals_total", reason="DRAINING")
    server.drain()
    with plainly_connected(server) as client:
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
        stream = client.ask(b"a")
        while not client.answers[stream].data:
            client.take()
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
    server = DirectServer(host, 0, REPLICA, drain_s=0).start({FETCH: answer})
    try:
        for way in REACHED[host]:
            with Http2Client((way, server.port)) as client:
                expect(client, b"a")
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
