"""Bags hold what the robot did, as a robot would have recorded it."""

from collections import defaultdict
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from rosbags.highlevel import AnyReader
from rosbags.typesys import Stores, get_typestore
from two_arm_reach.bags import (
    BAG_FORMATS,
    CAMERA_TOPICS,
    COMMAND_TOPIC,
    JOINT_TOPIC,
    REWARD_TOPIC,
    TERMINAL_TOPIC,
    RecordingSpec,
    record_episode,
)
from two_arm_reach.behaviour import Behaviour, replay
from two_arm_reach.record import RecordingMismatchError, record
from two_arm_reach.simulator import TwoArmReach, episode_rng

EPISODE, SEED = 2, 5

Messages = dict[str, list[tuple[int, Any]]]


def read(path: Path) -> Messages:
    """Messages by topic as ``(received_ns, message)``, in the order of the bag."""
    found: Messages = defaultdict(list)
    store = get_typestore(Stores.ROS1_NOETIC if path.suffix == ".bag" else Stores.ROS2_HUMBLE)
    with AnyReader([path], default_typestore=store) as reader:
        for connection, stamp, raw in reader.messages():
            found[connection.topic].append((stamp, reader.deserialize(raw, connection.msgtype)))
    return found


def simulate() -> tuple[list[Any], ...]:
    """The same episode, stepped by the test itself."""
    robot = TwoArmReach()
    robot.reset(episode_rng(SEED, "record", EPISODE))
    behaviour = Behaviour(robot, episode_rng(SEED, "behaviour", EPISODE))
    joints, images, actions, outcomes = [robot.joint], [robot.observe(64).images], [], []
    while not outcomes or not outcomes[-1].ends_episode:
        actions.append(behaviour.act())
        outcomes.append(robot.step(actions[-1]))
        joints.append(robot.joint)
        images.append(robot.observe(64).images)
    return joints, images, actions, outcomes


@pytest.fixture(params=BAG_FORMATS)
def bag(request: pytest.FixtureRequest, tmp_path: Path) -> Messages:
    return read(record_episode(tmp_path, EPISODE, RecordingSpec(request.param, seed=SEED)))


def test_a_bag_reads_back_as_the_episode_that_was_run(bag: Messages) -> None:
    joints, images, actions, outcomes = simulate()
    assert [m.data for _, m in bag[TERMINAL_TOPIC]] == [o.terminal for o in outcomes]
    rewards = [m.data for _, m in bag[REWARD_TOPIC]]
    np.testing.assert_allclose(rewards, [o.reward for o in outcomes], rtol=1e-6)
    np.testing.assert_array_equal([m.data for _, m in bag[COMMAND_TOPIC]], actions)
    positions = np.stack([m.position for _, m in bag[JOINT_TOPIC]])
    np.testing.assert_array_equal(positions[::5], joints)
    for camera, topic in CAMERA_TOPICS.items():
        for (_, message), drawn in zip(bag[topic], images, strict=True):
            decoded = cv2.imdecode(message.data, cv2.IMREAD_COLOR)[..., ::-1]
            assert np.abs(decoded.astype(int) - drawn[camera]).mean() < 4.0


def test_there_is_one_frame_more_than_there_are_commands(bag: Messages) -> None:
    commands = len(bag[COMMAND_TOPIC])
    assert commands >= 1
    assert len(bag[REWARD_TOPIC]) == len(bag[TERMINAL_TOPIC]) == commands
    for topic in CAMERA_TOPICS.values():
        assert len(bag[topic]) == commands + 1


def test_joint_states_come_five_times_as_often_as_frames(bag: Messages) -> None:
    assert len(bag[JOINT_TOPIC]) == 5 * len(bag[COMMAND_TOPIC]) + 1
    message = bag[JOINT_TOPIC][1][1]
    previous = bag[JOINT_TOPIC][0][1]
    assert len(message.name) == len(set(message.name)) == 16
    # One fifth of a control step on, at the velocity the message states.
    np.testing.assert_allclose(message.position - previous.position, 0.02 * message.velocity)


def test_stamps_are_those_of_a_real_robot(bag: Messages) -> None:
    frames = np.array([stamp for stamp, _ in bag[CAMERA_TOPICS["global"]]])
    periods_ms = np.diff(frames) / 1e6
    assert np.all(np.abs(periods_ms - 100) < 12)
    assert periods_ms.std() > 0.5
    for topic in (*CAMERA_TOPICS.values(), JOINT_TOPIC):
        for received_ns, message in bag[topic]:
            stamp = message.header.stamp
            latency_ms = (received_ns - stamp.sec * 10**9 - stamp.nanosec) / 1e6
            assert 0 < latency_ms < 7


def test_a_command_follows_its_frame_and_its_reward_follows_the_next_one(bag: Messages) -> None:
    frames = np.array([stamp for stamp, _ in bag[CAMERA_TOPICS["global"]]])
    commands = np.array([stamp for stamp, _ in bag[COMMAND_TOPIC]])
    rewards = np.array([stamp for stamp, _ in bag[REWARD_TOPIC]])
    assert np.all(commands > frames[:-1])
    assert np.all(commands - frames[:-1] < 20e6)
    assert np.all(np.abs(rewards - frames[1:]) < 10e6)


def test_messages_are_stored_in_the_order_of_receipt(tmp_path: Path) -> None:
    path = record_episode(tmp_path, EPISODE, RecordingSpec("mcap", seed=SEED))
    with AnyReader([path]) as reader:
        stamps = [stamp for _, stamp, _ in reader.messages()]
    assert stamps == sorted(stamps)


def test_recording_is_the_same_on_any_number_of_processes(tmp_path: Path) -> None:
    spec = RecordingSpec("ros1", seed=SEED)
    (bag,) = record(tmp_path / "pool", 1, spec, workers=1)
    alone = tmp_path / "alone"
    alone.mkdir()
    assert bag.read_bytes() == record_episode(alone, 0, spec).read_bytes()


def test_recording_again_keeps_what_is_there_and_adds_what_is_missing(tmp_path: Path) -> None:
    spec = RecordingSpec("ros1", seed=SEED)
    bags = record(tmp_path, 3, spec, workers=1)
    kept = [bag.stat().st_mtime_ns for bag in bags[:2]]
    missing = bags[2].read_bytes()
    bags[2].rename(tmp_path / "elsewhere")
    (tmp_path / ".partial").mkdir()
    (tmp_path / ".partial" / bags[2].name).write_bytes(b"half a bag")
    progress = []
    assert record(tmp_path, 3, spec, workers=1, on_progress=progress.append) == bags
    assert progress == [2, 1]
    assert [bag.stat().st_mtime_ns for bag in bags[:2]] == kept
    assert bags[2].read_bytes() == missing
    assert not (tmp_path / ".partial").exists()


def test_a_folder_recorded_with_other_settings_is_refused(tmp_path: Path) -> None:
    record(tmp_path, 1, RecordingSpec("ros1", seed=1), workers=1)
    with pytest.raises(RecordingMismatchError, match=r"'seed': 1.*'seed': 2.*another folder"):
        record(tmp_path, 1, RecordingSpec("ros1", seed=2), workers=1)


def test_replay_tells_how_a_recorded_episode_went(bag: Messages) -> None:
    summary = replay(SEED, EPISODE)
    rewards = [message.data for _, message in bag[REWARD_TOPIC]]
    assert summary.steps == len(rewards)
    assert summary.episode_return == pytest.approx(sum(rewards), rel=1e-5)
    assert summary.success == bag[TERMINAL_TOPIC][-1][1].data
