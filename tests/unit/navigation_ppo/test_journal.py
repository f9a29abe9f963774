"""A journal holds whole lines, in step with what was saved."""

import numpy as np
import pytest
from navigation_ppo.journal import Journal, checksum


@pytest.fixture
def path(tmp_path):
    return tmp_path / "logs" / "trainer.jsonl"


def lines(*sequences):
    return [{"sequence": sequence, "return": -1.5} for sequence in sequences]


def test_lines_come_back_in_order(path):
    for record in lines(1, 2, 4):
        Journal(path).write(record)
    assert Journal(path).read() == lines(1, 2, 4)


def test_a_line_that_was_broken_off_is_left_out(path):
    Journal(path).write(lines(1)[0])
    with path.open("a") as file:
        file.write('{"sequence": 2, "ret')
    assert Journal(path).read() == lines(1)


@pytest.mark.parametrize(
    ("written", "last", "left"),
    [
        ((1, 2), 2, (1, 2)),
        ((1, 2), 3, (1, 2, 3)),  # saved, and not written any more
        ((1, 2, 3), 2, (1, 2)),  # of a run whose newest checkpoint is gone
        ((), 1, (1,)),
    ],
)
def test_it_is_brought_into_step_with_what_was_saved(path, written, last, left):
    journal = Journal(path)
    for record in lines(*written):
        journal.write(record)
    with path.open("a") as file:
        file.write('{"seq')
    journal.end_with(lines(last)[0])
    journal.write(lines(9)[0])
    assert journal.read() == lines(*left, 9)


def test_where_nothing_was_saved_it_begins_anew(path):
    Journal(path).write(lines(1)[0])
    Journal(path).end_with(None)
    assert path.read_bytes() == b""


def rollout(**changes):
    return {"a": {"b": np.zeros((2, 3), np.float32)}, "c": np.arange(6).reshape(2, 3)} | changes


@pytest.mark.parametrize(
    "other",
    [
        rollout(c=np.array([[0, 1, 2], [3, 4, 6]])),
        rollout(c=np.arange(6).reshape(2, 3).astype(np.uint64)),
        rollout(a={"b": -np.zeros((2, 3), np.float32)}),
        rollout(a={"d": np.zeros((2, 3), np.float32)}),
        rollout(d=np.zeros((2, 3))),
    ],
    ids=["value", "type", "sign of zero", "name", "leaf"],
)
def test_a_checksum_tells_rollouts_apart(other):
    assert checksum(other) != checksum(rollout())


def test_a_checksum_does_not_ask_how_arrays_lie_in_memory():
    turned = np.asfortranarray(rollout()["c"])
    assert checksum(rollout(c=turned)) == checksum(rollout())
