"""A file on a server is fetched where it is read, and no further than that takes."""

import io
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from penstock_checkpointer.service import CheckpointService
from penstock_checkpointer.store import Store

import penstock
from penstock import container
from penstock.client.checkpoint.range_file import RangeFile
from penstock.container import Base
from penstock.errors import Corrupt, NotFound, Unavailable
from penstock.server import ServerSettings, start

CONTENT = np.random.default_rng(0).integers(0, 256, 9 << 20, np.uint8).tobytes()


class Server:
    """Gives pieces of ``CONTENT``; remembers from where, and how many."""

    def __init__(self, piece_bytes=1000, content=CONTENT):
        self.content, self.piece_bytes = content, piece_bytes
        self.starts, self.closed, self.sent_bytes = [], 0, 0
        self.breaks, self.told = [], []

    def pieces(self, start, size_bytes):
        """A stream; breaks off where ``breaks`` says, once each; negative: ends instead."""
        self.starts.append(start)
        stop = start + size_bytes
        assert 0 < size_bytes <= len(self.content) - start
        try:
            while start < stop:
                piece = self.content[start : min(start + self.piece_bytes, stop)]
                if self.breaks and abs(self.breaks[0]) < start + len(piece):
                    place = self.breaks.pop(0)
                    if abs(place) > start:
                        self.sent_bytes += abs(place) - start
                        yield piece[: abs(place) - start]
                    if place < 0:
                        return
                    raise Unavailable("gone")
                self.sent_bytes += len(piece)
                start += len(piece)
                yield piece
        finally:
            self.closed += 1

    def open(self, on_break=None):
        return RangeFile("name", len(self.content), self.pieces, on_break or self.told.append)


def test_reading_in_order_is_one_stream_across_pieces():
    server = Server()
    file = server.open()
    parts = [file.read(size) for size in (0, 1, 999, 1, 2500, 7, 100_000)]
    assert [len(part) for part in parts] == [0, 1, 999, 1, 2500, 7, 100_000]
    assert b"".join(parts) == CONTENT[:103_508]
    assert server.starts == [0]


def test_reading_all_and_beyond_the_end():
    content = CONTENT[:5500]
    file = Server(content=content).open()
    assert file.seek(0, io.SEEK_END) == 5500
    assert file.read(10) == b""
    assert file.seek(-40, io.SEEK_END) == 5460
    assert file.read(1000) == content[-40:]
    assert file.seek(100) == 100
    assert file.read() == content[100:]
    assert file.read() == b""
    assert file.seek(-5500, io.SEEK_CUR) == 0
    assert file.read() == content
    assert file.seekable()
    assert file.readable()


@settings(max_examples=60)
@given(
    st.lists(st.tuples(st.integers(0, 12_000), st.integers(0, 5000)), max_size=12),
    st.integers(1, 3000),
)
def test_reads_anywhere_give_what_is_there(reads, piece_bytes):
    content = CONTENT[:11_000]
    file = Server(piece_bytes, content).open()
    for offset, size in reads:
        file.seek(offset)
        assert file.read(size) == content[offset : offset + size]


def test_a_short_way_forward_is_read_over_and_a_long_one_or_any_back_is_a_new_stream():
    server = Server(1 << 16)
    file = server.open()
    assert file.read(10) == CONTENT[:10]
    file.seek(200_000)
    assert file.read(10) == CONTENT[200_000:200_010]
    assert server.starts == [0]
    file.seek(8 << 20)
    assert file.read(10) == CONTENT[8 << 20 : (8 << 20) + 10]
    assert server.starts == [0, 8 << 20]
    file.seek(100)
    assert file.read(10) == CONTENT[100:110]
    assert server.starts == [0, 8 << 20, 100]
    assert server.closed == 2  # those that were left; nobody goes on sending
    assert server.sent_bytes <= 3 << 18


def test_reading_in_order_asks_for_more_and_more_and_going_elsewhere_for_little_again():
    server = Server(1 << 16)
    file = server.open()
    assert b"".join(file.read(1000) for _ in range(9000)) == CONTENT[:9_000_000]
    windows = np.diff([*server.starts, len(CONTENT)]).tolist()
    assert windows[:-1] == [1 << 18, 1 << 19, 1 << 20, 1 << 21, 1 << 22]
    file.seek(0)
    before = server.sent_bytes
    file.read(10)
    file.seek(5 << 20)
    file.read(10)
    assert server.sent_bytes - before <= 2 << 16


def test_going_somewhere_fetches_nothing():
    server = Server()
    file = server.open()
    for offset in (0, 100, 5 << 20, 0):
        file.seek(offset)
    assert file.read(0) == b""
    file.close()
    assert server.starts == []


def test_closing_leaves_the_stream():
    server = Server()
    file = server.open()
    file.read(10)
    assert server.closed == 0
    file.close()
    assert server.closed == 1
    assert file.closed


@pytest.mark.parametrize("sign", [1, -1], ids=["breaks off", "ends too early"])
def test_broken_stream_is_taken_up_where_it_was(sign):
    server = Server()
    server.breaks = [sign * place for place in (1, 999, 1000, 1001, 2500, 2600, 7000)]
    file = server.open()
    assert file.read(3) == CONTENT[:3]
    assert file.read(9000) == CONTENT[3:9003]
    assert server.starts == [0, 1, 999, 1000, 1001, 2500, 2600, 7000]
    assert [type(error) for error in server.told] == [Unavailable] * 7


@settings(max_examples=40)
@given(
    st.lists(st.tuples(st.integers(0, 9000), st.integers(0, 5000)), min_size=1, max_size=8),
    st.lists(st.integers(-9000, 9000), max_size=3),
)
def test_reads_across_breaks_give_what_is_there(reads, breaks):
    server = Server(700, CONTENT[:9000])
    # In order; and no more than one read survives, for some may come without a byte in between.
    server.breaks = sorted(set(breaks), key=abs)
    file = server.open()
    for offset, size in reads:
        file.seek(offset)
        assert file.read(size) == CONTENT[:9000][offset : offset + size]


def test_stream_that_gives_nothing_is_given_up_after_three_more():
    server = Server()
    server.breaks = [0] * 3
    file = server.open()
    assert file.read(10) == CONTENT[:10]
    assert server.starts == [0] * 4
    server.breaks = [5000] * 4
    with pytest.raises(Unavailable):
        file.read(9000)
    assert server.starts[4:] == [5000] * 3
    # What was given up can be tried again.
    server.breaks = []
    file.seek(10)
    assert file.read(9000) == CONTENT[10:9010]


def test_a_break_that_is_refused_goes_to_the_reader():
    def refuse(error):
        raise NotFound("the checkpoint is gone")

    server = Server()
    server.breaks = [500]
    with pytest.raises(NotFound, match="is gone"):
        server.open(refuse).read(900)


def test_other_errors_are_not_tried_again():
    def pieces(start, size_bytes):
        yield b"x"
        raise Corrupt("too many bytes")

    file = RangeFile("name", 100, pieces, lambda _: pytest.fail("taken up again"))
    with pytest.raises(Corrupt):
        file.read(100)


POLICY, REST = 300_000, 16_000_000
"""Elements: little more than 1 MB of 65."""


def noise(count, seed):
    return torch.from_numpy(np.random.default_rng(seed).normal(size=count).astype(np.float32))


@pytest.fixture(scope="module")
def first():
    return {
        "critic": {"w": noise(REST // 2, 1)},
        "policy": {"w": noise(POLICY, 2), "b": torch.ones(8)},
        "optimizer": {"m": noise(REST // 2, 3)},
        "step": 1,
    }


@pytest.fixture(scope="module")
def second(first):
    moved = {key: {n: t * 1.0000001 for n, t in first[key].items()} for key in list(first)[:3]}
    return {**moved, "step": 2}


@pytest.fixture(scope="module")
def filled(tmp_path_factory, first, second):
    """A store with a whole checkpoint and one on it."""
    root = tmp_path_factory.mktemp("filled")
    with (
        penstock.open_checkpoints(f"file://{root}/store") as client,
        (root / "1.pstk").open("w+b") as file,
        (root / "2.pstk").open("w+b") as other,
    ):
        written = client.write_state(first, file, "run", 1, compress="fast")
        client.send_file(file, written, "run", 1)
        base = Base(written.ref(1), file, written.hashes)
        written = client.write_state(second, other, "run", 2, compress="delta", base=base)
        client.send_file(other, written, "run", 2)
    return root / "store"


class Wire(CheckpointService):
    """A service that counts the bytes of content that it hands to the wire."""

    sent_bytes = 0

    def Download(self, request, context):  # noqa: N802 - the protocol's name
        for message in super().Download(request, context):
            self.sent_bytes += len(message.data)
            yield message


@pytest.fixture
def root(filled, tmp_path):
    return shutil.copytree(filled, tmp_path / "store")


@pytest.fixture
def wire(root):
    store = Store(root)
    service = Wire(store)
    with start("checkpointer", ServerSettings(), service.register) as server:
        service.target = server.target
        yield service
    store.close()


@pytest.fixture
def client(wire):
    with penstock.open_checkpoints(wire.target) as client:
        yield client


@pytest.mark.parametrize("step", [1, 2], ids=["whole", "on a base"])
def test_part_of_a_checkpoint_takes_less_than_a_fifth_of_its_bytes(
    client, wire, first, second, step
):
    state = {1: first, 2: second}[step]
    sizes = {info.step: info.size_bytes for info in client.list("run")}
    needed = sizes[1] if step == 1 else sizes[1] + sizes[2]
    assert client.get("run", step).base_step == (None if step == 1 else 1)
    policy = client.load("run", step, only=("policy",))
    assert torch.equal(policy["w"], state["policy"]["w"])
    assert torch.equal(policy["b"], state["policy"]["b"])
    assert POLICY * 4 * 0.5 < wire.sent_bytes < 0.2 * needed


def test_load_of_all_takes_all_bytes(client, wire, first):
    found = client.load("run", 1)
    assert torch.equal(found["optimizer"]["m"], first["optimizer"]["m"])
    assert wire.sent_bytes == client.get("run", 1).size_bytes


def test_single_value_takes_few_bytes(client, wire):
    assert client.load("run", 1, only=("step",)) == 1
    assert wire.sent_bytes < 0.2 * client.get("run", 1).size_bytes


def damage(root, step, key):
    """Flip a bit in the middle of a tensor of a stored file."""
    (path,) = root.rglob(f"*{step}.pstk")
    with container.Reader(path) as reader:
        number = dict(reader.index.named_entries())[key].storage
        storage = reader.index.storages[number]
    data = bytearray(path.read_bytes())
    data[storage.offset_bytes + sum(c.stored_bytes for c in storage.chunks) // 2] ^= 4
    path.write_bytes(data)


@pytest.mark.parametrize("where", ["wire", "embedded"])
@pytest.mark.parametrize(
    "case",
    [
        (1, 1, "critic.w", False),
        (1, 1, "policy.w", True),
        (2, 2, "critic.w", False),
        (2, 2, "policy.w", True),
        (2, 1, "critic.w", False),
        (2, 1, "policy.w", True),
    ],
)
def test_damage_is_found_in_what_is_read_and_only_there(root, wire, second, first, where, case):
    step, damaged, key, noticed = case
    damage(root, damaged, key)
    with penstock.open_checkpoints(wire.target if where == "wire" else f"file://{root}") as opened:
        if noticed:
            with pytest.raises(Corrupt):
                opened.load("run", step, only=("policy",))
        else:
            policy = opened.load("run", step, only=("policy",))
            assert torch.equal(policy["w"], {1: first, 2: second}[step]["policy"]["w"])
        with pytest.raises(Corrupt):
            opened.load("run", step)


def test_base_with_another_digest_is_refused_before_it_is_read(client, monkeypatch):
    """As after a step was deleted and saved again with other content."""
    get = client._store.get

    def other(run, which):
        info = get(run, which)
        if info.step == 1:
            info = replace(info, digest=replace(info.digest, xxh3_128=bytes(16)))
        return info

    monkeypatch.setattr(client._store, "get", other)
    for only in ((), ("policy",)):
        with pytest.raises(Corrupt, match="refers to step 1 with the digest") as refused:
            client.load("run", 2, only=only)
        assert refused.value.reason == "BASE_MISSING"
