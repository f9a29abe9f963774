from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from penstock_sampler.index.episodes import FileEpisodes, row_blocks, segment
from penstock_sampler.index.examine import examine
from penstock_sampler.options import DataOptions
from unit.sampler.recording import arrays, write


def _segment(rows: int, observations: int, terminal: list[int], cut: list[int]) -> FileEpisodes:
    return segment(rows, observations, np.array(terminal, np.int64), np.array(cut, np.int64))


def _columns(found: FileEpisodes) -> list[tuple[int, int, int]]:
    return list(
        zip(found.first_row.tolist(), found.length.tolist(), found.outcome.tolist(), strict=True)
    )


def test_a_file_without_any_boundary_is_one_open_episode() -> None:
    assert _columns(_segment(10, 11, [], [])) == [(0, 10, 0)]


def test_with_n_observations_an_open_last_row_is_dropped() -> None:
    found = _segment(10, 10, [], [])
    assert _columns(found) == [(0, 9, 0)]
    assert found.dropped.tolist() == [9]


def test_with_n_observations_a_terminal_last_row_is_kept() -> None:
    found = _segment(10, 10, [9], [])
    assert _columns(found) == [(0, 10, 1)]
    assert found.dropped.tolist() == []


def test_a_cut_row_inside_the_file_has_no_next_observation() -> None:
    found = _segment(10, 11, [], [3])
    assert _columns(found) == [(0, 3, 2), (4, 6, 0)]
    assert found.dropped.tolist() == [3]


def test_a_cut_last_row_has_the_extra_observation() -> None:
    assert _columns(_segment(10, 11, [3], [9])) == [(0, 4, 1), (4, 6, 2)]


def test_terminal_wins_over_cut() -> None:
    assert _columns(_segment(4, 4, [3], [1, 3])) == [(0, 1, 2), (2, 2, 1)]


def test_an_episode_without_transitions_keeps_its_number() -> None:
    found = _segment(5, 5, [1, 4], [2])
    assert _columns(found) == [(0, 2, 1), (3, 2, 1)]
    assert found.number.tolist() == [0, 2]


def test_episode_ends_cut_unless_the_row_is_terminal(tmp_path: Path) -> None:
    contents = arrays(10, terminals=[3]) | {"episode_ends": np.array([4, 7, 10])}
    found = examine(write(tmp_path / "a.hdf5", contents), DataOptions()).episodes
    assert _columns(found) == [(0, 4, 1), (4, 2, 2), (7, 3, 2)]


@given(
    st.lists(st.sampled_from(["go", "terminal", "cut", "both"]), min_size=1, max_size=40),
    st.booleans(),
)
def test_transitions_equal_a_naive_reading_row_by_row(flags: list[str], extra: bool) -> None:  # noqa: FBT001
    rows = len(flags)
    expected: list[tuple[int, int, bool]] = []
    dropped: list[int] = []
    for row, flag in enumerate(flags):
        if flag in ("terminal", "both"):
            expected.append((row, row, True))
        elif row == rows - 1 and extra:
            expected.append((row, rows, False))
        elif row == rows - 1 or flag == "cut":
            dropped.append(row)
        else:
            expected.append((row, row + 1, False))
    found = _segment(
        rows,
        rows + extra,
        [row for row, flag in enumerate(flags) if flag in ("terminal", "both")],
        [row for row, flag in enumerate(flags) if flag in ("cut", "both")],
    )
    served: list[tuple[int, int, bool]] = []
    for first, length, outcome in _columns(found):
        for row in range(first, first + length):
            terminal = outcome == 1 and row == first + length - 1
            served.append((row, row if terminal else row + 1, terminal))
    assert served == expected
    assert found.dropped.tolist() == dropped


@pytest.mark.parametrize("chunk", [None, 3, 7, 100])
def test_blocks_cover_all_rows_and_split_no_chunk(tmp_path: Path, chunk: int | None) -> None:
    with h5py.File(tmp_path / "a.hdf5", "w") as file:
        data = file.create_dataset("x", data=np.arange(50), chunks=chunk and (min(chunk, 50),))
        blocks = list(row_blocks(data, 50, 8))
    assert [row for start, stop in blocks for row in range(start, stop)] == list(range(50))
    if chunk:
        assert all(start % min(chunk, 50) == 0 for start, _ in blocks)
