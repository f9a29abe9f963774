from __future__ import annotations

from pathlib import Path

import pytest
from penstock_sampler.index.discovery import find_files

from penstock.errors import NotFound


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("b.hdf5", "a.hdf5", "notes.txt", "day1/x.h5", "day2/x.h5", "odd[1].hdf5"):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.touch()
    return tmp_path


def _ids(*locations: object) -> list[str]:
    return [file.file_id for file in find_files(str(location) for location in locations)]


def test_ids_are_relative_to_the_folder_before_the_first_wildcard(folder: Path) -> None:
    assert _ids(folder / "*.hdf5") == ["a.hdf5", "b.hdf5", "odd[1].hdf5"]
    assert _ids(folder / "day*" / "x.h5") == ["day1/x.h5", "day2/x.h5"]
    assert _ids(folder / "a.hdf5") == ["a.hdf5"]


def test_slashes_in_front_are_one(folder: Path) -> None:
    assert _ids(f"/{folder}/*.hdf5") == _ids(folder / "*.hdf5")
    assert _ids(f"/{folder}", folder / "a.hdf5") == _ids(folder)


def test_a_folder_stands_for_all_files_below(folder: Path) -> None:
    assert _ids(folder) == ["a.hdf5", "b.hdf5", "day1/x.h5", "day2/x.h5", "odd[1].hdf5"]


def test_what_is_staged_in_a_hidden_folder_is_passed_over(folder: Path) -> None:
    before = _ids(folder)
    staged = folder / ".next.partial" / "episode.hdf5"
    staged.parent.mkdir()
    staged.touch()
    assert _ids(folder) == before
    assert ".next.partial/episode.hdf5" not in _ids(folder / "**" / "*.hdf5")


def test_double_star_crosses_folders(folder: Path) -> None:
    assert _ids(f"{folder}/**/*.h5") == ["day1/x.h5", "day2/x.h5"]


def test_several_locations_share_one_root_and_no_file_comes_twice(folder: Path) -> None:
    assert _ids(folder / "day1/*.h5", folder / "day2/*.h5") == ["day1/x.h5", "day2/x.h5"]
    assert _ids(folder / "a.hdf5", folder / "*.hdf5", folder / "a*") == _ids(folder / "*.hdf5")


def test_a_name_with_brackets_is_taken_as_it_is(folder: Path) -> None:
    assert _ids(folder / "odd[1].hdf5") == ["odd[1].hdf5"]


def test_copies_elsewhere_have_the_same_ids(
    folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    other = tmp_path_factory.mktemp("replica")
    (other / "a.hdf5").touch()
    (other / "b.hdf5").touch()
    assert _ids(other / "*.hdf5") == ["a.hdf5", "b.hdf5"]


@pytest.mark.parametrize("location", ["nothing/*.hdf5", "gone.hdf5", "empty"])
def test_a_location_without_files_is_not_found(folder: Path, location: str) -> None:
    (folder / "empty").mkdir()
    with pytest.raises(NotFound, match=location.replace("*", r"\*")):
        _ids(folder / "*.hdf5", folder / location)
