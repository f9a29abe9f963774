"""Faulty recordings: each is told what is wrong with it, and never takes the others along."""

import h5py
import numpy as np
import pyarrow.parquet as pq
import pytest
import yaml
from bag_recording import BAG_FORMATS, START_NS, number_of, robot_messages, write_bag
from click.testing import CliRunner
from penstock_converter.jobs.outcome import read_outcome
from rosbags import rosbag2
from rosbags.typesys import Stores, get_typestore

from penstock.cli import penstock

MS, S = 1_000_000, 1_000_000_000
JOINTS, LEFT, MAIN = "/joint_states", "/cam_left/compressed", "/cam_global/compressed"
GOOD_ROWS = 3
HEADER = ("rosbag.time=header", *(f"features.{name}.time=receive" for name in (
    "action", "[next.reward]", "[next.done]")))  # fmt: skip


class Result:
    """What became of a faulty recording that was converted before a good one."""

    def __init__(self, folder, terminal):
        self.folder, self.terminal = folder, terminal
        report = read_outcome(folder)
        self.bag, good = report.bags
        assert (good.state, good.frames, good.reason) == ("converted", GOOD_ROWS, "")
        assert (good.dropped, good.warnings) == ({"no action within 0.05 s": 1}, [])
        self.table = pq.read_table(folder / "data/chunk-000/file-000.parquet").to_pydict()
        assert len(self.table["index"]) == self.bag.frames + GOOD_ROWS
        assert self.table["observation.state"][-GOOD_ROWS:] == [
            pytest.approx([row / 10, -row / 10, 1.0]) for row in range(GOOD_ROWS)
        ]

    def refused(self, reason, *words):
        assert (self.bag.state, self.bag.reason, self.bag.frames) == ("refused", reason, 0)
        for word in words:
            assert word in self.bag.error
        assert f"refused {self.bag.error} ({reason})" in self.terminal
        return self

    def converted(self, frames, *, dropped=(), warnings=()):
        """``warnings`` are words, all those of a warning in one text, apart by dots."""
        assert (self.bag.state, self.bag.error) == ("converted", "")
        assert self.bag.frames == frames
        assert self.bag.dropped == {"no action within 0.05 s": 1, **dict(dropped)}
        assert len(self.bag.warnings) == len(warnings), self.bag.warnings
        for told, words in zip(self.bag.warnings, warnings, strict=True):
            for word in words.split("..."):
                assert word in told
            assert f"look at {self.bag.bag}: {told}" in self.terminal
        for reason in self.bag.dropped:
            assert f"frames: {reason}" in self.terminal
        return self

    @property
    def images(self):
        """Numbers that the images of the faulty recording show, by camera."""
        with h5py.File(self.folder / "hdf5/episode_000000.hdf5") as file:
            return {
                name: [
                    number_of(image) for image in file[f"observations/{name}"][: self.bag.frames]
                ]
                for name in ("left_image", "global_image")
            }


@pytest.fixture
def convert(tmp_path, mapping_text):
    """Converts recordings of given messages, or paths, each with a good one after it."""
    numbers = iter(range(100))

    def run(faulty, *overrides):
        folder = tmp_path / f"case_{next(numbers)}"
        folder.mkdir()
        if isinstance(faulty, list):
            ordered = sorted(faulty, key=lambda message: message.receive_ns)
            faulty = write_bag(folder / "faulty", ordered)
        good = write_bag(folder / "good", robot_messages(GOOD_ROWS))
        mapping = folder / "mapping.yaml"
        mapping.write_text(mapping_text)
        # Tables are faster to write than videos.
        changes = ["outputs.lerobot.video=false", *overrides]
        arguments = [faulty, good, "--mapping", mapping, "--out", folder / "out", *changes]
        done = CliRunner().invoke(penstock, ["convert", *map(str, arguments)])
        assert done.exit_code in (0, 3), done.output
        result = Result(folder / "out", done.output)
        assert done.exit_code == (0 if result.bag.state == "converted" else 3)
        return result

    return run


def of(messages, topic):
    return [message for message in messages if message.topic == topic]


def exchanged(messages, old, new):
    """``messages`` with ``new`` in the place of ``old``; without ``old`` where that is None."""
    found = [new if message is old else message for message in messages]
    return [message for message in found if message is not None]


def shifted(messages, since_ns, *, receive_ns=0, stamp_ns=0, topics=None):
    """Messages received at ``since_ns`` or later by clocks that were set then."""
    return [
        message._replace(
            receive_ns=message.receive_ns + receive_ns,
            stamp_ns=None if message.stamp_ns is None else message.stamp_ns + stamp_ns,
        )
        if message.receive_ns >= since_ns and (topics is None or message.topic in topics)
        else message
        for message in messages
    ]


def test_missing_topic_is_named_with_those_there_are(convert):
    messages = [message for message in robot_messages(5) if message.topic != "/reward"]
    convert(messages).refused("NO_SUCH_TOPIC", "no topic /reward", MAIN, "/joint_cmd")


def test_topic_without_messages_is_named(convert, tmp_path):
    bag = tmp_path / "silent"
    store = get_typestore(Stores.ROS2_HUMBLE)
    messages = [message for message in robot_messages(5) if message.topic != "/reward"]
    write_bag(bag, messages)
    silent = tmp_path / "with_connection"
    with (
        rosbag2.Reader(bag) as reader,
        rosbag2.Writer(
            silent,
            version=rosbag2.Writer.VERSION_LATEST,
            storage_plugin=rosbag2.StoragePlugin.MCAP,
        ) as writer,
    ):
        connections = {
            found.topic: writer.add_connection(found.topic, found.msgtype, typestore=store)
            for found in reader.connections
        }
        writer.add_connection("/reward", "std_msgs/msg/Float32", typestore=store)
        for found, time_ns, data in reader.messages():
            writer.write(connections[found.topic], time_ns, data)
    convert(silent).refused("EMPTY_TOPIC", "topic /reward holds no messages")


def test_main_camera_that_stops_early_is_pointed_out(convert):
    messages = robot_messages(30)
    for message in of(messages, MAIN)[11:]:
        messages = exchanged(messages, message, None)
    result = convert(messages)
    assert result.bag.frames == 11
    (warning,) = result.bag.warnings
    assert warning == (
        f"observation.images.global (topic {MAIN}) stops 2.01 s before the recording ends"
    )
    assert f"{result.bag.bag}: {warning}" in result.terminal


def test_frames_after_another_camera_stopped_are_dropped_and_counted(convert):
    messages = robot_messages(30)
    for message in of(messages, LEFT)[11:]:
        messages = exchanged(messages, message, None)
    result = convert(messages)
    # The last of the 31 frames lacks an image and an action; the image is told.
    assert result.bag.dropped == {"no observation.images.left within 0.03 s": 20}
    assert result.bag.frames == 11
    assert "left out 20 frames: no observation.images.left" in result.terminal


def test_recorder_whose_clock_leaps_ahead_leaves_a_gap(convert):
    messages = shifted(robot_messages(20), START_NS + 10 * 100 * MS, receive_ns=3600 * S)
    convert(messages).refused("GAP", "pauses for 3600.100 s after frame 9", "clock that jumped")
    result = convert(messages, "rosbag.gap=split")
    # The reward and the end of frame 9 came after the leap.
    result.converted(
        19,
        dropped={"no next.reward within 0.05 s": 1},
        warnings=["pauses for 3600.100 s after frame 9"],
    )
    assert result.bag.episodes == 2
    actions = [int(action[0]) for action in result.table["action"][:19]]
    assert actions == [row for row in range(20) if row != 9]
    assert result.table["episode_index"][:19] == [0] * 9 + [1] * 10


@pytest.mark.parametrize("bag_format", BAG_FORMATS)
def test_recorder_whose_clock_was_set_back_is_refused(convert, tmp_path, bag_format):
    name = "faulty.bag" if bag_format == "ros1" else "faulty"
    # In the order in which they were written, not of their times.
    messages = shifted(robot_messages(20), START_NS + S, receive_ns=-700 * MS)
    bag = write_bag(tmp_path / name, messages, bag_format)
    convert(bag).refused(
        "CLOCK_JUMP",
        "recorder's clock was set back by 0.680 s after 50 messages of topic /joint_states",
        "time: header for all features",
    )


@pytest.mark.parametrize("bag_format", BAG_FORMATS)
def test_parts_that_were_written_in_another_order_are_read_by_time(convert, tmp_path, bag_format):
    name = "faulty.bag" if bag_format == "ros1" else "faulty"
    messages = robot_messages(20)
    half = len(messages) // 2
    bag = write_bag(tmp_path / name, messages[half:] + messages[:half], bag_format)
    result = convert(bag).converted(20)
    assert [action[0] for action in result.table["action"][:20]] == list(range(20))


@pytest.mark.parametrize("topic", [MAIN, JOINTS])
def test_headers_stamped_by_a_clock_that_was_set_back_are_refused(convert, topic):
    messages = shifted(
        robot_messages(20), START_NS + 1000 * MS, stamp_ns=-400 * MS, topics=(topic,)
    )
    number = len([each for each in of(messages, topic) if each.receive_ns < START_NS + 1000 * MS])
    back_s = "0.300" if topic == MAIN else "0.380"
    refused = convert(messages, *HEADER)
    refused.refused(
        "CLOCK_JUMP",
        f"topic {topic} jump at message {number}, back by {back_s} s",
        "time: receive",
    )
    convert(messages).converted(20)


@pytest.mark.parametrize("gap", ["fail", "drop", "hold", "split"])
def test_headers_stamped_by_a_clock_that_leaps_ahead_are_refused(convert, gap):
    messages = shifted(robot_messages(20), START_NS + 1000 * MS, stamp_ns=S, topics=(JOINTS,))
    convert(messages, *HEADER, f"rosbag.gap={gap}").refused(
        "CLOCK_JUMP", "topic /joint_states jump at message 50, ahead by 1.000 s more"
    )


def test_messages_that_overtake_each_other_by_little_are_put_in_order(convert):
    messages = robot_messages(12)
    joints = of(messages, JOINTS)
    for first, second in zip(joints[10:30:2], joints[11:30:2], strict=True):
        messages = exchanged(messages, first, first._replace(receive_ns=second.receive_ns))
        messages = exchanged(messages, second, second._replace(receive_ns=first.receive_ns))
    result = convert(messages, *HEADER)
    result.converted(12, warnings=["10 messages of topic /joint_states...by 0.020 s at most"])
    expected = convert(robot_messages(12), *HEADER).converted(12)
    assert result.table["observation.state"] == expected.table["observation.state"]


def test_clocks_that_are_hours_apart_are_told_with_how_far(convert):
    behind = shifted(robot_messages(5), 0, stamp_ns=-7200 * S, topics=(JOINTS,))
    convert(behind, "features[observation.state].time=header").refused(
        "NO_COMPLETE_FRAME",
        "observation.state fits 0",
        "header stamp of topic /joint_states",
        "observation.images.global by its time of receipt",
        "7200.003 s apart",
    )
    # Both by header, but of machines that disagree.
    convert(behind, *HEADER).refused("NO_COMPLETE_FRAME", "these clocks are 7200.000 s apart")


def test_clocks_that_are_apart_by_less_than_the_recording_are_pointed_out(convert):
    ahead = shifted(robot_messages(20), 0, stamp_ns=-800 * MS, topics=(JOINTS,))
    result = convert(ahead, "features[observation.state].time=header")
    (warning,) = result.bag.warnings
    assert "these clocks are 0.803 s apart" in warning
    assert f"{result.bag.bag}: {warning}" in result.terminal
    assert result.bag.frames == 13


def test_headers_without_stamps_are_refused(convert):
    messages = [
        message._replace(stamp_ns=0) if message.topic == JOINTS else message
        for message in robot_messages(5)
    ]
    convert(messages, *HEADER).refused("NO_HEADER", "all 26 are 0", "time: receive")


def cut_off(messages, topic, *numbers, kept=100):
    """The files of some images of a topic end too early."""
    for number in numbers:
        fields = of(messages, topic)[number].fields
        fields["data"] = fields["data"][:kept]
    return messages


@pytest.mark.parametrize(
    "overrides", [(), ("outputs.lerobot.video=true",), ("rosbag.chunk_size=3",)]
)
def test_an_image_that_is_cut_off_is_refused_or_replaced_by_the_one_before(convert, overrides):
    messages = cut_off(robot_messages(12), LEFT, 5, 6, 9)
    told = f"message 5 of topic {LEFT}: a jpg of 100 bytes does not decode"
    convert(messages, *overrides).refused("IMAGE_BROKEN", told)
    result = convert(messages, "rosbag.broken=hold", *overrides).converted(
        12,
        warnings=[f"3 frames of observation.images.left take the image before...{told}"],
    )
    assert result.images == {
        "left_image": [1000 + n for n in (0, 1, 2, 3, 4, 4, 4, 7, 8, 8, 10, 11)],
        "global_image": list(range(12)),
    }


def test_files_of_images_are_repeated_where_they_are_passed_on(convert):
    messages = cut_off(robot_messages(4), LEFT, 2)
    whole = of(robot_messages(4), LEFT)[1].fields["data"].tobytes()
    result = convert(messages, "rosbag.broken=hold")
    assert result.table["observation.images.left"][2]["bytes"] == whole


@pytest.mark.parametrize("kept", [0, 2, 30], ids=["empty", "start", "header"])
def test_images_may_be_cut_off_anywhere(convert, kept):
    messages = cut_off(robot_messages(4), MAIN, 2, kept=kept)
    assert convert(messages).bag.state == "refused"
    result = convert(messages, "rosbag.broken=hold")
    assert result.images["global_image"] == [0, 1, 1, 3]


def test_the_first_image_of_a_camera_has_none_before_it(convert):
    messages = cut_off(robot_messages(4), LEFT, 0)
    convert(messages, "rosbag.broken=hold").refused("IMAGE_BROKEN", f"message 0 of topic {LEFT}")


def test_image_of_another_size_is_not_taken_for_a_broken_one(convert):
    messages = robot_messages(4)
    larger = of(robot_messages(4, size=(64, 64)), LEFT)[2]
    messages = exchanged(messages, of(messages, LEFT)[2], larger)
    convert(messages, "rosbag.broken=hold").refused("SCHEMA_MISMATCH", "message 2", "(64, 64, 3)")


def test_a_vector_that_changes_its_length_is_refused_with_both(convert):
    messages = robot_messages(8)
    of(messages, "/joint_cmd")[5].fields["data"] = np.array([5.0, 50.0, 500.0])
    convert(messages).refused(
        "SCHEMA_MISMATCH", "message 5 of topic /joint_cmd: action has 3 elements, but 2 before"
    )
    of(messages, "/joint_cmd")[5].fields["data"] = np.array([5.0])
    convert(messages, "features.action.field=data[0:2]").refused(
        "NO_SUCH_FIELD", "message 5 of topic /joint_cmd", "'data[0:2]'", "it has 1 elements"
    )
    result = convert(messages, "features.action.field=data[0]").converted(8)
    assert result.table["action"][5] == 5.0


@pytest.mark.parametrize("align", ["nearest", "interpolate"])
def test_joints_without_positions_are_refused(convert, align):
    messages = robot_messages(8)
    of(messages, JOINTS)[20].fields["position"] = np.array([1.0, 2.0])
    convert(messages, f"features[observation.state].align={align}").refused(
        "JOINT_COUNT", "message 20 of topic /joint_states", "3 joint names, 2 values"
    )


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_joints_that_are_no_numbers_are_refused(convert, value):
    messages = robot_messages(8)
    of(messages, JOINTS)[20].fields["position"] = np.array([1.0, value, 1.0])
    convert(messages).refused(
        "NOT_FINITE", "message 20 of topic /joint_states", f"{value} at element 1"
    )


def test_of_two_messages_of_the_main_camera_at_one_time_the_last_one_counts(convert):
    messages = robot_messages(8)
    first, second = of(messages, MAIN)[3:5]
    messages = exchanged(messages, second, second._replace(receive_ns=first.receive_ns))
    result = convert(messages).converted(
        7, dropped={"same time as another message of the main feature": 1}
    )
    assert result.images["global_image"] == [0, 1, 2, 4, 5, 6, 7]
    assert [int(action[0]) for action in result.table["action"][:7]] == [0, 1, 2, 3, 5, 6, 7]


def test_a_recording_of_a_single_frame_is_an_episode(convert):
    messages = [
        message for message in robot_messages(1) if message.receive_ns < START_NS + 100 * MS
    ]
    rewards = [each for each in robot_messages(1) if each.topic in ("/reward", "/terminal")]
    result = convert([*messages, *rewards])
    assert (result.bag.state, result.bag.frames, result.bag.dropped) == ("converted", 1, {})
    assert result.images == {"left_image": [1000], "global_image": [0]}
    assert result.table["observation.state"][0] == pytest.approx([0.0, 0.0, 1.0])


@pytest.fixture
def convert_joints(tmp_path):
    """Converts recordings of joints alone, by header, with a good one; gives report and rows."""
    mapping = {
        "task": "count",
        "fps": 10,
        "rosbag": {"time": "header"},
        "features": {"observation.state": {"topic": JOINTS}},
    }
    (tmp_path / "mapping.yaml").write_text(yaml.safe_dump(mapping))

    def run(faulty):
        bags = [write_bag(tmp_path / "faulty", faulty), write_bag(tmp_path / "good", joints())]
        arguments = [*bags, "--mapping", tmp_path / "mapping.yaml", "--out", tmp_path / "out"]
        done = CliRunner().invoke(penstock, ["convert", *map(str, arguments)])
        found, good = read_outcome(tmp_path / "out").bags
        assert (good.state, good.frames) == ("converted", 21)
        assert done.exit_code == (0 if found.state == "converted" else 3)
        table = pq.read_table(tmp_path / "out/data/chunk-000/file-000.parquet").to_pydict()
        return found, np.array(table["observation.state"])[: found.frames], done.output

    return run


def joints():
    """At 10 Hz, stamped when they are received."""
    return [
        each._replace(receive_ns=START_NS + n * 100 * MS, stamp_ns=START_NS + n * 100 * MS)
        for n, each in enumerate(of(robot_messages(4), JOINTS))
    ]


def test_clocks_are_looked_at_without_a_camera_too(convert_joints):
    bag, _, _ = convert_joints(shifted(joints(), START_NS + S, stamp_ns=-600 * MS))
    assert bag.reason == "CLOCK_JUMP"
    assert "message 10, back by 0.500 s" in bag.error


def test_headers_of_another_clock_make_up_for_a_recorder_that_was_set_back(convert_joints):
    bag, rows, terminal = convert_joints(shifted(joints(), START_NS + S, receive_ns=-700 * MS))
    assert (bag.error, bag.frames) == ("", 21)
    np.testing.assert_array_equal(
        rows, np.array([each.fields["position"] for each in joints()], np.float32)
    )
    (warning,) = bag.warnings
    assert "set back by 0.600 s after 10 messages of topic /joint_states" in warning
    assert f"{bag.bag}: {warning}" in terminal
