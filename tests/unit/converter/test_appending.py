"""Appending: a dataset that grows is the one that all recordings together would have made."""

import json

import av
import h5py
import numpy as np
import pytest
from bag_recording import robot_messages, write_bag, write_robots
from penstock_converter.jobs.job import run_job
from penstock_converter.jobs.request import Job

from penstock.errors import AlreadyExists


@pytest.fixture(scope="module")
def bags(tmp_path_factory):
    return write_robots(tmp_path_factory.mktemp("bags"), range(6, 11))


def tables_and_metadata(folder):
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.suffix in (".parquet", ".json") and path.name != "conversion.json"
    }


def pixels(folder):
    found = {}
    for path in sorted(folder.rglob("*.mp4")):
        with av.open(str(path)) as video:
            frames = list(video.decode(video=0))
            found[str(path.relative_to(folder))] = (
                np.stack([frame.to_ndarray(format="rgb24") for frame in frames]).tobytes(),
                [frame.pts for frame in frames],
            )
    return found


def hdf5_images(folder):
    found = {}
    for path in sorted(folder.rglob("*.hdf5")):
        with h5py.File(path) as file:
            found[path.name] = file["observations/global_image"][:].tobytes()
    return found


@pytest.mark.parametrize("limits", [(), ("data_file_mb=1", "video_file_mb=1")])
@pytest.mark.parametrize("images", ["video", "image"])
def test_growing_gives_what_one_conversion_gives(
    bags, make_mapping, tmp_path, monkeypatch, limits, images
):
    if limits:
        # Files of a few kilobytes, so that there are many; a row group of two episodes.
        monkeypatch.setattr("penstock_converter.outputs.tables._MB", 9000)
        monkeypatch.setattr("penstock_converter.outputs.video._MB", 3000)
        monkeypatch.setattr("penstock_converter.outputs.lerobot._EPISODE_ROWS", 2)
    mapping = make_mapping(
        *(f"outputs.lerobot.{limit}" for limit in limits),
        f"features[observation.images.left].dtype={images}",
    )
    whole, grown = tmp_path / "whole", tmp_path / "grown"
    run_job(Job(bags, mapping, whole))
    for count in (1, 3, 5):
        outcome = run_job(Job(bags[:count], mapping, grown, append=True))
        assert [bag.episode for bag in outcome.bags] == list(range(count))
    assert tables_and_metadata(grown) == tables_and_metadata(whole)
    assert pixels(grown) == pixels(whole)
    assert hdf5_images(grown) == hdf5_images(whole)
    if limits:
        assert len(list((whole / "data").rglob("*.parquet"))) > 1
        assert len(list((whole / "videos").rglob("*.mp4"))) > 1
    assert run_job(Job(bags, mapping, grown)).reused
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


def test_appending_what_is_there_changes_nothing(bags, make_mapping, tmp_path):
    run_job(Job(bags[:2], make_mapping(), tmp_path / "out"))
    before = (tmp_path / "out/meta/info.json").stat().st_mtime_ns
    assert run_job(Job(bags[1:2], make_mapping(), tmp_path / "out", append=True)).reused
    assert (tmp_path / "out/meta/info.json").stat().st_mtime_ns == before


def test_hdf5_files_elsewhere_grow_too(bags, make_mapping, tmp_path):
    for count in (2, 3):
        run_job(
            Job(bags[:count], make_mapping(), tmp_path / "out", tmp_path / "files", append=True)
        )
    assert len(list((tmp_path / "files").glob("*.hdf5"))) == 3


def test_a_recording_that_was_refused_is_tried_again(bags, make_mapping, tmp_path):
    short = write_bag(tmp_path / "short", robot_messages(3)[:8])
    mapping = make_mapping()
    first = run_job(Job((bags[0], short), mapping, tmp_path / "out"))
    assert [bag.state for bag in first.bags] == ["converted", "refused"]
    second = run_job(Job((short, bags[1]), mapping, tmp_path / "out", append=True))
    assert [bag.state for bag in second.bags] == ["converted", "refused", "converted"]
    assert [bag.episode for bag in second.bags] == [0, -1, 1]


def test_a_recording_of_another_form_does_not_join(bags, make_mapping, tmp_path):
    other = write_bag(tmp_path / "other", robot_messages(4, size=(64, 64)))
    run_job(Job(bags[:1], make_mapping(), tmp_path / "out"))
    outcome = run_job(Job((other, bags[1]), make_mapping(), tmp_path / "out", append=True))
    assert [bag.state for bag in outcome.bags] == ["converted", "refused", "converted"]
    assert outcome.bags[1].reason == "SCHEMA_MISMATCH"


def test_another_mapping_does_not_append(bags, make_mapping, tmp_path):
    run_job(Job(bags[:1], make_mapping(), tmp_path / "out"))
    with pytest.raises(AlreadyExists, match="another mapping"):
        run_job(Job(bags, make_mapping("task=other"), tmp_path / "out", append=True))


def test_a_dataset_that_lost_files_does_not_grow(bags, make_mapping, tmp_path):
    run_job(Job(bags[:1], make_mapping(), tmp_path / "out"))
    (tmp_path / "out/meta/info.json").unlink()
    with pytest.raises(AlreadyExists) as caught:
        run_job(Job(bags, make_mapping(), tmp_path / "out", append=True))
    assert caught.value.reason == "OUTPUT_DAMAGED"


def test_appending_to_nothing_begins_a_dataset(bags, make_mapping, tmp_path):
    assert run_job(Job(bags[:1], make_mapping(), tmp_path / "out", append=True)).frames == 6
    info = json.loads((tmp_path / "out/meta/info.json").read_text())
    assert info["total_episodes"] == 1
