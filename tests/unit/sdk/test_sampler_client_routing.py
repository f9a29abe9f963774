"""Which replica is asked for which rows."""

import numpy as np
import pytest

from penstock.client.sampler.routing import Load, next_part, part_rows

IDLE = Load(calls=0, free=4)


def ask(may, loads, size=8, files=None, alone=()):
    may = np.array(may, np.bool_)
    files = np.zeros(len(may), np.int64) if files is None else np.array(files)
    flags = np.zeros(len(may), np.bool_)
    flags[list(alone)] = True
    return next_part(files, may, flags, loads, size)


def deal(may, loads, size):
    """Give out all rows; returns what each replica was asked for."""
    may, left = np.array(may, np.bool_), np.arange(len(may))
    loads, given = list(loads), {replica: [] for replica in range(len(loads))}
    while (part := ask(may[left], loads, size)) is not None:
        given[part.replica].append(left[part.rows].tolist())
        left = np.delete(left, part.rows)
        load = loads[part.replica]
        loads[part.replica] = Load(load.calls + 1, load.free - 1, load.rows_per_s, load.stalled)
        if not len(left):
            break
    return given, left.tolist()


def test_copies_share_a_batch_evenly():
    given, left = deal(np.ones((32, 2)), [IDLE, IDLE], 8)
    assert not left
    assert [sum(map(len, parts)) for parts in given.values()] == [16, 16]


def test_each_row_is_asked_once_of_a_holder():
    may = np.zeros((30, 3))
    may[:10, 0] = may[5:20, 1] = may[15:, 2] = 1
    given, left = deal(may, [IDLE] * 3, 5)
    assert not left
    for replica, parts in given.items():
        assert all(may[row, replica] for part in parts for row in part)
    assert sorted(row for parts in given.values() for part in parts for row in part) == list(
        range(30)
    )


def test_rows_that_nobody_else_holds_go_first():
    may = [[1, 1], [1, 1], [1, 0], [1, 0]]
    part = ask(may, [IDLE, Load(calls=3, free=1)], size=2)
    assert (part.replica, part.rows.tolist()) == (0, [2, 3])


def test_faster_replica_gets_more():
    given, _ = deal(np.ones((40, 2)), [Load(0, 9, 300.0), Load(0, 9, 100.0)], 4)
    rows = [sum(map(len, parts)) for parts in given.values()]
    # Ten parts for rates of 3 to 1: seven or eight, a tie goes to the first.
    assert rows == [32, 8]


def test_busy_replica_is_passed_over():
    assert ask([[1, 1]], [Load(2, 2), Load(0, 2)]).replica == 1
    assert ask([[1, 1]], [Load(0, 0), Load(3, 1)]).replica == 1
    assert ask([[1, 1]], [Load(4, 0), Load(4, 0)]) is None
    assert ask([[0, 0]], [IDLE, IDLE]) is None


def test_stalled_replica_is_asked_only_for_what_nobody_else_holds():
    stalled = Load(calls=1, free=3, stalled=True)
    assert ask([[1, 1], [1, 0]], [stalled, IDLE]).rows.tolist() == [0]
    assert ask([[1, 1]], [stalled, Load(4, 0)]) is None
    assert ask([[1, 0]], [stalled, IDLE]).replica == 0


def test_rows_that_must_be_alone_are_asked_for_file_by_file():
    part = ask(np.ones((4, 1)), [IDLE], files=[0, 1, 0, 1], alone=[0, 1, 2, 3])
    assert part.rows.tolist() == [0, 2]
    part = ask(np.ones((4, 1)), [IDLE], files=[0, 1, 0, 1], alone=[1])
    assert part.rows.tolist() == [0, 2, 3]


@pytest.mark.parametrize(
    ("rows", "replicas", "expected"),
    [
        (256, 1, 256),  # one stream brings all there is
        (256, 2, 43),
        (256, 8, 11),
        (10, 2, 8),  # fewer are not worth a call
        (0, 1, 1),
        (256, 0, 256),
    ],
)
def test_a_replica_brings_all_alone_and_a_few_parts_among_others(rows, replicas, expected):
    assert part_rows(rows, replicas) == expected
