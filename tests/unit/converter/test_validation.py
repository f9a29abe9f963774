"""A good dataset passes; whatever is damaged is found, and its place is named."""

import json
import shutil
from pathlib import Path

import av
import cv2
import h5py
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from bag_recording import robot_messages, write_bag
from penstock_converter.checks.findings import Validation
from penstock_converter.checks.validation import validate_dataset
from penstock_converter.jobs.job import run_job
from penstock_converter.jobs.request import Job

from penstock.errors import NotFound

DATA = "data/chunk-000/file-000.parquet"
EPISODES = "meta/episodes/chunk-000/file-000.parquet"
LEFT, GLOBAL = "observation.images.left", "observation.images.global"
VIDEO = f"videos/{LEFT}/chunk-000/file-000.mp4"


@pytest.fixture(scope="module")
def bags(tmp_path_factory):
    """Recordings of 12, 5 and 9 rows."""
    folder = tmp_path_factory.mktemp("bags")
    return tuple(
        write_bag(folder / f"robot_{rows}", robot_messages(rows), bag_format)
        for rows, bag_format in ((12, "mcap"), (5, "db3"), (9, "mcap"))
    )


@pytest.fixture(scope="module")
def made(bags, make_mapping, tmp_path_factory):
    """Datasets by kind."""
    folder = tmp_path_factory.mktemp("made")
    kinds = {
        "video": (),
        "images": ("outputs.lerobot.video=false",),
        "hdf5": ("outputs.lerobot=null",),
        "av1": ("outputs.lerobot.codec=av1",),
    }
    for kind, overrides in kinds.items():
        outcome = run_job(Job(bags, make_mapping(*overrides), folder / kind))
        assert not outcome.refused
    return folder


@pytest.fixture
def dataset(made, tmp_path):
    """A copy of the dataset with videos, to be damaged."""
    return Path(shutil.copytree(made / "video", tmp_path / "dataset"))


@pytest.fixture
def images(made, tmp_path):
    """A copy of the dataset with images in its tables, to be damaged."""
    return Path(shutil.copytree(made / "images", tmp_path / "dataset"))


def check(found: Validation, name: str):
    (wanted,) = [check for check in found.checks if check.name == name]
    return wanted


def fault(found: Validation, name: str):
    """The first fault of a check that failed."""
    wanted = check(found, name)
    assert wanted.state == "failed", found.to_json()
    return wanted.first_failures[0]


def failed(found: Validation):
    return {check.name for check in found.checks if check.state == "failed"}


def rewrite(path: Path, change) -> None:
    """Write a table anew, with its row groups."""
    groups = pq.ParquetFile(path)
    tables = [groups.read_row_group(number) for number in range(groups.num_row_groups)]
    groups.close()
    with pq.ParquetWriter(path, tables[0].schema) as writer:
        for number, table in enumerate(tables):
            writer.write_table(change(table, number).cast(tables[0].schema))


def put(table: pa.Table, name: str, row: int, value) -> pa.Table:
    values = table[name].to_pylist()
    values[row] = value
    at = table.column_names.index(name)
    return table.set_column(at, name, pa.array(values, table.schema.field(name).type))


def edit_json(path: Path, change) -> None:
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


@pytest.mark.parametrize("full", [False, True])
@pytest.mark.parametrize("kind", ["video", "images", "hdf5", "av1"])
def test_what_was_converted_passes_every_check(made, kind, full):
    found = validate_dataset(made / kind, full=full)
    assert found.state == "passed", found.to_json()
    assert (found.episodes, found.frames) == (3, 26)
    compared = {check.name: check.compared for check in found.checks}
    assert compared["recording: frames"] == {"recordings": 3, "rows": 26}
    if kind == "hdf5":
        assert check(found, "LeRobot dataset").state == "skipped"
        assert compared["hdf5 layout"] == {"files": 3, "datasets": 24}
        return
    assert compared["row numbers"]["rows"] == compared["timestamps"]["rows"] == 26
    assert compared["images"] == {"images": 2 * (26 if full else 15)}
    assert compared["statistics of images"] == {"episodes": 6, "features": 2}
    if kind != "images":
        assert compared["video packets"] == {"files": 2, "packets": 52}
        assert check(found, "recording: images").measured["least PSNR, dB"] > 30
    # Two cameras as three datasets of HDF5 and two of LeRobot; the observation after the last row
    # is in HDF5 alone.
    rows = 26 if full else 15
    assert compared["recording: images"] == {"images": 5 * rows + 3 * 3}


def test_videos_and_tables_in_many_files_pass(made, make_mapping, tmp_path):
    generator = np.random.default_rng(0)
    noise = [
        message._replace(fields=_noisy(generator)) if "cam" in message.topic else message
        for message in robot_messages(8)
    ]
    recordings = tuple(write_bag(tmp_path / f"noise_{number}", noise) for number in range(3))
    limits = [f"outputs.lerobot.{part}_file_mb=1" for part in ("data", "video")]
    mapping = make_mapping("outputs.hdf5=null", "outputs.lerobot.video=false", *limits)
    run_job(Job(recordings, mapping, tmp_path / "out"))
    assert len(list((tmp_path / "out/data/chunk-000").iterdir())) == 3
    found = validate_dataset(tmp_path / "out")
    assert found.state == "passed"
    assert check(found, "columns").compared["files"] == 3
    mapping = make_mapping("outputs.hdf5=null", *limits, "outputs.lerobot.crf=5")
    run_job(Job(recordings, mapping, tmp_path / "videos"))
    assert len(list((tmp_path / f"videos/videos/{LEFT}/chunk-000").iterdir())) == 3
    found = validate_dataset(tmp_path / "videos")
    assert found.state == "passed", found.to_json()
    assert check(found, "video packets").compared == {"files": 6, "packets": 48}


def _noisy(generator):
    pixels = generator.integers(0, 256, (400, 600, 3), np.uint8)
    _, data = cv2.imencode(".jpg", cv2.GaussianBlur(pixels, (3, 3), 0))
    return {"format": "jpeg", "data": data.reshape(-1)}


def test_a_folder_that_is_not_there_is_an_error(tmp_path):
    with pytest.raises(NotFound, match="no such folder"):
        validate_dataset(tmp_path / "none")


def test_an_empty_folder_fails_and_names_what_is_missing(tmp_path):
    found = validate_dataset(tmp_path)
    assert fault(found, "info.json").place.file == "meta/info.json"
    assert {"info.json", "tasks", "episodes table", "stats.json"} <= failed(found)


def test_a_row_that_was_removed_is_named(dataset):
    def remove(table, number):
        return pa.concat_tables([table.slice(0, 3), table.slice(4)]) if number == 1 else table

    rewrite(dataset / DATA, remove)
    found = validate_dataset(dataset)
    wanted = check(found, "row numbers")
    assert "has 25 rows, its episodes have 26" in wanted.first_failures[0].message
    place = wanted.first_failures[1].place
    assert (place.file, place.episode, place.frame) == (DATA, 1, 3)
    # The recording says so too, and what was not touched still passes.
    assert {"row numbers", "recording: numbers", "hdf5 against tables"} <= failed(found)
    assert check(found, "video packets").state == "passed"


def test_a_changed_time_is_named(dataset):
    step = np.spacing(np.float32(0.3))
    rewrite(dataset / DATA, lambda t, n: put(t, "timestamp", 3, 0.3 + 3 * step) if n == 1 else t)
    found = validate_dataset(dataset)
    first = fault(found, "timestamps")
    assert (first.place.file, first.place.episode, first.place.frame) == (DATA, 1, 3)
    assert check(found, "timestamps").failures == 1
    assert fault(found, "statistics of numbers").place.feature == "timestamp"


@pytest.mark.parametrize("column", ["index", "frame_index", "episode_index", "task_index"])
def test_a_changed_row_number_is_named(dataset, column):
    rewrite(dataset / DATA, lambda t, n: put(t, column, 2, 7) if n == 2 else t)
    first = fault(validate_dataset(dataset), "row numbers")
    assert (first.place.episode, first.place.frame, first.place.feature) == (2, 2, column)
    assert "is 7" in first.message


def test_a_changed_number_differs_from_recording_hdf5_and_statistics(dataset):
    rewrite(dataset / DATA, lambda t, n: put(t, "action", 2, [2.0, 20.5]) if n == 1 else t)
    found = validate_dataset(dataset)
    first = fault(found, "recording: numbers")
    assert (first.place.episode, first.place.frame, first.place.feature) == (1, 2, "action")
    assert "element 1 is 20.5 in the table, 20 in the recording" in first.message
    assert failed(found) == {
        "statistics of numbers",
        "hdf5 against tables",
        "recording: numbers",
    }


def test_a_number_that_is_none_is_named(dataset):
    nan = [float("nan"), 0.0, 0.0]
    rewrite(dataset / DATA, lambda t, n: put(t, "observation.state", 4, nan) if n == 0 else t)
    first = fault(validate_dataset(dataset), "finite numbers")
    assert "element 0 is nan" in first.message
    assert (first.place.file, first.place.episode, first.place.frame) == (DATA, 0, 4)
    assert first.place.feature == "observation.state"


def test_a_column_of_another_type_is_named(dataset):
    table = pq.read_table(dataset / DATA)
    at = table.column_names.index("next.reward")
    doubled = pc.cast(table["next.reward"], pa.float64())
    pq.write_table(table.set_column(at, "next.reward", doubled), dataset / DATA)
    found = validate_dataset(dataset)
    assert failed(found) == {"columns"}
    assert fault(found, "columns").place.feature == "next.reward"


def test_a_missing_column_hides_no_other(dataset):
    table = pq.read_table(dataset / DATA).drop_columns(["action"])
    pq.write_table(table, dataset / DATA)
    found = validate_dataset(dataset)
    assert fault(found, "columns").place.feature == "action"
    assert check(found, "timestamps").state == "passed"
    assert check(found, "statistics of numbers").compared["features"] == 8


def test_columns_beside_the_features_are_no_fault(dataset):
    table = pq.read_table(dataset / DATA)
    pq.write_table(table.append_column("note", pa.array(["x"] * 26)), dataset / DATA)
    found = validate_dataset(dataset)
    assert found.passed
    assert check(found, "columns").compared["columns beside the features"] == 1


def test_another_rate_is_found_in_tables_videos_and_metadata(dataset):
    edit_json(dataset / "meta/info.json", lambda info: info.update(fps=20))
    found = validate_dataset(dataset)
    assert {"info.json", "episodes table", "timestamps", "video packets"} <= failed(found)
    first = fault(found, "timestamps")
    assert (first.place.episode, first.place.frame) == (0, 1)
    assert "20, the mapping in conversion.json has 10" in fault(found, "info.json").message


@pytest.mark.parametrize(
    ("key", "value", "told"),
    [
        ("codebase_version", "v2.1", "expected v3.0"),
        ("total_frames", "26", "a str"),
        ("data_path", "data/file.parquet", "data_path is"),
        ("splits", {"train": "0:4"}, "there are 3 episodes"),
    ],
)
def test_metadata_that_is_wrong_is_named(dataset, key, value, told):
    edit_json(dataset / "meta/info.json", lambda info: info.update({key: value}))
    messages = [f.message for f in check(validate_dataset(dataset), "info.json").first_failures]
    assert any(told in message for message in messages)


@pytest.mark.parametrize("key", ["total_episodes", "total_frames"])
def test_totals_are_those_of_the_rows(dataset, key):
    edit_json(dataset / "meta/info.json", lambda info: info.update({key: 30}))
    assert f"{key} of info.json is 30" in fault(validate_dataset(dataset), "episodes table").message


def test_metadata_that_is_no_json_hides_no_other_file(dataset):
    (dataset / "meta/info.json").write_text("{")
    found = validate_dataset(dataset)
    assert fault(found, "info.json").place.file == "meta/info.json"
    assert check(found, "tasks").state == "passed"
    assert check(found, "hdf5 against tables").failures
    assert check(found, "hdf5 layout").state == "passed"


def test_episodes_that_overlap_are_named(dataset):
    rewrite(dataset / EPISODES, lambda table, _: put(table, "dataset_from_index", 1, 11))
    found = validate_dataset(dataset)
    first = fault(found, "episodes table")
    assert "dataset_from_index is 11, expected 12" in first.message
    assert first.place.episode == 1


def test_a_time_in_a_video_that_drifts_is_told_and_a_wrong_one_fails(dataset):
    name = f"videos/{LEFT}/from_timestamp"
    rewrite(dataset / EPISODES, lambda table, _: put(table, name, 2, 1.7 + 1e-6))
    wanted = check(validate_dataset(dataset), "episodes table")
    assert wanted.state == "warning"
    assert wanted.first_warnings[0].place.episode == 2
    rewrite(dataset / EPISODES, lambda table, _: put(table, name, 2, 1.8))
    found = validate_dataset(dataset)
    first = fault(found, "episodes table")
    assert "from_timestamp is 1.8 s, expected 1.7 s" in first.message
    assert (first.place.episode, first.place.feature) == (2, LEFT)


def test_an_unknown_task_is_named(dataset):
    rewrite(dataset / EPISODES, lambda table, _: put(table, "tasks", 1, ["another"]))
    found = validate_dataset(dataset)
    assert fault(found, "episodes table").place.episode == 1
    assert fault(found, "row numbers").place.feature == "task_index"


def test_edited_statistics_of_numbers_are_found(dataset):
    def change(statistics):
        statistics["action"]["q90"][1] *= 1 + 1e-7

    edit_json(dataset / "meta/stats.json", change)
    found = validate_dataset(dataset)
    first = fault(found, "statistics of numbers")
    assert first.message.startswith("q90 of element 1 is")
    assert (first.place.file, first.place.feature) == ("meta/stats.json", "action")
    assert failed(found) == {"statistics of numbers"}


def test_edited_statistics_of_an_episode_are_found(dataset):
    name = "stats/action/max"
    rewrite(dataset / EPISODES, lambda table, _: put(table, name, 1, [4.0, 41.0]))
    first = fault(validate_dataset(dataset), "statistics of numbers")
    assert first.message == "max of element 1 is 41, the rows give 40"
    assert (first.place.file, first.place.episode) == (EPISODES, 1)


def test_missing_statistics_are_found(dataset):
    edit_json(dataset / "meta/stats.json", lambda statistics: statistics.pop("action"))
    edit_json(dataset / "meta/stats.json", lambda statistics: statistics.pop(LEFT))
    found = validate_dataset(dataset)
    assert fault(found, "statistics of numbers").place.feature == "action"
    assert fault(found, "statistics of images").place.feature == LEFT


@pytest.mark.parametrize("key", ["mean", "std", "max", "count"])
def test_edited_statistics_of_images_are_found_without_decoding_all(dataset, key):
    def change(statistics):
        value = np.array(statistics[GLOBAL][key])
        statistics[GLOBAL][key] = (value * 0.9 if key != "count" else value + 1).tolist()

    edit_json(dataset / "meta/stats.json", change)
    found = validate_dataset(dataset)
    first = fault(found, "statistics of images")
    assert (first.place.file, first.place.feature) == ("meta/stats.json", GLOBAL)
    assert first.message.startswith(key)
    assert failed(found) == {"statistics of images"}


@pytest.mark.parametrize(
    ("kind", "key", "factor"),
    [
        ("images", "mean", 0.9),
        ("images", "std", 0.9),
        ("images", "q50", 0.7),
        ("images", "q99", 0.9),
        ("video", "mean", 0.2),
        ("video", "std", 0.2),
    ],
)
def test_edited_statistics_of_an_episode_s_images_are_found_by_decoding_all(
    made, tmp_path, kind, key, factor
):
    dataset = Path(shutil.copytree(made / kind, tmp_path / kind))

    def change(table, _):
        name = f"stats/{GLOBAL}/{key}"
        value = np.array(table[name].to_pylist()[2])
        return put(table, name, 2, (value * factor).tolist())

    rewrite(dataset / EPISODES, change)
    first = fault(validate_dataset(dataset, full=True), "statistics of images")
    assert (first.place.episode, first.place.feature) == (2, GLOBAL)
    assert first.message.startswith(key)


def test_what_a_codec_may_have_changed_is_a_warning(dataset):
    def change(table, _):
        name = f"stats/{GLOBAL}/mean"
        value = np.array(table[name].to_pylist()[2]) + 0.05
        return put(table, name, 2, value.tolist())

    rewrite(dataset / EPISODES, change)
    wanted = check(validate_dataset(dataset, full=True), "statistics of images")
    place = wanted.first_warnings[0].place
    assert (place.episode, place.feature) == (2, GLOBAL)
    # That the dataset's own are not those of its episodes is a fault whatever a codec does.
    assert [f.place.file for f in wanted.first_failures] == ["meta/stats.json"]


def test_statistics_of_some_images_are_compared_roughly(make_mapping, bags, tmp_path):
    mapping = make_mapping("outputs.lerobot.image_statistics=sampled")
    long = write_bag(tmp_path / "long", robot_messages(300))
    run_job(Job((long,), mapping, tmp_path / "out"))
    statistics = json.loads((tmp_path / "out/meta/stats.json").read_text())
    assert statistics[GLOBAL]["count"][0] < 300
    found = validate_dataset(tmp_path / "out", full=True)
    assert found.state == "passed"
    assert "roughly" in check(found, "statistics of images").bound
    assert "largest difference of mean, some images" in (
        check(found, "statistics of images").measured
    )


@pytest.mark.parametrize(
    "file",
    ["meta/tasks.parquet", "meta/stats.json", EPISODES, DATA, VIDEO, "hdf5/episode_000001.hdf5"],
)
def test_a_missing_file_is_named(dataset, file):
    (dataset / file).unlink()
    found = validate_dataset(dataset)
    assert not found.passed
    named = [str(f) for c in found.checks for f in c.first_failures]
    assert any(file in text and "missing" in text for text in named) or (
        file == EPISODES and fault(found, "episodes table").message.startswith("there is no meta")
    )


def test_a_stray_table_fails_and_a_stray_file_is_told(dataset):
    shutil.copy(dataset / DATA, dataset / "data/chunk-000/file-001.parquet")
    (dataset / "notes.txt").touch()
    wanted = check(validate_dataset(dataset), "files")
    assert wanted.first_failures[0].place.file == "data/chunk-000/file-001.parquet"
    assert [warning.place.file for warning in wanted.first_warnings] == ["notes.txt"]


def remux(path: Path, keep) -> None:
    """Copy the packets for which ``keep`` is true."""
    whole = path.with_name("whole.mp4")
    path.rename(whole)
    with av.open(str(whole)) as source, av.open(str(path), "w") as target:
        stream = target.add_stream_from_template(source.streams.video[0])
        stream.time_base = source.streams.video[0].time_base
        for number, packet in enumerate(source.demux(video=0)):
            if packet.dts is not None and keep(number):
                packet.stream = stream
                target.mux_one(packet)
    whole.unlink()


def test_a_lost_frame_of_a_video_is_named(dataset):
    # Frame 15 is frame 3 of episode 1; the next one is a key frame.
    remux(dataset / VIDEO, lambda number: number != 15)
    found = validate_dataset(dataset)
    first = fault(found, "video packets")
    assert first.message == "holds 25 frames, its episodes have 26 rows"
    assert (first.place.file, first.place.episode, first.place.frame) == (VIDEO, 1, 3)
    assert first.place.feature == LEFT
    missing = fault(validate_dataset(dataset, full=True), "images")
    assert "there is no frame 15" in missing.message
    assert (missing.place.episode, missing.place.frame) == (1, 3)


def test_a_truncated_video_is_named_and_the_others_are_checked(dataset):
    data = (dataset / VIDEO).read_bytes()
    (dataset / VIDEO).write_bytes(data[: len(data) * 2 // 3])
    found = validate_dataset(dataset)
    assert {"video packets", "images", "recording: images"} <= failed(found)
    for name in ("video packets", "images"):
        places = {finding.place.file for finding in check(found, name).first_failures}
        assert places == {VIDEO}
    assert check(found, "recording: numbers").state == "passed"
    (dataset / VIDEO).write_bytes(data[:40])
    assert fault(validate_dataset(dataset), "video packets").place.file == VIDEO


def test_bits_that_fell_over_in_a_video_are_found(dataset):
    with av.open(str(dataset / VIDEO)) as container:
        packet = [packet for packet in container.demux(video=0) if packet.size][14]
        begin, size = packet.pos, packet.size
    data = bytearray((dataset / VIDEO).read_bytes())
    data[begin + 8 : begin + size] = bytes(size - 8)
    (dataset / VIDEO).write_bytes(data)
    found = validate_dataset(dataset)
    places = [(f.place.episode, f.place.frame) for f in check(found, "images").first_failures]
    worse = [
        (f.place.episode, f.place.frame) for f in check(found, "recording: images").first_failures
    ]
    assert (1, 2) in places + worse
    assert not found.passed


def test_cameras_that_were_swapped_are_found(dataset):
    left, other = dataset / VIDEO, dataset / VIDEO.replace(LEFT, GLOBAL)
    left.rename(dataset / "swap")
    other.rename(left)
    (dataset / "swap").rename(other)
    found = validate_dataset(dataset)
    first = fault(found, "recording: images")
    assert "PSNR" in first.message
    assert (first.place.episode, first.place.frame) == (0, 0)
    assert {"hdf5 against images", "recording: images"} <= failed(found)


def test_colours_in_another_order_are_found(make_mapping, tmp_path):
    messages = robot_messages(3)
    colours = np.zeros((32, 64, 3), np.uint8)
    colours[:, :32], colours[:, 32:] = (200, 40, 40), (40, 40, 200)

    def shown(pixels):
        _, data = cv2.imencode(".png", cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR))
        return {"format": "png", "data": data.reshape(-1)}

    def recorded(path, pixels):
        return write_bag(
            path, [m._replace(fields=shown(pixels)) if "cam" in m.topic else m for m in messages]
        )

    right = recorded(tmp_path / "right" / "bag", colours)
    wrong = recorded(tmp_path / "wrong" / "bag", np.ascontiguousarray(colours[..., ::-1]))
    run_job(Job((right,), make_mapping(), tmp_path / "out"))
    assert validate_dataset(tmp_path / "out", bags=[right]).passed
    assert (
        "PSNR"
        in fault(validate_dataset(tmp_path / "out", bags=[wrong]), "recording: images").message
    )


@pytest.mark.parametrize(("crf", "noise", "state"), [(30, 255, "warning"), (51, 60, "passed")])
def test_noise_that_a_codec_smooths_is_no_fault(make_mapping, tmp_path, crf, noise, state):
    generator = np.random.default_rng(0)
    rows = np.linspace(0, 255 - noise, 96, dtype=np.int64)[:, None, None]

    def shown():
        pixels = (rows + generator.integers(0, noise, (96, 128, 3))).astype(np.uint8)
        _, data = cv2.imencode(".png", pixels)
        return {"format": "png", "data": data.reshape(-1)}

    messages = [m._replace(fields=shown()) if "cam" in m.topic else m for m in robot_messages(6)]
    recording = write_bag(tmp_path / "bag", messages)
    run_job(Job((recording,), make_mapping(f"outputs.lerobot.crf={crf}"), tmp_path / "out"))
    found = check(validate_dataset(tmp_path / "out", full=True), "recording: images")
    assert found.state == state, (found.measured, found.first_warnings)


def test_another_recording_is_found(dataset, tmp_path):
    messages = robot_messages(12)
    for message in messages:
        if message.topic == "/joint_cmd":
            message.fields["data"] = message.fields["data"] + 0.5
    other = [
        write_bag(tmp_path / "robot_12", messages),
        write_bag(tmp_path / "robot_5", robot_messages(6)),
    ]
    found = validate_dataset(dataset, bags=other)
    first = fault(found, "recording: frames")
    assert first.message == "becomes 6 rows, the dataset has 5"
    assert (first.place.file, first.place.episode) == (str(other[1]), 1)
    first = fault(found, "recording: numbers")
    assert (first.place.episode, first.place.frame, first.place.feature) == (0, 0, "action")
    told = check(found, "recording: frames").first_warnings[0].message
    assert "robot_9 is not there" in told


def test_recordings_of_one_name_are_told_apart_by_their_folders(make_mapping, tmp_path):
    recordings = [
        write_bag(tmp_path / f"day_{day}" / "bag", robot_messages(3 + day)) for day in (1, 2)
    ]
    broken = tmp_path / "day_0" / "bag"
    broken.mkdir(parents=True)
    (broken / "bag_0.mcap").touch()
    job = Job((broken, *recordings), make_mapping("outputs.hdf5=null"), tmp_path / "out")
    assert len(run_job(job).refused) == 1
    moved = tmp_path / "moved"
    moved.mkdir()
    for day in (0, 1, 2):
        (tmp_path / f"day_{day}").rename(moved / f"day_{day}")
    bags = [moved / f"day_{day}" / "bag" for day in (0, 1, 2)]
    found = validate_dataset(tmp_path / "out", bags=bags)
    assert check(found, "recording: frames").compared == {"recordings": 2, "rows": 9}
    assert found.state == "passed", found.to_json()


def test_recordings_that_are_gone_are_skipped_and_that_is_said(make_mapping, bags, tmp_path):
    moved = Path(shutil.copytree(bags[0], tmp_path / "moved"))
    run_job(Job((moved,), make_mapping(), tmp_path / "out"))
    moved.rename(tmp_path / "elsewhere")
    found = validate_dataset(tmp_path / "out")
    assert found.passed
    assert check(found, "recording: frames").state == "skipped"
    # One recording for one: its name does not matter.
    found = validate_dataset(tmp_path / "out", bags=[tmp_path / "elsewhere"])
    assert check(found, "recording: frames").state == "passed"
    assert check(found, "recording: numbers").compared["vectors"] > 20


def test_blends_and_parts_are_those_of_the_recording(make_mapping, bags, tmp_path):
    mapping = make_mapping(
        "features[observation.state].align=interpolate",
        "features[observation.state].offset_s=0.013",
        "features[observation.both]={parts: [{topic: /joint_states, names: [b]}, "
        "{topic: /joint_cmd, align: hold, field: 'data[1]', scale: 0.1}]}",
        "rosbag.split_episodes=5",
        "rosbag.drop_first=1",
    )
    run_job(Job(bags, mapping, tmp_path / "out"))
    found = validate_dataset(tmp_path / "out", full=True)
    assert found.state == "passed", found.to_json()
    assert found.episodes > 3


def test_a_broken_image_of_a_table_is_named(images):
    def change(table, number):
        value = table[LEFT].to_pylist()[2]
        return (
            put(table, LEFT, 2, {**value, "bytes": value["bytes"][:-30]}) if number == 1 else table
        )

    rewrite(images / DATA, change)
    found = validate_dataset(images, full=True)
    first = fault(found, "images")
    assert (first.place.file, first.place.episode, first.place.frame) == (DATA, 1, 2)
    assert first.place.feature == LEFT
    assert "does not decode" in first.message
    assert fault(found, "recording: images").place.frame == 2


def test_images_of_another_size_are_named(images):
    def change(info):
        info["features"][LEFT]["shape"] = [64, 32, 3]

    edit_json(images / "meta/info.json", change)
    assert "(32, 64, 3)" in fault(validate_dataset(images), "images").message


def test_hdf5_rows_that_are_not_those_of_the_table_are_named(dataset):
    with h5py.File(dataset / "hdf5/episode_000001.hdf5", "r+") as file:
        file["rewards"][3] = 9
        file["observations/global_image"][4] = 0
    found = validate_dataset(dataset)
    first = fault(found, "hdf5 against tables")
    assert first.message == "rewards is 9.0, the table has 1.5"
    assert (first.place.episode, first.place.frame) == (1, 3)
    first = fault(found, "hdf5 against images")
    assert (first.place.episode, first.place.frame, first.place.feature) == (1, 4, GLOBAL)


def test_hdf5_without_a_dataset_or_with_too_few_rows_is_named(dataset):
    path = dataset / "hdf5/episode_000002.hdf5"
    with h5py.File(path, "r+") as file:
        del file["terminals"]
        kept = file["observations/joint"][:7]
        del file["observations/joint"]
        file["observations/joint"] = kept
    messages = [str(f) for f in check(validate_dataset(dataset), "hdf5 layout").first_failures]
    assert any("terminals" in text and "is missing" in text for text in messages)
    assert any("observations/joint" in text and "has 7 rows" in text for text in messages)
    assert all("episode 2" in text for text in messages)


def test_hdf5_files_of_another_folder_are_checked(bags, make_mapping, tmp_path):
    out, files = tmp_path / "out", tmp_path / "files"
    run_job(Job(bags, make_mapping(), out, hdf5=files))
    assert check(validate_dataset(out), "hdf5 layout").state == "skipped"
    found = validate_dataset(out, hdf5=files)
    assert check(found, "hdf5 against tables").compared["rows"] == 4 * 26
    assert check(validate_dataset(files), "hdf5 layout").compared["files"] == 3
    (files / "episode_000001.hdf5").write_bytes(b"no HDF5")
    first = fault(validate_dataset(out, hdf5=files), "hdf5 layout")
    assert first.place.file == str(files / "episode_000001.hdf5")


def test_depth_in_tables_is_checked_as_png_of_16_bits(images, tmp_path):
    """Depth that is made by hand: a feature (H, W, 1) of image files."""
    depth = np.arange(32 * 64, dtype=np.uint16).reshape(32, 64) + 500
    _, png = cv2.imencode(".png", depth)
    _, colours = cv2.imencode(".png", np.zeros((32, 64, 3), np.uint8))

    def stored(value):
        def change(table, number):
            rows = [{"bytes": png.tobytes(), "path": "x.png"}] * len(table)
            if value is not None and number == 2:
                rows[3] = {"bytes": value, "path": "x.png"}
            at = table.column_names.index(LEFT)
            return table.set_column(at, LEFT, pa.array(rows, table.schema.field(LEFT).type))

        return change

    def one_channel(info):
        info["features"][LEFT]["shape"] = [32, 64, 1]

    edit_json(images / "meta/info.json", one_channel)
    (images / "conversion.json").unlink()
    rewrite(images / DATA, stored(None))
    found = validate_dataset(images, full=True, pictures=tmp_path / "pictures")
    assert check(found, "images").state == "passed"
    assert (tmp_path / "pictures" / f"{LEFT}.png").exists()
    rewrite(images / DATA, stored(colours.tobytes()))
    first = fault(validate_dataset(images, full=True), "images")
    assert "expected 16 bits, grey" in first.message
    assert (first.place.episode, first.place.frame, first.place.feature) == (2, 3, LEFT)
