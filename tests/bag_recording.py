"""Writes small recordings of a made-up robot, message by message, for tests of the converter."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal, NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray
from rosbags import rosbag1, rosbag2
from rosbags.typesys import Stores, get_typestore

__all__ = [
    "BAG_FORMATS",
    "ROBOT_MAPPING",
    "START_NS",
    "Message",
    "barcode",
    "compressed",
    "number_of",
    "raw_image",
    "robot_messages",
    "write_bag",
    "write_robots",
]

BagFormat = Literal["ros1", "mcap", "db3"]
BAG_FORMATS: tuple[BagFormat, ...] = ("ros1", "mcap", "db3")
START_NS = 1_700_000_000_000_000_000
_MS = 1_000_000
_BLOCK = 8


ROBOT_MAPPING = """
robot_type: made_up
task: count
fps: 10
rosbag: {main: observation.images.global}
features:
  observation.images.left: {topic: /cam_left/compressed, tolerance_s: 0.03}
  observation.images.global: {topic: /cam_global/compressed}
  observation.state: {topic: /joint_states}
  action: {topic: /joint_cmd}
  next.reward: {topic: /reward, offset_s: 0.1}
  next.done: {topic: /terminal, offset_s: 0.1}
outputs:
  lerobot: {}
  hdf5:
    joint: observation.state
    actions: action
    rewards: next.reward
    terminals: next.done
    images:
      left_image: observation.images.left
      right_image: observation.images.left
      global_image: observation.images.global
"""
"""How recordings of ``robot_messages`` become both kinds of datasets."""


class Message(NamedTuple):
    """What is to be recorded; ``fields`` are those of the type, ``stamp_ns`` its header's."""

    receive_ns: int
    topic: str
    kind: str
    fields: dict[str, Any]
    stamp_ns: int | None = None


def barcode(number: int, height: int = 32, width: int = 64) -> NDArray[np.uint8]:
    """An image that says which one it is, whatever a lossy codec does: 16 bits as grey blocks."""
    image = np.full((height, width, 3), 64, np.uint8)
    for bit in range(16):
        row, column = divmod(bit, 8)
        level = 220 if number >> bit & 1 else 30
        image[row * _BLOCK : (row + 1) * _BLOCK, column * _BLOCK : (column + 1) * _BLOCK] = level
    return image


def number_of(image: NDArray[Any]) -> int:
    """The number in a barcode, (H, W, 3) of any number type in [0, 255]."""
    found = 0
    for bit in range(16):
        row, column = divmod(bit, 8)
        block = image[
            row * _BLOCK + 2 : (row + 1) * _BLOCK - 2,
            column * _BLOCK + 2 : (column + 1) * _BLOCK - 2,
        ]
        found |= int(block.mean() > 125) << bit
    return found


def compressed(image: NDArray[np.uint8], extension: str = ".jpg") -> dict[str, Any]:
    """Fields of a CompressedImage of RGB pixels."""
    done, data = cv2.imencode(extension, cv2.cvtColor(image, cv2.COLOR_RGB2BGR))
    assert done
    return {"format": f"rgb8; {extension[1:]} compressed bgr8", "data": data.reshape(-1)}


def raw_image(pixels: NDArray[np.uint8], encoding: str, padding: int = 0) -> dict[str, Any]:
    """Fields of an Image; rows are followed by ``padding`` bytes."""
    height, width = pixels.shape[:2]
    rows = pixels.reshape(height, -1)
    padded = np.pad(rows, ((0, 0), (0, padding)), constant_values=99)
    return {
        "height": height,
        "width": width,
        "encoding": encoding,
        "is_bigendian": 0,
        "step": padded.shape[1],
        "data": padded.reshape(-1),
    }


def robot_messages(
    frames: int,
    *,
    start_ns: int = START_NS,
    cameras: tuple[str, ...] = ("left", "global"),
    size: tuple[int, int] = (32, 64),
) -> list[Message]:
    """An episode of ``frames`` rows at 10 Hz and one camera frame more.

    Image i of every camera shows the number i (left: 1000 + i). The joints, at 50 Hz, are
    ``[t, -t, 1]`` with t in seconds since the start; the action of frame i is ``[i, 10 i]``,
    12 ms after it; its reward is ``i / 2`` and comes, as its end does, 7 ms after frame i + 1.
    Header stamps are 3 ms before receipt.
    """
    found: list[Message] = []
    for index in range(frames + 1):
        tick_ns = start_ns + index * 100 * _MS
        for offset, camera in enumerate(cameras):
            number = index + (1000 if camera == "left" else 0)
            late_ns = tick_ns + (0 if camera == "global" else (3 + offset) * _MS)
            found.append(
                Message(
                    late_ns,
                    f"/cam_{camera}/compressed",
                    "sensor_msgs/msg/CompressedImage",
                    compressed(barcode(number, *size)),
                    late_ns - 3 * _MS,
                )
            )
        for part in range(5 if index < frames else 1):
            time_ns = tick_ns + part * 20 * _MS
            seconds = (time_ns - start_ns) * 1e-9
            found.append(
                Message(
                    time_ns,
                    "/joint_states",
                    "sensor_msgs/msg/JointState",
                    {
                        "name": ["a", "b", "c"],
                        "position": np.array([seconds, -seconds, 1.0]),
                        "velocity": np.array([1.0, -1.0, 0.0]),
                        "effort": np.zeros(0),
                    },
                    time_ns - 3 * _MS,
                )
            )
        if index < frames:
            found.append(
                Message(
                    tick_ns + 12 * _MS,
                    "/joint_cmd",
                    "std_msgs/msg/Float64MultiArray",
                    {"data": np.array([index, 10.0 * index])},
                )
            )
            judged_ns = tick_ns + 107 * _MS
            reward = {"data": index / 2}
            found.append(Message(judged_ns, "/reward", "std_msgs/msg/Float32", reward))
            done = {"data": index == frames - 1}
            found.append(Message(judged_ns, "/terminal", "std_msgs/msg/Bool", done))
    return sorted(found, key=lambda message: message.receive_ns)


def write_robots(folder: Path, rows: Iterable[int]) -> tuple[Path, ...]:
    """Write a recording of so many rows each, ten seconds apart."""
    return tuple(
        write_bag(
            folder / f"robot_{number}", robot_messages(count, start_ns=START_NS + number * 10**10)
        )
        for number, count in enumerate(rows)
    )


def write_bag(path: Path, messages: Iterable[Message], bag_format: BagFormat = "mcap") -> Path:
    """Write a recording; ``path`` is a folder for ROS 2, a ``.bag`` file for ROS 1."""
    ros1 = bag_format == "ros1"
    store = get_typestore(Stores.ROS1_NOETIC if ros1 else Stores.ROS2_HUMBLE)
    connections: dict[str, Any] = {}
    with _writer(path, bag_format) as writer:
        for message in messages:
            if message.topic not in connections:
                connections[message.topic] = writer.add_connection(
                    message.topic, message.kind, typestore=store
                )
            content = _content(store, message, ros1=ros1)
            serialize = store.serialize_ros1 if ros1 else store.serialize_cdr
            data = serialize(content, message.kind)
            writer.write(connections[message.topic], message.receive_ns, data)
    return path


def _writer(path: Path, bag_format: BagFormat) -> Any:
    if bag_format == "ros1":
        return rosbag1.Writer(path)
    plugin = {"mcap": rosbag2.StoragePlugin.MCAP, "db3": rosbag2.StoragePlugin.SQLITE3}[bag_format]
    return rosbag2.Writer(path, version=rosbag2.Writer.VERSION_LATEST, storage_plugin=plugin)


def _content(store: Any, message: Message, *, ros1: bool) -> Any:
    fields = dict(message.fields)
    types = store.types
    if message.stamp_ns is not None:
        seconds, nanoseconds = divmod(message.stamp_ns, 10**9)
        stamp = types["builtin_interfaces/msg/Time"](sec=seconds, nanosec=nanoseconds)
        sequence = {"seq": 0} if ros1 else {}
        header = types["std_msgs/msg/Header"](stamp=stamp, frame_id="", **sequence)
        fields["header"] = header
    if message.kind.endswith("MultiArray"):
        fields["layout"] = types["std_msgs/msg/MultiArrayLayout"](dim=[], data_offset=0)
    return types[message.kind](**fields)
