"""``penstock sampler warm``, as it is typed: lines, exit status, and errors that say what to do."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from click.testing import CliRunner
from penstock_sampler.cache import warm_view
from unit.sampler.cache.cached import batch_of, open_dataset
from unit.sampler.recording import arrays, write

from penstock.batch import FrameSpec
from penstock.cli import main, penstock
from penstock.frame_file import FrameFile, FrameFileWriter

ROWS = 8

Warm = Callable[..., str]


@pytest.fixture
def data(tmp_path: Path) -> Path:
    folder = tmp_path / "data"
    folder.mkdir()
    for number in range(3):
        write(folder / f"{number}.hdf5", arrays(ROWS, terminals=[ROWS - 1], seed=number))
    return folder


@pytest.fixture
def frames(tmp_path: Path) -> Path:
    return tmp_path / "frames"


@pytest.fixture
def warm(frames: Path) -> Warm:
    """Runs the command with a cache of this test's own; gives what it writes."""

    def run(*arguments: Any, code: int = 0) -> str:
        typed = ["sampler", "warm", *map(str, arguments), "--cache-dir", str(frames)]
        result = CliRunner().invoke(penstock, typed)
        assert result.exit_code == code, (result.output, result.exception)
        return result.stdout

    return run


def _refusal(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *typed: Any
) -> str:
    """The one line that the whole program writes when it cannot do as it is told."""
    monkeypatch.setattr(sys, "argv", ["penstock", "sampler", "warm", *map(str, typed)])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 1
    (line,) = capsys.readouterr().err.splitlines()[-1:]
    return line


def _damage_frame(path: Path, row: int) -> None:
    """A chunk in the middle of a recording that looks sound from outside."""
    with h5py.File(path, "a") as file:
        images = file["observations/left_image"][...]
        del file["observations/left_image"]
        left = file.create_dataset(
            "observations/left_image", data=images, chunks=(1, 6, 8, 3), compression="gzip"
        )
        chunk = left.id.get_chunk_info_by_coord((row, 0, 0, 0))
    with path.open("r+b") as file:
        file.seek(chunk.byte_offset)
        file.write(b"\xff" * chunk.size)


@pytest.mark.parametrize("form", ["{}", "{}/*.hdf5", "file://{}", "{}/0.hdf5,{}/1.hdf5,{}/2.hdf5"])
def test_every_form_of_a_target_is_cached(data: Path, frames: Path, warm: Warm, form: str) -> None:
    shown = warm(form.replace("{}", str(data)))
    first, second = shown.splitlines()
    assert first == "3 files cached now"
    assert second.startswith("the frame cache holds 0 of ")
    assert len(list(frames.glob("*.frames"))) == 3


def test_training_reads_what_was_cached(data: Path, frames: Path, warm: Warm) -> None:
    warm(data, "--image-size", 4, 5)
    backend = open_dataset(data, frames, cache_threads=0)
    plain = open_dataset(data, "none")
    ids = np.arange(3 * ROWS)
    spec = FrameSpec(4, 5)
    np.testing.assert_array_equal(batch_of(backend, ids, spec), batch_of(plain, ids, spec))
    status = backend.cache_status()
    assert (status.hits, status.misses) == (2 * len(ids), 0)
    backend.close()
    plain.close()


def test_images_have_the_size_that_was_asked_for(data: Path, frames: Path, warm: Warm) -> None:
    for size in ((), ("--image-size", 4, 5)):
        assert "3 files cached now" in warm(data, *size)
    sizes = [FrameFile.open(path).header.image_shape for path in frames.glob("*.frames")]
    assert sorted(sizes) == 3 * [(4, 5, 3)] + 3 * [(6, 8, 3)]


def test_given_again_it_passes_over_what_is_there(data: Path, warm: Warm) -> None:
    warm(data)
    assert warm(data).splitlines()[0] == "3 files were cached already"
    write(data / "3.hdf5", arrays(ROWS, seed=3))
    assert warm(data).splitlines()[:2] == ["1 files cached now", "3 files were cached already"]


def test_what_changed_is_cached_anew(
    data: Path, frames: Path, warm: Warm, caplog: pytest.LogCaptureFixture
) -> None:
    warm(data)
    write(data / "1.hdf5", arrays(ROWS + 1, seed=9))
    assert warm(data).splitlines()[:2] == ["1 files cached now", "2 files were cached already"]
    assert f"{data / '1.hdf5'} has changed since it was built" in caplog.text
    assert len(list(frames.glob("*.frames"))) == 3


def test_a_damaged_cache_is_mended(
    data: Path, frames: Path, warm: Warm, caplog: pytest.LogCaptureFixture
) -> None:
    warm(data)
    damaged = min(frames.glob("*.frames"))
    damaged.write_bytes(damaged.read_bytes()[:-1])
    assert warm(data).splitlines()[:2] == ["1 files cached now", "2 files were cached already"]
    assert f"{damaged}: dropped" in caplog.text


def test_a_damaged_recording_is_named_and_the_others_are_cached(data: Path, warm: Warm) -> None:
    long = write(data / "1.hdf5", arrays(60))
    _damage_frame(long, 30)
    shown = warm(data, code=1).splitlines()
    assert shown[0] == "2 files cached now"
    assert shown[1].startswith(f"not cached {long}: cannot be read any more")
    assert "left_image" in shown[1]


def test_a_refused_recording_is_counted_and_the_others_are_cached(
    data: Path, warm: Warm, caplog: pytest.LogCaptureFixture
) -> None:
    (data / "1.hdf5").write_bytes(b"no recording")
    shown = warm(data, code=1).splitlines()
    assert shown[:2] == [
        "2 files cached now",
        "1 files are refused and not cached (penstock doctor says why)",
    ]
    assert f"{data / '1.hdf5'}" in caplog.text


def test_too_little_room_is_said_and_is_no_success(data: Path, warm: Warm) -> None:
    shown = warm(data, "--cache-bytes", 1000, code=1)
    assert shown.splitlines()[0] == "3 files found no room (cache_bytes sets the limit)"


def test_what_another_process_caches_is_left_to_it(data: Path, frames: Path, warm: Warm) -> None:
    backend = open_dataset(data, "none")
    key = backend._frames.key(1, 6, 8)
    backend.close()
    frames.mkdir()
    with FrameFileWriter(frames / key.name, key.header("raw")):
        assert warm(data).splitlines()[:2] == [
            "2 files cached now",
            "1 files are being cached by another process",
        ]


def test_the_codec_is_a_setting(data: Path, frames: Path, warm: Warm) -> None:
    warm(data, "--codec", "lz4")
    assert {FrameFile.open(path).header.codec for path in frames.glob("*.frames")} == {"lz4"}


@pytest.mark.parametrize(("typed", "jobs"), [((), None), (("--jobs", 7), 7)])
def test_jobs_are_one_a_core_unless_given(
    data: Path, warm: Warm, monkeypatch: pytest.MonkeyPatch, typed: Any, jobs: int | None
) -> None:
    seen: list[int] = []
    show = warm_view.show_progress

    def noted(console: Any, warming: Any) -> Any:
        seen.append(warming._jobs)
        return show(console, warming)

    monkeypatch.setattr(warm_view, "show_progress", noted)
    monkeypatch.setattr("os.sched_getaffinity", lambda _: {0, 1, 2, 3, 4})
    warm(data, *typed)
    assert seen == [jobs or 5]


@pytest.mark.parametrize(
    ("typed", "said"),
    [
        (("--image-size", 4), "Option '--image-size' requires 2 arguments"),
        (("--image-size", 0, 4), "0 is not in the range 1<=x<=4096"),
        (("--image-size", 4, 5000), "5000 is not in the range 1<=x<=4096"),
        (("--jobs", 0), "0 is not in the range 1<=x<=256"),
        (("--jobs", "many"), "'many' is not a valid integer"),
        (("--codec", "gzip"), "'gzip' is not one of"),
    ],
    ids=str,
)
def test_a_bad_option_is_one_line_of_usage(data: Path, typed: Any, said: str) -> None:
    result = CliRunner().invoke(penstock, ["sampler", "warm", str(data), *map(str, typed)])
    assert result.exit_code == 2
    assert said in result.output.splitlines()[-1]


def test_a_target_that_is_no_file_is_refused(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    line = _refusal(monkeypatch, capsys, "grpc://sampler:50051")
    assert line == "error: grpc://sampler:50051: only file:// targets are read here"


def test_a_target_that_matches_nothing_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    line = _refusal(monkeypatch, capsys, f"{tmp_path}/none/*.hdf5")
    assert f"{tmp_path}/none/*.hdf5" in line


def test_a_folder_that_cannot_be_used_is_named(
    data: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    folder = data / "0.hdf5" / "frames"
    line = _refusal(monkeypatch, capsys, data, "--cache-dir", folder)
    assert line.startswith("error: there is no frame cache: name a folder")
    assert f"{folder} cannot be used" in caplog.text


def test_no_cache_at_all_is_refused(
    data: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    line = _refusal(monkeypatch, capsys, data, "--cache-dir", "none")
    assert line.startswith("error: there is no frame cache: name a folder")


def test_cameras_of_different_size_need_one_size(
    tmp_path: Path,
    frames: Path,
    warm: Warm,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    contents = arrays(4)
    contents["observations/left_image"] = np.ones((5, 12, 16, 3), np.uint8)
    path = write(tmp_path / "a.hdf5", contents)
    line = _refusal(monkeypatch, capsys, path, "--cache-dir", frames)
    assert "ask for one image_size" in line
    assert "1 files cached now" in warm(path, "--image-size", 6, 8)
