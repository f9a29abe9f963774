"""Memory follows the window, never the recording."""

import json
import subprocess
import sys

import cv2
import numpy as np
import pytest
from bag_recording import robot_messages, write_bag

HEIGHT, WIDTH = 240, 320
SHORT, LONG = 150, 1500
MB = 1_000_000


def record(path, frames):
    """One camera of noisy images, about 75 KB each: 230 KB when decoded."""
    rng = np.random.default_rng(0)
    noise = rng.integers(0, 256, (8, HEIGHT, WIDTH, 3), np.uint8)
    jpegs = [cv2.imencode(".jpg", image)[1].reshape(-1) for image in noise]
    messages = [
        message._replace(fields={"format": "jpeg", "data": jpegs[index % 8]})
        if message.topic.startswith("/cam")
        else message
        for index, message in enumerate(robot_messages(frames, cameras=("global",)))
    ]
    return write_bag(path, messages)


def peak_rss_bytes(bag, mapping, out):
    """Of a process of its own, so that nothing before it counts."""
    command = [sys.executable, "-m", "penstock.cli", "convert", str(bag)]
    settings = ["rosbag.chunk_size=50", "outputs.lerobot.preset=ultrafast"]
    subprocess.run(
        [*command, "--mapping", str(mapping), "--out", str(out), *settings],
        check=True,
        stderr=subprocess.DEVNULL,
    )
    return json.loads((out / "conversion.json").read_text())["peak_rss_bytes"]


@pytest.fixture
def mapping(tmp_path):
    path = tmp_path / "mapping.yaml"
    path.write_text("""
task: long
fps: 10
features:
  observation.images.global: {topic: /cam_global/compressed}
  observation.state: {topic: /joint_states}
  action: {topic: /joint_cmd}
""")
    return path


def test_ten_times_the_recording_takes_no_more_memory(tmp_path, mapping):
    short = peak_rss_bytes(record(tmp_path / "short", SHORT), mapping, tmp_path / "out_short")
    long = peak_rss_bytes(record(tmp_path / "long", LONG), mapping, tmp_path / "out_long")
    decoded = (LONG - SHORT) * HEIGHT * WIDTH * 3
    assert decoded > 300 * MB
    assert long - short < 40 * MB
