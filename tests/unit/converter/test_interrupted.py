"""What an interrupted conversion leaves is finished, taken up or removed, never trusted blindly."""

import shutil

import pytest
from bag_recording import robot_messages, write_bag
from penstock_converter.jobs.job import run_job
from penstock_converter.jobs.outcome import read_outcome
from penstock_converter.jobs.request import Job
from penstock_converter.jobs.staging import staging_folder

from penstock.errors import AlreadyExists


def left_behind(folder):
    return sorted(path.name for path in folder.iterdir() if path.name.startswith("."))


@pytest.fixture
def interrupted(make_mapping, bag, tmp_path, monkeypatch):
    """A job that ended just after its dataset was published: nothing was removed."""
    job = Job((bag,), make_mapping(), tmp_path / "out")
    with monkeypatch.context() as patch:
        patch.setattr("penstock_converter.jobs.stages.Stages.remove", lambda *_: None)
        patch.setattr("penstock_converter.jobs.job.shutil.rmtree", lambda *_, **__: None)
        run_job(job)
    assert left_behind(tmp_path) == [".out.partial"]
    return job


def test_leftovers_beside_a_complete_dataset_are_removed(interrupted, tmp_path):
    shutil.copytree(interrupted.out, tmp_path / ".out.replaced")
    assert run_job(interrupted).reused
    assert left_behind(tmp_path) == []


def test_leftovers_are_left_while_somebody_works_there(interrupted, tmp_path):
    with staging_folder(interrupted.out):
        assert run_job(interrupted).reused
    assert left_behind(tmp_path) == [".out.partial"]


def test_what_another_conversion_has_staged_waits_for_it(
    interrupted, make_mapping, bag, tmp_path, monkeypatch
):
    other = Job((bag,), make_mapping("task=other"), interrupted.out, overwrite=True)

    def full(*_, **__):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("penstock_converter.jobs.job.join", full)
        with pytest.raises(Exception, match="disk is full"):
            run_job(other)
    recordings = tmp_path / ".out.partial" / "recordings"
    (staged,) = recordings.iterdir()
    assert run_job(interrupted).reused
    assert list(recordings.iterdir()) == [staged]


def test_a_recording_whose_removal_was_interrupted_is_made_again(interrupted, monkeypatch):
    removed = []

    def stop(folder, **_):
        removed.append(folder)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("penstock_converter.jobs.stages.shutil.rmtree", stop)
        with pytest.raises(KeyboardInterrupt):
            run_job(interrupted)
    assert removed
    # Its removal went on for a while, and somebody took the dataset away.
    for path in removed[0].rglob("*.mp4"):
        path.unlink()
    shutil.rmtree(interrupted.out)
    assert not run_job(interrupted).reused
    assert read_outcome(interrupted.out).frames == 12


def test_a_dataset_that_comes_back_is_replaced_only_when_that_is_asked_for(
    make_mapping, bag, tmp_path
):
    out = tmp_path / "out"
    run_job(Job((bag,), make_mapping(), out))
    # A replacement died between its two renames.
    out.rename(tmp_path / ".out.replaced")
    other = make_mapping("task=other")
    with pytest.raises(AlreadyExists) as caught:
        run_job(Job((bag,), other, out))
    assert caught.value.reason == "OUTPUT_DIFFERS"
    assert left_behind(tmp_path) == []
    assert run_job(Job((bag,), make_mapping(), out)).reused
    run_job(Job((bag,), other, out, overwrite=True))
    assert left_behind(tmp_path) == []


@pytest.mark.parametrize("aside", ["out", "files"])
def test_a_dataset_that_comes_back_grows(aside, make_mapping, bag, tmp_path):
    outputs = (tmp_path / "out", tmp_path / "files")
    run_job(Job((bag,), make_mapping(), *outputs))
    # Appending died between its two renames.
    (tmp_path / aside).rename(tmp_path / f".{aside}.replaced")
    more = write_bag(tmp_path / "more", robot_messages(5))
    outcome = run_job(Job((more,), make_mapping(), *outputs, append=True))
    assert [recording.frames for recording in outcome.bags] == [12, 5]
    assert left_behind(tmp_path) == []
