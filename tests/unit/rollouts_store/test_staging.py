"""Pushes under way: resumed, repeated, refused, expired."""

import os
import secrets

import pytest
from penstock_checkpointer.rollouts.limits import RolloutLimits
from penstock_checkpointer.rollouts.store import RolloutStore
from rollout_samples import file_of, push_into, request_of

from penstock.chunks import Digest
from penstock.errors import AlreadyExists, Corrupt, InvalidInput, LimitExceeded, NotFound
from penstock.rollout_file import read
from penstock.streams import StreamSettings


def parts(root):
    return sorted(path.name for path in (root / "rollouts" / "staging").glob("*.part"))


def test_push_goes_on_where_it_was_after_a_restart(root):
    first = RolloutStore(root)
    request, file = request_of(0), file_of(0)
    first.begin(request, 0)
    assert first.append(request.push_id, 0, file.data[:700]) == 700
    first.close()
    second = RolloutStore(root)
    assert second.received(request.push_id) == (700, None)
    second.begin(request, 700)
    # What came before may come again.
    assert second.append(request.push_id, 500, file.data[500:]) == len(file.data)
    info, already_stored = second.commit(request.push_id, file.digest)
    assert (info.sequence, already_stored) == (1, False)
    assert second.received(request.push_id) == (len(file.data), info)
    assert second.commit(request.push_id, file.digest) == (info, False)
    second.begin(request, 0)
    with second.open_content("s", 1) as content:
        assert content.read() == file.data
    assert parts(root) == []
    second.close()


def test_nothing_is_known_of_a_push_that_never_began(store):
    request = request_of(0)
    assert store.received(request.push_id) == (0, None)
    with pytest.raises(NotFound) as unknown:
        store.begin(request, 10)
    assert unknown.value.reason == "PUSH_UNKNOWN"
    with pytest.raises(NotFound):
        store.append(request.push_id, 0, b"x")
    with pytest.raises(NotFound):
        store.commit(request.push_id, file_of(0).digest)
    store.abort(request.push_id)


def test_push_begun_at_0_begins_anew(store):
    request, file = request_of(0), file_of(0)
    store.begin(request, 0)
    store.append(request.push_id, 0, b"torn" * 100)
    store.begin(request, 0)
    store.append(request.push_id, 0, file.data)
    assert store.commit(request.push_id, file.digest)[0].digest == file.digest


def test_gaps_and_too_large_pieces_are_refused_and_keep_what_there_is(store):
    request = request_of(0)
    store.begin(request, 0)
    store.append(request.push_id, 0, b"x" * 10)
    with pytest.raises(InvalidInput, match="go on at 10") as gap:
        store.append(request.push_id, 11, b"y")
    assert (gap.value.reason, gap.value.metadata) == ("PUSH_GAP", {"received_bytes": "10"})
    with pytest.raises(InvalidInput, match="at most 1048576"):
        store.append(request.push_id, 10, bytes((1 << 20) + 1))
    with pytest.raises(InvalidInput, match="leaves a gap"):
        store.begin(request, 11)
    assert store.received(request.push_id) == (10, None)


def test_rollout_that_is_too_large_is_refused_while_it_comes(root):
    store = RolloutStore(root, RolloutLimits(rollout_size_bytes=1000))
    request = request_of(0)
    store.begin(request, 0)
    store.append(request.push_id, 0, bytes(1000))
    for offset in (1000, 1 << 62):
        with pytest.raises(LimitExceeded, match="max-rollout-bytes") as refused:
            store.append(request.push_id, offset, b"x")
        assert refused.value.reason == "LIMIT"
    store.close()


@pytest.mark.parametrize("spoil", ["digest", "content", "end", "no rollout"])
def test_content_that_is_not_intact_is_refused_and_removed(store, root, spoil):
    request, file = request_of(0), file_of(0)
    data, digest = bytearray(file.data), file.digest
    if spoil == "no rollout":
        data = bytearray(b"x" * 5000)
    elif spoil == "digest":
        digest = Digest(len(data), bytes(16))
    else:
        data[200 if spoil == "content" else -3] ^= 1
    if spoil != "digest":
        digest = Digest.of_bytes(bytes(data))
    store.begin(request, 0)
    store.append(request.push_id, 0, bytes(data))
    with pytest.raises(Corrupt):
        store.commit(request.push_id, digest)
    assert parts(root) == []
    assert store.received(request.push_id) == (0, None)
    assert store.counts["pushes_refused"] == 1
    assert push_into(store, 0)[0].sequence == 1


def test_push_that_lacks_its_end_can_go_on(store):
    request, file = request_of(0), file_of(0)
    store.begin(request, 0)
    store.append(request.push_id, 0, file.data[:-1])
    with pytest.raises(InvalidInput, match="send the rest first") as refused:
        store.commit(request.push_id, file.digest)
    assert refused.value.reason == "PUSH_INCOMPLETE"
    store.append(request.push_id, len(file.data) - 1, file.data[-1:])
    assert store.commit(request.push_id, file.digest)[0].sequence == 1


def test_push_id_stands_for_one_push(store):
    request = request_of(0)
    store.begin(request, 0)
    with pytest.raises(InvalidInput, match="choose another push_id"):
        store.begin(request_of(1, push_id=request.push_id), 0)
    for push_id in ("", "x" * 32, "../../x", "A" * 32, secrets.token_hex(17)):
        for call in (
            lambda push_id=push_id: store.begin(request_of(0, push_id=push_id or " "), 0),
            lambda push_id=push_id: store.received(push_id),
            lambda push_id=push_id: store.append(push_id, 0, b"x"),
            lambda push_id=push_id: store.commit(push_id, file_of(0).digest),
            lambda push_id=push_id: store.abort(push_id),
        ):
            with pytest.raises(InvalidInput):
                call()


def test_of_two_pushes_of_one_iteration_one_is_stored(store, root):
    one, two, file = request_of(0), request_of(0), file_of(0)
    for request in (one, two):
        store.begin(request, 0)
        store.append(request.push_id, 0, file.data)
    info, first_stored = store.commit(one.push_id, file.digest)
    assert store.commit(two.push_id, file.digest) == (info, True)
    assert store.commit(two.push_id, file.digest) == (info, True)
    assert (first_stored, store.stream("s").rollouts) == (False, 1)
    assert store.received(two.push_id) == (len(file.data), info)
    assert parts(root) == []


def test_repeated_push_need_not_send_what_is_stored(store):
    info, _ = push_into(store, 0)
    again = request_of(0)
    store.begin(again, 0)
    assert store.commit(again.push_id, info.digest) == (info, True)


def test_other_content_for_an_iteration_is_refused_and_removed(store, root):
    push_into(store, 0)
    with pytest.raises(AlreadyExists, match="s/main/0 was stored with other content"):
        push_into(store, 0, seed=1)
    assert parts(root) == []
    assert store.stream("s").rollouts == 1


def test_removed_rollouts_are_remembered_up_to_a_number(root, take):
    store = RolloutStore(root, RolloutLimits(remembered=3))
    store.configure("s", StreamSettings(keep_last=1))
    infos = [push_into(store, number)[0] for number in range(8)]
    for info in infos:
        assert take(of=store).info == info
        store.settle("s", "trainer", info.sequence, done=True)
    # Of the seven that were removed, the newest three are known: 4, 5 and 6.
    assert push_into(store, 5) == (infos[5], True)
    with pytest.raises(AlreadyExists, match="other content"):
        push_into(store, 5, seed=99)
    with pytest.raises(AlreadyExists, match="up to iteration 3") as refused:
        push_into(store, 3)
    assert refused.value.reason == "ITERATION_FORGOTTEN"
    assert push_into(store, 7) == (infos[7], True)
    assert push_into(store, 3, producer="other")[0].sequence == 9
    store.close()


def test_push_that_stands_still_expires(root):
    store = RolloutStore(root)
    old, new = request_of(0), request_of(1)
    for request in (old, new):
        store.begin(request, 0)
        store.append(request.push_id, 0, b"abc")
    store.close()
    part = root / "rollouts" / "staging" / f"{old.push_id}.part"
    os.utime(part, (0, 0))
    (part.parent / f"{'0' * 32}.part").write_bytes(b"of nobody")
    reopened = RolloutStore(root)
    assert parts(root) == [f"{new.push_id}.part"]
    assert reopened.received(old.push_id) == (0, None)
    assert reopened.received(new.push_id) == (3, None)
    assert reopened.counts["pushes_expired"] == 2
    reopened.close()


def test_pushes_under_way_are_bounded(root):
    store = RolloutStore(root, RolloutLimits(pushes=3))
    for number in range(3):
        store.begin(request_of(number), 0)
    with pytest.raises(LimitExceeded, match="3 pushes are under way"):
        store.begin(request_of(3), 0)
    store.close()


def test_disk_without_room_refuses_before_and_while_bytes_come(root):
    store = RolloutStore(root, RolloutLimits(free_bytes=1 << 60))
    with pytest.raises(LimitExceeded, match="stay free") as refused:
        store.begin(request_of(0), 0)
    assert refused.value.reason == "DISK_FULL"
    store.close()


def test_what_is_stored_reads_as_what_was_pushed(store):
    push_into(store, 4, piece=37)
    with store.open_content("s", 1) as file:
        leaves = read(file)
    assert leaves["reward"].shape == (16, 4)
