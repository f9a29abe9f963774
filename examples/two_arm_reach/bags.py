"""One episode as a bag: the messages a robot would publish, with the clocks it would have.

    camera        every control tick, a little shaken, received 2 to 6 ms after its capture
    joint states  five times as often, with the motion between two ticks
    command       10 to 16 ms after a tick: that long the policy thinks
    reward, end   with the observation they judge, that is after the next tick

There is one camera frame more than there are commands: the robot also looks at where its last
command led. Header stamps are capture times; bag stamps are times of receipt.
"""

from __future__ import annotations

import heapq
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray
from rosbags import rosbag1, rosbag2
from rosbags.typesys import Stores, get_typestore

from two_arm_reach.behaviour import Behaviour
from two_arm_reach.cameras import CAMERAS
from two_arm_reach.simulator import (
    CONTROL_PERIOD_S,
    JOINT_NAMES,
    Observation,
    TwoArmReach,
    episode_rng,
)

__all__ = [
    "BAG_FORMATS",
    "CAMERA_TOPICS",
    "COMMAND_TOPIC",
    "JOINT_STATES_PER_STEP",
    "JOINT_TOPIC",
    "PARTIAL",
    "REWARD_TOPIC",
    "TERMINAL_TOPIC",
    "RecordingSpec",
    "bag_path",
    "record_episode",
]

BagFormat = Literal["mcap", "db3", "ros1"]
BAG_FORMATS: tuple[BagFormat, ...] = ("mcap", "db3", "ros1")
PARTIAL = ".partial"
"""Directory, beside the bags, of those that are being written."""

CAMERA_TOPICS = {camera: f"/cam_{camera}/color/image_raw/compressed" for camera in CAMERAS}
JOINT_TOPIC, COMMAND_TOPIC = "/joint_states", "/joint_cmd"
REWARD_TOPIC, TERMINAL_TOPIC = "/reward", "/terminal"
_MESSAGE_TYPES = {
    **dict.fromkeys(CAMERA_TOPICS.values(), "sensor_msgs/msg/CompressedImage"),
    JOINT_TOPIC: "sensor_msgs/msg/JointState",
    COMMAND_TOPIC: "std_msgs/msg/Float64MultiArray",
    REWARD_TOPIC: "std_msgs/msg/Float32",
    TERMINAL_TOPIC: "std_msgs/msg/Bool",
}

_STORAGE = {"mcap": rosbag2.StoragePlugin.MCAP, "db3": rosbag2.StoragePlugin.SQLITE3}

JOINT_STATES_PER_STEP = 5
_MS = 1_000_000
_PERIOD_NS = round(CONTROL_PERIOD_S * 1e9)
_FIRST_EPISODE_NS = 1_767_225_600_000_000_000  # 2026-01-01T00:00:00Z
_EPISODE_SPACING_NS = 60 * 1_000_000_000


@dataclass(frozen=True)
class RecordingSpec:
    """What decides the bytes of a bag, besides the number of its episode."""

    bag_format: BagFormat = "mcap"
    seed: int = 0
    image_size: int = 64
    jpeg_quality: int = 95


class _Message(NamedTuple):
    """A message at the moment the recorder receives it; ``order`` settles equal times."""

    received_ns: int
    order: int
    topic: str
    content: Any


def bag_path(folder: Path, episode: int, bag_format: BagFormat) -> Path:
    """Where an episode lies: a directory for ROS 2, a ``.bag`` file for ROS 1."""
    name = f"episode_{episode:06d}"
    return folder / (f"{name}.bag" if bag_format == "ros1" else name)


def record_episode(folder: Path, episode: int, spec: RecordingSpec) -> Path:
    """Run one episode and write its bag, which appears complete or not at all.

    Args:
        folder: Existing directory of the recording.
        episode: Number of the episode.
        spec: Format, seed and image settings.

    Returns:
        The bag's path.
    """
    final = bag_path(folder, episode, spec.bag_format)
    # In a directory beside it, because the writer names the storage file after the bag.
    partial = folder / PARTIAL / final.name
    partial.parent.mkdir(exist_ok=True)
    if partial.is_dir():
        shutil.rmtree(partial)
    partial.unlink(missing_ok=True)
    messages = _Messages(spec, episode)
    if spec.bag_format == "ros1":
        _write_ros1(partial, messages)
    else:
        _write_ros2(partial, messages, _STORAGE[spec.bag_format])
    partial.rename(final)
    return final


def _write_ros1(path: Path, messages: _Messages) -> None:
    store = messages.store
    with rosbag1.Writer(path) as writer:
        channels = {
            topic: writer.add_connection(topic, kind, typestore=store)
            for topic, kind in _MESSAGE_TYPES.items()
        }
        for message in messages.run():
            raw = store.serialize_ros1(message.content, _MESSAGE_TYPES[message.topic])
            writer.write(channels[message.topic], message.received_ns, raw)


def _write_ros2(path: Path, messages: _Messages, plugin: rosbag2.StoragePlugin) -> None:
    store = messages.store
    version = rosbag2.Writer.VERSION_LATEST
    with rosbag2.Writer(path, version=version, storage_plugin=plugin) as writer:
        channels = {
            topic: writer.add_connection(topic, kind, typestore=store)
            for topic, kind in _MESSAGE_TYPES.items()
        }
        for message in messages.run():
            raw = store.serialize_cdr(message.content, _MESSAGE_TYPES[message.topic])
            writer.write(channels[message.topic], message.received_ns, raw)


class _Messages:
    """The messages of one episode, in the order in which they are received."""

    def __init__(self, spec: RecordingSpec, episode: int) -> None:
        self._ros1 = spec.bag_format == "ros1"
        self.store = get_typestore(Stores.ROS1_NOETIC if self._ros1 else Stores.ROS2_HUMBLE)
        self._types = self.store.types
        self._spec = spec
        self._robot = TwoArmReach()
        self._robot.reset(episode_rng(spec.seed, "record", episode))
        self._behaviour = Behaviour(self._robot, episode_rng(spec.seed, "behaviour", episode))
        self._clock = episode_rng(spec.seed, "clock", episode)
        self._start_ns = _FIRST_EPISODE_NS + episode * _EPISODE_SPACING_NS
        self._pending: list[_Message] = []
        self._sent = 0

    def run(self) -> Iterator[_Message]:
        """Step the robot to the end of its episode."""
        tick_ns = self._tick_ns(0)
        self._look(tick_ns)
        while True:
            before = self._robot.joint
            action = self._behaviour.act()
            outcome = self._robot.step(action)
            next_tick_ns = self._tick_ns(self._robot.elapsed_steps)
            self._move(tick_ns, next_tick_ns, before, self._robot.joint)
            self._send(tick_ns + self._delay_ns(10, 16), COMMAND_TOPIC, self._array(action))
            self._look(next_tick_ns)
            judged_ns = next_tick_ns + self._delay_ns(6, 9)
            reward = self._types["std_msgs/msg/Float32"](data=outcome.reward)
            terminal = self._types["std_msgs/msg/Bool"](data=outcome.terminal)
            self._send(judged_ns, REWARD_TOPIC, reward)
            self._send(judged_ns + self._delay_ns(0, 1), TERMINAL_TOPIC, terminal)
            if outcome.ends_episode:
                still = np.zeros_like(action)
                self._send_joint(next_tick_ns, self._robot.joint, still)
                yield from self._received_before(None)
                return
            tick_ns = next_tick_ns
            yield from self._received_before(tick_ns)

    def _tick_ns(self, step: int) -> int:
        return self._start_ns + step * _PERIOD_NS + self._delay_ns(-2, 2)

    def _delay_ns(self, least_ms: float, most_ms: float) -> int:
        return int(self._clock.uniform(least_ms, most_ms) * _MS)

    def _look(self, tick_ns: int) -> None:
        observation: Observation = self._robot.observe(self._spec.image_size)
        for camera, image in observation.images.items():
            captured_ns = tick_ns + self._delay_ns(-1, 1)
            content = self._types["sensor_msgs/msg/CompressedImage"](
                header=self._header(captured_ns, f"cam_{camera}"),
                format="rgb8; jpeg compressed bgr8",
                data=_jpeg(image, self._spec.jpeg_quality),
            )
            self._send(captured_ns + self._delay_ns(2, 6), CAMERA_TOPICS[camera], content)

    def _move(
        self,
        start_ns: int,
        stop_ns: int,
        before: NDArray[np.float64],
        after: NDArray[np.float64],
    ) -> None:
        velocity = (after - before) / CONTROL_PERIOD_S
        for part in range(JOINT_STATES_PER_STEP):
            fraction = part / JOINT_STATES_PER_STEP
            moment_ns = start_ns + round(fraction * (stop_ns - start_ns))
            self._send_joint(moment_ns, before + fraction * (after - before), velocity)

    def _send_joint(
        self, moment_ns: int, position: NDArray[np.float64], velocity: NDArray[np.float64]
    ) -> None:
        content = self._types["sensor_msgs/msg/JointState"](
            header=self._header(moment_ns, "base"),
            name=list(JOINT_NAMES),
            position=position,
            velocity=velocity,
            effort=np.zeros(0),
        )
        self._send(moment_ns + self._delay_ns(0.2, 1.0), JOINT_TOPIC, content)

    def _array(self, values: NDArray[np.float64]) -> Any:
        dimension = self._types["std_msgs/msg/MultiArrayDimension"](
            label="joint", size=len(values), stride=len(values)
        )
        layout = self._types["std_msgs/msg/MultiArrayLayout"](dim=[dimension], data_offset=0)
        return self._types["std_msgs/msg/Float64MultiArray"](layout=layout, data=values)

    def _header(self, stamp_ns: int, frame_id: str) -> Any:
        seconds, nanoseconds = divmod(stamp_ns, 1_000_000_000)
        stamp = self._types["builtin_interfaces/msg/Time"](sec=seconds, nanosec=nanoseconds)
        sequence = {"seq": self._sent} if self._ros1 else {}
        return self._types["std_msgs/msg/Header"](stamp=stamp, frame_id=frame_id, **sequence)

    def _send(self, received_ns: int, topic: str, content: Any) -> None:
        heapq.heappush(self._pending, _Message(received_ns, self._sent, topic, content))
        self._sent += 1

    def _received_before(self, moment_ns: int | None) -> Iterator[_Message]:
        while self._pending and (moment_ns is None or self._pending[0].received_ns < moment_ns):
            yield heapq.heappop(self._pending)


def _jpeg(image: NDArray[np.uint8], quality: int) -> NDArray[np.uint8]:
    bgr = cv2.cvtColor(image, cv2.COLOR_RGB2BGR)
    encoded, data = cv2.imencode(".jpg", bgr, [cv2.IMWRITE_JPEG_QUALITY, quality])
    if not encoded:
        raise RuntimeError(f"OpenCV could not encode an image of shape {image.shape} as JPEG")
    return data
