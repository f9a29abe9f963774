"""The service on the wire: what it does with clients that do not keep to the protocol."""

import random
import secrets
import threading

import grpc
import psutil
import pytest
from penstock_checkpointer.rollouts.limits import RolloutLimits
from penstock_checkpointer.rollouts.service import RolloutService
from penstock_checkpointer.rollouts.store import RolloutStore
from rollout_samples import file_of, push_into, request_of, rollout_of
from xxhash import xxh3_64_intdigest

from penstock.client.channel import open_channel
from penstock.client.errors import translated_errors
from penstock.client.rollout import open_rollouts
from penstock.client.rollout.messages import digest_to_message, push_to_message
from penstock.client.rollout.pieces import piece_message
from penstock.errors import Corrupt, InvalidInput, NotFound, PenstockError, Unavailable
from penstock.server import ServerSettings, start
from penstock.streams import StreamSettings, Take, Which
from penstock.targets import Target
from penstock.v1 import rollout_pb2 as pb
from penstock.v1.rollout_pb2_grpc import RolloutServiceStub


@pytest.fixture
def service(store):
    return RolloutService(store, waiting_calls=2, counts=store.counts)


@pytest.fixture
def server(service):
    with start("checkpointer", ServerSettings(), service.register) as running:
        yield running


@pytest.fixture
def channel(server):
    with open_channel(Target.parse(server.target)) as opened:
        yield opened


@pytest.fixture
def stub(channel):
    return RolloutServiceStub(channel)


def begin(request, offset=0):
    return pb.PushRolloutRequest(begin=push_to_message(request, offset))


def piece(data, offset=0, **fields):
    return pb.PushRolloutRequest(piece=pb.RolloutPiece(offset_bytes=offset, data=data, **fields))


def finish(digest):
    return pb.PushRolloutRequest(finish=pb.PushFinish(digest=digest_to_message(digest)))


def push(stub, *messages):
    with translated_errors("test"):
        return stub.PushRollout(iter(messages))


def test_messages_of_any_protobuf_writer_are_taken(stub, store):
    """Fields in the order of their numbers, as generated code writes them: the hash last."""
    file = file_of(0)
    half = len(file.data) // 2
    answer = push(
        stub,
        begin(request_of(0)),
        piece(file.data[:half], xxh3_64=xxh3_64_intdigest(file.data[:half])),
        piece(file.data[half:], half, xxh3_64=xxh3_64_intdigest(file.data[half:])),
        finish(file.digest),
    )
    assert (answer.rollout.sequence, answer.already_stored) == (1, False)
    with store.open_content("s", 1) as content:
        assert content.read() == file.data


def test_order_of_messages_is_held_to(stub):
    file, request = file_of(0), request_of(0)
    for messages, said in (
        ([piece(b"x")], "before begin"),
        ([finish(file.digest)], "before begin"),
        ([begin(request), begin(request)], "a second time"),
        ([begin(request), pb.PushRolloutRequest()], "without content"),
        ([pb.PushRolloutRequest()], "before begin"),
        ([begin(request)], "ended without finish"),
        ([], "ended without finish"),
    ):
        with pytest.raises(InvalidInput, match=said):
            push(stub, *messages)


def test_piece_that_is_damaged_on_the_way_is_refused_and_what_came_before_kept(stub):
    request = request_of(0)
    with pytest.raises(Corrupt, match="send it again") as refused:
        push(stub, begin(request), piece(b"x" * 10, xxh3_64=1))
    assert refused.value.reason == "PIECE_HASH"
    with pytest.raises(InvalidInput, match="go on at 0"):
        push(stub, begin(request), piece(b"x", 5, xxh3_64=xxh3_64_intdigest(b"x")))
    assert stub.GetPush(pb.GetPushRequest(push_id=request.push_id)).received_bytes == 0


def test_settlement_and_settings_that_are_none_are_refused(stub):
    for call in (
        lambda: stub.SettleRollout(pb.SettleRolloutRequest(stream="s", consumer="c")),
        lambda: stub.ConfigureStream(
            pb.ConfigureStreamRequest(stream="s", settings=pb.StreamSettings(when_full=9))
        ),
    ):
        with pytest.raises(InvalidInput), translated_errors("test"):
            call()


def test_settings_without_a_choice_refuse(stub):
    request = pb.ConfigureStreamRequest(stream="s", settings=pb.StreamSettings(capacity=3))
    settings = stub.ConfigureStream(request).stream.settings
    assert (settings.capacity, settings.when_full) == (3, pb.WHEN_FULL_REFUSE)


def test_full_queue_says_when_to_come_back(stub, store):
    store.configure("s", StreamSettings(capacity=1))
    push_into(store, 0)
    with pytest.raises(Unavailable, match="capacity") as refused:
        push(stub, begin(request_of(1)))
    assert (refused.value.reason, refused.value.retry_after_s) == ("QUEUE_FULL", 0.05)


def test_calls_that_wait_leave_threads_to_others(server, store):
    """Two may wait; the others poll, and all are served."""
    with open_rollouts(server.target) as client:
        pulled = []

        def wait(consumer):
            which = Which(take=Take(consumer=consumer))
            pulled.append(client.pull("s", which, wait_s=60).info.sequence)

        waiters = [threading.Thread(target=wait, args=(f"c{n}",)) for n in range(5)]
        for waiter in waiters:
            waiter.start()
        pause = threading.Event()
        while store.counts["waits_refused"] < 3:
            pause.wait(0.01)
        client.push(rollout_of(0), "s", 0)
        for waiter in waiters:
            waiter.join()
        assert pulled == [1] * 5


def test_subscribers_beyond_those_that_may_wait_are_told_by_lists(server, store):
    with open_rollouts(server.target) as client:
        seen = [[] for _ in range(4)]

        def listen(mine):
            for info in client.subscribe("s"):
                mine.append(info.sequence)
                if len(mine) == 3:
                    return

        listeners = [threading.Thread(target=listen, args=(mine,)) for mine in seen]
        for listener in listeners:
            listener.start()
        pause = threading.Event()
        while store.counts["waits_refused"] < 2:
            pause.wait(0.01)
        for number in range(3):
            client.push(rollout_of(number), "s", number)
        for listener in listeners:
            listener.join()
        assert seen == [[1, 2, 3]] * 4


def test_server_that_drains_ends_calls_that_wait(service, stub):
    answers = []

    def wait():
        request = pb.PullRolloutRequest(stream="s", latest=True, wait_ms=60_000)
        try:
            with translated_errors("test"):
                list(stub.PullRollout(request))
        except PenstockError as error:
            answers.append(error)

    waiter = threading.Thread(target=wait)
    waiter.start()
    service.drain()
    waiter.join(30)
    assert (type(answers[0]), answers[0].reason) == (Unavailable, "ENDING")


def test_client_that_hangs_up_takes_nothing_with_it(stub, store, service):
    """Its place among those that wait is free again."""
    for _ in range(4):
        call = stub.PullRollout(
            pb.PullRolloutRequest(
                stream="s", next=pb.TakeNext(consumer="c", member="gone"), wait_ms=10_000
            )
        )
        call.cancel()
    pause = threading.Event()
    while service._slots._free._value < 2:
        pause.wait(0.01)
    push_into(store, 0)
    assert store.find("s", Which(take=Take(consumer="c", member="here"))).attempt == 1


NUMBERS = (0, 1, 2, 7, 1 << 31, (1 << 32) - 1)
LARGE = (*NUMBERS, 1 << 32, (1 << 63) - 1, 1 << 63, (1 << 64) - 1)
NAMES = ("", "s", "..", "a/b", "\x00", "x" * 200, "s\n", "ü", "%s", "main", "staging")


def any_message(dice, request):
    """A random message of a random method."""
    take = pb.TakeNext(
        consumer=dice.choice(NAMES),
        member=dice.choice(NAMES),
        lease_ms=dice.choice(LARGE),
        policy_version=dice.choice(LARGE),
        max_staleness=dice.choice(LARGE),
    )
    which = dice.choice(
        [
            {"sequence": dice.choice(LARGE)},
            {"after_sequence": dice.choice(LARGE)},
            {"latest": dice.random() < 0.5},
            {"next": take},
            {
                "iteration": pb.ProducerIteration(
                    producer=dice.choice(NAMES), iteration=dice.choice(LARGE)
                )
            },
            {},
        ]
    )
    return dice.choice(
        [
            pb.PullRolloutRequest(
                stream=dice.choice(NAMES),
                wait_ms=dice.choice((0, 1)),
                envs=[dice.choice(NUMBERS) for _ in range(dice.randrange(4))],
                fields=[dice.choice(NAMES) for _ in range(dice.randrange(3))],
                first_step=dice.choice(NUMBERS),
                steps=dice.choice(NUMBERS),
                **which,
            ),
            pb.SettleRolloutRequest(
                stream=dice.choice(NAMES),
                consumer=dice.choice(NAMES),
                sequence=dice.choice(LARGE),
                settlement=dice.randrange(4),
            ),
            pb.ListRolloutsRequest(
                stream=dice.choice(NAMES),
                after_sequence=dice.choice(LARGE),
                limit=dice.choice(NUMBERS),
            ),
            pb.DeleteRolloutRequest(stream=dice.choice(NAMES[1:]), sequence=dice.choice(LARGE[3:])),
            pb.GetPushRequest(push_id=dice.choice((*NAMES, request.push_id))),
            pb.GetStreamRequest(stream=dice.choice(NAMES)),
            pb.ConfigureStreamRequest(
                stream=dice.choice(NAMES),
                settings=pb.StreamSettings(
                    when_full=dice.randrange(4), keep_every=dice.choice(NUMBERS[:4])
                ),
            ),
            pb.ListStreamsRequest(),
        ]
    )


def any_push(dice, file):
    """Serialised messages of a push that is mostly wrong somewhere."""
    request = pb.PushBegin(
        stream=dice.choice(("s", "s", *NAMES)),
        producer=dice.choice(("main", "main", *NAMES)),
        iteration=dice.choice((*range(5), *LARGE)),
        policy_version=dice.choice(LARGE),
        push_id=dice.choice((secrets.token_hex(16), "x", "0" * 32)),
        offset_bytes=dice.choice((0, 0, 0, *LARGE)),
    )
    yield pb.PushRolloutRequest(begin=request).SerializeToString()
    data = bytearray(file.data)
    for _ in range(dice.randrange(3)):
        data[dice.randrange(len(data))] = dice.randrange(256)
    for place in range(0, len(data), 2000):
        offset = place if dice.random() < 0.97 else dice.choice(LARGE)
        part = bytes(data[place : place + 2000])
        message = piece_message(offset, part)
        if dice.random() < 0.03:
            message = dice.randbytes(dice.randrange(50))
        elif dice.random() < 0.03:
            message = message[: dice.randrange(len(message))]
        yield message
    digest = file.digest if dice.random() < 0.3 else type(file.digest).of_bytes(bytes(data))
    yield finish(digest).SerializeToString()


def test_random_messages_never_break_the_server_nor_make_it_grow(store, stub, channel, root):
    """Every answer is an error of ours or right; the server goes on, and its memory stays flat."""
    seed = secrets.randbelow(1 << 32)
    dice = random.Random(seed)  # noqa: S311 - to be thrown again
    print(f"seed {seed}")  # noqa: T201
    file, request = file_of(0), request_of(0)
    push_into(store, 0)
    raw_push = channel.stream_unary("/penstock.v1.RolloutService/PushRollout")
    names = {
        "PullRolloutRequest": stub.PullRollout,
        "SettleRolloutRequest": stub.SettleRollout,
        "ListRolloutsRequest": stub.ListRollouts,
        "DeleteRolloutRequest": stub.DeleteRollout,
        "GetPushRequest": stub.GetPush,
        "GetStreamRequest": stub.GetStream,
        "ConfigureStreamRequest": stub.ConfigureStream,
        "ListStreamsRequest": stub.ListStreams,
    }
    process, begun = psutil.Process(), 0
    codes = set()
    for turn in range(3000):
        if turn == 1000:
            begun = process.memory_info().rss
        try:
            if dice.random() < 0.3:
                raw_push(any_push(dice, file))
            else:
                message = any_message(dice, request)
                answer = names[type(message).__name__](message)
                if isinstance(message, pb.PullRolloutRequest):
                    list(answer)
        except grpc.RpcError as error:
            codes.add(error.code())
    assert codes <= {
        grpc.StatusCode.INVALID_ARGUMENT,
        grpc.StatusCode.NOT_FOUND,
        grpc.StatusCode.DEADLINE_EXCEEDED,
        grpc.StatusCode.RESOURCE_EXHAUSTED,
        grpc.StatusCode.ALREADY_EXISTS,
        grpc.StatusCode.DATA_LOSS,
    }, seed
    assert process.memory_info().rss - begun < 30 << 20, seed
    assert push_into(store, 1 << 40, stream="after")[0].iteration == 1 << 40
    assert {path.name for path in root.iterdir()} == {"rollouts"}


def test_store_that_takes_little_refuses_much(root):
    store = RolloutStore(root / "small", RolloutLimits(rollout_size_bytes=5000))
    service = RolloutService(store)
    with (
        start("checkpointer", ServerSettings(), service.register) as server,
        open_rollouts(server.target) as client,
        pytest.raises(PenstockError) as refused,
    ):
        client.push(rollout_of(0, width=100), "s", 0)
    assert refused.value.reason == "LIMIT"
    store.close()


def test_what_is_asked_of_an_unknown_stream_is_told(stub):
    with pytest.raises(NotFound), translated_errors("test"):
        stub.GetStream(pb.GetStreamRequest(stream="nothing"))
