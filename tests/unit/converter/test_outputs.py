"""What is written holds what was recorded; no setting of speed changes it."""

import json
import shutil
from pathlib import Path

import av
import cv2
import h5py
import numpy as np
import pyarrow.parquet as pq
import pytest
from bag_recording import BAG_FORMATS, START_NS, barcode, number_of, robot_messages, write_bag
from penstock_converter.jobs.job import run_job
from penstock_converter.jobs.request import Job

import penstock

ROWS = 12


def convert(bags, mapping, out, **options):
    outcome = run_job(Job(tuple(bags), mapping, out, **options))
    assert [bag.error for bag in outcome.refused] == []
    return outcome


def video_numbers(path):
    with av.open(str(path)) as container:
        frames = [
            (float(frame.time), number_of(frame.to_ndarray(format="rgb24")))
            for frame in container.decode(video=0)
        ]
    return [time for time, _ in frames], [number for _, number in frames]


@pytest.fixture(scope="module")
def three(tmp_path_factory):
    """Three recordings of 12, 5 and 9 rows."""
    folder = tmp_path_factory.mktemp("three")
    return [
        write_bag(folder / f"robot_{rows}", robot_messages(rows), bag_format)
        for rows, bag_format in ((12, "mcap"), (5, "db3"), (9, "mcap"))
    ]


@pytest.fixture(scope="module")
def dataset(three, make_mapping, tmp_path_factory):
    out = tmp_path_factory.mktemp("dataset") / "out"
    convert(three, make_mapping(), out)
    return out


def test_tables_hold_the_numbers_of_the_recordings(dataset):
    table = pq.read_table(dataset / "data/chunk-000/file-000.parquet").to_pydict()
    frames = [*range(12), *range(5), *range(9)]
    assert table["frame_index"] == frames
    assert table["index"] == list(range(26))
    assert table["episode_index"] == [0] * 12 + [1] * 5 + [2] * 9
    assert table["timestamp"] == [np.float32(frame / 10) for frame in frames]
    assert table["action"] == [[frame, 10 * frame] for frame in frames]
    assert table["next.reward"] == [frame / 2 for frame in frames]
    assert np.flatnonzero(table["next.done"]).tolist() == [11, 16, 25]
    joints = np.array([[frame / 10, -frame / 10, 1] for frame in frames], np.float32)
    np.testing.assert_allclose(np.array(table["observation.state"]), joints, atol=1e-7)


def test_every_frame_of_every_camera_is_in_its_video_at_its_time(dataset):
    numbers = [*range(12), *range(5), *range(9)]
    for camera, base in (("left", 1000), ("global", 0)):
        video = dataset / f"videos/observation.images.{camera}/chunk-000/file-000.mp4"
        times, found = video_numbers(video)
        assert found == [base + number for number in numbers]
        # Exact for the whole file: three episodes later nothing has drifted.
        np.testing.assert_allclose(times, np.arange(26) / 10, atol=1e-9)


def test_episodes_say_where_they_are(dataset):
    rows = pq.read_table(dataset / "meta/episodes/chunk-000/file-000.parquet").to_pylist()
    assert [row["length"] for row in rows] == [12, 5, 9]
    assert [row["dataset_from_index"] for row in rows] == [0, 12, 17]
    assert [row["dataset_to_index"] for row in rows] == [12, 17, 26]
    key = "videos/observation.images.left/from_timestamp"
    assert [row[key] for row in rows] == [0.0, 1.2, 1.7]
    assert all(row["tasks"] == ["count"] for row in rows)
    info = json.loads((dataset / "meta/info.json").read_text())
    assert (info["total_episodes"], info["total_frames"], info["fps"]) == (3, 26, 10)
    assert info["features"]["observation.state"]["names"] == ["a", "b", "c"]
    assert info["features"]["observation.images.left"]["shape"] == [32, 64, 3]


def test_statistics_are_those_of_all_frames(dataset):
    statistics = json.loads((dataset / "meta/stats.json").read_text())
    actions = np.array([*range(12), *range(5), *range(9)], np.float64)
    assert statistics["action"]["mean"] == pytest.approx([actions.mean(), 10 * actions.mean()])
    assert statistics["action"]["q90"][0] == pytest.approx(np.quantile(actions, 0.9))
    assert statistics["action"]["count"] == [26]
    jpegs = [
        cv2.imdecode(
            cv2.imencode(".jpg", cv2.cvtColor(barcode(int(n)), cv2.COLOR_RGB2BGR))[1],
            cv2.IMREAD_COLOR,
        )
        for n in actions
    ]
    pixels = np.stack(jpegs)[..., 0].astype(np.float64) / 255
    found = statistics["observation.images.global"]
    assert found["mean"][2] == [[pytest.approx(pixels.mean())]]
    assert found["std"][2] == [[pytest.approx(pixels.std())]]
    assert found["std"][2][0][0] > 0.1


def test_hdf5_has_one_observation_more_than_actions(dataset):
    with h5py.File(dataset / "hdf5/episode_000001.hdf5") as file:
        assert file["actions"][:].tolist() == [[n, 10 * n] for n in range(5)]
        assert file["rewards"][:].tolist() == [n / 2 for n in range(5)]
        assert file["terminals"][:].tolist() == [False] * 4 + [True]
        np.testing.assert_allclose(file["observations/joint"][:, 0], np.arange(6) / 10, atol=1e-7)
        images = file["observations/left_image"]
        assert images.shape == (6, 32, 64, 3)
        assert images.chunks is None
        assert [number_of(image) for image in images] == [1000 + n for n in range(6)]
        assert dict(file.attrs)["source"] == "robot_5"


def test_the_sampler_serves_what_was_converted(dataset):
    with penstock.open_sampler(f"file://{dataset}/hdf5/*.hdf5") as sampler:
        assert (sampler.info.transitions, sampler.info.episodes) == (26, 3)
        assert sampler.info.refused == ()
        plan = penstock.Plan(seed=0, batch_size=26, split="all", sampling="epoch")
        batch = sampler.sample(plan, 0)
    for row in range(26):
        number = number_of(batch.images["global"][row])
        assert batch.action[row].tolist() == [number, 10 * number]
        assert number_of(batch.images["left"][row]) == 1000 + number
        if not batch.terminal[row]:
            assert number_of(batch.next_images["global"][row]) == number + 1


def files_of(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != "conversion.json"
    }


@pytest.mark.parametrize(
    "overrides",
    [
        (),
        ("rosbag.time=header", "features.action.time=receive", "features[next.reward].time=receive",
         "features[next.done].time=receive"),
        ("features[observation.state].align=interpolate", "features.action.align=hold",
         "features.action.offset_s=0.05", "outputs.lerobot.video=false"),
        ("outputs.lerobot.codec=copy",),
    ],
)  # fmt: skip
def test_output_is_the_same_to_the_byte_for_every_chunk_size(
    bag, make_mapping, tmp_path, overrides
):
    found = {}
    for size in (1, 7, 1000, "auto", "null"):
        mapping = make_mapping(f"rosbag.chunk_size={size}", *overrides)
        convert([bag], mapping, tmp_path / str(size))
        found[size] = files_of(tmp_path / str(size))
    assert len(found[1]) >= 6
    assert found[1] == found[7] == found[1000] == found["auto"] == found["null"]


@pytest.mark.parametrize("bag_format", BAG_FORMATS)
def test_output_is_the_same_for_every_format_of_recording(
    dataset, make_mapping, tmp_path, bag_format
):
    name = "robot.bag" if bag_format == "ros1" else "robot"
    bag = write_bag(tmp_path / name, robot_messages(ROWS), bag_format)
    convert([bag], make_mapping(), tmp_path / "out")
    with (
        h5py.File(dataset / "hdf5/episode_000000.hdf5") as expected,
        h5py.File(tmp_path / "out/hdf5/episode_000000.hdf5") as found,
    ):
        for key in ("actions", "rewards", "observations/joint", "observations/left_image"):
            assert found[key][:].tolist() == expected[key][:].tolist()


def test_storage_files_that_overlap_in_time_give_the_same_output(bag, make_mapping, tmp_path):
    messages = robot_messages(ROWS)
    folder = tmp_path / "robot"
    folder.mkdir()
    # Every other message in either file: reading by time would miss half of them.
    for number in range(2):
        part = write_bag(tmp_path / f"part_{number}", messages[number::2])
        shutil.copy(next(part.glob("*.mcap")), folder / f"robot_{number}.mcap")
    for size in (3, 1000):
        mapping = make_mapping(f"rosbag.chunk_size={size}")
        convert([folder], mapping, tmp_path / f"out_{size}")
    convert([bag], make_mapping(), tmp_path / "whole")
    assert files_of(tmp_path / "out_3") == files_of(tmp_path / "whole")
    assert files_of(tmp_path / "out_1000") == files_of(tmp_path / "whole")


def test_images_in_tables_are_the_very_bytes_of_the_recording(bag, make_mapping, tmp_path):
    convert([bag], make_mapping("outputs.lerobot.video=false"), tmp_path / "out")
    table = pq.read_table(tmp_path / "out/data/chunk-000/file-000.parquet").to_pydict()
    recorded = [
        message.fields["data"].tobytes()
        for message in robot_messages(ROWS)
        if message.topic == "/cam_global/compressed"
    ]
    assert [image["bytes"] for image in table["observation.images.global"]] == recorded[:ROWS]
    assert not (tmp_path / "out/videos").exists()


def test_interpolation_and_hold_give_the_values_at_the_moment(bag, make_mapping, tmp_path):
    mapping = make_mapping(
        "features[observation.state].align=interpolate",
        "features[observation.state].offset_s=0.013",
        "features.action.align=hold",
        "features.action.offset_s=0.005",
        "outputs.hdf5=null",
    )
    convert([bag], mapping, tmp_path / "out")
    table = pq.read_table(tmp_path / "out/data/chunk-000/file-000.parquet").to_pydict()
    # The command of frame 0 comes 12 ms after it, so frame 0 has none yet and is left out.
    frames = np.arange(1, ROWS)
    joints = np.stack([frames / 10 + 0.013, -frames / 10 - 0.013, np.ones(ROWS - 1)], axis=1)
    np.testing.assert_allclose(table["observation.state"], joints, atol=1e-6)
    assert [action[0] for action in table["action"]] == (frames - 1).tolist()


def test_rows_before_a_gap_are_truncated_not_joined_to_what_follows(make_mapping, tmp_path):
    lost = range(START_NS + 480_000_000, START_NS + 620_000_000)
    messages = [
        message
        for message in robot_messages(ROWS)
        if message.topic != "/joint_states" or message.receive_ns not in lost
    ]
    bag = write_bag(tmp_path / "robot", messages)
    mapping = make_mapping("rosbag.gap=drop", "features[observation.state].tolerance_s=0.015")
    outcome = convert([bag], mapping, tmp_path / "out")
    assert outcome.bags[0].dropped["no observation.state within 0.015 s"] == 2
    with h5py.File(tmp_path / "out/hdf5/episode_000000.hdf5") as file:
        assert file["actions"][:, 0].tolist() == [0, 1, 2, 3, 4, 7, 8, 9, 10, 11]
        assert np.flatnonzero(file["truncateds"]).tolist() == [4]


def test_many_small_episodes_share_files_and_large_ones_split(three, make_mapping, tmp_path):
    # Files of a megabyte at most: three noisy episodes do not fit into one.
    rng = np.random.default_rng(0)
    bags = []
    for number in range(3):
        messages = robot_messages(4, cameras=("global",), size=(400, 640))
        noisy = [
            message._replace(fields={"format": "jpeg", "data": _jpeg(rng)})
            if message.topic == "/cam_global/compressed"
            else message
            for message in messages
        ]
        bags.append(write_bag(tmp_path / f"robot_{number}", noisy))
    overrides = ("features[observation.images.left].topic=/cam_global/compressed",)
    limits = (
        "outputs.lerobot.data_file_mb=1",
        "outputs.lerobot.video_file_mb=1",
        "outputs.lerobot.crf=1",
    )
    convert(bags, make_mapping(*overrides, *limits, "outputs.hdf5=null"), tmp_path / "video")
    videos = sorted((tmp_path / "video/videos/observation.images.left").rglob("*.mp4"))
    assert [path.name for path in videos] == ["file-000.mp4", "file-001.mp4", "file-002.mp4"]
    image = make_mapping(*overrides, *limits, "outputs.lerobot.video=false", "outputs.hdf5=null")
    convert(bags, image, tmp_path / "image")
    tables = sorted((tmp_path / "image/data").rglob("*.parquet"))
    assert [len(pq.read_table(path)) for path in tables] == [4, 4, 4]
    episodes = pq.read_table(tmp_path / "image/meta/episodes/chunk-000/file-000.parquet")
    assert episodes["data/file_index"].to_pylist() == [0, 1, 2]


def _jpeg(rng):
    noise = rng.integers(0, 256, (400, 640, 3), np.uint8)
    return cv2.imencode(".jpg", noise, [cv2.IMWRITE_JPEG_QUALITY, 95])[1].reshape(-1)
