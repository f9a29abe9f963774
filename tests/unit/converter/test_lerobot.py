"""lerobot 0.4.4 opens what was converted, offline, and gives what was recorded."""

import os
import subprocess
from pathlib import Path

import cv2
import numpy as np
import pytest
from bag_recording import START_NS, Message, number_of, raw_image, robot_messages, write_bag
from penstock_converter.jobs.job import run_job
from penstock_converter.jobs.request import Job
from penstock_converter.mapping.parsing import load_mapping, parse_mapping
from rosbags.highlevel import AnyReader

ROOT = Path(__file__).resolve().parents[3]
PYTHON = os.environ.get("PENSTOCK_LEROBOT_PYTHON", str(ROOT / ".venv-lerobot/bin/python"))
PRESETS = ROOT / "services/converter/penstock_converter/mapping/presets"

DEPTH_MAPPING = """
task: measure
fps: 10
features: {observation.images.depth: {topic: /depth, dtype: depth}}
outputs: {lerobot: {}}
"""
DEPTH_MM = (np.arange(5 * 8 * 16).reshape(5, 8, 16) * 50).astype(np.uint16)

pytestmark = [
    pytest.mark.lerobot,
    pytest.mark.skipif(PYTHON == "none", reason="PENSTOCK_LEROBOT_PYTHON is none"),
]


@pytest.fixture(scope="module")
def loaded(make_mapping, real_data, tmp_path_factory):
    """What lerobot gives for each dataset, in one process: it takes long to start."""
    assert Path(PYTHON).exists(), f"{PYTHON} is missing: make test makes it"
    folder = tmp_path_factory.mktemp("lerobot")
    bags = tuple(write_bag(folder / f"robot_{rows}", robot_messages(rows)) for rows in (12, 5, 9))
    soccer = (real_data / "bags/amber/soccer_goal_single",)
    arm = (real_data / "bags/interbotix/waist_diagnostics.bag",)
    depth = (_record_depth(folder / "depth_bag"),)
    images = ["outputs.lerobot.video=false"]
    videos = ["outputs.lerobot.video=true", "outputs.lerobot.crf=5"]
    jobs = {
        "made_up_videos": (bags, make_mapping()),
        "made_up_images": (bags, make_mapping(*images)),
        "made_up_copies": (bags, make_mapping("outputs.lerobot.codec=copy")),
        "depth": (depth, parse_mapping(DEPTH_MAPPING)),
        "arm": (arm, load_mapping(PRESETS / "interbotix_waist.yaml")),
        "soccer_images": (soccer, load_mapping(PRESETS / "amber_soccer.yaml", images)),
        "soccer_videos": (soccer, load_mapping(PRESETS / "amber_soccer.yaml", videos)),
    }
    arguments: list[str] = []
    for name, (recordings, mapping) in jobs.items():
        run_job(Job(recordings, mapping, folder / name))
        arguments += [str(folder / name), str(folder / f"{name}.npz")]
    done = subprocess.run(
        [PYTHON, str(ROOT / "tests/lerobot_load.py"), *arguments],
        env={**os.environ, "HF_HOME": str(folder / "hf"), "PYTHONPATH": ""},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    found = {}
    for name in jobs:
        with np.load(folder / f"{name}.npz") as arrays:
            found[name] = dict(arrays)
    return found


@pytest.mark.parametrize("kind", ["videos", "images", "copies"])
def test_frames_of_all_episodes_load_with_their_own_pixels(loaded, kind):
    found = loaded[f"made_up_{kind}"]
    frames = np.array([*range(12), *range(5), *range(9)])
    assert (found["length"], found["episodes"], found["fps"]) == (26, 3, 10)
    assert found["lengths"].tolist() == [12, 5, 9]
    assert set(found["tasks"]) == {"count"}
    np.testing.assert_array_equal(found["timestamp"], (frames / 10).astype(np.float32))
    np.testing.assert_array_equal(found["action"], np.stack([frames, 10 * frames], axis=1))
    np.testing.assert_array_equal(found["next.reward"], frames / 2)
    np.testing.assert_allclose(found["observation.state"][:, 0], frames / 10, atol=1e-7)
    assert found["next.done"].dtype == bool
    assert np.flatnonzero(found["next.done"]).tolist() == [11, 16, 25]
    for camera, base in (("left", 1000), ("global", 0)):
        images = np.moveaxis(found[f"observation.images.{camera}"], 1, -1) * 255
        assert [number_of(image) for image in images] == (frames + base).tolist()
    assert found["chunk"].tolist() == [[0, 0], [1, 10], [2, 20]]
    np.testing.assert_allclose(found["state_mean"][0], frames.mean() / 10, atol=1e-7)


@pytest.mark.parametrize("kind", ["videos", "copies"])
def test_frames_before_a_frame_load_by_their_times(loaded, kind):
    # The last item, the second, and the second of the second episode.
    images = np.moveaxis(loaded[f"made_up_{kind}"]["history"], 2, -1) * 255
    numbers = [[number_of(image) for image in pair] for pair in images]
    assert numbers == [[1007, 1008], [1000, 1001], [1000, 1001]]


def test_depth_loads_as_millimetres_to_the_bit(loaded):
    found = loaded["depth"]["observation.images.depth"]
    assert (found.shape, found.dtype.kind) == ((5, 1, 8, 16), "i")
    # Pillow gives 16 signed bits, or 32 as older ones do.
    expected = DEPTH_MM[:, None].astype(found.dtype)
    np.testing.assert_array_equal(found, expected)
    assert DEPTH_MM.max() == 31_950


@pytest.mark.real_data
def test_a_real_arm_loads_with_the_states_and_commands_of_the_recording(real_data, loaded):
    bag = real_data / "bags/interbotix/waist_diagnostics.bag"
    times, positions, commands = _read_arm(bag)
    # Every tenth state for which a command was given in the 1.5 s before.
    commanded = np.array([time for time, _ in commands])
    kept = np.arange(0, len(times), 10)
    latest = np.searchsorted(commanded, times[kept], side="right") - 1
    given = (latest >= 0) & (times[kept] - commanded[latest] <= 1_500_000_000)
    kept, latest = kept[given], latest[given]
    found = loaded["arm"]
    assert found["length"] == len(kept) > 1000
    np.testing.assert_array_equal(
        found["timestamp"], (np.arange(len(kept)) / 10).astype(np.float32)
    )
    np.testing.assert_array_equal(found["observation.state"], positions[kept].astype(np.float32))
    expected = np.array([commands[index][1] for index in latest], np.float32)
    np.testing.assert_array_equal(found["action"], expected)


@pytest.mark.real_data
@pytest.mark.parametrize("kind", ["images", "videos"])
def test_real_images_load_with_the_pixels_of_the_recording(real_data, loaded, kind):
    bag = real_data / "bags/amber/soccer_goal_single"
    with AnyReader([bag]) as reader:
        recorded = [
            reader.deserialize(raw, "sensor_msgs/msg/Image").data.reshape(480, 640, 3)
            for _, _, raw in reader.messages()
        ]
    found = loaded[f"soccer_{kind}"]
    assert (found["length"], found["episodes"]) == (2, 1)
    assert found["timestamp"].tolist() == [0.0, 1.0]
    images = np.moveaxis(found["observation.images.camera"], 1, -1) * 255
    for image, expected in zip(images, recorded, strict=True):
        if kind == "videos":
            # Colour is stored at half the resolution: compare brightness.
            brightness = [
                cv2.cvtColor(np.rint(pixels).astype(np.uint8), cv2.COLOR_RGB2GRAY).astype(float)
                for pixels in (image, expected)
            ]
            assert np.abs(brightness[0] - brightness[1]).mean() < 2
        else:
            np.testing.assert_array_equal(np.rint(image), expected)


def _record_depth(path):
    messages = []
    for index, image in enumerate(DEPTH_MM):
        time_ns = START_NS + index * 100_000_000
        fields = raw_image(image.view(np.uint8), "16UC1") | {"width": image.shape[1]}
        messages.append(Message(time_ns, "/depth", "sensor_msgs/msg/Image", fields, time_ns))
    return write_bag(path, messages)


def _read_arm(bag):
    """States and commands of the arm, read by rosbags alone."""
    times, positions, commands = [], [], []
    with AnyReader([bag]) as reader:
        for connection, time, raw in reader.messages():
            if connection.topic == "/wx200/joint_states":
                times.append(time)
                positions.append(reader.deserialize(raw, connection.msgtype).position)
            elif connection.topic == "/wx200/commands/joint_single":
                commands.append((time, reader.deserialize(raw, connection.msgtype).cmd))
    return np.array(times), np.array(positions), commands
