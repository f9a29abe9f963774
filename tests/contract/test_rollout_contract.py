"""One suite for every way to reach a store of rollouts: embedded, or a server."""

import itertools
import queue
import threading
import time

import numpy as np
import pytest
from penstock_checkpointer.rollouts.service import RolloutService
from penstock_checkpointer.rollouts.store import RolloutStore
from rollout_samples import rollout_of
from service_process import ServiceProcess

from penstock.client.rollout import open_rollouts
from penstock.errors import AlreadyExists, Corrupt, InvalidInput, LimitExceeded, NotFound, TimedOut
from penstock.rollout_file import Encoding
from penstock.server import ServerSettings, start
from penstock.streams import Selection, StreamSettings, Take, Which

TRAINER = Take(consumer="trainer")
NEXT = Which(take=TRAINER)


@pytest.fixture(scope="module", params=["embedded", "server in process", "server process"])
def place(request, tmp_path_factory):
    """Target of a store, and its directory."""
    root = tmp_path_factory.mktemp("rollouts")
    if request.param == "embedded":
        yield f"file://{root}", root
    elif request.param == "server in process":
        store = RolloutStore(root)
        with start("checkpointer", ServerSettings(), RolloutService(store).register) as server:
            yield server.target, root
        store.close()
    else:
        log = tmp_path_factory.mktemp("log") / "checkpointer.log"
        with ServiceProcess("checkpointer", "--root", str(root), log=log) as process:
            yield process.target, root


@pytest.fixture
def client(place):
    with open_rollouts(place[0], retry_s=10) as opened:
        yield opened


@pytest.fixture
def stream(request):
    """A stream of the test's own."""
    return request.node.originalname[:100]


def same(data, expected):
    np.testing.assert_equal(data, expected)
    return True


def take(client, stream, **options):
    return client.pull(stream, Which(take=Take(consumer="trainer", **options)))


@pytest.mark.parametrize("codec", ["raw", "lz4", "zstd"])
def test_pushed_rollout_is_pulled_bit_for_bit(client, stream, codec):
    data = rollout_of(1, envs=64, steps=16, width=200)
    info = client.push(
        data,
        f"{stream}-{codec}",
        5,
        producer="arm",
        policy_version=7,
        encoding=Encoding(codec=codec),
        threads=2,
    )
    assert (info.sequence, info.producer, info.iteration, info.policy_version) == (1, "arm", 5, 7)
    assert (info.envs, info.steps) == (64, 16)
    # Per step: 200 float32, one int64, one float32, one bool.
    assert info.raw_size_bytes == 64 * 16 * (800 + 8 + 4 + 1)
    pulled = client.pull(f"{stream}-{codec}", Which(latest=True), threads=2)
    assert same(pulled.data, data)
    assert pulled.info == info
    assert (pulled.opened.attempt, pulled.opened.newest_policy_version) == (0, 7)


def test_rollouts_are_found_by_sequence_iteration_newest_and_what_came_before(client, stream):
    for number in range(4):
        client.push(rollout_of(number), stream, 10 + number, policy_version=number)

    def iteration(**which):
        return client.pull(stream, Which(**which)).info.iteration

    assert iteration(sequence=2) == 11
    assert iteration(iteration=("main", 12)) == 12
    assert iteration(latest=True) == 13
    assert iteration(after_sequence=0) == 10
    assert iteration(after_sequence=3) == 13
    assert [info.sequence for info in client.list(stream)] == [1, 2, 3, 4]
    assert [info.sequence for info in client.list(stream, 2)] == [3, 4]
    state = client.stream(stream)
    assert (state.rollouts, state.last_sequence, state.newest_policy_version) == (4, 4, 3)
    assert state.last_iteration() == 13
    assert state.last_iteration("nobody") is None
    assert stream in [found.name for found in client.streams()]


def test_parts_of_a_rollout_are_those_of_the_whole(client, stream):
    data = rollout_of(3, envs=32, steps=8)
    client.push(data, stream, 0)
    chosen = Selection(envs=(7, 2), fields=("observation", "reward"), first_step=3, steps=2)
    part = client.pull(stream, Which(latest=True), selection=chosen).data
    assert set(part) == {"observation", "reward"}
    assert same(part["reward"], data["reward"][[7, 2], 3:5])
    assert same(part["observation"]["state"], data["observation"]["state"][[7, 2], 3:5])


def test_what_is_not_there_is_told(client, stream):
    for call in (
        lambda: client.stream(stream),
        lambda: list(client.list(stream)),
        lambda: client.pull(stream, Which(latest=True)),
        lambda: client.delete(stream, 1),
        lambda: client.settle(stream, "trainer", 1),
        lambda: client.forget_consumer(stream, "trainer"),
    ):
        with pytest.raises(NotFound):
            call()
    client.push(rollout_of(0), stream, 0)
    with pytest.raises(NotFound, match="no consumer 'trainer'"):
        client.settle(stream, "trainer", 1)
    with pytest.raises(NotFound, match="no consumer 'trainer'"):
        client.forget_consumer(stream, "trainer")
    with pytest.raises(TimedOut) as late:
        client.pull(stream, Which(after_sequence=1), wait_s=0.05)
    assert late.value.reason == "NO_ROLLOUT"


@pytest.mark.parametrize(
    ("selection", "field"),
    [
        (Selection(envs=(99,)), "envs"),
        (Selection(envs=()), "envs"),
        (Selection(fields=("nothing",)), "nothing"),
        (Selection(first_step=99), "step"),
        (Selection(steps=0), "steps"),
        (Selection(envs=(-1,)), "envs"),
    ],
)
def test_part_that_is_not_there_is_refused_and_a_taken_rollout_given_back(
    client, stream, selection, field
):
    name = f"{stream[:60]}-{abs(hash(str(selection)))}"
    client.push(rollout_of(0), name, 0)
    with pytest.raises(InvalidInput):
        client.pull(name, NEXT, selection=selection)
    for member in ("one", "other"):
        with pytest.raises(InvalidInput):
            client.pull(
                name, Which(take=Take(consumer="trainer", member=member)), selection=selection
            )
    given = client.pull(name, Which(take=Take(consumer="trainer", member="third")))
    assert given.info.iteration == 0


@pytest.mark.parametrize(
    "which",
    [
        Which(),
        Which(sequence=1, latest=True),
        Which(sequence=-1),
        Which(after_sequence=1 << 63),
        Which(iteration=("../x", 1)),
        Which(take=Take(consumer="")),
        Which(take=Take(consumer="a/b")),
        Which(take=Take(consumer="a", member="a b")),
        Which(take=Take(consumer="a", lease_s=0.01)),
    ],
)
def test_question_that_is_none_is_refused(client, stream, which):
    with pytest.raises(InvalidInput):
        client.pull(stream[:60], which)


@pytest.mark.parametrize("name", ["", "..", "a/b", "a b", "x" * 129, "ä", "-a"])
def test_names_that_cannot_be_are_refused_everywhere(client, name):
    for call in (
        lambda: client.push(rollout_of(0), name, 0),
        lambda: client.push(rollout_of(0), "names", 0, producer=name),
        lambda: client.configure(name, StreamSettings()),
        lambda: client.pull(name, NEXT),
        lambda: client.stream(name),
        lambda: client.subscribe(name),
        lambda: client.forget_consumer(name, "trainer"),
        lambda: client.forget_consumer("names", name),
    ):
        with pytest.raises(InvalidInput):
            call()


def test_same_content_again_is_acknowledged_the_same_and_other_content_refused(client, stream):
    first = client.push(rollout_of(0), stream, 0)
    assert client.push(rollout_of(0), stream, 0) == first
    with pytest.raises(AlreadyExists, match="other content") as refused:
        client.push(rollout_of(1), stream, 0)
    assert refused.value.reason == "ITERATION_EXISTS"
    assert client.stream(stream).rollouts == 1
    assert client.push(rollout_of(1), stream, 0, producer="other").sequence == 2


def test_what_was_consumed_and_removed_is_still_known(client, stream):
    client.configure(stream, StreamSettings(keep_last=1))
    infos = [client.push(rollout_of(number), stream, number) for number in range(3)]
    for info in infos:
        assert take(client, stream).info == info
        client.settle(stream, "trainer", info.sequence)
    assert [info.sequence for info in client.list(stream)] == [3]
    assert client.push(rollout_of(0), stream, 0) == infos[0]
    with pytest.raises(AlreadyExists):
        client.push(rollout_of(9), stream, 1)
    assert [info.sequence for info in client.list(stream)] == [3]
    with pytest.raises(NotFound):
        client.pull(stream, Which(sequence=1), wait_s=5)
    assert client.stream(stream).last_iteration() == 2


def test_taken_rollout_stays_taken_until_it_is_settled(client, stream):
    for number in range(3):
        client.push(rollout_of(number), stream, number)
    first = take(client, stream)
    again = take(client, stream)
    assert (first.info, first.opened.attempt) == (again.info, 1)
    assert again.opened.attempt == 2
    consumer = client.stream(stream).consumers[0]
    assert (consumer.name, consumer.waiting, consumer.taken, consumer.settled) == (
        *("trainer", 3),
        *(1, 0),
    )
    client.settle(stream, "trainer", first.info.sequence)
    client.settle(stream, "trainer", first.info.sequence)
    second = take(client, stream)
    assert (second.info.sequence, second.opened.attempt) == (2, 1)
    consumer = client.stream(stream).consumers[0]
    assert (consumer.waiting, consumer.taken, consumer.settled) == (2, 1, 1)


def test_members_share_the_work_and_a_rollout_given_back_goes_to_another(client, stream):
    for number in range(3):
        client.push(rollout_of(number), stream, number)
    given = {member: take(client, stream, member=member).info.sequence for member in "abc"}
    assert sorted(given.values()) == [1, 2, 3]
    with pytest.raises(NotFound):
        take(client, stream, member="d")
    client.give_back(stream, "trainer", given["b"], "b")
    passed_on = take(client, stream, member="d")
    assert (passed_on.info.sequence, passed_on.opened.attempt) == (given["b"], 2)


def test_giving_back_what_another_member_has_by_now_changes_nothing(client, stream):
    client.push(rollout_of(0), stream, 0)
    assert take(client, stream, member="a").info.sequence == 1
    client.give_back(stream, "trainer", 1, "a")
    assert take(client, stream, member="b").info.sequence == 1
    for stale in ("a", ""):
        client.give_back(stream, "trainer", 1, stale)
    with pytest.raises(NotFound):
        take(client, stream, member="c")
    assert client.stream(stream).consumers[0].taken == 1
    # What was done stays done, whoever did it.
    client.settle(stream, "trainer", 1, "a")
    assert client.stream(stream).consumers[0].settled == 1
    with pytest.raises(NotFound):
        take(client, stream, member="b")
    for call in (client.settle, client.give_back):
        with pytest.raises(InvalidInput, match="member"):
            call(stream, "trainer", 1, "a b")


def test_consumers_are_each_given_everything(client, stream):
    for number in range(3):
        client.push(rollout_of(number), stream, number)
    for consumer in ("one", "two"):
        for expected in (1, 2, 3):
            info = client.pull(stream, Which(take=Take(consumer=consumer))).info
            assert info.sequence == expected
            client.settle(stream, consumer, expected)
    assert [state.settled for state in client.stream(stream).consumers] == [3, 3]


def test_rollouts_of_too_old_a_policy_are_passed_over_and_told(client, stream):
    for number in range(6):
        client.push(rollout_of(number), stream, number, policy_version=number)
    pulled = take(client, stream, policy_version=5, max_staleness=2)
    assert pulled.info.policy_version == 3
    assert (pulled.opened.skipped_stale, pulled.opened.staleness) == (3, 2)
    assert take(client, stream, policy_version=5, max_staleness=2).opened.skipped_stale == 3
    client.settle(stream, "trainer", pulled.info.sequence)
    assert take(client, stream, policy_version=5, max_staleness=2).opened.skipped_stale == 0
    (consumer,) = client.stream(stream).consumers
    assert (consumer.skipped_stale, consumer.settled, consumer.waiting) == (3, 1, 2)


def test_full_queue_refuses_until_one_is_settled(client, stream):
    client.configure(stream, StreamSettings(capacity=2))
    for number in range(2):
        client.push(rollout_of(number), stream, number)
    with pytest.raises(LimitExceeded, match="capacity") as refused:
        client.push(rollout_of(2), stream, 2, wait_s=0.05)
    assert refused.value.reason == "QUEUE_FULL"
    # What is stored already has its place.
    client.push(rollout_of(1), stream, 1, wait_s=0)
    pushed = queue.Queue()
    late = threading.Thread(target=lambda: pushed.put(client.push(rollout_of(2), stream, 2)))
    late.start()
    client.settle(stream, "trainer", take(client, stream).info.sequence)
    assert pushed.get(timeout=30).sequence == 3
    late.join()
    assert client.counts["queue_full"] >= 1
    state = client.stream(stream)
    assert (state.refused >= 1, state.dropped, state.rollouts) == (True, 0, 3)


def test_forgotten_consumer_keeps_no_queue_full(client, stream):
    client.configure(stream, StreamSettings(capacity=1, keep_last=1))
    for number in range(2):
        # The other consumer has taken the first one, and never comes back.
        client.push(rollout_of(number), stream, number)
        info = client.pull(stream, Which(take=Take(consumer="trainer"))).info
        if not number:
            client.pull(stream, Which(take=Take(consumer="gone")))
        client.settle(stream, "trainer", info.sequence)
        if not number:
            with pytest.raises(LimitExceeded):
                client.push(rollout_of(1), stream, 1, wait_s=0)
            client.forget_consumer(stream, "gone")
    assert [info.sequence for info in client.list(stream)] == [2]
    assert [state.name for state in client.stream(stream).consumers] == ["trainer"]
    with pytest.raises(NotFound):
        client.settle(stream, "gone", 1)
    # Under its name one begins anew.
    assert client.pull(stream, Which(take=Take(consumer="gone"))).opened.attempt == 1


def test_push_that_waits_goes_on_when_the_consumer_is_forgotten(client, stream, place):
    client.configure(stream, StreamSettings(capacity=1))
    client.push(rollout_of(0), stream, 0)
    for consumer in ("trainer", "gone"):
        client.pull(stream, Which(take=Take(consumer=consumer)))
    client.settle(stream, "trainer", 1)
    pushed = queue.Queue()

    def push():
        with open_rollouts(place[0]) as other:
            pushed.put(other.push(rollout_of(1), stream, 1))

    waiter = threading.Thread(target=push)
    waiter.start()
    client.forget_consumer(stream, "gone")
    assert pushed.get(timeout=60).sequence == 2
    waiter.join()


def test_full_queue_drops_the_oldest_that_nobody_works_on(client, stream):
    client.configure(stream, StreamSettings(capacity=2, when_full="drop-oldest"))
    client.push(rollout_of(0), stream, 0)
    held = take(client, stream)
    for number in range(1, 5):
        client.push(rollout_of(number), stream, number)
    assert [info.iteration for info in client.list(stream)] == [0, 4]
    client.settle(stream, "trainer", held.info.sequence)
    pulled = take(client, stream)
    assert (pulled.info.iteration, pulled.opened.dropped) == (4, 3)
    state = client.stream(stream)
    assert (state.dropped, state.consumers[0].dropped, state.refused) == (3, 3, 0)


def test_queue_without_consumers_is_a_ring(client, stream):
    client.configure(stream, StreamSettings(capacity=2, when_full="drop-oldest"))
    for number in range(5):
        client.push(rollout_of(number), stream, number)
    assert [info.iteration for info in client.list(stream)] == [3, 4]
    assert client.stream(stream).dropped == 3


def test_settled_rollouts_stay_as_the_settings_say(client, stream):
    client.configure(stream, StreamSettings(keep_last=2, keep_every=3))
    for number in range(8):
        client.push(rollout_of(number), stream, number)
        client.settle(stream, "trainer", take(client, stream).info.sequence)
    # Multiples of three, and the newest two.
    assert [info.iteration for info in client.list(stream)] == [0, 3, 6, 7]


def test_who_waits_is_woken_by_the_push(client, stream, place):
    pulled = queue.Queue()

    def wait():
        with open_rollouts(place[0]) as other:
            pulled.put(other.pull(stream, NEXT, wait_s=60))

    waiter = threading.Thread(target=wait)
    waiter.start()
    data = rollout_of(5)
    client.push(data, stream, 0)
    assert same(pulled.get(timeout=60).data, data)
    waiter.join()


def test_subscriber_is_told_each_rollout_once_and_ends_with_its_client(client, stream, place):
    seen = queue.Queue()
    other = open_rollouts(place[0])

    def listen():
        for info in other.subscribe(stream):
            seen.put(info)
        seen.put("ended")

    listener = threading.Thread(target=listen)
    listener.start()
    pushed = [client.push(rollout_of(number), stream, number) for number in range(5)]
    assert [seen.get(timeout=60) for _ in pushed] == pushed
    other.close()
    assert seen.get(timeout=60) == "ended"
    listener.join()
    with open_rollouts(place[0]) as third:
        assert list(itertools.islice(third.subscribe(stream, 3), 2)) == pushed[3:]


def test_deleted_rollout_leaves_the_queue(client, stream):
    for number in range(3):
        client.push(rollout_of(number), stream, number)
    assert take(client, stream).info.sequence == 1
    client.delete(stream, 1)
    assert take(client, stream).info.sequence == 2
    with pytest.raises(NotFound):
        client.delete(stream, 1)
    # Sequences are not given again.
    client.delete(stream, 3)
    assert client.push(rollout_of(9), stream, 9).sequence == 4


def test_deleted_iteration_that_is_pushed_again_is_stored_anew(client, stream):
    assert client.push(rollout_of(0), stream, 0).sequence == 1
    client.delete(stream, 1)
    with pytest.raises(NotFound):
        client.pull(stream, Which(iteration=("main", 0)))
    assert client.push(rollout_of(0), stream, 0).sequence == 2
    assert same(client.pull(stream, Which(iteration=("main", 0))).data, rollout_of(0))
    client.delete(stream, 2)
    assert client.push(rollout_of(7), stream, 0).sequence == 3
    pulled = take(client, stream)
    assert (pulled.info.sequence, pulled.opened.attempt) == (3, 1)
    assert same(pulled.data, rollout_of(7))
    assert client.stream(stream).rollouts == 1


def test_rollout_that_is_damaged_on_the_disk_is_told_by_its_sequence(client, stream, place):
    client.push(rollout_of(0, envs=64, width=50), stream, 0, encoding=Encoding(codec="raw"))
    client.push(rollout_of(1), stream, 1)
    (path,) = place[1].glob(f"rollouts/streams/{stream}/{1:019d}+*.rollout")
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    with pytest.raises(Corrupt) as damaged:
        take(client, stream)
    assert damaged.value.metadata["sequence"] == "1"
    client.settle(stream, "trainer", 1)
    assert take(client, stream).info.sequence == 2
    path.write_bytes(data[:100])
    with pytest.raises(Corrupt):
        client.pull(stream, Which(sequence=1))


def test_data_that_cannot_be_kept_is_refused_and_leaves_nothing(client, stream, place):
    with pytest.raises(InvalidInput):
        client.push({"x": np.zeros(3), "y": object()}, stream, 0)
    with pytest.raises(InvalidInput):
        client.push(rollout_of(0), stream, -1)
    with pytest.raises(InvalidInput):
        client.push(rollout_of(0), stream, 1 << 63)
    assert list(place[1].glob("rollouts/staging/*.part")) == []


class Crowd:
    """Producers, and members of two consumers, each with a client of its own."""

    def __init__(self, target, stream, producers, members, each):
        self.target, self.stream, self.each = target, stream, each
        self.total = producers * each
        self.trained = {consumer: queue.Queue() for consumer in ("one", "two")}
        self.threads = [
            threading.Thread(target=self._produce, args=(number,)) for number in range(producers)
        ]
        self.threads += [
            threading.Thread(target=self._consume, args=(consumer, f"m{number}"))
            for consumer in self.trained
            for number in range(members)
        ]

    def _produce(self, producer):
        with open_rollouts(self.target) as client:
            for number in range(self.each):
                data = rollout_of(1000 * producer + number)
                client.push(data, self.stream, number, producer=f"p{producer}")

    def _consume(self, consumer, member):
        with open_rollouts(self.target) as client:
            which = Which(take=Take(consumer=consumer, member=member))
            while self.trained[consumer].qsize() < self.total:
                try:
                    pulled = client.pull(self.stream, which, wait_s=0.3)
                except TimedOut:
                    continue
                info = pulled.info
                seed = 1000 * int(info.producer[1:]) + info.iteration
                assert same(pulled.data, rollout_of(seed))
                self.trained[consumer].put((seed, info.sequence))
                client.settle(self.stream, consumer, info.sequence, member)


def test_many_producers_and_consumers_lose_and_double_nothing(client, stream, place):
    client.configure(stream, StreamSettings(capacity=5, keep_last=3))
    crowd = Crowd(place[0], stream, producers=4, members=3, each=12)
    # Both consumers are known from the start, so that nothing is removed before they had it.
    for consumer in crowd.trained:
        with pytest.raises(NotFound):
            client.pull(stream, Which(take=Take(consumer=consumer)))
    for thread in crowd.threads:
        thread.start()
    most_waiting = 0
    while any(thread.is_alive() for thread in crowd.threads):
        waiting = max(state.waiting for state in client.stream(stream).consumers)
        most_waiting = max(most_waiting, waiting)
        time.sleep(0.005)
    seeds = sorted(1000 * producer + number for producer in range(4) for number in range(12))
    for done in crowd.trained.values():
        found = [done.get() for _ in range(done.qsize())]
        assert sorted(seed for seed, _ in found) == seeds
        assert sorted(sequence for _, sequence in found) == list(range(1, 49))
    assert most_waiting <= 5
    state = client.stream(stream)
    assert (state.rollouts, state.last_sequence, state.dropped) == (3, 48, 0)
