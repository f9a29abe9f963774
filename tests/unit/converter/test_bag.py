"""Recordings of all formats read alike; damaged ones say what is wrong."""

import shutil

import pytest
from bag_recording import BAG_FORMATS, START_NS, Message, robot_messages, write_bag
from penstock_converter.recordings.bag import open_bag
from penstock_converter.recordings.discovery import find_bags

from penstock.errors import DataFault, NotFound

TOPICS = ("/joint_states", "/reward")


def contents(path):
    with open_bag(path) as bag:
        kinds = {topic: bag.use(topic) for topic in TOPICS}
        found = [(m.topic, m.receive_ns, bag.decode(m.topic, m.data)) for m in bag.messages(TOPICS)]
        return kinds, [
            (t, ns, getattr(m, "data", None), len(getattr(m, "name", ()))) for t, ns, m in found
        ]


def rewards(path, start_ns=None, stop_ns=None):
    with open_bag(path) as bag:
        bag.use("/reward")
        return [m.receive_ns for m in bag.messages(["/reward"], start_ns, stop_ns)]


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
        for message in bag.messages(["/joint_states"]):
            stamp_ns = bag.header_ns(message.topic, message.data)
            assert message.receive_ns - stamp_ns == 3_000_000


@pytest.mark.parametrize("bag_format", BAG_FORMATS)
def test_a_part_of_the_time_can_be_read(tmp_path, bag_format):
    path = write_bag(tmp_path / "b.bag", robot_messages(5), bag_format)
    first, last = START_NS + 207_000_000, START_NS + 407_000_000
    assert rewards(path, first, last) == [first, first + 100_000_000]


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
