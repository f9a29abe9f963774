"""The client over links that break, servers that go away, and encoders that fail."""

import threading

import numpy as np
import pytest
from cutting_proxy import CuttingProxy
from penstock_checkpointer.rollouts.service import RolloutService
from penstock_checkpointer.rollouts.store import RolloutStore
from rollout_samples import push_into, rollout_of

from penstock.client.rollout import open_rollouts
from penstock.client.rollout.encoded import Encoded
from penstock.client.rollout.pieces import piece_message, read_piece
from penstock.errors import InvalidInput, LimitExceeded, Unavailable
from penstock.rollout_file import Encoder, Encoding
from penstock.server import ServerSettings, start
from penstock.streams import StreamSettings, Take, Which
from penstock.v1 import rollout_pb2 as pb

LARGE = {"envs": 256, "steps": 32, "width": 200}
RAW = Encoding(codec="raw")


@pytest.fixture
def server(store):
    with start("checkpointer", ServerSettings(), RolloutService(store).register) as running:
        yield running


def port_of(server):
    return int(server.address.rpartition(":")[2])


def test_push_whose_link_breaks_goes_on_where_it_was(server, store, monkeypatch):
    """Cut twice on the way there; what arrived before is not sent again."""
    data = rollout_of(0, **LARGE)
    cut_at_bytes, began_at_bytes = (2_000_000, 4_000_000), []
    begin, append = RolloutStore.begin, RolloutStore.append
    with (
        CuttingProxy(port_of(server)) as proxy,
        open_rollouts(proxy.target, retry_s=30) as client,
    ):

        def begin_and_note(store, request, offset_bytes):
            began_at_bytes.append(offset_bytes)
            begin(store, request, offset_bytes)

        def append_and_cut(store, *piece):
            received_bytes = append(store, *piece)
            # Once they are in the store: what is on its way when a link breaks may be lost.
            due = proxy.cuts < min(len(began_at_bytes), len(cut_at_bytes))
            if due and received_bytes >= cut_at_bytes[proxy.cuts]:
                proxy.cut()
            return received_bytes

        monkeypatch.setattr(RolloutStore, "begin", begin_and_note)
        monkeypatch.setattr(RolloutStore, "append", append_and_cut)
        info = client.push(data, "s", 0, encoding=RAW)
        assert proxy.cuts == client.counts["pushes_resumed"] == 2
    assert store.counts["pushes_resumed"] == 2
    first, second, third = began_at_bytes
    assert first == 0
    assert 2_000_000 <= second <= third
    assert 4_000_000 <= third < info.digest.size_bytes
    assert store.list("s") == [info]
    with open_rollouts(server.target) as client:
        np.testing.assert_equal(client.pull("s", Which(latest=True)).data, data)


def test_push_whose_answer_is_lost_is_stored_once(server, store, monkeypatch):
    """The link breaks as the server answers."""
    commit = RolloutStore.commit
    broken = []
    with CuttingProxy(port_of(server)) as proxy, open_rollouts(proxy.target) as client:

        def commit_and_cut(*arguments):
            done = commit(*arguments)
            if not broken:
                broken.append(done)
                proxy.cut()
            return done

        monkeypatch.setattr(RolloutStore, "commit", commit_and_cut)
        info = client.push(rollout_of(0), "s", 0)
    assert store.list("s") == [info] == [broken[0][0]]
    assert client.counts["pushes_resumed"] == 1


def test_pull_whose_link_breaks_gives_the_same_rollout(server, store):
    data = rollout_of(0, **LARGE)
    with open_rollouts(server.target) as client:
        client.push(data, "s", 0, encoding=RAW)
        client.push(rollout_of(1), "s", 1)
    with (
        CuttingProxy(port_of(server), received_limits=[3_000_000]) as proxy,
        open_rollouts(proxy.target, retry_s=30) as client,
    ):
        pulled = client.pull("s", Which(take=Take(consumer="trainer")))
        np.testing.assert_equal(pulled.data, data)
        assert (proxy.cuts, client.counts["pulls_resumed"]) == (1, 1)
        # It was given once: the second call asked for this very rollout.
        assert pulled.opened.attempt == 1


def test_subscription_whose_link_breaks_repeats_and_loses_nothing(server, store):
    with (
        CuttingProxy(port_of(server), received_limits=[2_500, 2_500]) as proxy,
        open_rollouts(proxy.target, retry_s=30) as client,
    ):
        seen = []

        def listen():
            for info in client.subscribe("s"):
                seen.append(info.sequence)
                if len(seen) == 100:
                    return

        listener = threading.Thread(target=listen)
        listener.start()
        for number in range(100):
            push_into(store, number)
        listener.join(60)
        assert seen == list(range(1, 101))
        assert client.counts["subscriptions_resumed"] == proxy.cuts == 2


def test_server_that_stays_away_is_told_after_the_time_given(server, unused_port):
    target = f"grpc://127.0.0.1:{unused_port}"
    with open_rollouts(target, retry_s=0.3) as client:
        for call in (
            lambda: client.push(rollout_of(0), "s", 0),
            lambda: client.pull("s", Which(latest=True), wait_s=60),
            lambda: client.stream("s"),
            lambda: next(client.subscribe("s")),
        ):
            with pytest.raises(Unavailable, match="is the service running there"):
                call()


def test_encoder_that_fails_is_told_as_it_is_and_leaves_no_rollout(server, store, monkeypatch):
    def fail(self):
        yield b"x" * 100
        raise InvalidInput("observation holds what cannot be kept", field="observation")

    monkeypatch.setattr(Encoder, "__iter__", fail)
    with (
        open_rollouts(server.target) as client,
        pytest.raises(InvalidInput, match="cannot be kept") as refused,
    ):
        client.push(rollout_of(0), "s", 0)
    assert refused.value.field == "observation"
    assert store.streams() == []


def test_client_that_is_closed_waits_no_longer(server, store):
    store.configure("s", StreamSettings(capacity=1))
    push_into(store, 0)
    client = open_rollouts(server.target)
    failures = []

    def push():
        try:
            client.push(rollout_of(1), "s", 1)
        except (LimitExceeded, Unavailable, ValueError) as error:
            failures.append(error)

    pushing = threading.Thread(target=push)
    pushing.start()
    pause = threading.Event()
    while not client.counts["queue_full"]:
        pause.wait(0.01)
    client.close()
    pushing.join(30)
    assert len(failures) == 1


def test_pieces_are_the_same_messages_that_protobuf_makes():
    for offset in (0, 1, 127, 128, 1 << 40):
        for data in (b"", b"x", bytes(300), bytes(1 << 20)):
            for digest in (None, 0, 1, (1 << 64) - 1):
                message = piece_message(offset, data, digest)
                parsed = pb.PushRolloutRequest.FromString(message)
                assert parsed.WhichOneof("part") == "piece"
                assert (parsed.piece.offset_bytes, parsed.piece.data) == (offset, data)
                assert parsed.piece.xxh3_64 == (digest or 0)
                read = read_piece(message)
                assert (read.offset_bytes, bytes(read.data), read.xxh3_64) == (offset, data, digest)


def test_other_messages_are_left_to_protobuf():
    piece = pb.PushRolloutRequest(piece=pb.RolloutPiece(offset_bytes=5, data=b"abc", xxh3_64=7))
    whole = piece_message(5, b"abc", 7)
    for message in (
        b"",
        b"\x12",
        piece.SerializeToString(),
        pb.PushRolloutRequest(begin=pb.PushBegin(stream="s")).SerializeToString(),
        pb.PushRolloutRequest(piece=pb.RolloutPiece()).SerializeToString(),
        *(whole[:end] for end in range(len(whole))),
        whole + b"x",
        b"\x12" + b"\xff" * 20,
    ):
        assert read_piece(message) is None


@pytest.mark.parametrize("codec", ["raw", "lz4"])
def test_what_is_encoded_is_the_same_from_any_offset_on(codec):
    data = rollout_of(0, envs=64, steps=32, width=300)
    whole = b"".join(bytes(buffer) for buffer in Encoder(data, Encoding(codec=codec)))
    encoded = Encoded(Encoder(data, Encoding(codec=codec)))
    for first in (0, 1, len(whole) // 2, len(whole) - 1, len(whole), 3):
        pieces = list(encoded.pieces(first))
        assert b"".join(bytes(piece) for _, piece in pieces) == whole[first:]
        assert all(len(piece) <= 1 << 20 for _, piece in pieces)
        place = first
        for offset, piece in pieces:
            assert offset == place
            place += len(piece)
    assert encoded.digest.size_bytes == len(whole)
