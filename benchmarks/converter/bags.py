"""Recordings to convert: three cameras at 30 Hz, joints and commands at 100 Hz, as ROS 1 bags.

Images are a camera's: textured, moving, with the noise of a sensor (see ``recordings.py``), 640x480
JPEG files of about 65 kB. A few hundred distinct ones run to and fro, so that a bag of any size is
written as fast as the disk takes it, in the memory of those few.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray
from recordings import frames
from rosbags import rosbag1
from rosbags.typesys import Stores, get_typestore

__all__ = ["CAMERAS", "COMMANDS", "FPS", "JOINTS", "JOINTS_TOPIC", "MAPPING", "Scenes", "write_bag"]

CAMERAS = ("left", "right", "global")
JOINTS_TOPIC, COMMANDS = "/joint_states", "/joint_commands"
JOINTS = 14
FPS = 30
WIDTH, HEIGHT = 640, 480
_JPEG_QUALITY = 95
_START_NS = 1_700_000_000_000_000_000
_JOINTS_PERIOD_NS = 10_000_000
_CAMERA_DELAY_NS = 1_000_000

MAPPING = f"""\
robot_type: two_arms
task: Put the cup on the tray.
fps: {FPS}
rosbag: {{main: observation.images.left}}
features:
  observation.images.left: {{topic: /cam_left/compressed}}
  observation.images.right: {{topic: /cam_right/compressed}}
  observation.images.global: {{topic: /cam_global/compressed}}
  observation.state: {{topic: {JOINTS_TOPIC}}}
  action: {{topic: {COMMANDS}, field: position}}
outputs:
  lerobot: {{}}
"""


class Scenes:
    """The JPEG files of every camera, made once.

    Args:
        count: Distinct images of a camera.
    """

    def __init__(self, count: int) -> None:
        self._files = [_encoded(count, seed) for seed in range(len(CAMERAS))]

    def image(self, camera: int, frame: int) -> NDArray[np.uint8]:
        """The file of a frame, (n,) uint8: forwards through the scene, then backwards."""
        files = self._files[camera]
        turn = frame % (2 * len(files) - 2)
        return files[min(turn, 2 * len(files) - 2 - turn)]

    @property
    def frame_bytes(self) -> float:
        """Mean size of a frame of all cameras."""
        return float(sum(np.mean([len(file) for file in files]) for files in self._files))


class _Due(NamedTuple):
    time_ns: int
    topic: str
    camera: int
    frame: int


def write_bag(path: Path, scenes: Scenes, frame_count: int) -> Path:
    """Write a ``.bag`` of so many frames, message by message; joints begin before and end after."""
    store = get_typestore(Stores.ROS1_NOETIC)
    joints, image = "sensor_msgs/msg/JointState", "sensor_msgs/msg/CompressedImage"
    kinds = {JOINTS_TOPIC: joints, COMMANDS: joints}
    kinds |= {f"/cam_{camera}/compressed": image for camera in CAMERAS}
    with rosbag1.Writer(path) as writer:
        connections = {
            topic: writer.add_connection(topic, kind, typestore=store)
            for topic, kind in kinds.items()
        }
        for due in _schedule(frame_count):
            header = _header(store, due.time_ns)
            if due.camera >= 0:
                data = scenes.image(due.camera, due.frame)
                message = store.types[image](header=header, format="jpeg", data=data)
            else:
                message = _joint_state(store, header, due.time_ns)
            kind = kinds[due.topic]
            content = store.serialize_ros1(message, kind)
            writer.write(connections[due.topic], due.time_ns, content)
    return path


def _schedule(frame_count: int) -> Iterator[_Due]:
    """All messages in order of time."""
    joints_ns = _START_NS - 5 * _JOINTS_PERIOD_NS
    for frame in range(frame_count):
        frame_ns = _START_NS + frame * 1_000_000_000 // FPS
        while joints_ns <= frame_ns:
            yield from (_Due(joints_ns, topic, -1, frame) for topic in (JOINTS_TOPIC, COMMANDS))
            joints_ns += _JOINTS_PERIOD_NS
        for number, camera in enumerate(CAMERAS):
            yield _Due(
                frame_ns + number * _CAMERA_DELAY_NS, f"/cam_{camera}/compressed", number, frame
            )
    for _ in range(5):
        yield from (_Due(joints_ns, topic, -1, frame_count) for topic in (JOINTS_TOPIC, COMMANDS))
        joints_ns += _JOINTS_PERIOD_NS


def _header(store: Any, time_ns: int) -> Any:
    seconds, nanoseconds = divmod(time_ns, 1_000_000_000)
    stamp = store.types["builtin_interfaces/msg/Time"](sec=seconds, nanosec=nanoseconds)
    return store.types["std_msgs/msg/Header"](seq=0, stamp=stamp, frame_id="")


def _joint_state(store: Any, header: Any, time_ns: int) -> Any:
    seconds = (time_ns - _START_NS) * 1e-9
    position = np.sin(seconds + np.arange(JOINTS))
    return store.types["sensor_msgs/msg/JointState"](
        header=header,
        name=[f"joint_{number}" for number in range(JOINTS)],
        position=position,
        velocity=np.cos(seconds + np.arange(JOINTS)),
        effort=np.zeros(JOINTS),
    )


def _encoded(count: int, seed: int) -> list[NDArray[np.uint8]]:
    above = (WIDTH - HEIGHT) // 2
    found: list[NDArray[np.uint8]] = []
    for image in frames("camera", count, seed, WIDTH):
        _, data = cv2.imencode(
            ".jpg", image[above : above + HEIGHT], [cv2.IMWRITE_JPEG_QUALITY, _JPEG_QUALITY]
        )
        found.append(data.reshape(-1))
    return found
