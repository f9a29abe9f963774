from __future__ import annotations

import json
import sys
from io import StringIO
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from click.testing import CliRunner
from penstock_sampler.checks.diagnosis import Diagnosis, diagnose
from penstock_sampler.checks.diagnosis_view import JsonView, TextView, follow
from penstock_sampler.cli import doctor
from penstock_sampler.index.dataset_index import build_index
from penstock_sampler.index.discovery import find_files
from penstock_sampler.index.scan import scan_file
from penstock_sampler.options import DataOptions
from unit.sampler.checks.scenes import swapped, table, through_jpeg
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
            {"observations/left_image": arrays(30)["observations/left_image"] // 128},
            "DARK_IMAGES",
            "no value of 5 frames looked at is above 1",
        ),
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


def test_flat_frames_among_others_are_a_warning_with_their_rows(tmp_path: Path) -> None:
    contents = arrays(30, terminals=[29])
    contents["observations/left_image"][0] = 0
    (found,) = _diagnose(str(write(tmp_path / "a.hdf5", contents)))
    (warning,) = [entry for entry in found["findings"] if entry["level"] == "warn"]
    assert warning["reason"] == "FLAT_IMAGES"
    # The next frame shows that the camera ran, then those for colours: rows 0, 1, 10, 20 and 30.
    assert "1 of 5 frames looked at are one flat value, at row 0" in warning["message"]


def test_a_closer_look_withdraws_what_the_first_and_last_frame_suggest(tmp_path: Path) -> None:
    contents = arrays(30, terminals=[29])
    images = contents["observations/left_image"]
    images[30] = images[0]
    path = write(tmp_path / "a.hdf5", contents)
    assert [found.reason for found in scan_file(path, DataOptions()).warnings] == ["FROZEN_IMAGES"]
    (found,) = _diagnose(str(path))
    assert _levels(found, "warn") == []


def test_large_chunks_are_a_warning_with_the_command_that_mends_them(tmp_path: Path) -> None:
    path = write(tmp_path / "a.hdf5", arrays(30, cameras=(), terminals=[29]))
    with h5py.File(path, "a") as file:
        images = np.random.default_rng(0).integers(0, 256, (31, 6, 8, 3), np.uint8)
        file.create_dataset("observations/top", data=images, chunks=(31, 6, 8, 3))
    (found,) = _diagnose(str(path), "--cameras", "top")
    assert _levels(found, "warn") == ["LARGE_CHUNKS"]
    remedy = next(entry["remedy"] for entry in found["findings"] if entry["level"] == "warn")
    assert "observations/top:CHUNK=1x6x8x3" in remedy


def test_files_are_compared_as_one_dataset(tmp_path: Path) -> None:
    for number in range(4):
        size = (6, 8) if number else (12, 16)
        contents = arrays(30, size=size, action_dim=3 + (number == 2), terminals=[29], seed=number)
        contents["rewards"][:] = 0
        write(tmp_path / f"{number}.hdf5", contents)
    *files, together = _diagnose(str(tmp_path), code=1)
    assert [entry["served"] for entry in files] == [True] * 4
    assert all(_levels(entry, "warn") == [] for entry in files)
    assert together["file"] == str(tmp_path)
    assert not together["served"]
    assert _levels(together, "fail") == ["WIDTH_MISMATCH"]
    assert _levels(together, "warn") == ["IMAGE_SIZE_DIFFERS"] * 3 + ["NO_REWARD"]
    (misfit,) = [entry for entry in together["findings"] if entry["level"] == "fail"]
    assert misfit["message"] == (
        "1 of 4 files have joint and actions of widths 4 and 4, most have 4 and 3: "
        f"{tmp_path / '2.hdf5'}"
    )
    # The sampler says the same.
    index = build_index(find_files([str(tmp_path)]), DataOptions())
    index.close()
    assert [(file.file_id, file.reason) for file in index.info.refused] == [
        ("2.hdf5", "WIDTH_MISMATCH")
    ]


def test_files_without_reward_are_no_matter_while_others_have_some(tmp_path: Path) -> None:
    for number in range(3):
        contents = arrays(30, terminals=[29], seed=number)
        contents["rewards"][:] = number == 2
        write(tmp_path / f"{number}.hdf5", contents)
    assert len(_diagnose(str(tmp_path))) == 3


@pytest.mark.parametrize(("odd", "which"), [([1], "most likely these few"), ([1, 3], "one side")])
def test_files_whose_colours_are_swapped_against_the_others_are_named(
    tmp_path: Path, odd: list[int], which: str
) -> None:
    for number in range(4):
        frames = table(11, seed=number)
        contents = arrays(10, terminals=[9], cameras=(), seed=number)
        contents["observations/top"] = swapped(frames) if number in odd else frames
        # A camera without colours has nothing to say.
        contents["observations/depth"] = np.repeat(frames[..., :1], 3, axis=3)
        write(tmp_path / f"{number}.hdf5", contents)
    *files, together = _diagnose(str(tmp_path), "--cameras", "depth,top")
    assert len(files) == 4
    (warning,) = together["findings"]
    assert (warning["reason"], warning["level"]) == ("COLOURS_SWAPPED", "warn")
    assert f"in {len(odd)} of 4 files" in warning["message"]
    assert which in warning["message"]
    if len(odd) == 1:
        assert warning["message"].endswith(str(tmp_path / "1.hdf5"))
    assert "cv2.COLOR_BGR2RGB" in warning["remedy"]


def test_any_number_of_grey_files_leaves_room_to_compare_the_coloured_ones(tmp_path: Path) -> None:
    for number in range(20):
        frames = table(3, size=(48, 64), seed=number)
        if number < 18:
            frames = np.repeat(frames[..., :1], 3, axis=3)
        elif number == 19:
            frames = swapped(frames)
        contents = arrays(2, terminals=[1], cameras=(), seed=number)
        write(tmp_path / f"{number:02}.hdf5", contents | {"observations/top": frames})
    *_, together = _diagnose(str(tmp_path), "--cameras", "top")
    assert [found["reason"] for found in together["findings"]] == ["COLOURS_SWAPPED"]


def test_what_the_decoder_tells_decides_which_files_are_bgr(tmp_path: Path) -> None:
    for number in range(3):
        frames = through_jpeg(table(11, seed=number))
        contents = arrays(10, terminals=[9], cameras=(), seed=number)
        contents["observations/top"] = frames if number == 1 else swapped(frames)
        write(tmp_path / f"{number}.hdf5", contents)
    *files, together = _diagnose(str(tmp_path), "--cameras", "top")
    assert [_levels(entry, "warn") for entry in files] == [["BGR_IMAGES"], [], ["BGR_IMAGES"]]
    (warning,) = together["findings"]
    names = f"{tmp_path / '0.hdf5'}, {tmp_path / '2.hdf5'}"
    assert warning["message"].endswith(
        f"in 2 of 3 files with the same colours red and blue are swapped, these are BGR: {names}"
    )


def test_each_file_is_shown_before_the_next_one_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("a", "b"):
        write(tmp_path / f"{name}.hdf5", arrays(30, terminals=[29]))
    events: list[tuple[str, str]] = []

    def read(path: Path, options: DataOptions) -> Diagnosis:
        events.append(("read", path.stem))
        return diagnose(path, options)

    def show(_: object, diagnosis: Diagnosis) -> None:
        events.append(("shown", Path(diagnosis.findings.file).stem))

    monkeypatch.setattr("penstock_sampler.cli.diagnose", read)
    for view in (TextView, JsonView):
        monkeypatch.setattr(view, "show", show)
    for arguments in ([], ["--json"]):
        events.clear()
        CliRunner().invoke(doctor, [str(tmp_path), *arguments])
        assert events == [("read", "a"), ("shown", "a"), ("read", "b"), ("shown", "b")]


def test_several_files_end_with_a_summary(tmp_path: Path) -> None:
    write(tmp_path / "a.hdf5", arrays(30))
    write(tmp_path / "b.hdf5", arrays(30, terminals=[29], action_dim=5))
    write(tmp_path / "c.hdf5", arrays(30))
    (tmp_path / "d.hdf5").write_text("no")
    result = CliRunner().invoke(doctor, [str(tmp_path)])
    assert result.exit_code == 1
    lines = result.stdout.splitlines()
    # One does not open, one is as wide as no other.
    assert "4 files: 2 fit to be served, 2 REFUSED, 2 warnings" in lines
    assert lines[-1] == f"  NO_TERMINALS in 2 files, first in {tmp_path / 'a.hdf5'}"
    alone = CliRunner().invoke(doctor, [str(tmp_path / "a.hdf5")])
    assert alone.stdout.splitlines()[-1] == "  would be served, 1 warning"


class _Terminal(StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize("output", [StringIO, _Terminal])
@pytest.mark.parametrize("errors", [StringIO, _Terminal])
def test_progress_is_shown_on_a_terminal_only(
    monkeypatch: pytest.MonkeyPatch, output: type[StringIO], errors: type[StringIO]
) -> None:
    for name in ("TTY_COMPATIBLE", "FORCE_COLOR", "NO_COLOR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr("sys.stdout", output())
    monkeypatch.setattr("sys.stderr", errors())
    assert list(follow(JsonView(), ["a", "b", "c"])) == ["a", "b", "c"]
    # Below the reports where these go to a terminal, else on standard error if that is one.
    expected = (output is _Terminal, errors is _Terminal and output is not _Terminal)
    assert ("3/3" in sys.stdout.getvalue(), "3/3" in sys.stderr.getvalue()) == expected
    assert output is _Terminal or sys.stdout.getvalue() == ""


def test_where_a_contact_sheet_is_stays_out_of_the_json(tmp_path: Path) -> None:
    path, sheet = write(tmp_path / "a.hdf5", arrays(30, terminals=[29])), tmp_path / "sheet.png"
    result = CliRunner().invoke(doctor, [str(path), "--json", "--contact-sheet", str(sheet)])
    assert [entry["file"] for entry in json.loads(result.stdout)] == [str(path)]
    assert result.stderr == f"contact sheet {sheet}: 1 file\n"


def test_settings_decide_as_they_do_for_the_sampler(tmp_path: Path) -> None:
    contents = arrays(30, size=(3, 3), terminals=[29])
    path = write(tmp_path / "a.hdf5", contents)
    (found,) = _diagnose(str(path), code=1)
    assert _levels(found, "fail") == ["AMBIGUOUS_IMAGE_ORDER"] * 3
    (found,) = _diagnose(str(path), "--image-order", "chw")
    assert found["served"]
    result = CliRunner().invoke(doctor, [str(path), "--cameras", "left,left"])
    assert isinstance(result.exception, InvalidInput)
