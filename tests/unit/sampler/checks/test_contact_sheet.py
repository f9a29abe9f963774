from __future__ import annotations

import tracemalloc
from pathlib import Path

import cv2
import numpy as np
import pytest
from click.testing import CliRunner, Result
from penstock_sampler.checks.contact_sheet import ContactSheet
from penstock_sampler.checks.diagnosis import diagnose
from penstock_sampler.cli import doctor
from penstock_sampler.options import DataOptions, parse_cameras
from unit.sampler.checks.scenes import Frames, swapped, table, through_jpeg
from unit.sampler.recording import CAMERAS, arrays, write

from penstock.errors import InvalidInput

TILE_WIDTH, TILE_HEIGHT, GAP = 160, 120, 6
TITLE = 22
RED = (220, 40, 40)
"""Of frames and labels of a warning."""


def _sheet(path: Path) -> Frames:
    """The picture in RGB."""
    return np.ascontiguousarray(cv2.imread(str(path))[..., ::-1])


def _tile(sheet: Frames, row: int, column: int) -> Frames:
    top = row * (TITLE + TILE_HEIGHT + 16 + GAP) + TITLE
    left = GAP + column * (TILE_WIDTH + GAP)
    return sheet[top : top + TILE_HEIGHT, left : left + TILE_WIDTH]


def _is_framed(tile: Frames) -> bool:
    """Whether a warning is drawn around a tile."""
    return bool((tile[-1] == RED).all())


def _columns(sheet: Frames) -> int:
    return (sheet.shape[1] - GAP) // (TILE_WIDTH + GAP)


def _draw(*arguments: str, code: int = 0) -> Result:
    result = CliRunner().invoke(doctor, arguments)
    assert result.exit_code == code, result.output
    return result


def _coloured(colour: tuple[int, int, int], rows: int = 10) -> Frames:
    """Frames of one hue that grow brighter, red first: what a tile shows can be worked out."""
    steps = np.linspace(0.4, 1, rows)[:, None, None, None]
    frames = np.broadcast_to(steps * np.array(colour), (rows, 60, 80, 3)).astype(np.uint8)
    frames[:, 0, 0] = 0
    return frames


def test_a_row_shows_first_middle_and_last_frame_of_every_camera_in_true_colours(
    tmp_path: Path,
) -> None:
    colours = dict(zip(CAMERAS, [(240, 20, 20), (20, 240, 20), (20, 20, 240)], strict=True))
    for name in ("a", "b"):
        contents = arrays(10, observations=11, terminals=[9])
        contents |= {f"observations/{c}": _coloured(colour, 11) for c, colour in colours.items()}
        write(tmp_path / f"{name}.hdf5", contents)
    result = _draw(str(tmp_path), "--contact-sheet", str(tmp_path / "sheet.png"))
    assert f"contact sheet {tmp_path / 'sheet.png'}: 2 files" in result.stderr
    sheet = _sheet(tmp_path / "sheet.png")
    assert _columns(sheet) == 9
    for row in (0, 1):
        for camera, colour in enumerate(colours.values()):
            for moment, share in enumerate((0.4, 0.7, 1.0)):
                middle = _tile(sheet, row, 3 * camera + moment)[60, 80]
                assert np.abs(middle - np.array(colour) * share).max() <= 1


def test_of_a_single_file_each_camera_is_a_row_of_eight_frames(tmp_path: Path) -> None:
    path = write(tmp_path / "a.hdf5", arrays(30, terminals=[29], cameras=("left_image", "top")))
    sheet = tmp_path / "sheet.jpg"
    _draw(str(path), "--cameras", "left,top", "--contact-sheet", str(sheet))
    picture = _sheet(sheet)
    assert _columns(picture) == 8
    # One title, two rows of tiles with captions.
    assert picture.shape[0] == TITLE + 2 * (TILE_HEIGHT + 16 + GAP) + GAP


def test_channels_first_are_shown_as_channels_last(tmp_path: Path) -> None:
    frames = table(11)
    sheets: list[Frames] = []
    for name, stored in (("last", frames), ("first", frames.transpose(0, 3, 1, 2))):
        folder = tmp_path / name
        folder.mkdir()
        contents = arrays(10, terminals=[9], cameras=()) | {"observations/top": stored}
        write(folder / "a.hdf5", contents)
        sheet = tmp_path / f"{name}.png"
        _draw(str(folder), "--cameras", "top", "--contact-sheet", str(sheet))
        sheets.append(_tile(_sheet(sheet), 0, 0))
    assert np.array_equal(*sheets)


def test_frames_keep_their_proportions(tmp_path: Path) -> None:
    frames = np.full((11, 240, 80, 3), 250, np.uint8)
    frames[:, 0, 0] = 0
    contents = arrays(10, terminals=[9], cameras=()) | {"observations/top": frames}
    path = write(tmp_path / "a.hdf5", contents)
    _draw(str(path), "--cameras", "top", "--contact-sheet", str(tmp_path / "sheet.png"))
    tile = _tile(_sheet(tmp_path / "sheet.png"), 0, 1)
    # 240 x 80 in 120 x 160: scaled to 120 x 40 in the middle; below the label, beside the frame.
    bright = (tile[60] > 240).all(axis=1)
    assert np.flatnonzero(bright).tolist() == list(range(60, 100))


def test_a_camera_with_a_warning_stands_out(tmp_path: Path) -> None:
    good, bad = through_jpeg(table(11)), swapped(through_jpeg(table(11, seed=1)))
    contents = arrays(10, terminals=[9], cameras=())
    contents |= {"observations/left_image": good, "observations/top": bad}
    path = write(tmp_path / "a.hdf5", contents)
    write(tmp_path / "b.hdf5", contents | {"observations/top": good})
    _draw(str(tmp_path), "--cameras", "left,top", "--contact-sheet", str(tmp_path / "sheet.png"))
    assert path.exists()
    sheet = _sheet(tmp_path / "sheet.png")
    framed = [[_is_framed(_tile(sheet, row, column)) for column in range(6)] for row in (0, 1)]
    assert framed == [[False] * 3 + [True] * 3, [False] * 6]


def test_a_file_that_only_comparing_finds_is_on_the_sheet(tmp_path: Path) -> None:
    for number in range(60):
        frames = table(3, seed=number, size=(48, 64))
        contents = arrays(2, terminals=[1], cameras=(), seed=number)
        # Of 60 files, places 0, 2, 5, 7, 10, ... are picked for 24 rows, and 31 is not.
        contents["observations/top"] = swapped(frames) if number == 31 else frames
        write(tmp_path / f"{number:02}.hdf5", contents)
    arguments = (str(tmp_path), "--cameras", "top", "--contact-sheet", str(tmp_path / "s.png"))
    result = _draw(*arguments)
    assert "24 files, 36 more are left out" in result.stderr
    sheet = _sheet(tmp_path / "s.png")
    framed = [row for row in range(24) if _is_framed(_tile(sheet, row, 0))]
    assert len(framed) == 1


def test_refused_files_are_left_out_and_no_picture_is_drawn_of_nothing(tmp_path: Path) -> None:
    (tmp_path / "bad.hdf5").write_text("no")
    sheet = tmp_path / "sheet.png"
    result = _draw(str(tmp_path), "--contact-sheet", str(sheet), code=1)
    assert "no file with images is fit to be served" in result.stderr
    assert not sheet.exists()


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("sheet.gif", "'.gif' is unknown: name it .png or .jpg"),
        ("sheet", "'none' is unknown"),
        ("gone/sheet.png", "gone is not there: make it first"),
        ("folder.png", "it is a folder"),
    ],
)
def test_a_sheet_that_cannot_be_written_is_refused_before_any_file_is_read(
    tmp_path: Path, name: str, words: str
) -> None:
    (tmp_path / "folder.png").mkdir()
    result = CliRunner().invoke(
        doctor, [str(tmp_path / "gone.hdf5"), "--contact-sheet", str(tmp_path / name)]
    )
    assert isinstance(result.exception, InvalidInput)
    assert words in result.exception.message
    assert result.stdout == ""


def test_an_old_sheet_stays_until_the_new_one_is_complete(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write(tmp_path / "a.hdf5", arrays(10, terminals=[9]))
    sheet = tmp_path / "sheet.png"
    sheet.write_bytes(b"old")

    def fail(self: Path, _: bytes) -> None:
        self.touch()
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", fail)
    result = CliRunner().invoke(doctor, [str(path), "--contact-sheet", str(sheet)])
    assert "the disk is full" in str(result.exception)
    assert sheet.read_bytes() == b"old"
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["a.hdf5", "sheet.png"]


def test_a_file_that_goes_bad_meanwhile_says_so_in_its_row(tmp_path: Path) -> None:
    options = DataOptions(parse_cameras("left"))
    contents = arrays(10, terminals=[9], cameras=("left_image",))
    paths = [write(tmp_path / f"{name}.hdf5", contents) for name in "ab"]
    sheet = ContactSheet(tmp_path / "sheet.png", options, 2)
    for path in paths:
        sheet.offer(diagnose(path, options))
    paths[0].write_text("no")
    report = sheet.write()
    assert (report.shown, report.left_out) == (2, 0)
    # A title alone for the one, a title and tiles for the other.
    height = _sheet(report.path).shape[0]
    assert height == 2 * TITLE + TILE_HEIGHT + 16 + 2 * GAP


def test_frames_are_scaled_down_as_they_are_read(tmp_path: Path) -> None:
    options = DataOptions(parse_cameras("top"))
    frame_bytes, files = 480 * 640 * 3, 8
    sheet = ContactSheet(tmp_path / "sheet.png", options, files)
    for number in range(files):
        frames = table(3, size=(480, 640), seed=number)
        contents = arrays(2, terminals=[1], cameras=()) | {"observations/top": frames}
        sheet.offer(diagnose(write(tmp_path / f"{number}.hdf5", contents), options))
    tracemalloc.start()
    try:
        sheet.write()
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    # 24 frames are shown; their tiles, the sheet and its PNG are some 4 frames' worth.
    assert peak < 8 * frame_bytes
