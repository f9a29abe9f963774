from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from click.testing import CliRunner
from penstock_sampler.cli import doctor
from unit.sampler.recording import arrays, write

from penstock.errors import InvalidInput


def _diagnose(*arguments: str, code: int = 0) -> list[dict[str, Any]]:
    result = CliRunner().invoke(doctor, [*arguments, "--json"])
    assert result.exit_code == code, result.output
    return json.loads(result.stdout)


def _levels(diagnosis: dict[str, Any], level: str) -> list[str]:
    return [found["reason"] for found in diagnosis["findings"] if found["level"] == level]


def test_a_sound_file_has_no_warning(tmp_path: Path) -> None:
    path = write(tmp_path / "a.hdf5", arrays(30, terminals=[29]))
    (found,) = _diagnose(str(path))
    assert found["served"]
    assert _levels(found, "warn") == _levels(found, "fail") == []
    assert {"path": "actions", "description": "(30, 3) float32, contiguous"} in found["tree"]


def test_the_report_shows_tree_checks_and_verdict(tmp_path: Path) -> None:
    path = write(tmp_path / "a.hdf5", arrays(30, terminals=[29]), chunks=True, compression="gzip")
    result = CliRunner().invoke(doctor, [str(path)])
    assert result.exit_code == 0
    for words in ("observations", "left_image", "deflate", "format A", "would be served"):
        assert words in result.output


def test_a_refused_file_gives_every_fault_and_exit_code_1(tmp_path: Path) -> None:
    contents = arrays() | {"rewards": np.zeros(9, np.float32)}
    del contents["observations/left_image"]
    path = write(tmp_path / "a.hdf5", contents)
    (found,) = _diagnose(str(path), code=1)
    assert not found["served"]
    assert sorted(_levels(found, "fail")) == ["MISSING_KEY", "ROW_COUNT_MISMATCH"]
    result = CliRunner().invoke(doctor, [str(path)])
    assert result.exit_code == 1
    for words in ("left_image, left_wrist_image", "rewards has 9 rows", "what to do", "REFUSED"):
        assert words in result.output


def test_one_bad_file_does_not_hide_the_others(tmp_path: Path) -> None:
    write(tmp_path / "a.hdf5", arrays(terminals=[9]))
    (tmp_path / "b.hdf5").write_text("no")
    (tmp_path / "c.hdf5").touch()
    found = _diagnose(str(tmp_path), str(tmp_path / "gone.hdf5"), code=1)
    assert [entry["served"] for entry in found] == [True, False, False, False]
    assert [_levels(entry, "fail") for entry in found] == [
        [], ["NOT_HDF5"], ["EMPTY"], ["MISSING"],
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("change", "reason", "words"),
    [
        ({"terminals": np.zeros(30, bool)}, "NO_TERMINALS", "no row of terminals"),
        ({"observations/left_image": np.full((31, 6, 8, 3), 9, np.uint8)}, "FLAT_IMAGES", "flat"),
        (
            {
                "observations/left_image": np.tile(
                    np.arange(144).reshape(1, 6, 8, 3), (31, 1, 1, 1)
                ).astype(np.uint8)
            },
            "FROZEN_IMAGES",
            "equal",
        ),
        ({"actions": np.eye(30, 3, dtype=np.float32) * [1, 0, 1]}, "NEAR_CONSTANT", "(1)"),
        (
            {"observations/joint": np.where(np.eye(31, 4) > 0, np.nan, np.eye(31, 4, 1) + 1)},
            "NOT_FINITE",
            "4 of 30 rows of joint",
        ),
    ],
)
def test_odd_values_are_warnings(
    tmp_path: Path, change: dict[str, Any], reason: str, words: str
) -> None:
    path = write(tmp_path / "a.hdf5", arrays(30, terminals=[29]) | change)
    (found,) = _diagnose(str(path))
    assert found["served"]
    assert reason in _levels(found, "warn")
    messages = [entry["message"] for entry in found["findings"] if entry["reason"] == reason]
    assert words in messages[0]
    assert all(entry["remedy"] for entry in found["findings"] if entry["level"] != "ok")


def test_large_chunks_are_a_warning_with_the_command_that_mends_them(tmp_path: Path) -> None:
    path = write(tmp_path / "a.hdf5", arrays(30, cameras=(), terminals=[29]))
    with h5py.File(path, "a") as file:
        images = np.random.default_rng(0).integers(0, 256, (31, 6, 8, 3), np.uint8)
        file.create_dataset("observations/top", data=images, chunks=(31, 6, 8, 3))
    (found,) = _diagnose(str(path), "--cameras", "top")
    assert _levels(found, "warn") == ["LARGE_CHUNKS"]
    remedy = next(entry["remedy"] for entry in found["findings"] if entry["level"] == "warn")
    assert "observations/top:CHUNK=1x6x8x3" in remedy


def test_settings_decide_as_they_do_for_the_sampler(tmp_path: Path) -> None:
    contents = arrays(30, size=(3, 3), terminals=[29])
    path = write(tmp_path / "a.hdf5", contents)
    (found,) = _diagnose(str(path), code=1)
    assert _levels(found, "fail") == ["AMBIGUOUS_IMAGE_ORDER"] * 3
    (found,) = _diagnose(str(path), "--image-order", "chw")
    assert found["served"]
    result = CliRunner().invoke(doctor, [str(path), "--cameras", "left,left"])
    assert isinstance(result.exception, InvalidInput)
