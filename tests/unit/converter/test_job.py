"""Jobs: one bad recording never takes the others along, and an output is whole or not there."""

import errno
import itertools
import os
import shutil
import signal
import subprocess
import sys

import pyarrow.parquet as pq
import pytest
import tenacity
import yaml
from bag_recording import robot_messages, write_bag
from penstock_converter.jobs.job import run_job
from penstock_converter.jobs.outcome import Progress, read_outcome
from penstock_converter.jobs.request import Job, plan_job
from penstock_converter.jobs.staging import staging_folder

from penstock.errors import AlreadyExists, Cancelled, Conflict, InvalidInput, LimitExceeded


def left_behind(folder):
    return sorted(path.name for path in folder.iterdir() if path.name.startswith("."))


def test_refused_recordings_are_named_and_leave_no_trace_in_the_dataset(make_mapping, tmp_path):
    good = [write_bag(tmp_path / f"good_{rows}", robot_messages(rows)) for rows in (3, 4)]
    # Its last image is broken, long after its first rows went into a table.
    messages = robot_messages(70)
    (last,) = [m for m in messages if m.topic.startswith("/cam_global")][69:70]
    last.fields["data"] = last.fields["data"][:100]
    broken = write_bag(tmp_path / "broken", messages)
    silent = [m for m in robot_messages(3) if m.topic != "/joint_cmd"]
    without = write_bag(tmp_path / "without", silent)
    empty = tmp_path / "empty.bag"
    empty.touch()
    larger = write_bag(tmp_path / "larger", robot_messages(3, size=(64, 64)))
    bags = (good[0], broken, without, empty, larger, good[1])
    out = tmp_path / "out"
    outcome = run_job(Job(bags, make_mapping("outputs.lerobot.video=false"), out))
    assert [(bag.state, bag.reason, bag.episode) for bag in outcome.bags] == [
        ("converted", "", 0),
        ("refused", "IMAGE_BROKEN", -1),
        ("refused", "NO_SUCH_TOPIC", -1),
        ("refused", "BAG_UNREADABLE", -1),
        ("refused", "SCHEMA_MISMATCH", -1),
        ("converted", "", 1),
    ]
    assert "message 69 of topic /cam_global/compressed" in outcome.bags[1].error
    assert outcome.frames == 7
    table = pq.read_table(out / "data/chunk-000/file-000.parquet")
    assert table["episode_index"].to_pylist() == [0] * 3 + [1] * 4
    episodes = pq.read_table(out / "meta/episodes/chunk-000/file-000.parquet").to_pylist()
    assert [row["stats/action/max"] for row in episodes] == [[2.0, 20.0], [3.0, 30.0]]
    assert sorted(path.name for path in (out / "hdf5").iterdir()) == [
        "episode_000000.hdf5",
        "episode_000001.hdf5",
    ]
    assert read_outcome(out) == outcome


def test_nothing_is_published_when_every_recording_is_refused(make_mapping, tmp_path):
    empty = tmp_path / "empty.bag"
    empty.touch()
    outcome = run_job(Job((empty,), make_mapping(), tmp_path / "out"))
    assert [bag.state for bag in outcome.bags] == ["refused"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["empty.bag"]


def test_a_second_run_reuses_what_is_there(bag, make_mapping, tmp_path):
    job = Job((bag,), make_mapping(), tmp_path / "out")
    first = run_job(job)
    written = (tmp_path / "out/meta/info.json").stat().st_mtime_ns
    again = run_job(Job((bag,), make_mapping("rosbag.chunk_size=3"), tmp_path / "out"))
    assert (first.reused, again.reused) == (False, True)
    assert again.bags == first.bags
    assert (tmp_path / "out/meta/info.json").stat().st_mtime_ns == written


def test_a_dataset_that_lost_a_file_is_made_again(bag, make_mapping, tmp_path):
    job = Job((bag,), make_mapping(), tmp_path / "out")
    run_job(job)
    (tmp_path / "out/hdf5/episode_000000.hdf5").unlink()
    assert not run_job(job).reused
    assert (tmp_path / "out/hdf5/episode_000000.hdf5").exists()


def test_another_dataset_is_replaced_only_when_that_is_asked_for(bag, make_mapping, tmp_path):
    out = tmp_path / "out"
    run_job(Job((bag,), make_mapping(), out))
    other = make_mapping("task=other")
    with pytest.raises(AlreadyExists) as caught:
        run_job(Job((bag,), other, out))
    assert caught.value.reason == "OUTPUT_DIFFERS"
    run_job(Job((bag,), other, out, overwrite=True))
    assert pq.read_table(out / "meta/tasks.parquet").to_pydict()["__index_level_0__"] == ["other"]
    assert left_behind(tmp_path) == []


def test_a_folder_of_somebody_else_is_never_replaced(bag, make_mapping, tmp_path):
    (tmp_path / "thesis.txt").write_text("years of work")
    job = Job((bag,), make_mapping(), tmp_path, overwrite=True)
    with pytest.raises(AlreadyExists) as caught:
        run_job(job)
    assert caught.value.reason == "OUTPUT_FOREIGN"
    assert (tmp_path / "thesis.txt").read_text() == "years of work"


def test_hdf5_files_may_lie_elsewhere(bag, make_mapping, tmp_path):
    job = Job((bag,), make_mapping(), tmp_path / "out", hdf5=tmp_path / "files")
    run_job(job)
    assert (tmp_path / "files/episode_000000.hdf5").exists()
    assert not (tmp_path / "out/hdf5").exists()
    assert run_job(job).reused
    shutil.rmtree(tmp_path / "files")
    assert plan_job(job).present is None


def test_a_folder_for_hdf5_needs_a_mapping_for_it(bag, make_mapping, tmp_path):
    job = Job((bag,), make_mapping("outputs.hdf5=null"), tmp_path / "out", hdf5=tmp_path / "files")
    with pytest.raises(InvalidInput, match=r"no outputs\.hdf5"):
        run_job(job)


def test_hdf5_alone_can_be_made(bag, make_mapping, tmp_path):
    mapping = make_mapping("outputs.lerobot=null")
    run_job(Job((bag,), mapping, tmp_path / "out"))
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["conversion.json", "hdf5"]


def test_two_conversions_do_not_write_the_same_output(bag, make_mapping, tmp_path):
    with staging_folder(tmp_path / "out"), pytest.raises(Conflict, match="another conversion"):
        run_job(Job((bag,), make_mapping(), tmp_path / "out"))


def test_a_cancelled_conversion_leaves_nothing(bag, make_mapping, tmp_path):
    asked = iter([False] * 5 + [True] * 100)
    with pytest.raises(Cancelled):
        run_job(Job((bag,), make_mapping(), tmp_path / "out"), cancelled=lambda: next(asked))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("module", "name", "complete"),
    [(os, "posix_fallocate", 0), (pq.ParquetWriter, "write_table", 1)],
)
def test_a_full_disk_ends_the_job_and_leaves_what_is_complete(
    bag, make_mapping, tmp_path, monkeypatch, module, name, complete
):
    calls = itertools.count()
    honest = getattr(module, name)

    def full(*arguments, **options):
        # Not at the first call, so that there is something to clear away.
        if next(calls) < 2:
            return honest(*arguments, **options)
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(module, name, full)
    with pytest.raises(LimitExceeded) as caught:
        run_job(Job((bag,), make_mapping(), tmp_path / "out"))
    assert caught.value.reason == "DISK_FULL"
    staged = list(tmp_path.glob(".out.partial/recordings/*/staged.json"))
    assert len(staged) == complete
    assert list(tmp_path.glob(".out.partial/dataset")) == []
    assert bool(complete) or list(tmp_path.iterdir()) == []
    monkeypatch.setattr(module, name, honest)
    assert len(run_job(Job((bag,), make_mapping(), tmp_path / "out")).converted) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_a_replacement_that_was_interrupted_is_undone(bag, make_mapping, tmp_path):
    run_job(Job((bag,), make_mapping(), tmp_path / "out"))
    (tmp_path / "out").rename(tmp_path / ".out.replaced")
    with staging_folder(tmp_path / "out") as partial:
        assert (tmp_path / "out/meta/info.json").exists()
        partial.rmdir()
    assert left_behind(tmp_path) == []


def test_progress_reaches_the_end_and_counts_every_image(bag, make_mapping, tmp_path):
    reports: list[Progress] = []
    outcome = run_job(Job((bag,), make_mapping(), tmp_path / "out"), reports.append)
    final = reports[-1]
    assert (final.fraction, final.frames_done, final.frames_total) == (1.0, 12, 12)
    assert outcome.images == 24
    assert final.images_per_s > 0
    assert final.eta_s == 0


def test_a_killed_conversion_leaves_no_dataset_and_goes_on_where_it_was(
    mapping_text, make_mapping, tmp_path
):
    bags = []
    for number in range(60):
        bags.append(tmp_path / "bags" / f"robot_{number:02d}")
        if number == 0:
            bags[0].parent.mkdir()
            write_bag(bags[0], robot_messages(12))
        else:
            shutil.copytree(bags[0], bags[-1])
    mapping = tmp_path / "mapping.yaml"
    mapping.write_text(mapping_text)
    out = tmp_path / "out"
    command = [sys.executable, "-m", "penstock.cli", "convert", str(tmp_path / "bags")]
    process = subprocess.Popen(
        [*command, "--mapping", str(mapping), "--out", str(out)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    staged = tmp_path / ".out.partial" / "recordings"

    @tenacity.retry(wait=tenacity.wait_fixed(0.01), stop=tenacity.stop_after_delay(60))
    def wait_for_the_third_recording():
        assert process.poll() is None
        assert len(list(staged.glob("*/staged.json"))) >= 3

    wait_for_the_third_recording()
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not out.exists()
    kept = {path.parent.name: path.stat().st_mtime_ns for path in staged.glob("[!.]*/staged.json")}
    seen: dict[str, int] = {}

    def look(_: Progress):
        seen.update({path.parent.name: path.stat().st_mtime_ns for path in staged.glob("*/*.json")})

    outcome = run_job(Job(tuple(bags), make_mapping(), out), look)
    assert len(outcome.converted) == 60
    assert {name: seen[name] for name in kept} == kept
    assert left_behind(tmp_path) == []


def test_the_report_keeps_the_mapping_that_was_used(bag, make_mapping, tmp_path):
    outcome = run_job(Job((bag,), make_mapping("outputs.lerobot.crf=30"), tmp_path / "out"))
    text = yaml.safe_dump(outcome.mapping)
    assert yaml.safe_load(text)["outputs"]["lerobot"]["crf"] == 30


@pytest.mark.parametrize("names", [("out", "out/files"), ("out/set", "out"), ("out", "out")])
def test_dataset_and_hdf5_folder_do_not_lie_in_each_other(bag, make_mapping, tmp_path, names):
    out, hdf5 = (tmp_path / name for name in names)
    with pytest.raises(InvalidInput, match="in each other"):
        run_job(Job((bag,), make_mapping(), out, hdf5))


@pytest.mark.parametrize(
    ("overrides", "reason"),
    [
        (("outputs.lerobot.preset=fastest",), "ENCODER"),
        (("outputs.hdf5.images.global_image=action",), "NOT_AN_IMAGE"),
        (("outputs.hdf5.joint=observation.images.left",), "NOT_NUMBERS"),
        (("outputs.hdf5.rewards=action",), "NOT_A_SCALAR"),
        (("features.action.dtype=video",), "DTYPE_MISMATCH"),
        (("features[observation.images.left].align=interpolate",), "NOT_NUMBERS"),
        (("features[next.reward].time=header",), "NO_HEADER"),
    ],
)
def test_a_mapping_that_does_not_fit_the_messages_is_refused(
    bag, make_mapping, tmp_path, overrides, reason
):
    (outcome,) = run_job(Job((bag,), make_mapping(*overrides), tmp_path / "out")).bags
    assert (outcome.state, outcome.reason) == ("refused", reason)
    assert list(tmp_path.iterdir()) == []


def test_images_of_odd_size_fit_tables_but_no_video(make_mapping, tmp_path):
    bag = write_bag(tmp_path / "odd", robot_messages(3, size=(33, 65)))
    (refused,) = run_job(Job((bag,), make_mapping(), tmp_path / "out")).bags
    assert refused.reason == "ODD_IMAGE_SIZE"
    mapping = make_mapping("outputs.lerobot.video=false")
    assert len(run_job(Job((bag,), mapping, tmp_path / "out")).converted) == 1
