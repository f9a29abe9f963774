"""Recordings of all formats read alike; damaged ones say what is wrong."""

import copy
import shutil
import sqlite3

import pytest
import yaml
from bag_recording import BAG_FORMATS, START_NS, Message, robot_messages, write_bag
from bag_shapes import all_messages, write_mcap
from penstock_converter.recordings.bag import open_bag
from penstock_converter.recordings.discovery import find_bags
from penstock_converter.recordings.inspection import inspect_bag

from penstock.errors import DataFault, NotFound

TOPICS = ("/joint_states", "/reward")


def contents(path):
    with open_bag(path) as bag:
        kinds = {topic: bag.use(topic) for topic in TOPICS}
        found = [
            (m.topic, m.receive_ns, bag.decode(m.topic, m.data)) for m in all_messages(bag, TOPICS)
        ]
        return kinds, [
            (t, ns, getattr(m, "data", None), len(getattr(m, "name", ()))) for t, ns, m in found
        ]


def rewards(path):
    with open_bag(path) as bag:
        bag.use("/reward")
        return [m.receive_ns for m in all_messages(bag, ["/reward"])]


@pytest.mark.parametrize("bag_format", BAG_FORMATS)
def test_what_was_recorded_is_read_in_order_of_receipt(tmp_path, bag_format):
    messages = robot_messages(3)
    kinds, found = contents(write_bag(tmp_path / "b.bag", messages, bag_format))
    assert kinds == {
        "/joint_states": "sensor_msgs/msg/JointState",
        "/reward": "std_msgs/msg/Float32",
    }
    expected = [
        (m.topic, m.receive_ns, m.fields.get("data"), len(m.fields.get("name", ())))
        for m in messages
        if m.topic in TOPICS
    ]
    assert found == expected


@pytest.mark.parametrize("bag_format", BAG_FORMATS)
def test_header_stamps_are_read_without_decoding(tmp_path, bag_format):
    path = write_bag(tmp_path / "b.bag", robot_messages(2), bag_format)
    with open_bag(path) as bag:
        bag.use("/joint_states")
        bag.use("/reward")
        assert bag.has_header("/joint_states")
        assert not bag.has_header("/reward")
        for message in all_messages(bag, ["/joint_states"]):
            stamp_ns = bag.header_ns(message.topic, message.data)
            assert message.receive_ns - stamp_ns == 3_000_000


@pytest.mark.parametrize("bag_format", BAG_FORMATS)
@pytest.mark.parametrize("kept", [0.0, 0.3, 0.9])
def test_a_truncated_recording_is_refused_with_its_name(tmp_path, bag_format, kept):
    path = write_bag(tmp_path / "b.bag", robot_messages(5), bag_format)
    file = path if path.is_file() else next(f for f in path.iterdir() if f.suffix != ".yaml")
    data = file.read_bytes()
    file.write_bytes(data[: int(len(data) * kept)])
    with pytest.raises(DataFault) as caught:
        rewards(path)
    assert caught.value.reason in ("BAG_UNREADABLE", "BAG_DAMAGED", "NO_SUCH_TOPIC")
    assert str(path) in caught.value.message


def test_an_overwritten_stretch_is_refused(tmp_path):
    path = write_bag(tmp_path / "b", robot_messages(5))
    (file,) = path.glob("*.mcap")
    data = bytearray(file.read_bytes())
    middle = len(data) // 3
    data[middle : middle + 4096] = b"\xff" * 4096
    file.write_bytes(data)
    with pytest.raises(DataFault, match="damaged"):
        rewards(path)


def test_a_missing_topic_is_named_beside_those_there_are(bag):
    with (
        pytest.raises(DataFault, match=r"no topic /nope: the topics are /cam_global"),
        open_bag(bag) as opened,
    ):
        opened.use("/nope")


def test_a_topic_of_two_types_is_refused(tmp_path):
    float_message = Message(START_NS, "/x", "std_msgs/msg/Float32", {"data": 1.0})
    first = write_bag(tmp_path / "mixed_0", [float_message])
    bool_message = Message(START_NS + 1, "/x", "std_msgs/msg/Bool", {"data": True})
    second = write_bag(tmp_path / "mixed_1", [bool_message])
    both = tmp_path / "mixed"
    both.mkdir()
    for number, folder in enumerate((first, second)):
        shutil.copy(next(folder.glob("*.mcap")), both / f"mixed_{number}.mcap")
    with pytest.raises(DataFault, match="one type is needed"), open_bag(both) as opened:
        opened.use("/x")


def test_a_folder_without_metadata_opens_by_its_files(tmp_path, bag):
    bare = tmp_path / "bare"
    bare.mkdir()
    (file,) = bag.glob("*.mcap")
    shutil.copy(file, bare / "bare_0.mcap")
    assert contents(bare) == contents(bag) == contents(bare / "bare_0.mcap")


def test_what_is_no_recording_is_refused(tmp_path):
    text = tmp_path / "notes.txt"
    text.write_text("hello")
    empty = tmp_path / "empty"
    empty.mkdir()
    for path in (text, empty):
        with pytest.raises(DataFault) as caught, open_bag(path):
            pass
        assert caught.value.reason == "NOT_A_BAG"
    with pytest.raises(NotFound), open_bag(tmp_path / "missing.bag"):
        pass


@pytest.mark.parametrize("bag_format", BAG_FORMATS)
def test_a_recording_without_messages_has_no_topics_and_no_duration(tmp_path, bag_format):
    path = write_bag(tmp_path / "b.bag", [], bag_format)
    for salvage in (False, True):
        with open_bag(path, salvage=salvage) as bag:
            assert bag.topics == []
            assert bag.scan(bag.topics) == {}
            assert all_messages(bag, bag.topics) == []
            assert bag.warnings == ()
    found = inspect_bag(path)
    assert (found.duration_s, found.topics) == (0, ())


def test_a_topic_without_messages_is_known_by_what_was_announced(tmp_path):
    """Recorders write channels to an MCAP file with their first message, if there is one."""
    path = write_bag(tmp_path / "b", robot_messages(2))
    metadata = path / "metadata.yaml"
    described = yaml.safe_load(metadata.read_text())
    topics = described["rosbag2_bagfile_information"]["topics_with_message_count"]
    silent = copy.deepcopy(topics[0])
    silent["topic_metadata"]["name"] = "/silent"
    silent["message_count"] = 0
    topics.append(silent)
    metadata.write_text(yaml.safe_dump(described))
    with open_bag(path) as bag:
        bag.use("/silent")
        assert len(bag.scan(["/silent"])["/silent"].receive_ns) == 0
        assert all_messages(bag, ["/silent"]) == []


@pytest.mark.parametrize("bag_format", ["mcap", "db3"])
def test_a_type_that_is_spelled_without_msg_is_the_same_type(tmp_path, bag_format):
    """Recordings that were converted from ROS 1 spell it so."""
    path = write_bag(tmp_path / "b", robot_messages(2), bag_format)
    (file,) = path.glob(f"*.{bag_format}")
    (path / "metadata.yaml").unlink()
    if bag_format == "db3":
        with sqlite3.connect(file) as database:
            database.execute("UPDATE topics SET type = replace(type, '/msg/', '/')")
            database.execute(
                "UPDATE message_definitions SET topic_type = replace(topic_type, '/msg/', '/')"
            )
        database.close()
    else:
        write_mcap(file, [robot_messages(2)], short_kinds=True)
    kinds, found = contents(path)
    assert kinds["/joint_states"] == "sensor_msgs/msg/JointState"
    assert len(found) == 13


@pytest.mark.real_data
def test_definitions_that_nobody_can_parse_spoil_no_other_topic(real_data):
    """Service events have such definitions."""
    with open_bag(real_data / "bags/rosbag2/service_events_mcap") as bag:
        unusable = []
        for topic in bag.topics:
            try:
                bag.use(topic)
            except DataFault as error:
                unusable.append((topic, error.reason))
                continue
            for message in all_messages(bag, [topic]):
                assert bag.decode(topic, message.data) is not None
        assert unusable
        assert {reason for _, reason in unusable} == {"UNKNOWN_TYPE"}
        assert all("_service_event" in topic for topic, _ in unusable)
        assert len(unusable) < len(bag.topics)


def test_messages_that_still_are_in_the_log_of_a_database_are_told(tmp_path):
    path = next(write_bag(tmp_path / "b", robot_messages(2), "db3").glob("*.db3"))
    log = path.with_name(path.name + "-wal")
    log.touch()
    with open_bag(path) as bag:
        assert bag.warnings == ()
    log.write_bytes(b"messages")
    with open_bag(path) as bag:
        assert "PRAGMA wal_checkpoint" in bag.warnings[0]


def test_folders_and_patterns_stand_for_the_recordings_in_them(tmp_path):
    for name in ("b_10", "b_9", "sub/c"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        write_bag(tmp_path / name, robot_messages(1))
    write_bag(tmp_path / "a.bag", robot_messages(1), "ros1")
    (tmp_path / ".hidden.bag").touch()
    (tmp_path / "notes.txt").touch()
    names = [str(path.relative_to(tmp_path)) for path in find_bags([str(tmp_path)])]
    assert names == ["a.bag", "b_10", "b_9", "sub/c"]
    again = find_bags([str(tmp_path / "b_9"), str(tmp_path / "b_*")])
    assert [path.name for path in again] == ["b_9", "b_10"]
    with pytest.raises(NotFound, match="nothing_here"):
        find_bags([str(tmp_path / "nothing_here*")])
