"""The queue: leases, members, what waits, what is dropped, and who is told."""

import pytest
from penstock_checkpointer.rollouts.limits import RolloutLimits
from penstock_checkpointer.rollouts.store import RolloutStore
from rollout_samples import file_of, push_into, request_of

from penstock.errors import LimitExceeded
from penstock.streams import StreamSettings


def sequences(store):
    return [info.sequence for info in store.list("s")]


def test_lease_that_ran_out_gives_the_rollout_to_another_member(store, take, clock):
    push_into(store, 0)
    assert take(member="a", lease_s=60).attempt == 1
    clock.now_s += 59.9
    assert take(member="b") is None
    clock.now_s += 0.2
    passed_on = take(member="b", lease_s=60)
    assert (passed_on.info.sequence, passed_on.attempt) == (1, 2)
    # The first member has it no longer.
    assert take(member="a") is None
    assert store.counts["redelivered_after_lease"] == 1


def test_lease_holds_and_runs_out_while_the_store_is_closed(root, take, clock):
    first = RolloutStore(root)
    push_into(first, 0)
    assert take(of=first, member="a", lease_s=100).attempt == 1
    first.close()
    second = RolloutStore(root)
    clock.now_s += 50
    assert take(of=second, member="b") is None
    second.close()
    third = RolloutStore(root)
    clock.now_s += 51
    assert take(of=third, member="b").attempt == 2
    third.close()


def test_member_that_asks_again_is_given_the_same_and_a_new_lease(store, take, clock):
    push_into(store, 0)
    push_into(store, 1)
    assert take(member="a", lease_s=60).info.sequence == 1
    clock.now_s += 50
    again = take(member="a", lease_s=60)
    assert (again.info.sequence, again.attempt) == (1, 2)
    clock.now_s += 50
    assert take(member="b").info.sequence == 2
    # Even when the lease ran out, as long as nobody else has taken it.
    clock.now_s += 100
    assert take(member="a").info.sequence == 1


def test_member_whose_lease_ran_out_may_still_settle(store, take, clock):
    push_into(store, 0)
    take(member="a", lease_s=60)
    clock.now_s += 61
    take(member="b", lease_s=60)
    store.settle("s", "trainer", 1, done=True)
    assert take(member="b") is None
    assert store.stream("s").consumers[0].settled == 1


def test_member_whose_lease_ran_out_cannot_give_back_what_another_has(store, take, clock):
    push_into(store, 0)
    take(member="a", lease_s=60)
    clock.now_s += 61
    take(member="b", lease_s=60)
    store.settle("s", "trainer", 1, done=False, member="a")
    assert take(member="c") is None
    assert (store.counts["stale_give_backs"], store.counts["given_back"]) == (1, 0)
    store.settle("s", "trainer", 1, done=False, member="b")
    # Nobody has it now: one that says so once more is not stale, and changes nothing.
    store.settle("s", "trainer", 1, done=False, member="a")
    assert (store.counts["stale_give_backs"], store.counts["given_back"]) == (1, 1)
    assert take(member="c").attempt == 3


def test_rollouts_settled_out_of_order_stay_settled(store, take):
    for number in range(4):
        push_into(store, number)
    for member in "abcd":
        take(member=member)
    for sequence in (3, 2):
        store.settle("s", "trainer", sequence, done=True)
    (consumer,) = store.stream("s").consumers
    assert (consumer.waiting, consumer.taken, consumer.settled) == (2, 2, 2)
    store.settle("s", "trainer", 4, done=False, member="d")
    store.settle("s", "trainer", 1, done=True)
    assert take(member="b").info.sequence == 4
    store.settle("s", "trainer", 4, done=True)
    (consumer,) = store.stream("s").consumers
    assert (consumer.waiting, consumer.taken, consumer.settled) == (0, 0, 4)


def test_consumer_that_comes_late_begins_at_all_that_is_stored(store, take):
    store.configure("s", StreamSettings(keep_last=2))
    for number in range(4):
        push_into(store, number)
        store.settle("s", "trainer", take().info.sequence, done=True)
    assert sequences(store) == [3, 4]
    assert take("late").info.sequence == 3
    assert take("late", member="b").info.sequence == 4


def test_rollout_that_one_consumer_has_not_settled_stays_for_it(store, take):
    store.configure("s", StreamSettings(keep_last=1))
    for number in range(3):
        push_into(store, number)
    take("slow", member="idle")
    for _ in range(3):
        store.settle("s", "quick", take("quick").info.sequence, done=True)
    assert sequences(store) == [1, 2, 3]
    for sequence in (1, 2):
        store.settle("s", "slow", sequence, done=True)
    assert sequences(store) == [2, 3]
    store.settle("s", "slow", 3, done=True)
    assert sequences(store) == [3]


def test_pushes_under_way_have_their_place_in_a_full_queue(store):
    store.configure("s", StreamSettings(capacity=2))
    for producer in "ab":
        store.begin(request_of(0, producer=producer), 0)
    with pytest.raises(LimitExceeded) as refused:
        store.begin(request_of(0, producer="c"), 0)
    assert (refused.value.reason, refused.value.retry_after_s > 0) == ("QUEUE_FULL", True)
    # The same rollout once more takes no second place.
    store.begin(request_of(0, producer="a"), 0)


def test_push_that_stands_still_loses_its_place_but_not_its_bytes(root):
    store = RolloutStore(root, RolloutLimits(push_idle_s=-1))
    store.configure("s", StreamSettings(capacity=1))
    slow, file = request_of(0, producer="slow"), file_of(0)
    store.begin(slow, 0)
    store.append(slow.push_id, 0, file.data)
    push_into(store, 0, producer="quick")
    with pytest.raises(LimitExceeded) as refused:
        store.commit(slow.push_id, file.digest)
    assert refused.value.reason == "QUEUE_FULL"
    assert store.received(slow.push_id) == (len(file.data), None)
    store.delete("s", 1)
    store.begin(slow, len(file.data))
    assert store.commit(slow.push_id, file.digest)[0].sequence == 2
    store.close()


def test_refused_push_is_counted_once_however_often_it_asks(store):
    store.configure("s", StreamSettings(capacity=1))
    push_into(store, 0)
    request = request_of(1)
    for _ in range(5):
        with pytest.raises(LimitExceeded):
            store.begin(request, 0)
    assert store.stream("s").refused == 1
    assert store.received(request.push_id) == (0, None)


def test_rollouts_at_work_are_not_dropped_and_the_queue_shrinks_when_they_are_settled(store, take):
    store.configure("s", StreamSettings(capacity=2, when_full="drop-oldest"))
    push_into(store, 0)
    push_into(store, 1)
    for member in "ab":
        take(member=member)
    # The newest one is never dropped: the queue is longer for a while.
    push_into(store, 2)
    assert sequences(store) == [1, 2, 3]
    push_into(store, 3)
    assert sequences(store) == [1, 2, 4]
    assert store.stream("s").dropped == 1
    store.configure("s", StreamSettings(capacity=2, when_full="drop-oldest", keep_last=1))
    for sequence in (1, 2):
        store.settle("s", "trainer", sequence, done=True)
    push_into(store, 4)
    assert sequences(store) == [2, 4, 5]


def test_smaller_capacity_drops_at_once_where_it_may(store):
    for number in range(5):
        push_into(store, number)
    store.configure("s", StreamSettings(capacity=2, when_full="drop-oldest"))
    assert sequences(store) == [4, 5]


def test_dropped_rollouts_are_told_to_the_member_that_takes_next(store, take):
    store.configure("s", StreamSettings(capacity=1, when_full="drop-oldest"))
    push_into(store, 0)
    store.settle("s", "trainer", take().info.sequence, done=True)
    for number in range(1, 4):
        push_into(store, number)
    first = take(member="a")
    assert (first.info.iteration, first.dropped) == (3, 2)
    # Given once more as its answer may have been lost: told once more.
    assert take(member="a").dropped == 2
    store.settle("s", "trainer", first.info.sequence, done=True)
    push_into(store, 4)
    assert take(member="a").dropped == 0


def test_stale_rollouts_that_are_passed_over_leave_the_store(store, take):
    store.configure("s", StreamSettings(keep_last=1))
    for number in range(5):
        push_into(store, number, policy_version=number)
    assert take(policy_version=10, max_staleness=0) is None
    assert sequences(store) == [5]
    (consumer,) = store.stream("s").consumers
    assert (consumer.skipped_stale, consumer.settled, consumer.waiting) == (5, 0, 0)
    push_into(store, 5, policy_version=10)
    assert take(policy_version=10, max_staleness=0).skipped_stale == 5


def test_names_are_bounded(root, take):
    store = RolloutStore(root, RolloutLimits(names=2, streams=2))
    push_into(store, 0)
    for name in ("a", "b"):
        take(name, of=store)
    with pytest.raises(LimitExceeded, match="2 consumers"):
        take("c", of=store)
    push_into(store, 0, producer="second")
    with pytest.raises(LimitExceeded, match="2 producers"):
        push_into(store, 0, producer="third")
    push_into(store, 0, stream="t")
    with pytest.raises(LimitExceeded, match="there are 2"):
        push_into(store, 0, stream="u")
    store.close()


def test_forgotten_consumer_is_counted_and_what_only_it_waited_for_leaves_the_store(store, take):
    store.configure("s", StreamSettings(keep_last=1))
    for number in range(4):
        push_into(store, number)
    take("gone", member="a")
    for sequence in (1, 2):
        assert take("trainer").info.sequence == sequence
        store.settle("s", "trainer", sequence, done=True)
    assert sequences(store) == [1, 2, 3, 4]
    store.forget_consumer("s", "gone")
    assert sequences(store) == [2, 3, 4]
    assert store.counts["consumers_forgotten"] == 1
    assert [state.name for state in store.stream("s").consumers] == ["trainer"]


def test_after_the_last_consumer_only_what_it_has_not_settled_waits(store, take):
    kept = StreamSettings(capacity=2, when_full="drop-oldest", keep_every=2)
    store.configure("s", kept)
    for number in range(4):
        push_into(store, number)
        store.settle("s", "trainer", take().info.sequence, done=True)
    push_into(store, 4)
    store.forget_consumer("s", "trainer")
    # Iterations 0 and 2 are kept, and are not what the queue holds.
    assert sequences(store) == [1, 3, 5]
    push_into(store, 5)
    assert sequences(store) == [1, 3, 5, 6]
    push_into(store, 6)
    assert sequences(store) == [1, 3, 6, 7]
    # Who comes then is given all that is stored, and leaves it so as well.
    assert take("new").info.sequence == 1
    store.forget_consumer("s", "new")
    assert sequences(store) == [1, 3, 6, 7]


def test_forgotten_consumer_makes_room_for_another_name(root, take):
    store = RolloutStore(root, RolloutLimits(names=1))
    push_into(store, 0)
    take("a", of=store)
    store.forget_consumer("s", "a")
    assert take("b", of=store).attempt == 1
    store.close()


def test_who_waits_for_a_lease_is_woken_when_the_consumer_is_forgotten(store, take):
    push_into(store, 0)
    take(member="a")
    seen = store._changes.now()
    store.forget_consumer("s", "trainer")
    assert store._changes.now() != seen
    assert take(member="b").attempt == 1
