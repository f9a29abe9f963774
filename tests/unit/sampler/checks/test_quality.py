from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from penstock_sampler.checks.findings import Finding
from penstock_sampler.index.dataset_index import build_index
from penstock_sampler.index.discovery import find_files
from penstock_sampler.index.scan import scan_file
from penstock_sampler.options import DataOptions
from unit.sampler.recording import arrays, write


def _warnings(path: Path, contents: dict[str, Any]) -> list[Finding]:
    """What the sampler knows of a file when it serves it."""
    return list(scan_file(write(path / "a.hdf5", contents), DataOptions()).warnings)


def _flags(rows: int, *ones: int) -> np.ndarray:
    flags = np.zeros(rows, np.bool_)
    flags[list(ones)] = True
    return flags


@pytest.mark.parametrize(
    ("change", "reason", "words"),
    [
        (
            {"terminals": _flags(30, 9, 26, 27, 28, 29)},
            "REPEATED_TERMINALS",
            "3 of 5 episodes are one row that follows a terminal row (the first is row 27)",
        ),
        ({"terminals": _flags(30, 14)}, "OPEN_EPISODE", "from row 15 to 29"),
        (
            {"terminals": _flags(30, 14, 29), "rewards": np.zeros((30, 1))},
            "NO_REWARD",
            "every reward of 2 episodes is 0",
        ),
        (
            {"observations/joint": np.where(np.arange(31) == 30, np.nan, np.arange(31.0))[:, None]},
            "LAST_NOT_FINITE",
            "last row of joint",
        ),
    ],
)
def test_odd_episodes_and_values_are_known_when_a_file_is_served(
    tmp_path: Path, change: dict[str, Any], reason: str, words: str
) -> None:
    (warning,) = _warnings(tmp_path, arrays(30, terminals=[29]) | change)
    assert warning.reason == reason
    assert words in warning.message
    assert warning.remedy


@pytest.mark.parametrize(
    "change",
    [
        {"terminals": _flags(30, 9, 19, 29)},
        {"terminals": _flags(30, 9), "timeouts": _flags(30, 29)},
        {"terminals": _flags(30, 9), "episode_ends": np.array([20, 30])},
        {"rewards": np.zeros(30)},  # one episode: it may have failed
        {"terminals": _flags(30, 14, 29), "rewards": np.full(30, -1.0)},
    ],
)
def test_sound_episodes_raise_no_warning(tmp_path: Path, change: dict[str, Any]) -> None:
    assert _warnings(tmp_path, arrays(30, terminals=[29]) | change) == []


def test_with_n_observations_the_last_joint_is_counted_with_the_others(tmp_path: Path) -> None:
    contents = arrays(30, observations=30, terminals=[29])
    contents["observations/joint"][29] = np.nan
    assert [warning.reason for warning in _warnings(tmp_path, contents)] == ["NOT_FINITE"]


def test_a_server_logs_each_kind_of_warning_once_with_the_number_of_files(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for number in range(4):
        contents = arrays(30, terminals=[29] if number == 0 else [], seed=number)
        if number == 3:
            contents["observations/joint"][7] = np.nan
        write(tmp_path / f"{number}.hdf5", contents)
    with caplog.at_level(logging.WARNING):
        build_index(find_files([str(tmp_path)]), DataOptions()).close()
    values, terminals = [record.getMessage() for record in caplog.records]
    assert values == "joint: 1 rows have a value that is not finite; statistics leave them out"
    assert terminals.startswith(
        "NO_TERMINALS in 3 of 4 files, first in 1.hdf5 (no row of terminals"
    )
    assert terminals.endswith(": check that the recorder writes the end of episodes")
