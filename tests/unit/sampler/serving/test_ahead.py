from __future__ import annotations

import threading
from collections.abc import Callable
from functools import partial

import pytest
from penstock_sampler.serving.ahead import Ahead

SOON_S = 10.0


@pytest.mark.parametrize("worth", [lambda: True, lambda: False])
def test_results_come_in_their_order(worth: Callable[[], bool]) -> None:
    tasks = [partial(int, number) for number in range(20)]
    assert list(Ahead(2).run(tasks, worth)) == list(range(20))
    assert list(Ahead(2).run([], worth)) == []


def test_it_may_become_worth_it_and_cease_to() -> None:
    turns = iter([False, True, True, False, False, True])
    tasks = [partial(int, number) for number in range(6)]
    assert list(Ahead(1).run(tasks, lambda: next(turns))) == list(range(6))


def test_the_next_task_runs_while_a_result_is_used() -> None:
    begun = threading.Event()

    def second() -> int:
        begun.set()
        return 2

    results = Ahead(1).run([lambda: 1, second], lambda: True)
    assert next(results) == 1
    assert begun.wait(SOON_S)
    assert list(results) == [2]


def test_an_error_comes_where_the_result_would_have_come() -> None:
    def fail() -> int:
        raise ValueError("damaged")

    results = Ahead(1).run([lambda: 1, fail, lambda: 3], lambda: True)
    assert next(results) == 1
    with pytest.raises(ValueError, match="damaged"):
        next(results)


def test_no_task_runs_any_more_when_the_stream_is_given_up() -> None:
    going, ended = threading.Event(), threading.Event()

    def slow() -> int:
        going.wait(SOON_S)
        ended.set()
        return 2

    results = Ahead(1).run([lambda: 1, slow, lambda: 3], lambda: True)
    assert next(results) == 1
    threading.Timer(0.05, going.set).start()
    results.close()
    assert ended.is_set()
