from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from penstock_sampler.cache.wanted import Wanted, shown

_ROWS = st.integers(0, 6) | st.just((1 << 31) - 1)
_TRANSITIONS = st.lists(st.tuples(st.integers(0, 3), _ROWS, _ROWS), max_size=12)


def wanted(transitions: list[tuple[int, int, int]]) -> Wanted:
    file, row, next_row = np.array(transitions, np.int64).reshape(-1, 3).T
    return Wanted(file.astype(np.int32), row, next_row, 1, 8, 8)


@pytest.mark.parametrize("by_file", [True, False])
@given(transitions=_TRANSITIONS)
def test_every_transition_finds_its_observations_each_of_which_is_there_once(
    by_file: Any, transitions: list[tuple[int, int, int]]
) -> None:
    distinct, current, following = shown(wanted(transitions), by_file=by_file)
    assert len(distinct) == len(set(distinct))
    found = [
        (*distinct[now], distinct[then][1])
        for now, then in zip(current.tolist(), following.tolist(), strict=True)
    ]
    assert found == transitions
    assert {*current.tolist(), *following.tolist()} == set(range(len(distinct)))


@given(_TRANSITIONS)
def test_they_are_ordered_by_file_and_row_or_as_they_are_needed(
    transitions: list[tuple[int, int, int]],
) -> None:
    by_file, *_ = shown(wanted(transitions), by_file=True)
    assert by_file == sorted(by_file)
    as_needed, *_ = shown(wanted(transitions), by_file=False)
    both = [(file, row) for file, now, then in transitions for row in (now, then)]
    assert as_needed == list(dict.fromkeys(both))
