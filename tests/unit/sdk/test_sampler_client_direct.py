"""The direct port as a client sees it, against servers of these few lines."""

import contextlib
import gc
import logging
import os
import queue
import socket
import struct
import threading
from pathlib import Path
from types import SimpleNamespace

import pytest
import tenacity
import xxhash

from penstock.client.sampler import direct, direct_line
from penstock.client.sampler.direct import DirectPort
from penstock.client.sampler.received import parse_fetched
from penstock.client.sampler.replica import Replica, State
from penstock.errors import Cancelled
from penstock.v1 import sampler_pb2 as pb

REPLICA = 2**63 + 5
HELLO = b"PSDIRECT" + struct.pack("<Q", REPLICA)
END, REFUSED = b"\0\0\0\0", b"\xff\xff\xff\xff"
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
    return b"".join(struct.pack("<I", len(each)) + each for each in messages)


WHOLE = framed(message(0, 7, 3), message(2, 3, 9, 1), message(5, 4)) + END
HALF = framed(message(0, 7, 3), message(2, 3))


class Server:
    """Greets, and answers the requests of each connection with what it was given for them.

    Args:
        scripts: For each connection its answers, one after the other. Then it is closed; before
            an answer, where that is None; and never, where it is ``...``.
    """

    def __init__(self, *scripts, hello=HELLO, host="127.0.0.1"):
        self.hello = hello
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self.listening = socket.create_server((host, 0), family=family)
        self.address = self.listening.getsockname()[:2]
        self.scripts = list(scripts)
        self.connections, self.requests = 0, []
        self.open = queue.SimpleQueue()
        self.thread = threading.Thread(target=self.run, daemon=True)
        self.thread.start()

    def run(self):
        with contextlib.suppress(OSError):
            while True:
                client, _ = self.listening.accept()
                script = self.scripts[self.connections]
                self.connections += 1
                threading.Thread(target=self.serve, args=(client, script), daemon=True).start()

    def serve(self, client, script):
        self.open.put(client)
        with client, contextlib.suppress(OSError, AssertionError):
            assert exactly(client, 16) == HELLO
            client.sendall(self.hello)
            for answer in script:
                if answer is ...:
                    client.recv(1)
                    return
                (size,) = struct.unpack("<I", exactly(client, 4))
                self.requests.append(pb.FetchRequest.FromString(exactly(client, size)))
                if answer is None:
                    return
                client.sendall(answer)

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
    assert (grpc.requests, faults) == ([], [])


def test_what_is_refused_comes_over_grpc_and_the_connection_is_kept(port_of, grpc, faults):
    with Server([REFUSED, HALF + REFUSED, WHOLE]) as server:
        port = port_of(server)
        assert rows_of(port.fetch(REQUEST, grpc)) == (EXPECTED, [False] * 6)
        assert not port.carries
        assert rows_of(port.fetch(REQUEST, grpc)) == (EXPECTED, [True] * 3 + [False] * 3)
        assert not port.carries
        assert rows_of(port.fetch(REQUEST, grpc)) == (EXPECTED, [True] * 6)
        assert port.carries
        assert server.connections == 1
    assert grpc.requests[0] == REQUEST
    rest = pb.FetchRequest(
        dataset_version="v1",
        transition_ids=IDS[3:],
        frame_spec=pb.FrameSpec(height_px=2, width_px=1),
    )
    assert grpc.requests[1:] == [rest]
    assert faults == []


def flipped(parts):
    """The same with one bit of the last frame changed."""
    changed = bytearray(parts)
    changed[-1] ^= 1
    return bytes(changed)


def without(field):
    changed = part(3, 9)
    changed.observations.ClearField(field)
    return framed(pb.FetchResponse(part=changed).SerializeToString())


BROKEN = {
    "closed": b"",
    "cut in a size": b"\5\0",
    "cut in a message": framed(message(3, 9))[:-5],
    "ended too soon": END,
    "damaged": flipped(framed(message(3, 9))),
    "no hashes": without("hashes"),
    "no seeds": without("hash_seeds"),
    "no sizes": without("image_bytes"),
    "no count": without("count"),
    "no frames": without("data"),
    "no observations": framed(
        pb.FetchResponse(part=pb.BatchPart(first_row=3, rows=1)).SerializeToString()
    ),
    "empty": framed(b"\x0a\x00"),
}


@pytest.mark.parametrize("broken", BROKEN)
def test_an_answer_that_breaks_off_is_finished_over_grpc(port_of, grpc, faults, broken):
    closed = broken in ("closed", "cut in a size", "cut in a message")
    with Server([HALF + BROKEN[broken], *([] if closed else [...])], [WHOLE]) as server:
        port = port_of(server)
        assert rows_of(port.fetch(REQUEST, grpc)) == (EXPECTED, [True] * 3 + [False] * 3)
        assert len(faults) == 1
        assert list(grpc.requests[0].transition_ids) == [9, 1, 4]
        assert not port.carries
        # The next call tries again, on a connection that knows nothing of the broken one.
        assert rows_of(port.fetch(REQUEST, grpc)) == (EXPECTED, [True] * 6)
        assert server.connections == 2


FOREIGN = {
    "too large": struct.pack("<I", (64 << 20) + 1),
    "no message": framed(b"HTTP/1.1 400 Bad Request\r\n\r\n"),
    "a field without an end": framed(b"\x0a\xff\xff\xff\xff\x0f"),
    "a number without an end": framed(b"\xff" * 40),
}


@pytest.mark.parametrize("foreign", FOREIGN)
@pytest.mark.parametrize("rows", [0, 3])
def test_a_server_that_speaks_otherwise_is_left_alone(port_of, grpc, faults, caplog, foreign, rows):
    with Server([(HALF if rows else b"") + FOREIGN[foreign], ...]) as server:
        port = port_of(server)
        for direct_rows in (rows, 0, 0):
            ways = [True] * direct_rows + [False] * (6 - direct_rows)
            assert rows_of(port.fetch(REQUEST, grpc)) == (EXPECTED, ways)
        assert server.connections == 1
    assert len(faults) == 1
    assert "cannot be used" in caplog.text


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


@pytest.mark.parametrize("hello", [b"", b"PSDIRECT" + struct.pack("<Q", 7), b"HTTP/1.1 400 Bad"])
def test_who_else_answers_there_is_asked_nothing(port_of, grpc, faults, caplog, monkeypatch, hello):
    monkeypatch.setattr(direct_line, "_CONNECT_S", 0.1)
    caplog.set_level(logging.INFO)
    with Server(*3 * [[WHOLE]], hello=hello) as server:
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
        server.hello = HELLO
        port._try_at = 0.0
        assert rows_of(port.fetch(REQUEST, grpc)) == (EXPECTED, [True] * 6)


@pytest.mark.parametrize("size", [1000, 256 << 10, 700_000, 5_000_000])
@pytest.mark.parametrize("first", [1, 200_000, 300_000, 699_999])
def test_a_message_that_comes_in_pieces_is_waited_for_but_not_for_more(size, first):
    content = os.urandom(size)
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def serve():
            peer, _ = listening.accept()
            with peer:
                peer.sendall(exactly(peer, len(HELLO)))
                peer.sendall(struct.pack("<I", size) + content[:first])
                exactly(peer, 1)  # only then comes the rest, and nothing after it
                peer.sendall(content[first:])
                exactly(peer, 1)

        serving = threading.Thread(target=serve)
        serving.start()
        line = direct_line.Line(listening.getsockname())
        try:
            line.connect(REPLICA)
            timer = threading.Timer(0.05, line._socket.sendall, [b"x"])
            timer.start()
            assert bytes(line.receive()) == content
            timer.join()
            line._socket.sendall(b"x")
        finally:
            line.close()
            serving.join()


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


@pytest.mark.parametrize("answer", [b"", b"\5\0", HALF, HALF + framed(message(3, 9))[:-5]])
def test_a_call_that_waits_for_a_server_ends_when_it_is_cancelled(port_of, grpc, faults, answer):
    with Server([answer, ...]) as server:
        running = Running(port_of(server).fetch(REQUEST, grpc))
        for _ in range(2 if answer.startswith(HALF) else 0):
            running.got.get(timeout=10)
        until(lambda: server.requests)
        running.cancel()
    assert (grpc.requests, faults) == ([], [])


def test_a_call_that_waits_for_a_hello_ends_when_it_is_cancelled(
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
            assert exactly(client, 16) == HELLO
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
    with Server([HALF + REFUSED]) as server:
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


@pytest.mark.parametrize("after", [b"", framed(message(6, 2)) + END, b"\1"])
def test_with_all_rows_there_nothing_else_is_waited_for(port_of, grpc, monkeypatch, after):
    monkeypatch.setattr(direct_line, "_END_S", 0.1)
    with Server([WHOLE[: -len(END)] + after, ...], [WHOLE]) as server:
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


def test_a_message_larger_than_usual_is_taken_and_its_memory_not_kept(port_of, grpc):
    large = part(0, 7)
    large.observations.data = bytes(20 << 20)
    large.observations.image_bytes[:] = [5 << 20] * 4
    large.observations.hashes[:] = [
        xxhash.xxh3_64_intdigest(bytes(10 << 20), seed) for seed in large.observations.hash_seeds
    ]
    whole = framed(pb.FetchResponse(part=large).SerializeToString()) + END
    with Server([whole, WHOLE]) as server:
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
