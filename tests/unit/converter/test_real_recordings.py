"""Every recording of others converts with its own values, or is refused for the right reason."""

import numpy as np
import pyarrow.parquet as pq
import pytest
from penstock_converter.jobs.job import run_job
from penstock_converter.jobs.request import Job
from penstock_converter.mapping.model import Feature, LeRobotOutput, Mapping, Outputs, Rosbag
from penstock_converter.recordings.discovery import find_bags
from rosbags.highlevel import AnyReader

pytestmark = pytest.mark.real_data


def mapping_of(main, fps, hdf5=None, **features):
    return Mapping(
        task="replay",
        fps=fps,
        rosbag=Rosbag(main=main, gap="drop"),
        features={name: Feature(**feature) for name, feature in features.items()},
        outputs=Outputs(lerobot=LeRobotOutput(video=False), hdf5=hdf5),
    )


TURTLE = mapping_of(
    "pose",
    62,
    pose={"topic": "/turtle1/pose", "field": "x"},
    speed={"topic": "/turtle1/cmd_vel", "field": "linear.x", "align": "hold"},
)
STRINGS = mapping_of("words", 10, words={"topic": "AAA"})
RECORDINGS = {
    "interbotix/duck_dunk.bag": mapping_of(
        "action",
        50,
        action={"topic": "/wx250/commands/joint_group", "field": "cmd"},
        gripper={"topic": "/wx250/commands/joint_single", "field": "cmd", "align": "hold"},
    ),
    "interbotix/waist_diagnostics.bag": mapping_of(
        "temperature",
        1,
        temperature={"topic": "/wx200/temperatures/joint_group", "field": "temps"},
        state={"topic": "/wx200/joint_states"},
    ),
    "amber/soccer_goal_single": mapping_of("camera", 1, camera={"topic": "/camera/image_raw"}),
    "rosbagjs/example-bz2.bag": TURTLE,
    "rosbagjs/example-lz4.bag": TURTLE,
}
REFUSED = {
    "rosbagjs/empty-file.bag": (STRINGS, "BAG_UNREADABLE", "Nothing was recorded"),
    "rosbagjs/no-messages.bag": (STRINGS, "NO_SUCH_TOPIC", "the topics are none"),
    "rosbagjs/example-unsorted-chunks.bag": (
        mapping_of("words", 1, words={"topic": "foo"}),
        "NOT_NUMBERS",
        "field data of a std_msgs/msg/String holds no numbers",
    ),
    "rosbag2/split_mcap": (STRINGS, "NOT_NUMBERS", "std_msgs/msg/String"),
    "rosbag2/split_db3": (STRINGS, "NOT_NUMBERS", "std_msgs/msg/String"),
    # Its service events have definitions that no parser reads; they must not spoil other topics.
    "rosbag2/service_events_mcap": (
        mapping_of("words", 1, words={"topic": "/test_topic1"}),
        "NO_SUCH_FIELD",
        "there is no 'data' in a test_msgs/msg/Strings, it has string_value",
    ),
}


def test_no_recording_of_the_collection_is_left_out(real_data):
    found = find_bags([str(real_data / "bags")])
    names = {str(path.relative_to(real_data / "bags")) for path in found}
    assert names == {*RECORDINGS, *REFUSED}


@pytest.mark.parametrize("name", RECORDINGS)
def test_a_recording_converts(name, real_data, tmp_path):
    job = Job((real_data / "bags" / name,), RECORDINGS[name], tmp_path / "out")
    (outcome,) = run_job(job).bags
    assert (outcome.state, outcome.error) == ("converted", "")
    assert outcome.frames > 1


@pytest.mark.parametrize("name", REFUSED)
def test_a_recording_is_refused_for_its_reason(name, real_data, tmp_path):
    mapping, reason, words = REFUSED[name]
    (outcome,) = run_job(Job((real_data / "bags" / name,), mapping, tmp_path / "out")).bags
    assert (outcome.state, outcome.reason) == ("refused", reason)
    assert words in outcome.error
    assert name in outcome.error


def test_an_unreadable_definition_is_refused_only_when_it_is_asked_for(real_data, tmp_path):
    bag = real_data / "bags/rosbag2/service_events_mcap"
    mapping = mapping_of("event", 1, event={"topic": "/test_service1/_service_event"})
    (outcome,) = run_job(Job((bag,), mapping, tmp_path / "out")).bags
    assert outcome.reason == "UNKNOWN_TYPE"
    assert "BasicTypes_Event" in outcome.error


@pytest.mark.parametrize("name", ["rosbagjs/example-bz2.bag", "rosbagjs/example-lz4.bag"])
def test_compressed_chunks_give_the_values_of_the_recording(name, real_data, tmp_path):
    bag = real_data / "bags" / name
    run_job(Job((bag,), TURTLE, tmp_path / "out"))
    table = pq.read_table(tmp_path / "out/data/chunk-000/file-000.parquet")
    poses, speeds = [], []
    with AnyReader([bag]) as reader:
        for connection, time, raw in reader.messages():
            if connection.topic == "/turtle1/pose":
                poses.append((time, reader.deserialize(raw, connection.msgtype).x))
            elif connection.topic == "/turtle1/cmd_vel":
                speeds.append((time, reader.deserialize(raw, connection.msgtype).linear.x))
    moved = [(time, x) for time, x in poses if time >= speeds[0][0]]
    held = [[v for t, v in speeds if t <= time][-1] for time, _ in moved]
    np.testing.assert_array_equal(table["pose"], np.array([x for _, x in moved], np.float32))
    np.testing.assert_array_equal(table["speed"], np.array(held, np.float32))


def test_commands_of_the_arm_are_those_of_the_recording(real_data, tmp_path):
    bag = real_data / "bags/interbotix/duck_dunk.bag"
    run_job(Job((bag,), RECORDINGS["interbotix/duck_dunk.bag"], tmp_path / "out"))
    with AnyReader([bag]) as reader:
        commands = [
            reader.deserialize(raw, connection.msgtype).cmd
            for connection, _, raw in reader.messages()
            if connection.topic == "/wx250/commands/joint_group"
        ]
    table = pq.read_table(tmp_path / "out/data/chunk-000/file-000.parquet")
    found = np.array(table["action"].to_pylist(), np.float32)
    np.testing.assert_array_equal(found, np.array(commands)[-len(found) :])
    assert len(found) >= len(commands) - 1
