"""Presets: what they make of the recordings of their robots, number by number."""

import json
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from bag_recording import START_NS, barcode, compressed, number_of
from click.testing import CliRunner
from penstock_converter.jobs.job import run_job
from penstock_converter.jobs.request import Job
from penstock_converter.mapping.parsing import (
    fitting_presets,
    load_mapping,
    parse_mapping,
    preset_text,
    presets,
)
from penstock_converter.messages.images import decode_image
from penstock_converter.recordings.inspection import inspect_bag
from penstock_converter.recordings.proposal import propose_mapping
from rosbags import rosbag1
from rosbags.typesys import Stores, get_types_from_msg, get_typestore

from penstock.cli import penstock
from penstock.errors import InvalidInput

ROOT = Path(__file__).resolve().parents[3]
MS = 1_000_000
SECONDS = 4
CAMERAS = {"h": 0, "l": 1000, "r": 2000}
"""Head, left and right wrist, and the number that the first image of each shows."""

# Fields of the robot's messages, as its recordings define them.
DEFINITIONS = {
    "kuavo_msgs/msg/jointData": """
        float64[] joint_q
        float64[] joint_v
        float64[] joint_vd
        float64[] joint_torque
    """,
    "kuavo_msgs/msg/imuData": """
        geometry_msgs/Vector3 gyro
        geometry_msgs/Vector3 acc
        geometry_msgs/Vector3 free_acc
        geometry_msgs/Quaternion quat
    """,
    "kuavo_msgs/msg/endEffectorData": """
        string[] name
        float64[] position
        float64[] velocity
        float64[] effort
    """,
    "kuavo_msgs/msg/sensorsData": """
        std_msgs/Header header
        time sensor_time
        kuavo_msgs/jointData joint_data
        kuavo_msgs/imuData imu_data
        kuavo_msgs/endEffectorData end_effector_data
    """,
    "kuavo_msgs/msg/jointCmd": """
        std_msgs/Header header
        float64[] joint_q
        float64[] joint_v
        float64[] tau
        float64[] tau_max
        float64[] tau_ratio
        float64[] joint_kp
        float64[] joint_kd
        int32[] control_modes
    """,
    "kuavo_msgs/msg/lejuClawState": """
        std_msgs/Header header
        int8[] state
        kuavo_msgs/endEffectorData data
    """,
    "kuavo_msgs/msg/lejuClawCommand": """
        std_msgs/Header header
        kuavo_msgs/endEffectorData data
    """,
    "kuavo_msgs/msg/robotHandPosition": """
        Header header
        uint8[] left_hand_position
        uint8[] right_hand_position
    """,
}
# What recordings say of claws; rosbags writes no constants by itself.
CONSTANTS = """
int8 kError = -1
int8 kUnknown = 0
int8 kMoving = 1
int8 kReached = 2
int8 kGrabbed = 3

"""
HANDS = {
    "kuavo": {
        "/leju_claw_state": "kuavo_msgs/msg/lejuClawState",
        "/leju_claw_command": "kuavo_msgs/msg/lejuClawCommand",
    },
    "kuavo_hands": {
        "/dexhand/state": "sensor_msgs/msg/JointState",
        "/control_robot_hand_position": "kuavo_msgs/msg/robotHandPosition",
    },
    "kuavo_gripper": {
        "/gripper/state": "sensor_msgs/msg/JointState",
        "/gripper/command": "sensor_msgs/msg/JointState",
    },
}


def joints_at(seconds):
    """28 joints in radians: 12 of the legs, 7 of either arm, 2 of the head."""
    return np.sin(seconds + np.arange(28.0))


def commands_at(seconds):
    """14 joints of the arms in degrees."""
    return 90 * np.cos(seconds + np.arange(14.0))


def hands_at(preset, seconds):
    """What either hand tells and is told, in the units of its messages, left and right."""
    share = np.array([np.sin(seconds) ** 2, np.cos(seconds) ** 2])
    if preset == "kuavo_gripper":
        return 0.8 * share, 255 * share[::-1]
    if preset == "kuavo_hands":
        return 100 * share, np.floor(100 * share[::-1])
    return 100 * share, 100 * share[::-1]


# Topics by their rates in Hz, and by how much they are later than whole periods, in nanoseconds.
RATES = {"sensors": (500, 300_000), "arms": (100, 1_700_000), "hands": (50, 2_900_000)}


def times_of(name):
    rate, late_ns = RATES[name]
    return START_NS + late_ns + np.arange(SECONDS * rate, dtype=np.int64) * (1_000_000_000 // rate)


def camera_times(camera):
    """30 Hz; wrist cameras are 5 and 9 ms later than the head."""
    late_ns = {"h": 0, "l": 5 * MS, "r": 9 * MS}[camera]
    return START_NS + late_ns + np.arange(SECONDS * 30, dtype=np.int64) * 33_333_333


class Kuavo:
    """Writes recordings of the robot."""

    def __init__(self, preset):
        self.preset = preset
        self.store = get_typestore(Stores.ROS1_NOETIC)
        for name, text in DEFINITIONS.items():
            self.store.register(get_types_from_msg(text, name))
        self.types = self.store.types

    def header(self, stamp_ns=0):
        stamp = self.types["builtin_interfaces/msg/Time"](*divmod(int(stamp_ns), 10**9))
        return self.types["std_msgs/msg/Header"](seq=0, stamp=stamp, frame_id="")

    def joint_state(self, position):
        empty = np.zeros(0)
        kind = self.types["sensor_msgs/msg/JointState"]
        # Commands of the arms and of the hands come without names.
        return kind(header=self.header(), name=[], position=position, velocity=empty, effort=empty)

    def end_effectors(self, position):
        return self.types["kuavo_msgs/msg/endEffectorData"](
            ["left_claw", "right_claw"], position, np.zeros(2), np.zeros(2)
        )

    def sensors(self, seconds):
        types, zeros = self.types, np.zeros(28)
        vector = types["geometry_msgs/msg/Vector3"](0.0, 0.0, 0.0)
        turn = types["geometry_msgs/msg/Quaternion"](0.0, 0.0, 0.0, 1.0)
        return types["kuavo_msgs/msg/sensorsData"](
            header=self.header(),
            sensor_time=types["builtin_interfaces/msg/Time"](0, 0),
            joint_data=types["kuavo_msgs/msg/jointData"](joints_at(seconds), zeros, zeros, zeros),
            imu_data=types["kuavo_msgs/msg/imuData"](vector, vector, vector, turn),
            end_effector_data=self.end_effectors(np.zeros(2)),
        )

    def hands(self, seconds):
        """State and command of the hands, in the order of their topics."""
        state, command = hands_at(self.preset, seconds)
        types = self.types
        if self.preset == "kuavo_gripper":
            return self.joint_state(state), self.joint_state(command)
        if self.preset == "kuavo_hands":
            fingers = np.arange(1.0, 6.0)
            told = [np.array([first, 9, 9, 9, 9, 9], np.uint8) for first in command]
            return (
                self.joint_state(np.concatenate([state[:1], fingers, state[1:], fingers])),
                types["kuavo_msgs/msg/robotHandPosition"](self.header(), *told),
            )
        return (
            types["kuavo_msgs/msg/lejuClawState"](
                header=self.header(), state=np.zeros(2, np.int8), data=self.end_effectors(state)
            ),
            types["kuavo_msgs/msg/lejuClawCommand"](
                header=self.header(), data=self.end_effectors(command)
            ),
        )

    def messages(self):
        """Time, topic, type, message."""
        found = []
        for camera, first in CAMERAS.items():
            kind = "sensor_msgs/msg/CompressedImage"
            for number, time_ns in enumerate(camera_times(camera)):
                image = self.types[kind](
                    header=self.header(time_ns), **compressed(barcode(first + number))
                )
                found.append((time_ns, f"/cam_{camera}/color/image_raw/compressed", kind, image))
        for time_ns in times_of("sensors"):
            sensors = self.sensors((time_ns - START_NS) * 1e-9)
            found.append((time_ns, "/sensors_data_raw", "kuavo_msgs/msg/sensorsData", sensors))
        for time_ns in times_of("arms"):
            kind = "sensor_msgs/msg/JointState"
            told = self.joint_state(commands_at((time_ns - START_NS) * 1e-9))
            found.append((time_ns, "/kuavo_arm_traj", kind, told))
            kind = "kuavo_msgs/msg/jointCmd"
            fields = [np.zeros(28)] * 7
            whole = self.types[kind](self.header(), *fields, np.zeros(28, np.int32))
            found.append((time_ns, "/joint_cmd", kind, whole))
        for time_ns in times_of("hands"):
            both = self.hands((time_ns - START_NS) * 1e-9)
            for (topic, kind), message in zip(HANDS[self.preset].items(), both, strict=True):
                found.append((time_ns, topic, kind, message))
        return sorted(found, key=lambda each: each[0])

    def write(self, path):
        with rosbag1.Writer(path) as writer:
            connections = {}
            for time_ns, topic, kind, message in self.messages():
                if topic not in connections:
                    text, digest = self.store.generate_msgdef(kind)
                    if kind.endswith("lejuClawState"):
                        text = CONSTANTS + text
                    connections[topic] = writer.add_connection(
                        topic, kind, msgdef=text, md5sum=digest
                    )
                data = self.store.serialize_ros1(message, kind)
                writer.write(connections[topic], int(time_ns), data)
        return path


@pytest.fixture(scope="module", params=list(HANDS))
def kuavo(request, tmp_path_factory):
    """A preset, a recording of its robot, and the dataset that it becomes."""
    folder = tmp_path_factory.mktemp(request.param)
    bag = Kuavo(request.param).write(folder / "robot.bag")
    # Files of images as they came say best which ones they are.
    mapping = load_mapping(Path(request.param), ["outputs.lerobot.video=false"])
    outcome = run_job(Job((bag,), mapping, folder / "out"))
    return request.param, bag, folder / "out", outcome


def nearest(times_ns, moments_ns):
    """Numbers of the messages nearest in time, by looking at all of them."""
    return np.array([np.argmin(np.abs(times_ns - moment)) for moment in moments_ns])


# Of 120 images ten are cut at either end, and every third is a frame.
FRAMES = np.arange(10, 110, 3)


def test_frames_are_every_third_image_of_the_head_without_the_ends(kuavo):
    _, _, out, outcome = kuavo
    (bag,) = outcome.bags
    assert (bag.state, bag.error, bag.frames) == ("converted", "", 34)
    assert (bag.dropped, bag.warnings) == ({"drop_first": 10, "drop_last": 10}, [])
    table = pq.read_table(out / "data/chunk-000/file-000.parquet").to_pydict()
    np.testing.assert_allclose(table["timestamp"], np.arange(34) / 10, rtol=1e-6)
    moments = camera_times("h")[FRAMES]
    for camera, name in (("h", "head_cam_h"), ("l", "wrist_cam_l"), ("r", "wrist_cam_r")):
        shown = []
        for image in table[f"observation.images.{name}"]:
            data = np.frombuffer(image["bytes"], np.uint8)
            message = type("CompressedImage", (), {"format": "jpeg", "data": data})()
            shown.append(number_of(decode_image(message)))
        expected = CAMERAS[camera] + nearest(camera_times(camera), moments)
        assert shown == expected.tolist()


def test_state_and_action_are_arms_in_radians_and_hands_in_shares(kuavo):
    preset, _, out, _ = kuavo
    table = pq.read_table(out / "data/chunk-000/file-000.parquet").to_pydict()
    moments = camera_times("h")[FRAMES]
    states, actions = [], []
    for moment in moments:
        seconds = {
            name: (times_of(name)[nearest(times_of(name), [moment])[0]] - START_NS) * 1e-9
            for name in RATES
        }
        joints = joints_at(seconds["sensors"])
        told = np.deg2rad(commands_at(seconds["arms"]))
        state, command = hands_at(preset, seconds["hands"])
        if preset == "kuavo_gripper":
            state, command = state / 0.8, command / 255
        else:
            state, command = state / 100, command / 100
        states.append([*joints[12:19], state[0], *joints[19:26], state[1]])
        actions.append([*told[:7], command[0], *told[7:], command[1]])
    for name, expected in (("observation.state", states), ("action", actions)):
        assert np.shape(table[name]) == (34, 16)
        np.testing.assert_allclose(table[name], np.array(expected), rtol=1e-6, atol=1e-7)


def test_elements_are_named(kuavo):
    preset, _, out, _ = kuavo
    features = json.loads((out / "meta/info.json").read_text())["features"]
    hand = {"kuavo": "claw", "kuavo_hands": "qiangnao_1", "kuavo_gripper": "gripper"}[preset]
    for name in ("observation.state", "action"):
        names = features[name]["names"]
        assert len(names) == 16
        assert (names[0], names[6], names[7]) == ("zarm_l1_link", "zarm_l7_link", f"left_{hand}")
        assert (names[8], names[15]) == ("zarm_r1_link", f"right_{hand}")


def test_an_operator_who_pauses_is_held_and_counted(tmp_path, monkeypatch):
    """Nothing is sent between 1.5 and 2 seconds; the robot stays where it was told to be."""
    whole = times_of("arms")
    paused = whole[(whole < START_NS + 1500 * MS) | (whole > START_NS + 2000 * MS)]
    robot = Kuavo("kuavo")
    everything = robot.messages()
    monkeypatch.setattr(
        robot,
        "messages",
        lambda: [
            each for each in everything if each[1] != "/kuavo_arm_traj" or each[0] in set(paused)
        ],
    )
    bag = robot.write(tmp_path / "robot.bag")
    mapping = load_mapping(Path("kuavo"), ["outputs.lerobot.video=false"])
    (outcome,) = run_job(Job((bag,), mapping, tmp_path / "out")).bags
    assert outcome.frames == 34
    # Frames at 1.633, 1.733 and 1.833 s are farther than 100 ms from any command.
    assert [warning.partition(" (")[0] for warning in outcome.warnings] == [
        "3 frames have no action[0] within 0.1 s",
        "3 frames have no action[2] within 0.1 s",
    ]
    table = pq.read_table(tmp_path / "out/data/chunk-000/file-000.parquet").to_pydict()
    rows = np.array(table["action"])
    held = np.flatnonzero(np.all(np.diff(rows[:, :7], axis=0) == 0, axis=1)) + 1
    moments = (camera_times("h")[FRAMES] - START_NS) * 1e-9
    np.testing.assert_allclose(moments[held], [1.6333, 1.7333, 1.8333], atol=1e-3)


def test_inspect_names_the_presets_that_fit(kuavo, tmp_path):
    preset, bag, _, _ = kuavo
    shown = CliRunner().invoke(penstock, ["convert", "inspect", str(bag)])
    assert shown.exit_code == 0, shown.output
    assert f"fits preset {preset}: --mapping {preset}" in shown.output
    assert shown.output.count("fits preset") == 1
    line = CliRunner().invoke(penstock, ["convert", "inspect", str(bag), "--json"]).stdout
    assert json.loads(line)["presets"] == [preset]
    text = propose_mapping(inspect_bag(bag))
    assert f"# It fits preset {preset}: --mapping {preset}\n" in text
    assert parse_mapping(text).features


def test_presets_fit_recordings_with_all_of_their_topics():
    needed = load_mapping(Path("kuavo")).topics
    assert fitting_presets(needed) == ["kuavo"]
    assert fitting_presets(needed[1:]) == []
    both = [*needed, "/joint_states", "/camera/color/image_raw/compressed"]
    assert fitting_presets(both) == ["kuavo", "joint_states"]


@pytest.mark.parametrize("name", sorted(presets()))
def test_every_preset_is_a_mapping_with_a_line_that_says_what_it_is(name):
    mapping = parse_mapping(preset_text(name))
    assert mapping.features
    description = presets()[name]
    assert 20 < len(description) <= 98
    assert description.endswith(".")
    assert not description.startswith("#")


@pytest.mark.parametrize("name", ["kuavo", "kuavo_hands", "kuavo_gripper"])
def test_depth_is_there_as_comments(name):
    pieces = preset_text(name).split("  # observation.depth_")
    assert len(pieces) == 4
    text = preset_text(name).replace("  # observation.depth_", "  observation.depth_")
    added = set(parse_mapping(text).features) - set(parse_mapping(preset_text(name)).features)
    assert added == {"observation.depth_h", "observation.depth_l", "observation.depth_r"}
    assert {parse_mapping(text).features[feature].dtype for feature in added} == {"depth"}


def test_the_example_is_the_preset():
    assert preset_text("two_arm_reach") == (ROOT / "examples/two_arm_reach/mapping.yaml").read_text(
        "utf-8"
    )


def test_joint_states_take_the_next_state_as_action(tmp_path):
    """30 Hz images, 100 Hz joints: the action of a frame is the state a frame later."""
    store = get_typestore(Stores.ROS1_NOETIC)
    kinds = ("sensor_msgs/msg/CompressedImage", "sensor_msgs/msg/JointState")
    topics = ("/camera/color/image_raw/compressed", "/joint_states")
    header = Kuavo("kuavo").header
    bag = tmp_path / "robot.bag"
    with rosbag1.Writer(bag) as writer:
        camera, joints = (
            writer.add_connection(topic, kind, typestore=store)
            for topic, kind in zip(topics, kinds, strict=True)
        )
        for tick in range(100):
            position = np.array([tick / 100, 1.0])
            state = store.types[kinds[1]](header(), ["a", "b"], position, np.zeros(0), np.zeros(0))
            writer.write(joints, START_NS + tick * 10 * MS, store.serialize_ros1(state, kinds[1]))
        for number in range(30):
            image = store.types[kinds[0]](header(), **compressed(barcode(number)))
            writer.write(
                camera, START_NS + number * 33_333_333, store.serialize_ros1(image, kinds[0])
            )
    mapping = load_mapping(Path("joint_states"), ["outputs.lerobot.video=false"])
    (outcome,) = run_job(Job((bag,), mapping, tmp_path / "out")).bags
    assert (outcome.error, outcome.frames) == ("", 30)
    table = pq.read_table(tmp_path / "out/data/chunk-000/file-000.parquet").to_pydict()
    ticks = np.arange(100) / 100
    moments = np.arange(30) / 30
    for name, offset in (("observation.state", 0.0), ("action", 1 / 30)):
        expected = ticks[nearest(ticks, moments + offset)]
        np.testing.assert_allclose(np.array(table[name])[:, 0], expected, atol=1e-6)


@pytest.mark.parametrize("folder", [False, True], ids=["alone", "beside_a_folder"])
def test_a_preset_is_taken_by_its_name(tmp_path, monkeypatch, folder):
    monkeypatch.chdir(tmp_path)
    if folder:
        (tmp_path / "kuavo").mkdir()
    Kuavo("kuavo").write(tmp_path / "robot.bag")
    arguments = ["convert", "robot.bag", "--mapping", "kuavo", "--out", "out", "task=Sort parcels."]
    done = CliRunner().invoke(penstock, arguments)
    assert done.exit_code == 0, done.output
    assert "34 frames" in done.output
    report = json.loads((tmp_path / "out/conversion.json").read_text())
    assert report["mapping"]["task"] == "Sort parcels."
    # A file of that name goes first.
    if not folder:
        (tmp_path / "kuavo").write_text("task: t\nfps: 10\nfeatures: {x: {topic: /other}}")
        arguments[5] = "elsewhere"
        refused = CliRunner().invoke(penstock, arguments)
        assert "no topic /other" in refused.output


def test_an_unknown_preset_is_refused_with_those_there_are(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InvalidInput, match=r"kuavoo: neither a file nor a preset: .*kuavo_hands"):
        load_mapping(Path("kuavoo"))
    with pytest.raises(InvalidInput, match=r"kuavoo: neither"):
        preset_text("kuavoo")
    with pytest.raises(InvalidInput, match=r"kuavo\.yaml cannot be read"):
        load_mapping(Path("kuavo.yaml"))


def test_clients_that_send_text_may_send_a_name():
    assert parse_mapping("kuavo", ["fps=30"]).fps == 30
    assert parse_mapping("kuavo").topics == load_mapping(Path("kuavo")).topics
    with pytest.raises(InvalidInput, match=r"holds a str: .*the name of a preset: .*kuavo"):
        parse_mapping("kuavoo")


def test_presets_are_listed_and_printed():
    listed = CliRunner().invoke(penstock, ["convert", "presets"])
    assert listed.exit_code == 0
    lines = dict(line.split(maxsplit=1) for line in listed.output.splitlines())
    assert lines == presets()
    printed = CliRunner().invoke(penstock, ["convert", "presets", "kuavo_hands"])
    assert printed.output == preset_text("kuavo_hands")
    assert parse_mapping(printed.output) == load_mapping(Path("kuavo_hands"))
    unknown = CliRunner().invoke(penstock, ["convert", "presets", "nothing"])
    assert isinstance(unknown.exception, InvalidInput)
    assert "penstock convert presets kuavo > robot.yaml" in (
        CliRunner().invoke(penstock, ["convert", "presets", "--help"]).output
    )
