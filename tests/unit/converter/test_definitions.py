"""Types that a recording does not define can be given as .msg files."""

import sqlite3
from pathlib import Path

import numpy as np
import pytest
from bag_recording import START_NS
from bag_shapes import all_messages
from penstock_converter.recordings.bag import open_bag
from penstock_converter.recordings.definitions import load_definitions
from rosbags import rosbag2
from rosbags.typesys import Stores, get_types_from_msg, get_typestore

from penstock.errors import DataFault, InvalidInput, NotFound

FINGER = "# One of five.\nfloat64 angle\nfloat32[] pressure\n"
HAND = "std_msgs/Header header\nFinger[] fingers\nmade_msgs/msg/Finger thumb\nint32 LEFT=1\n"
IDL = """\
#include "std_msgs/msg/Header.idl"

module made_msgs {
  module msg {
    struct Finger {
      double angle;
      sequence<float> pressure;
    };
  };
};
"""


def record(path, *, defined):
    """Two messages of a hand, to db3, with or without its definition, as before ROS 2 Iron."""
    store = get_typestore(Stores.ROS2_HUMBLE)
    store.register(get_types_from_msg(FINGER, "made_msgs/msg/Finger"))
    store.register(get_types_from_msg(HAND, "made_msgs/msg/Hand"))
    types = store.types
    stamp = types["builtin_interfaces/msg/Time"](sec=3, nanosec=4)
    with rosbag2.Writer(path, version=8, storage_plugin=rosbag2.StoragePlugin.SQLITE3) as writer:
        connection = writer.add_connection("/hand", "made_msgs/msg/Hand", typestore=store)
        for number in range(2):
            finger = types["made_msgs/msg/Finger"](
                angle=number + 0.5, pressure=np.array([1, 2], np.float32)
            )
            hand = types["made_msgs/msg/Hand"](
                header=types["std_msgs/msg/Header"](stamp=stamp, frame_id=""),
                fingers=[finger, finger],
                thumb=finger,
            )
            data = store.serialize_cdr(hand, "made_msgs/msg/Hand")
            writer.write(connection, START_NS + number, data)
    if not defined:
        with sqlite3.connect(next(path.glob("*.db3"))) as database:
            database.execute("DELETE FROM message_definitions")
        database.close()
    return path


@pytest.fixture
def undefined(tmp_path):
    return record(tmp_path / "b", defined=False)


def thumbs(path, definitions):
    with open_bag(path, definitions=definitions) as bag:
        assert bag.use("/hand") == "made_msgs/msg/Hand"
        assert bag.has_header("/hand")
        found = [bag.decode(m.topic, m.data) for m in all_messages(bag, ["/hand"])]
        assert [each.fingers[1].pressure.tolist() for each in found] == [[1, 2], [1, 2]]
        (times,) = bag.scan(["/hand"], ["/hand"]).values()
        assert times.header_ns.tolist() == [3_000_000_004] * 2
        return [each.thumb.angle for each in found]


@pytest.mark.parametrize(
    "names",
    [("made_msgs/msg/Hand", "made_msgs/msg/Finger"), ("made_msgs/Hand", "made_msgs/Finger")],
    ids=["with msg", "without msg"],
)
def test_a_type_that_is_given_is_read_with_the_types_inside_it(undefined, names):
    assert thumbs(undefined, dict(zip(names, (HAND, FINGER), strict=True))) == [0.5, 1.5]


def test_an_idl_definition_does_as_well(undefined):
    definitions = {"made_msgs/msg/Hand": HAND, "made_msgs/msg/Finger": IDL}
    assert thumbs(undefined, definitions) == [0.5, 1.5]


def test_what_a_recording_defines_counts_more_than_what_is_given(tmp_path):
    path = record(tmp_path / "b", defined=True)
    wrong = {"made_msgs/msg/Hand": "string other\n", "made_msgs/msg/Finger": "bool other\n"}
    assert thumbs(path, wrong) == [0.5, 1.5]


@pytest.mark.parametrize(
    ("definitions", "named"),
    [
        ({}, "type made_msgs/msg/Hand of topic"),
        ({"made_msgs/Hand": HAND}, "type made_msgs/msg/Finger in made_msgs/msg/Hand of topic"),
        ({"made_msgs/Finger": FINGER}, "type made_msgs/msg/Hand of topic"),
    ],
    ids=["nothing", "the outer one", "the inner one"],
)
def test_what_is_missing_is_named_with_the_way_to_give_it(undefined, definitions, named):
    with (
        pytest.raises(DataFault, match=r"--definitions FOLDER") as caught,
        open_bag(undefined, definitions=definitions) as bag,
    ):
        bag.use("/hand")
    assert caught.value.reason == "UNKNOWN_TYPE"
    assert named in caught.value.message


def test_a_definition_that_does_not_parse_or_fit_is_told(undefined):
    broken = {"made_msgs/Hand": "float64 [[[ x\n", "made_msgs/Finger": FINGER}
    with (
        pytest.raises(DataFault, match="cannot be parsed") as caught,
        open_bag(undefined, definitions=broken) as bag,
    ):
        bag.use("/hand")
    assert caught.value.reason == "UNKNOWN_TYPE"
    other = {"made_msgs/Hand": "float64 x\n"}
    with open_bag(undefined, definitions=other) as bag:
        bag.use("/hand")
        (first, _) = all_messages(bag, ["/hand"])
        with pytest.raises(DataFault):
            bag.decode("/hand", first.data)


@pytest.mark.parametrize("layout", ["made_msgs/msg", "share/made_msgs/msg", "made_msgs"])
def test_folders_name_the_types_of_their_files(tmp_path, undefined, layout):
    folder = tmp_path / "given" / layout
    folder.mkdir(parents=True)
    (folder / "Hand.msg").write_text(HAND)
    (folder / "Finger.msg").write_text(FINGER)
    (folder / ".Hidden.msg").write_text("?")
    (folder / "readme.txt").write_text("?")
    definitions = load_definitions([tmp_path / "given"])
    assert definitions == {"made_msgs/msg/Hand": HAND, "made_msgs/msg/Finger": FINGER}
    assert load_definitions([folder]) == definitions
    assert load_definitions([folder / "Hand.msg", folder / "Finger.msg"]) == definitions
    assert thumbs(undefined, definitions) == [0.5, 1.5]


def test_a_relative_path_is_named_by_where_it_is(tmp_path, monkeypatch):
    folder = tmp_path / "made_msgs" / "msg"
    folder.mkdir(parents=True)
    (folder / "Finger.msg").write_text(FINGER)
    monkeypatch.chdir(folder)
    assert load_definitions([Path()]) == {"made_msgs/msg/Finger": FINGER}
    assert load_definitions([Path("Finger.msg")]) == {"made_msgs/msg/Finger": FINGER}


def test_msg_counts_more_than_idl_and_services_are_left_out(tmp_path, undefined):
    folder = tmp_path / "given/made_msgs/msg"
    folder.mkdir(parents=True)
    (folder.parent / "srv").mkdir()
    (folder.parent / "srv/Grip.idl").write_text("module made_msgs {")
    (folder / "Hand.msg").write_text(HAND)
    (folder / "Hand.idl").write_text("module made_msgs {")
    (folder / "Finger.idl").write_text(IDL)
    definitions = load_definitions([tmp_path / "given"])
    assert definitions == {"made_msgs/msg/Hand": HAND, "made_msgs/msg/Finger": IDL}
    assert thumbs(undefined, definitions) == [0.5, 1.5]


def test_two_packages_that_define_a_type_differently_are_told(tmp_path):
    for place, text in (("old", FINGER), ("new", "float64 angle\n"), ("copy", FINGER)):
        (tmp_path / place / "made_msgs/msg").mkdir(parents=True)
        (tmp_path / place / "made_msgs/msg/Finger.msg").write_text(text)
    with pytest.raises(InvalidInput, match=r"made_msgs/msg/Finger differently"):
        load_definitions([tmp_path / "old", tmp_path / "new"])
    assert len(load_definitions([tmp_path / "old", tmp_path / "copy"])) == 1


def test_what_is_no_definition_is_refused_by_name(tmp_path):
    package = tmp_path / "made_msgs"
    package.mkdir()
    with pytest.raises(NotFound, match=r"there is no such file"):
        load_definitions([package / "None.msg"])
    with pytest.raises(NotFound, match=r"holds no \.msg"):
        load_definitions([package])
    (package / "notes.txt").touch()
    with pytest.raises(InvalidInput, match=r"notes\.txt"):
        load_definitions([package / "notes.txt"])
    (package / "Bytes.msg").write_bytes(b"\xff\xfe")
    with pytest.raises(InvalidInput, match=r"Bytes\.msg: is no text in UTF-8"):
        load_definitions([package])
    (package / "Bytes.msg").write_bytes(b"#" * 1_000_001)
    with pytest.raises(InvalidInput, match=r"more than 1000000 bytes"):
        load_definitions([package])
    odd = tmp_path / "1 odd name"
    odd.mkdir()
    (odd / "Finger.msg").write_text(FINGER)
    with pytest.raises(InvalidInput, match=r"is no name of a type"):
        load_definitions([odd])
