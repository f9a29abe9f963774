"""The command that checks datasets: its report, its pictures, its exit status."""

import json
import subprocess
import sys

import cv2
import numpy as np
import pytest
from bag_recording import robot_messages, write_bag
from click.testing import CliRunner
from penstock_converter.checks.sheet import draw_sheet, draw_tile
from penstock_converter.checks.validation import validate_dataset
from penstock_converter.cli import convert
from penstock_converter.jobs.job import run_job
from penstock_converter.jobs.request import Job

LEFT = "observation.images.left"


@pytest.fixture(scope="module")
def recordings(tmp_path_factory):
    """Recordings of 12 and 5 rows."""
    folder = tmp_path_factory.mktemp("bags")
    return tuple(write_bag(folder / f"robot_{rows}", robot_messages(rows)) for rows in (12, 5))


@pytest.fixture
def dataset(recordings, make_mapping, tmp_path):
    run_job(Job(recordings, make_mapping(), tmp_path / "dataset"))
    return tmp_path / "dataset"


def run(*arguments):
    return CliRunner().invoke(convert, ["validate", *map(str, arguments)], terminal_width=200)


def test_a_good_dataset_is_told_in_a_table_and_leaves_report_and_pictures(dataset):
    done = run(dataset)
    assert done.exit_code == 0, done.output
    assert "passed" in done.output
    assert "0 failed" in done.output
    report = json.loads((dataset / "validation.json").read_text())
    assert (report["state"], report["episodes"], report["frames"]) == ("passed", 2, 17)
    assert {check["state"] for check in report["checks"]} == {"passed"}
    names = sorted(path.name for path in (dataset / "validation").iterdir())
    assert names == sorted(
        f"{name}.png"
        for name in (
            LEFT,
            "observation.images.global",
            "observation.state",
            "action",
            "next.reward",
            "next.done",
        )
    )
    assert sorted(report["pictures"]) == [f"validation/{name}" for name in names]
    # What a validation leaves does not disturb the next one.
    assert run(dataset, "--no-pictures").exit_code == 0


def test_json_is_the_report_and_a_fault_is_exit_status_1(dataset, tmp_path):
    (dataset / f"videos/{LEFT}/chunk-000/file-000.mp4").unlink()
    done = run(dataset, "--json", "--pictures", tmp_path / "pictures", "--full")
    assert done.exit_code == 1
    report = json.loads(done.stdout)
    assert report == json.loads((dataset / "validation.json").read_text())
    assert (report["state"], report["full"]) == ("failed", True)
    (files,) = [check for check in report["checks"] if check["name"] == "files"]
    assert files["first_failures"][0]["place"]["file"].startswith(f"videos/{LEFT}")
    # The sheet says what is wrong where the images would be.
    assert cv2.imread(str(tmp_path / "pictures" / f"{LEFT}.png")) is not None
    assert not (dataset / "validation").exists()


def test_recordings_are_named_with_bags(dataset, recordings, tmp_path):
    other = write_bag(tmp_path / "robot_12", robot_messages(11))
    done = run(dataset, "--no-pictures", "--bags", other, "--bags", recordings[1])
    assert done.exit_code == 1
    assert "becomes 11 rows" in " ".join(done.output.split())
    assert run(dataset, "--no-pictures", "--bags", recordings[0].parent).exit_code == 0


def test_a_folder_that_is_not_there_is_a_question_of_usage(tmp_path):
    assert run(tmp_path / "none").exit_code == 2


def test_help_is_there_without_loading_what_validates():
    code = (
        "import sys; import penstock_converter.cli; "
        "heavy = {'av', 'cv2', 'h5py', 'numpy', 'pyarrow', 'matplotlib', 'rosbags'}; "
        "print(sorted(heavy & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_a_sheet_shows_each_image_in_its_colours():
    red, green = np.zeros((2, 60, 80, 3), np.uint8)
    red[..., 0], green[..., 1] = 255, 255
    tiles = [draw_tile(red, "red", ""), draw_tile(green, "green", ""), draw_tile(None, "", "gone")]
    sheet = draw_sheet("a title", [tiles, tiles])
    middle = 28 + 120
    assert sheet[middle, 8 + 160].tolist() == [0, 0, 255]
    assert sheet[middle, 8 + 328 + 160].tolist() == [0, 255, 0]
    assert sheet[middle, 8 + 656 + 1].tolist() == [40, 40, 220]
    assert sheet.shape == (28 + 2 * 268, 8 + 3 * 328, 3)


def test_distances_are_blue_near_and_red_far_and_grey_where_nothing_was_measured():
    depth = np.zeros((60, 80), np.uint16)
    depth[:, 30:55], depth[:, 55:] = 500, 2000
    tile = draw_tile(depth, "", "").astype(int)
    unknown, near, far = tile[120, 40], tile[120, 140], tile[120, 220]
    assert unknown.tolist() == [96, 96, 96]
    assert near[0] > near[2]
    assert far[2] > far[0]


def test_what_cannot_be_drawn_is_told_and_the_rest_is_drawn(dataset, tmp_path, monkeypatch):
    def broken(name, *_):
        raise ValueError(f"no curve of {name}")

    monkeypatch.setattr("penstock_converter.checks.drawing.plot_vector", broken)
    found = validate_dataset(dataset, pictures=tmp_path / "pictures")
    (check,) = [check for check in found.checks if check.name == "pictures"]
    assert check.state == "warning"
    messages = [warning.message for warning in check.first_warnings]
    assert "cannot be drawn: ValueError: no curve of action" in messages
    assert len(found.pictures) == 2


def test_drawing_does_without_matplotlib(dataset, tmp_path):
    code = (
        "import sys; from pathlib import Path; "
        "from penstock_converter.checks.validation import validate_dataset; "
        f"found = validate_dataset(Path({str(dataset)!r}), pictures=Path({str(tmp_path / 'p')!r}));"
        "print(len(found.pictures), 'matplotlib' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["6", "False"]


def test_hdf5_files_alone_are_drawn_too(recordings, make_mapping, tmp_path):
    run_job(Job(recordings, make_mapping("outputs.lerobot=null"), tmp_path / "out"))
    found = validate_dataset(tmp_path / "out", pictures=tmp_path / "pictures")
    assert found.passed
    names = sorted(path.name for path in (tmp_path / "pictures").iterdir())
    assert names == [
        "actions.png",
        "global_image.png",
        "left_image.png",
        "observations.joint.png",
        "rewards.png",
        "right_image.png",
        "terminals.png",
    ]
