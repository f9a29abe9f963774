"""The direct port as a client sees it, against servers of these few lines, and grpcio's."""

import contextlib
import gc
import logging
import os
import queue
import socket
import struct
import threading
import weakref
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import grpc as grpcio
import pytest
import tenacity
import xxhash
from h2 import events
from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.settings import SettingCodes, Settings
from hypothesis import given, settings
from hypothesis import strategies as st

from penstock.client.sampler import direct, direct_line
from penstock.client.sampler.direct import DirectPort
from penstock.client.sampler.received import parse_fetched
from penstock.client.sampler.replica import Replica, State
from penstock.errors import Cancelled
from penstock.v1 import sampler_pb2 as pb

REPLICA = 2**63 + 5
HEADERS = {
    ":status": "200",
    "content-type": "application/grpc",
    "penstock-replica-id": str(REPLICA),
}
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
IDS = (7, 3, 3, 9, 1, 4)
REQUEST = pb.FetchRequest(
    dataset_version="v1", transition_ids=IDS, frame_spec=pb.FrameSpec(height_px=2, width_px=1)
)


def images_of(transition):
    """Two images of two observations, of sizes that tell transitions apart."""
    return [bytes([transition, i]) * (transition + i) for i in range(4)]


def part(first, *ids):
    """A part as a server makes it, with two observations of two images for each row."""
    images = [images_of(each) for each in ids]
    observations = [b"".join(four[i : i + 2]) for four in images for i in (0, 2)]
    seeds = [1000 + i for i in range(len(observations))]
    return pb.BatchPart(
        first_row=first,
        rows=len(ids),
        transition_ids=ids,
        observations=pb.Observations(
            count=len(observations),
            image_bytes=[len(image) for four in images for image in four],
            data=b"".join(observations),
            current=range(0, 2 * len(ids), 2),
            next=range(1, 2 * len(ids), 2),
            hashes=[
                xxhash.xxh3_64_intdigest(data, seed)
                for data, seed in zip(observations, seeds, strict=True)
            ],
            hash_seeds=seeds,
        ),
    )


def message(first, *ids):
    return pb.FetchResponse(part=part(first, *ids)).SerializeToString()


def framed(*messages):
    return b"".join(struct.pack(">BI", 0, len(each)) + each for each in messages)


class Peer:
    """The other end of a connection. It sends what h2 lets it, and raw bytes besides.

    Attributes:
        headers: Of the latest call.
        events: All that h2 has told.
    """

    def __init__(self, client, initial):
        self.socket = client
        config = H2Configuration(
            client_side=False,
            header_encoding="utf-8",
            # Some answers are to be wrong.
            validate_outbound_headers=False,
            normalize_outbound_headers=False,
        )
        self.h2 = H2Connection(config)
        self.h2.local_settings = Settings(client=False, initial_values=initial)
        self.stream, self.headers, self.events = 0, {}, []
        self.begun, self.taken, self.asked = False, b"", False

    def greet(self):
        self.h2.initiate_connection()
        self.flush()

    def flush(self):
        self.socket.sendall(self.h2.data_to_send())

    def take(self):
        data = self.socket.recv(1 << 16)
        assert data
        for event in self.h2.receive_data(data):
            self.events.append(event)
            match event:
                case events.RequestReceived():
                    self.stream, self.headers = event.stream_id, dict(event.headers)
                    self.begun, self.taken = False, b""
                case events.DataReceived():
                    self.taken += event.data
                    self.h2.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
                case events.StreamEnded():
                    self.asked = True
        self.flush()

    def next_request(self):
        while not self.asked:
            self.take()
        self.asked = False
        compressed, size = struct.unpack_from(">BI", self.taken)
        assert (compressed, size) == (0, len(self.taken) - 5)
        return pb.FetchRequest.FromString(self.taken[5:])

    def send(self, step):
        if not isinstance(step, bytes):
            step(self)
        while isinstance(step, bytes) and step:
            room = self.h2.local_flow_control_window(self.stream)
            size = min(len(step), room, self.h2.max_outbound_frame_size)
            if size:
                self.h2.send_data(self.stream, step[:size])
                step = step[size:]
            else:
                self.take()
            self.flush()
        self.flush()

    def seen(self, kind):
        return [event for event in self.events if isinstance(event, kind)]


# What an answer consists of: bytes of messages, which go into frames of data; and these.


def head(**changes):
    """The headers, with some changed, or left out."""
    changed = {name.replace("_", "-"): value for name, value in changes.items()}

    def step(peer):
        # The status is the one of HTTP.
        changes = {":" + n if n == "status" else n: v for n, v in changed.items()}
        headers = [(n, v) for n, v in (HEADERS | changes).items() if v is not None]
        peer.h2.send_headers(peer.stream, headers)
        peer.begun = True

    return step


def trailers(*headers):
    """The end; with what goes before everything, where nothing has been sent."""

    def step(peer):
        first = [] if peer.begun else HEADERS.items()
        peer.h2.send_headers(peer.stream, [*first, *headers], end_stream=True)

    return step


def raw(content):
    return lambda peer: peer.socket.sendall(content)


def frame(kind, flags, content, size=None, *, stream=None):
    """A frame that h2 would not send; ``size`` is what it says."""
    size = len(content) if size is None else size

    def step(peer):
        on = peer.stream if stream is None else stream
        peer.socket.sendall(
            size.to_bytes(3, "big") + struct.pack(">BBI", kind, flags, on) + content
        )

    return step


def reset(code):
    return frame(RST_STREAM, 0, struct.pack(">I", code))


def goaway(last_stream):
    return frame(GOAWAY, 0, struct.pack(">II", last_stream, 0), stream=0)


def in_pieces(content, size):
    return [content[i : i + size] for i in range(0, len(content), size)]


DATA_FRAME, HEADERS_FRAME, RST_STREAM, SETTINGS, GOAWAY = 0, 1, 3, 4, 7
WINDOW_UPDATE, CONTINUATION, UNKNOWN = 8, 9, 0xEE
END_STREAM, END_HEADERS, PADDED = 0x1, 0x4, 0x8
HEAD = head()
PING = frame(6, 0, bytes(8), stream=0)
END = trailers(("grpc-status", "0"))
REFUSED = trailers(("grpc-status", "12"), ("grpc-message", "not here"))
MESSAGES = [framed(message(0, 7, 3)), framed(message(2, 3, 9, 1)), framed(message(5, 4))]
ROWS = [HEAD, *MESSAGES]
WHOLE = [*ROWS, END]
HALF = [HEAD, framed(message(0, 7, 3), message(2, 3))]


class Server:
    """Greets, and answers the requests of each connection with what it was given for them.

    Args:
        scripts: For each connection its answers, one after the other. Then it is closed; before
            an answer, where that is None; and never, where it is ``...``.
        hello: Bytes instead of a greeting.
        initial: Its settings.
    """

    def __init__(self, *scripts, hello=None, host="127.0.0.1", initial=None):
        self.hello, self.initial = hello, initial or {}
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self.listening = socket.create_server((host, 0), family=family)
        self.address = self.listening.getsockname()[:2]
        self.scripts = list(scripts)
        self.connections, self.requests, self.peers = 0, [], []
        self.open = queue.SimpleQueue()
        self.thread = threading.Thread(target=self.run, daemon=True)
        self.thread.start()

    def run(self):
        with contextlib.suppress(OSError):
            while True:
                client, _ = self.listening.accept()
                script = self.scripts[self.connections] if self.scripts[self.connections :] else []
                self.connections += 1
                threading.Thread(target=self.serve, args=(client, script), daemon=True).start()

    def serve(self, client, script):
        self.open.put(client)
        peer = Peer(client, self.initial)
        self.peers.append(peer)
        with client, contextlib.suppress(OSError, AssertionError):
            if self.hello is None:
                peer.greet()
            else:
                client.sendall(self.hello)
            for answer in script:
                if answer is ...:
                    while client.recv(1 << 16):
                        pass
                    return
                self.requests.append(peer.next_request())
                if answer is None:
                    return
                for step in answer:
                    peer.send(step)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.listening.shutdown(socket.SHUT_RDWR)
        self.listening.close()
        self.thread.join()
        with contextlib.suppress(queue.Empty):
            while True:
                with contextlib.suppress(OSError):
                    self.open.get_nowait().shutdown(socket.SHUT_RDWR)


def exactly(client, size):
    found = b""
    while len(found) < size:
        piece = client.recv(size - len(found))
        assert piece
        found += piece
    return found


class Grpc:
    """The same call the other way; each part has one row."""

    def __init__(self):
        self.requests, self.calls = [], []

    def __call__(self, request):
        self.requests.append(request)
        ids = list(request.transition_ids)
        received = [parse_fetched(message(row, each)) for row, each in enumerate(ids)]
        call = SimpleNamespace(cancelled=False)
        call.cancel = lambda: setattr(call, "cancelled", True)
        self.calls.append(call)
        return Stream(received, call.cancel)


class Stream(list):
    """Parts, and how to end them."""

    def __init__(self, parts, cancel):
        super().__init__(parts)
        self.cancel = cancel


@pytest.fixture
def grpc():
    return Grpc()


@pytest.fixture
def faults():
    return []


@pytest.fixture
def port_of(faults):
    with contextlib.ExitStack() as stack:

        def make(server):
            port = DirectPort(
                "grpc://there", *server.address, REPLICA, lambda: faults.append("fault")
            )
            stack.callback(port.close)
            return port

        yield make


@pytest.fixture(autouse=True)
def no_socket_is_left():
    before = sockets()
    yield
    until(lambda: sockets() <= before)


def sockets():
    """Those of Python; gRPC's, left by other tests, come and go when they please."""
    # By types alone: objects of libraries that other tests load warn when their class is asked for.
    found = (each for each in gc.get_objects() if issubclass(type(each), socket.socket))
    return sum(each.fileno() >= 0 for each in found)


@tenacity.retry(
    retry=tenacity.retry_if_exception_type(AssertionError),
    wait=tenacity.wait_fixed(0.01),
    stop=tenacity.stop_after_delay(10),
    reraise=True,
)
def until(condition):
    assert condition()


def rows_of(stream):
    """What came, row by row: its place, its id and its images; and which way it came."""
    rows, ways = [], []
    for received in stream:
        data = bytes(received.data)
        for place, transition in enumerate(received.part.transition_ids):
            size = len(b"".join(images_of(transition)))
            rows.append((received.part.first_row + place, transition, data[:size]))
            ways.append(received.direct)
            data = data[size:]
        assert data == b""
    return rows, ways


EXPECTED = [(row, each, b"".join(images_of(each))) for row, each in enumerate(IDS)]


def test_all_comes_over_one_connection_call_after_call(port_of, grpc, faults):
    with Server([WHOLE] * 3) as server:
        port = port_of(server)
        assert not port.carries
        for _ in range(3):
            assert rows_of(port.fetch(REQUEST, grpc)) == (EXPECTED, [True] * 6)
            assert port.carries
        assert server.requests == [REQUEST] * 3
        assert server.connections == 1
        assert server.peers[0].headers == {
            ":method": "POST",
            ":scheme": "http",
            ":path": "/penstock.v1.SamplerService/Fetch",
            ":authority": "{}:{}".format(*server.address),
            "te": "trailers",
            "content-type": "application/grpc",
            "penstock-replica-id": str(REPLICA),
        }
    assert (grpc.requests, faults) == ([], [])


@pytest.mark.parametrize("size", [1, 7, 1000])
def test_where_frames_begin_and_end_tells_nothing_about_messages(port_of, grpc, faults, size):
    content = b"".join(MESSAGES)
    empty = frame(DATA_FRAME, 0, b"")
    answer = [HEAD, empty]
    for piece in in_pieces(content, size):
        answer += [piece, empty]
    with Server([[*answer, END], WHOLE]) as server:
        port = port_of(server)
        for _ in range(2):
            assert rows_of(port.fetch(REQUEST, grpc)) == (EXPECTED, [True] * 6)
        assert server.connections == 1
    assert (grpc.requests, faults) == ([], [])


def test_what_else_comes_between_frames_is_answered_or_ignored(port_of, grpc, faults):
    def between(peer):
        peer.h2.ping(b"12345678")
        peer.h2.update_settings({SettingCodes.INITIAL_WINDOW_SIZE: 20})
        peer.flush()
        frame(UNKNOWN, 0xFF, b"anything")(peer)
        frame(UNKNOWN, 0xFF, b"", stream=0)(peer)

    def forgetful(peer):
        peer.h2.update_settings({SettingCodes.HEADER_TABLE_SIZE: 0})

    answer = [between, HEAD, between, forgetful]
    for piece in in_pieces(b"".join(MESSAGES), 100):
        answer += [piece, between]
    with Server([[*answer, END], WHOLE]) as server:
        port = port_of(server)
        for _ in range(2):
            assert rows_of(port.fetch(REQUEST, grpc)) == (EXPECTED, [True] * 6)
        assert server.connections == 1
        (peer,) = server.peers
        asked = answer.count(between)
        pongs = peer.seen(events.PingAckReceived)
        assert [event.ping_data for event in pongs] == [b"12345678"] * asked
        assert len(peer.seen(events.SettingsAcknowledged)) == 2 + asked
    assert (grpc.requests, faults) == ([], [])


@pytest.mark.parametrize("size", [0, 20_000, 1 << 16])
def test_a_frame_of_another_kind_may_be_as_large_as_64_kib(port_of, grpc, faults, size):
    with Server([[HEAD, frame(UNKNOWN, 0, bytes(size)), *WHOLE[1:]]]) as server:
        assert rows_of(port_of(server).fetch(REQUEST, grpc)) == (EXPECTED, [True] * 6)
    assert (grpc.requests, faults) == ([], [])


def test_the_bit_that_means_nothing_is_ignored(port_of, grpc, faults):
    def marked(content):
        return frame(DATA_FRAME, 0, content, stream=2**31 + 1)

    with Server([[HEAD, MESSAGES[0], *map(marked, MESSAGES[1:]), END]]) as server:
        assert rows_of(port_of(server).fetch(REQUEST, grpc)) == (EXPECTED, [True] * 6)
    assert (grpc.requests, faults) == ([], [])


def as_it_may_come(headers, *, end):
    """A block of headers in three frames, with padding and a priority."""

    def step(peer):
        peer.begun = True
        block = peer.h2.encoder.encode(list(headers))
        first = b"\3" + struct.pack(">IB", 0, 7) + block[:1] + bytes(3)
        frame(HEADERS_FRAME, PADDED | 0x20 | end, first)(peer)
        frame(CONTINUATION, 0, block[1:5])(peer)
        frame(CONTINUATION, END_HEADERS, block[5:])(peer)

    return step


def test_headers_may_come_in_several_frames(port_of, grpc, faults):
    early = as_it_may_come([(":status", "103"), ("link", "</>")], end=0)
    first = as_it_may_come([*HEADERS.items(), ("other", b"\xff\xfe")], end=0)
    last = as_it_may_come([("grpc-status", "0"), ("grpc-message", b"\xff")], end=END_STREAM)
    with Server([[early, first, *MESSAGES, last]]) as server:
        assert rows_of(port_of(server).fetch(REQUEST, grpc)) == (EXPECTED, [True] * 6)
    assert (grpc.requests, faults) == ([], [])


@pytest.mark.parametrize(
    ("window", "version"), [(0, "v1"), (1, "v1"), (10, "v1"), (2**16 - 1, "v" * 300_000)]
)
def test_a_request_is_sent_as_the_server_opens_its_windows(port_of, grpc, faults, window, version):
    request = pb.FetchRequest(dataset_version=version, transition_ids=IDS)
    with Server([WHOLE], initial={SettingCodes.INITIAL_WINDOW_SIZE: window}) as server:
        running = Running(port_of(server).fetch(request, grpc))
        if not window:
            until(lambda: server.peers and server.peers[0].stream)
            peer = server.peers[0]
            # The thread there waits for what it does not let come.
            peer.h2.increment_flow_control_window(1000, peer.stream)
            peer.flush()
        running.thread.join(30)
        assert [running.got.get(timeout=1) for _ in range(3)] == [0, 2, 5]
        assert server.requests == [request]
    assert (running.error, grpc.requests, faults) == (None, [], [])


def test_windows_are_opened_again_as_data_comes(port_of, grpc, faults, monkeypatch):
    monkeypatch.setattr(direct_line, "_REOPENED_BYTES", 3000)
    monkeypatch.setattr(direct_line, "_WINDOW", 2**16)
    monkeypatch.setitem(direct_line._SETTINGS, SettingCodes.INITIAL_WINDOW_SIZE, 5000)
    large = large_message(300_000)
    with Server([[HEAD, framed(large), END]] * 2) as server:
        port = port_of(server)
        for _ in range(2):
            (received,) = port.fetch(pb.FetchRequest(transition_ids=[7]), grpc)
            assert received.data == bytes(300_000)
        assert server.connections == 1
        updates = server.peers[0].seen(events.WindowUpdated)
        for stream in (1, 3):
            opened = sum(event.delta for event in updates if event.stream_id == stream)
            assert 300_000 - 5000 <= opened <= len(framed(large))
        opened = sum(event.delta for event in updates if event.stream_id == 0)
        assert 600_000 - 2**16 <= opened <= 2 * len(framed(large)) + 1
    assert (grpc.requests, faults) == ([], [])


def test_what_is_refused_comes_over_grpc_and_the_connection_is_kept(port_of, grpc, faults):
    with Server([[REFUSED], [*HALF, REFUSED], [HEAD, REFUSED], WHOLE]) as server:
        port = port_of(server)
        assert rows_of(port.fetch(REQUEST, grpc)) == (EXPECTED, [False] * 6)
        assert not port.carries
        assert rows_of(port.fetch(REQUEST, grpc)) == (EXPECTED, [True] * 3 + [False] * 3)
        assert not port.carries
        assert rows_of(port.fetch(REQUEST, grpc)) == (EXPECTED, [False] * 6)
        assert rows_of(port.fetch(REQUEST, grpc)) == (EXPECTED, [True] * 6)
        assert port.carries
        assert server.connections == 1
    assert grpc.requests[0] == REQUEST
    rest = pb.FetchRequest(
        dataset_version="v1",
        transition_ids=IDS[3:],
        frame_spec=pb.FrameSpec(height_px=2, width_px=1),
    )
    assert grpc.requests[1:] == [rest, REQUEST]
    assert faults == []


def test_with_all_rows_there_a_status_changes_nothing(port_of, grpc, faults, monkeypatch):
    monkeypatch.setattr(direct_line, "_END_S", 0.1)
    later = threading.Event()
    with Server([[*ROWS, REFUSED], [lambda _: later.wait(10), *WHOLE]]) as server:
        port = port_of(server)
        assert rows_of(port.fetch(REQUEST, grpc)) == (EXPECTED, [True] * 6)
        # The next answer is waited for as long as any.
        timer = threading.Timer(0.5, later.set)
        timer.start()
        assert rows_of(port.fetch(REQUEST, grpc)) == (EXPECTED, [True] * 6)
        timer.join()
        assert server.connections == 1
    assert (grpc.requests, faults) == ([], [])


def flipped(parts):
    """The same with one bit of the last frame changed."""
    changed = bytearray(parts)
    changed[-1] ^= 1
    return bytes(changed)


def without(field):
    changed = part(3, 9)
    changed.observations.ClearField(field)
    return framed(pb.FetchResponse(part=changed).SerializeToString())


CUT = framed(message(3, 9))[:-5]
BROKEN = {
    "closed": [],
    "cut in the head of a frame": [raw(b"\0\0")],
    "cut in a frame": [frame(DATA_FRAME, 0, framed(message(3, 9))[:20], size=100)],
    "cut in a frame without data": [frame(UNKNOWN, 0, b"12", size=3)],
    "cut in the head of a message": [b"\0\0"],
    "cut in a message": [CUT],
    "ended too soon": [END],
    "ended in the head of a message": [b"\0\0\0", END],
    "ended after a byte of a message": [b"\0", END],
    "ended in a message": [CUT, END],
    "refused in a message": [CUT, REFUSED],
    "reset": [reset(2)],
    "reset in a message": [CUT, reset(8)],
    "damaged": [flipped(framed(message(3, 9)))],
    "no hashes": [without("hashes")],
    "no seeds": [without("hash_seeds")],
    "no sizes": [without("image_bytes")],
    "no count": [without("count")],
    "no frames": [without("data")],
    "no observations": [
        framed(pb.FetchResponse(part=pb.BatchPart(first_row=3, rows=1)).SerializeToString())
    ],
    "empty": [framed(b"\x0a\x00")],
    "of no bytes": [framed(b"")],
}


@pytest.mark.parametrize("broken", BROKEN)
def test_an_answer_that_breaks_off_is_finished_over_grpc(port_of, grpc, faults, broken):
    closed = broken.startswith(("closed", "cut"))
    with Server([[*HALF, *BROKEN[broken]], *([] if closed else [...])], [WHOLE]) as server:
        port = port_of(server)
        assert rows_of(port.fetch(REQUEST, grpc)) == (EXPECTED, [True] * 3 + [False] * 3)
        assert len(faults) == 1
        assert list(grpc.requests[0].transition_ids) == [9, 1, 4]
        assert not port.carries
        # The next call tries again, on a connection that knows nothing of the broken one.
        assert rows_of(port.fetch(REQUEST, grpc)) == (EXPECTED, [True] * 6)
        assert server.connections == 2


def data_with(**how):
    """Data as HTTP/2 allows it, and gRPC does not need it."""
    return lambda peer: peer.h2.send_data(peer.stream, MESSAGES[0], **how)


UNDECODABLE = frame(HEADERS_FRAME, END_HEADERS, b"\xff" * 16)
FOREIGN = {
    "too large": [struct.pack(">BI", 0, (64 << 20) + 1)],
    "compressed": [b"\1" + MESSAGES[0][1:]],
    "no message": [framed(b"HTTP/1.1 400 Bad Request\r\n\r\n")],
    "a field without an end": [framed(b"\x0a\xff\xff\xff\xff\x0f")],
    "a number without an end": [framed(b"\xff" * 40)],
    "an end without a status": [trailers(("grpc-message", "all is well"))],
    "an end without a text in its status": [trailers(("grpc-status", ""))],
    "an end in data": [data_with(end_stream=True)],
    "padded data": [data_with(pad_length=3)],
    "data of no stream": [frame(DATA_FRAME, 0, b"1", stream=0)],
    "data of another stream": [frame(DATA_FRAME, 0, b"1", stream=101)],
    "headers that are not the last": [frame(HEADERS_FRAME, END_HEADERS, b"\x88")],
    "undecodable headers": [UNDECODABLE],
    "undecodable headers that end": [
        frame(HEADERS_FRAME, END_HEADERS | END_STREAM, b"\x40\x01\xff\x7f\xff\xff\xff\xff")
    ],
    "headers of another stream": [frame(HEADERS_FRAME, END_HEADERS, b"\x88", stream=101)],
    "headers that do not go on": [frame(HEADERS_FRAME, 0, b"\x88"), END],
    "a promise": [frame(5, END_HEADERS, struct.pack(">I", 2) + b"\x88")],
    "no settings": [frame(SETTINGS, 0, b"12345", stream=0)],
    "settings of a stream": [frame(SETTINGS, 0, b"123456")],
    "a frame over 64 KiB": [frame(UNKNOWN, 0, b"", size=(1 << 16) + 1)],
    "HTTP/1.1": [raw(b"HTTP/1.1 400 Bad Request\r\n\r\n")],
}


@pytest.mark.parametrize("foreign", FOREIGN)
@pytest.mark.parametrize("rows", [0, 3])
def test_a_server_that_speaks_otherwise_is_left_alone(port_of, grpc, faults, caplog, foreign, rows):
    with Server([[*(HALF if rows else [HEAD]), *FOREIGN[foreign]], ...]) as server:
        port = port_of(server)
        for direct_rows in (rows, 0, 0):
            ways = [True] * direct_rows + [False] * (6 - direct_rows)
            assert rows_of(port.fetch(REQUEST, grpc)) == (EXPECTED, ways)
        assert server.connections == 1
    assert len(faults) == 1
    assert "cannot be used" in caplog.text


BEGINNINGS = {
    "no headers": [frame(DATA_FRAME, 0, MESSAGES[0])],
    "unavailable": [head(status="503"), *MESSAGES],
    "a page": [head(content_type="text/html"), b"<html>"],
    "no type": [head(content_type=None), *MESSAGES],
    "another replica": [head(penstock_replica_id="7"), *MESSAGES],
    "no replica": [head(penstock_replica_id=None), *MESSAGES],
    "a replica in other letters": [head(penstock_replica_id=b"\xff\xfe"), *MESSAGES],
    "a refusal of another replica": [
        lambda peer: peer.h2.send_headers(
            peer.stream,
            [(":status", "200"), ("content-type", "application/grpc"), ("grpc-status", "12")],
            end_stream=True,
        )
    ],
    "an end without a status": [trailers()],
    "undecodable headers": [UNDECODABLE],
    "headers without a status": [frame(HEADERS_FRAME, END_HEADERS, b"")],
    "HTTP/1.1": [raw(b"HTTP/1.1 400 Bad Request\r\n\r\n")],
}


@pytest.mark.parametrize("beginning", BEGINNINGS)
def test_a_server_that_answers_otherwise_is_left_alone(port_of, grpc, faults, caplog, beginning):
    with Server([BEGINNINGS[beginning], ...]) as server:
        port = port_of(server)
        for _ in range(3):
            assert rows_of(port.fetch(REQUEST, grpc)) == (EXPECTED, [False] * 6)
        assert server.connections == 1
    assert len(faults) == 1
    assert "cannot be used" in caplog.text


@pytest.mark.parametrize("status", [b"\xff", "00", "x" * 1000])
def test_a_status_that_is_no_number_refuses(port_of, grpc, faults, status):
    with Server([[*HALF, trailers(("grpc-status", status))], WHOLE]) as server:
        port = port_of(server)
        assert rows_of(port.fetch(REQUEST, grpc)) == (EXPECTED, [True] * 3 + [False] * 3)
        assert rows_of(port.fetch(REQUEST, grpc)) == (EXPECTED, [True] * 6)
        assert server.connections == 1
    assert faults == []


def test_a_server_may_answer_before_it_has_the_request(port_of, grpc, faults):
    with Server([WHOLE], [WHOLE], initial={SettingCodes.INITIAL_WINDOW_SIZE: 0}) as server:
        port = port_of(server)
        running = Running(port.fetch(REQUEST, grpc))
        until(lambda: server.peers and server.peers[0].stream)
        (peer,) = server.peers
        peer.send(REFUSED)
        peer.send(reset(0))  # it wants no more of the request
        running.thread.join(10)
        assert [running.got.get(timeout=1) for _ in range(6)] == [0, 1, 2, 3, 4, 5]
        server.initial = {}
        peer.h2.update_settings({SettingCodes.INITIAL_WINDOW_SIZE: 1000})
        peer.flush()
        assert rows_of(port.fetch(REQUEST, grpc)) == (EXPECTED, [True] * 6)
    assert faults == []


@pytest.mark.parametrize(
    "late", [reset(0), frame(WINDOW_UPDATE, 0, b"\0\0\0\1"), frame(2, 0, bytes(5))]
)
def test_what_comes_late_for_an_answer_does_not_harm_the_next_one(port_of, grpc, faults, late):
    with Server([[*WHOLE, late], WHOLE, [*HALF, REFUSED, late], WHOLE], [WHOLE] * 2) as server:
        port = port_of(server)
        for ways in ([True] * 6, [True] * 6, [True] * 3 + [False] * 3, [True] * 6):
            assert rows_of(port.fetch(REQUEST, grpc)) == (EXPECTED, ways)
        assert server.connections == 1
    assert faults == []


FAREWELLS = {
    "after it": [*ROWS, END, goaway(1)],
    "after it, step by step": [*WHOLE, goaway(2**31 - 1), PING, goaway(1)],
    "within it": [*ROWS[:2], goaway(1), *ROWS[2:], END],
    "before it": [goaway(1), *WHOLE],
    "within it, step by step": [*ROWS[:2], goaway(2**31 - 1), PING, *ROWS[2:], goaway(1), END],
}


@pytest.mark.parametrize("stays", [False, True])
@pytest.mark.parametrize("farewell", FAREWELLS)
def test_a_server_that_leaves_is_asked_on_a_new_connection(port_of, grpc, faults, farewell, stays):
    with Server([FAREWELLS[farewell], *([...] if stays else [])], [WHOLE]) as server:
        port = port_of(server)
        assert rows_of(port.fetch(REQUEST, grpc)) == (EXPECTED, [True] * 6)
        running = Running(port.fetch(REQUEST, grpc))
        running.thread.join(5)
        running.call.cancel()
        running.thread.join(5)
        assert running.error is None
        assert [running.got.get(timeout=1) for _ in range(3)] == [0, 2, 5]
        assert server.connections == 2
    assert (grpc.requests, faults) == ([], [])


def test_a_connection_that_was_closed_meanwhile_is_made_again(port_of, grpc, faults):
    with Server([WHOLE], [WHOLE, None], [WHOLE]) as server:
        port = port_of(server)
        assert not port.carries
        for _ in range(3):
            assert rows_of(port.fetch(REQUEST, grpc)) == (EXPECTED, [True] * 6)
            assert port.carries
        assert server.connections == 3
    assert (grpc.requests, faults) == ([], [])


def test_a_new_connection_that_is_closed_is_not_made_again(port_of, grpc, faults):
    with Server([None], [WHOLE]) as server:
        assert rows_of(port_of(server).fetch(REQUEST, grpc)) == (EXPECTED, [False] * 6)
        assert server.connections == 1
    assert len(faults) == 1


HELLOS = {
    "silence": b"",
    "HTTP/1.1": b"HTTP/1.1 400 Bad Request\r\n\r\n",
    "a greeting of old": b"PSDIRECT" + struct.pack("<Q", REPLICA),
    "a farewell": b"\0\0\x08\7" + bytes(5 + 8),
    "no settings": b"\0\0\1\4\0\0\0\0\0x",
    "impossible settings": b"\0\0\6\4\0\0\0\0\0\0\4\xff\xff\xff\xff",
    "data of no stream": b"\0\0\1\0\0\0\0\0\0x",
    "headers of a stream that nobody opened": b"\0\0\1\1\4\0\0\0\1\x88",
}


@pytest.mark.parametrize("hello", HELLOS)
def test_who_else_answers_there_is_asked_nothing(port_of, grpc, faults, caplog, monkeypatch, hello):
    monkeypatch.setattr(direct_line, "_CONNECT_S", 0.1)
    caplog.set_level(logging.INFO)
    with Server(*3 * [[WHOLE]], hello=HELLOS[hello]) as server:
        port = port_of(server)
        for _ in range(3):
            assert rows_of(port.fetch(REQUEST, grpc)) == (EXPECTED, [False] * 6)
        assert server.connections == 1
        assert server.requests == []
        assert len(faults) == 1
        # After a while it is tried again; it is said aloud only once.
        port._try_at = 0.0
        assert rows_of(port.fetch(REQUEST, grpc)) == (EXPECTED, [False] * 6)
        assert server.connections == 2
        said = [r.levelno for r in caplog.records if "cannot be used" in r.getMessage()]
        assert said == [logging.WARNING, logging.INFO]
        server.hello = None
        port._try_at = 0.0
        assert rows_of(port.fetch(REQUEST, grpc)) == (EXPECTED, [True] * 6)


@pytest.mark.parametrize("size", [1000, 256 << 10, 700_000, 5_000_000])
@pytest.mark.parametrize("first", [1, 200_000, 300_000, 699_999])
@pytest.mark.parametrize("frames", [1, 2])
def test_a_message_that_comes_in_pieces_is_waited_for_but_not_for_more(size, first, frames):
    content = os.urandom(size)
    begin, rest = struct.pack(">BI", 0, size) + content[:first], content[first:]
    more = threading.Event()
    pieces = [begin, lambda _: more.wait(10), rest]  # and nothing after it
    if frames == 1:
        pieces[0] = frame(DATA_FRAME, 0, begin, size=5 + size)
        pieces[2] = raw(rest)
    with Server([[HEAD, *pieces], ...]) as server:
        line = direct_line.Line(server.address)
        try:
            line.connect(REPLICA)
            line.ask(b"")
            timer = threading.Timer(0.05, more.set)
            timer.start()
            assert bytes(line.receive()) == content
            timer.join()
        finally:
            line.close()


def test_a_port_where_nobody_listens_is_left_alone(port_of, grpc, faults, unused_port):
    port = port_of(SimpleNamespace(address=("127.0.0.1", unused_port)))
    for _ in range(3):
        assert rows_of(port.fetch(REQUEST, grpc)) == (EXPECTED, [False] * 6)
    assert len(faults) == 1


class Running:
    """A call that another thread iterates."""

    def __init__(self, call):
        self.call, self.got, self.error = call, queue.SimpleQueue(), None
        self.thread = threading.Thread(target=self.run)
        self.thread.start()

    def run(self):
        try:
            for received in self.call:
                self.got.put(received.part.first_row)
        except Exception as error:  # noqa: BLE001 - the test looks at it
            self.error = error

    def cancel(self):
        """Cancelled, the thread ends: nothing is waited for that takes longer than this test."""
        self.call.cancel()
        self.thread.join(10)
        assert not self.thread.is_alive()
        assert isinstance(self.error, Cancelled)


@pytest.mark.parametrize(
    "answer",
    [[], [raw(b"\0\0")], [HEAD], [HEAD, b"\0\0"], HALF, [*HALF, CUT], [*HALF, raw(b"\0\0")]],
)
def test_a_call_that_waits_for_a_server_ends_when_it_is_cancelled(port_of, grpc, faults, answer):
    with Server([answer, ...]) as server:
        running = Running(port_of(server).fetch(REQUEST, grpc))
        for _ in range(2 if answer[:2] == HALF else 0):
            running.got.get(timeout=10)
        until(lambda: server.requests)
        running.cancel()
    assert (grpc.requests, faults) == ([], [])


def test_a_call_that_cannot_send_its_request_ends_when_it_is_cancelled(port_of, grpc, faults):
    with Server([WHOLE], initial={SettingCodes.INITIAL_WINDOW_SIZE: 0}) as server:
        running = Running(port_of(server).fetch(REQUEST, grpc))
        until(lambda: server.peers and server.peers[0].stream)
        running.cancel()
        assert server.requests == []
    assert (grpc.requests, faults) == ([], [])


def test_a_call_that_waits_for_a_greeting_ends_when_it_is_cancelled(
    port_of, grpc, faults, monkeypatch
):
    monkeypatch.setattr(direct_line, "_CONNECT_S", 600.0)
    # Listening is enough to be connected to: so does a paused server look.
    with socket.create_server(("127.0.0.1", 0)) as paused:
        running = Running(
            port_of(SimpleNamespace(address=paused.getsockname())).fetch(REQUEST, grpc)
        )
        client, _ = paused.accept()
        with client:
            assert exactly(client, len(PREFACE)) == PREFACE
            running.cancel()
    assert (grpc.requests, faults) == ([], [])


def test_a_call_that_waits_for_a_connection_ends_when_it_is_cancelled(
    port_of, grpc, faults, monkeypatch
):
    monkeypatch.setattr(direct_line, "_CONNECT_S", 600.0)
    with socket.socket() as full, contextlib.ExitStack() as stack:
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        connecting = []
        # Once its queue is full, the kernel answers no more.
        while not connecting or not connecting[-1].connect_ex(full.getsockname()):
            connecting.append(stack.enter_context(socket.socket()))
            connecting[-1].settimeout(0.2)
        call = port_of(SimpleNamespace(address=full.getsockname())).fetch(REQUEST, grpc)
        running = Running(call)
        until(lambda: call._line is not None and is_connecting(full.getsockname()[1]) >= 2)
        running.cancel()
    assert (grpc.requests, faults) == ([], [])


def is_connecting(port):
    """Connections of this machine to a port that wait for an answer (``SYN_SENT``)."""
    rows = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    return sum(row[2].endswith(f":{port:04X}") and row[3] == "02" for row in rows)


def test_a_call_cancelled_before_it_begins_asks_nobody(port_of, grpc):
    with Server([WHOLE]) as server:
        call = port_of(server).fetch(REQUEST, grpc)
        call.cancel()
        with pytest.raises(Cancelled):
            list(call)
        assert server.requests == []
    assert grpc.requests == []


def test_the_rest_over_grpc_is_cancelled_with_the_call(port_of, grpc):
    with Server([[*HALF, REFUSED]]) as server:
        call = port_of(server).fetch(REQUEST, grpc)
        stream = iter(call)
        while next(stream).part.first_row != 3:
            pass
        call.cancel()
        assert grpc.calls[0].cancelled
        stream.close()


def test_cancelling_a_call_that_has_ended_leaves_the_next_one_alone(port_of, grpc, faults):
    with Server([WHOLE, WHOLE]) as server:
        port = port_of(server)
        first = port.fetch(REQUEST, grpc)
        rows_of(first)
        second = iter(port.fetch(REQUEST, grpc))
        next(second)
        first.cancel()
        assert [received.part.first_row for received in second] == [2, 5]
        assert server.connections == 1
    assert (grpc.requests, faults) == ([], [])


def test_a_call_that_is_given_up_in_between_closes_its_connection(port_of, grpc):
    with Server([WHOLE], [WHOLE]) as server:
        port = port_of(server)
        stream = iter(port.fetch(REQUEST, grpc))
        next(stream)
        stream.close()
        assert rows_of(port.fetch(REQUEST, grpc)) == (EXPECTED, [True] * 6)
        assert server.connections == 2
    assert grpc.requests == []


AFTER = {
    "nothing": [],
    "another message": [framed(message(6, 2)), END],
    "a part of a frame": [raw(b"\0")],
    "a part of a message": [b"\0"],
    "a reset": [reset(2)],
}


@pytest.mark.parametrize("after", AFTER)
def test_with_all_rows_there_nothing_else_is_waited_for(port_of, grpc, monkeypatch, after):
    monkeypatch.setattr(direct_line, "_END_S", 0.1)
    with Server([[*ROWS, *AFTER[after]], ...], [WHOLE]) as server:
        port = port_of(server)
        assert rows_of(port.fetch(REQUEST, grpc)) == (EXPECTED, [True] * 6)
        # What was left on the connection is not taken for the next answer.
        assert rows_of(port.fetch(REQUEST, grpc)) == (EXPECTED, [True] * 6)
        assert server.connections == 2
    assert grpc.requests == []


def test_a_connection_that_lay_idle_for_long_is_not_used_again(port_of, grpc, monkeypatch):
    monkeypatch.setattr(direct, "_IDLE_S", 0.0)
    with Server([WHOLE, ...], [WHOLE]) as server:
        port = port_of(server)
        for _ in range(2):
            assert rows_of(port.fetch(REQUEST, grpc)) == (EXPECTED, [True] * 6)
        assert server.connections == 2


def test_a_call_under_way_outlasts_its_port_and_leaves_nothing(port_of, grpc):
    with Server([WHOLE, WHOLE]) as server:
        port = port_of(server)
        stream = iter(port.fetch(REQUEST, grpc))
        next(stream)
        port.close()
        assert [received.part.first_row for received in stream] == [2, 5]
        assert rows_of(port.fetch(REQUEST, grpc)) == (EXPECTED, [False] * 6)
        assert server.connections == 1


def test_few_connections_are_kept(port_of, grpc):
    with Server(*6 * [[WHOLE]]) as server:
        port = port_of(server)
        streams = [iter(port.fetch(REQUEST, grpc)) for _ in range(6)]
        for stream in streams:
            next(stream)
        for stream in streams:
            list(stream)
        assert len(port._idle) == 4


def large_message(size):
    """With two observations of together so many bytes, all of them 0."""
    large = part(0, 7)
    large.observations.data = bytes(size)
    large.observations.image_bytes[:] = [size // 4] * 4
    large.observations.hashes[:] = [
        xxhash.xxh3_64_intdigest(bytes(size // 2), seed) for seed in large.observations.hash_seeds
    ]
    return pb.FetchResponse(part=large).SerializeToString()


def test_a_message_larger_than_usual_is_taken_and_its_memory_not_kept(port_of, grpc):
    with Server([[HEAD, framed(large_message(20 << 20)), END], WHOLE]) as server:
        port = port_of(server)
        (received,) = port.fetch(pb.FetchRequest(transition_ids=[7]), grpc)
        assert received.data == bytes(20 << 20)
        ((line, _),) = port._idle
        assert len(line._buffer) < 16 << 20
        assert rows_of(port.fetch(REQUEST, grpc)) == (EXPECTED, [True] * 6)


def test_a_fork_that_ends_leaves_connections_to_its_parent(port_of, grpc, faults):
    with Server([WHOLE, WHOLE]) as server:
        port = port_of(server)
        rows_of(port.fetch(REQUEST, grpc))
        child = os.fork()
        if not child:
            port.close()
            os._exit(0)
        assert os.waitpid(child, 0) == (child, 0)
        assert rows_of(port.fetch(REQUEST, grpc)) == (EXPECTED, [True] * 6)
        assert server.connections == 1
    assert (grpc.requests, faults) == ([], [])


def test_ipv6_is_spoken(port_of, grpc):
    try:
        server = Server([WHOLE], host="::1")
    except OSError:
        pytest.skip("this machine has no IPv6")
    with server:
        assert rows_of(port_of(server).fetch(REQUEST, grpc)) == (EXPECTED, [True] * 6)


@contextlib.contextmanager
def grpcio_server(fetch):
    """A server of another make, that answers with what ``fetch`` gives for a request."""
    handler = grpcio.method_handlers_generic_handler(
        "penstock.v1.SamplerService",
        {
            "Fetch": grpcio.unary_stream_rpc_method_handler(
                fetch, request_deserializer=pb.FetchRequest.FromString
            )
        },
    )
    with ThreadPoolExecutor(4) as threads:
        server = grpcio.server(threads)
        server.add_generic_rpc_handlers((handler,))
        port = server.add_insecure_port("127.0.0.1:0")
        server.start()
        try:
            yield SimpleNamespace(address=("127.0.0.1", port), stop=server.stop)
        finally:
            server.stop(0).wait()


def test_a_server_of_grpcio_is_understood(port_of, grpc, faults):
    peers = []

    def fetch(request, context):
        peers.append(context.peer())
        context.send_initial_metadata((("penstock-replica-id", str(REPLICA)),))
        if request.dataset_version == "large":
            yield large_message(9_000_000)
            return
        yield message(0, 7, 3)
        if request.dataset_version == "unwell":
            context.abort(grpcio.StatusCode.UNAVAILABLE, "no more of it, ÄÖÜ")
        yield message(2, 3, 9, 1)
        yield message(5, 4)

    with grpcio_server(fetch) as server:
        port = port_of(server)
        for _ in range(2):
            assert rows_of(port.fetch(REQUEST, grpc)) == (EXPECTED, [True] * 6)
        (received,) = port.fetch(pb.FetchRequest(dataset_version="large", transition_ids=[7]), grpc)
        assert received.data == bytes(9_000_000)
        assert (grpc.requests, faults) == ([], [])
        unwell = pb.FetchRequest(dataset_version="unwell", transition_ids=IDS)
        assert rows_of(port.fetch(unwell, grpc)) == (EXPECTED, [True] * 2 + [False] * 4)
        assert [list(each.transition_ids) for each in grpc.requests] == [[3, 9, 1, 4]]
        # More than the windows that a connection begins with.
        long = pb.FetchRequest(dataset_version="v" * 1_000_000, transition_ids=IDS)
        assert rows_of(port.fetch(long, grpc)) == (EXPECTED, [True] * 6)
        assert len(peers) == 5
        assert len(set(peers)) == 1
        assert faults == []


def test_a_server_of_grpcio_that_ends_lets_answers_finish(port_of, grpc, faults):
    ending = threading.Event()

    def fetch(request, context):
        context.send_initial_metadata((("penstock-replica-id", str(REPLICA)),))
        yield message(0, 7, 3)
        ending.wait(10)
        yield message(2, 3, 9, 1)
        yield message(5, 4)

    with grpcio_server(fetch) as server:
        port = port_of(server)
        stream = iter(port.fetch(REQUEST, grpc))
        next(stream)
        ended = server.stop(10)
        ending.set()
        assert [received.part.first_row for received in stream] == [2, 5]
        ended.wait()
    assert (grpc.requests, faults) == ([], [])


def recorded():
    """All that a server sends for a call, and which of it is no metadata of a message.

    That is protected by no hash: a changed number of a row is another number.
    """
    server, client = Peer(None, {}), H2Connection()
    client.initiate_connection()
    client.send_headers(
        1, [(":method", "POST"), (":path", "/"), (":scheme", "http"), (":authority", "there")]
    )
    client.end_stream(1)
    server.h2.initiate_connection()
    server.h2.receive_data(client.data_to_send())
    server.stream = 1
    HEAD(server)
    sent, exposed = bytearray(), []

    def note(*, exposes):
        new = server.h2.data_to_send()
        exposed.extend(range(len(sent), len(sent) + len(new)) if exposes else [])
        sent.extend(new)

    note(exposes=True)
    # What lies where in the messages.
    kinds = b""
    for each in MESSAGES:
        data = pb.FetchResponse.FromString(each[5:]).part.observations.data
        at = each.index(data)
        kinds += b"h" * 5 + b"m" * (at - 5) + b"d" * len(data)
        kinds += b"m" * (len(each) - at - len(data))
    # No frame holds just a message: one that a flipped bit makes another kind would not be missed.
    content = b"".join(MESSAGES)
    for at in range(0, len(content), 53):
        server.h2.send_data(1, content[at : at + 53])
        begin = len(sent)
        note(exposes=False)
        exposed.extend(range(begin, begin + 9))
        places = range(begin + 9, len(sent))
        exposed.extend(
            place for place, kind in zip(places, kinds[at:], strict=False) if kind != ord("m")
        )
    END(server)
    note(exposes=True)
    return bytes(sent), exposed


RECORDED, EXPOSED = recorded()
EDITS = st.lists(
    st.tuples(
        st.sampled_from(EXPOSED),
        st.one_of(
            st.integers(0, 7),
            st.binary(min_size=1, max_size=20),
            st.sampled_from([RECORDED[:30], RECORDED[-30:], None]),
        ),
    ),
    min_size=0,
    max_size=3,
)


def edited(edits):
    """The recorded bytes with bits flipped, bytes put in between, or the rest cut off."""
    cells = [bytes([each]) for each in RECORDED]
    for place, edit in edits:
        if edit is None:
            cells[place:] = [b""] * (len(cells) - place)
        elif isinstance(edit, bytes):
            cells[place] = edit + cells[place]
        elif cells[place]:
            cells[place] = cells[place][:-1] + bytes([cells[place][-1] ^ 1 << edit])
    return b"".join(cells)


def answered_with(content):
    """What comes, one way or the other, from a server that sends this and no more."""
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def serve():
            peer, _ = listening.accept()
            with peer, contextlib.suppress(OSError):
                peer.sendall(content)
                peer.shutdown(socket.SHUT_WR)
                while peer.recv(1 << 16):
                    pass

        serving = threading.Thread(target=serve)
        serving.start()
        port = DirectPort("grpc://there", *listening.getsockname(), REPLICA, lambda: None)
        try:
            return rows_of(port.fetch(REQUEST, Grpc()))
        finally:
            port.close()
            serving.join()


def test_a_recorded_answer_is_understood():
    assert answered_with(RECORDED) == (EXPECTED, [True] * 6)


@settings(max_examples=150, deadline=None)
@given(EDITS)
def test_whatever_a_server_sends_the_rows_are_right(edits):
    assert answered_with(edited(edits))[0] == EXPECTED


def described(port, replica_id=REPLICA):
    return SimpleNamespace(direct_port=port, replica_id=replica_id)


def offered(address, port):
    replica = Replica(address)
    try:
        replica.offer_direct(described(port), lambda: None)
        found = replica.direct
        return None if found is None else found._address
    finally:
        replica.close()


def test_a_port_is_reached_where_its_replica_is():
    assert offered("ipv4:10.0.0.7:50051", 4000) == ("10.0.0.7", 4000)
    assert offered("ipv6:[fe80::1]:50051", 4000) == ("fe80::1", 4000)
    assert offered("unix:/run/penstock.sock", 4000) is None
    assert offered("ipv4:10.0.0.7:50051", 0) is None
    assert offered("ipv4:10.0.0.7:50051", 65_536) is None


def test_a_replica_that_is_another_one_by_now_gets_another_port():
    replica = Replica("ipv4:10.0.0.7:50051")
    try:
        replica.offer_direct(described(4000), lambda: None)
        first = replica.direct
        replica.offer_direct(described(4000), lambda: None)
        assert replica.direct is first
        replica.offer_direct(described(4000, 7), lambda: None)
        assert (replica.direct.port, replica.direct.replica_id) == (4000, 7)
        assert first.is_resting()
        replica.offer_direct(described(0), lambda: None)
        assert replica.direct is None
    finally:
        replica.close()


def test_a_replica_is_asked_for_two_parts_at_a_time_while_its_port_carries_them():
    replica = Replica("ipv4:10.0.0.7:50051")
    try:
        replica.state = State.LIVE
        assert replica.load(0.0).free == 1
        replica.offer_direct(described(4000), lambda: None)
        assert replica.load(0.0).free == 1
        replica.direct.carries = True
        assert replica.load(0.0).free == 2
        replica.calls = 1
        assert replica.load(0.0).free == 1
        replica.direct.carries = False
        assert replica.load(0.0).free == 0
    finally:
        replica.close()


def test_a_peer_that_says_all_but_a_greeting_is_not_waited_for(monkeypatch):
    monkeypatch.setattr(direct_line, "_CONNECT_S", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def ping():
            peer, _ = listening.accept()
            with peer, contextlib.suppress(OSError):
                while True:
                    peer.sendall(b"\0\0\x08\x06\0\0\0\0\0" + bytes(8))

        pinging = threading.Thread(target=ping)
        pinging.start()
        line = direct_line.Line(listening.getsockname())
        try:
            with pytest.raises(TimeoutError):
                line.connect(REPLICA)
        finally:
            line.close()
            pinging.join()


def test_a_connection_that_ended_leaves_nothing_for_the_collector(port_of, grpc):
    gc.collect()
    gc.disable()
    try:
        with Server([WHOLE]) as server:
            port = port_of(server)
            rows_of(port.fetch(REQUEST, grpc))
            ((line, _),) = port._idle
            left = weakref.ref(line._h2)
            del line
            port.close()
            assert left() is None
    finally:
        gc.enable()
