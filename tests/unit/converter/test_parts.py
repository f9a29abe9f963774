"""Features of parts: vectors of several topics, joined in order."""

import json

import h5py
import numpy as np
import pyarrow.parquet as pq
import pytest
import yaml
from bag_recording import START_NS, Message, barcode, compressed, number_of, write_bag
from penstock_converter.jobs import recording
from penstock_converter.jobs.job import run_job
from penstock_converter.jobs.request import Job
from penstock_converter.mapping.parsing import parse_mapping
from penstock_converter.recordings.bag import Bag

from penstock.errors import InvalidInput

MS = 1_000_000
ROWS = 8
ARM, CLAW, CAMERA = "/arm", "/claw", "/camera"


def arm_at(ms):
    """Four joints, in milliseconds and parts of them."""
    return np.array([ms, -ms, ms / 2, 1.0])


def messages(rows=ROWS):
    """Frames at 10 Hz; joints a, b, c, d at 50 Hz, two claws at 20 Hz and 4 ms late.

    Claw message k says ``[k, 100 + k]``. Stamps are 30 ms before receipt, those of claws 80 ms.
    """
    found = []
    for row in range(rows):
        ms = row * 100
        found.append(
            Message(
                START_NS + ms * MS,
                CAMERA,
                "sensor_msgs/msg/CompressedImage",
                compressed(barcode(row)),
                START_NS + (ms - 30) * MS,
            )
        )
    for ms in range(0, rows * 100, 20):
        joints = {
            "name": ["a", "b", "c", "d"],
            "position": arm_at(ms),
            "velocity": np.zeros(0),
            "effort": np.zeros(0),
        }
        stamp_ns = START_NS + (ms - 30) * MS
        found.append(
            Message(START_NS + ms * MS, ARM, "sensor_msgs/msg/JointState", joints, stamp_ns)
        )
    for number, ms in enumerate(range(4, rows * 100, 50)):
        claws = {
            "name": [],
            "position": np.array([number, 100.0 + number]),
            "velocity": np.zeros(0),
            "effort": np.zeros(0),
        }
        stamp_ns = START_NS + (ms - 80) * MS
        found.append(
            Message(START_NS + ms * MS, CLAW, "sensor_msgs/msg/JointState", claws, stamp_ns)
        )
    return sorted(found, key=lambda message: message.receive_ns)


def mapping_of(*parts, labels=None, **more):
    content = {
        "task": "t",
        "fps": 10,
        "features": {
            "observation.images.camera": {"topic": CAMERA},
            "action": {"parts": list(parts), **({"labels": labels} if labels else {})},
        },
        "outputs": {"lerobot": {"video": False}},
        **more,
    }
    return parse_mapping(yaml.safe_dump(content))


LEFT_ARM = {"topic": ARM, "field": "position[0:2]"}
LEFT_CLAW = {"topic": CLAW, "field": "position[0]"}
RIGHT_ARM = {"topic": ARM, "field": "position[2:4]"}
RIGHT_CLAW = {"topic": CLAW, "field": "position[1]"}


@pytest.fixture(scope="module", params=["ros1", "mcap"])
def bag(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp("parts")
    name = "robot.bag" if request.param == "ros1" else "robot"
    return write_bag(folder / name, messages(), request.param)


@pytest.fixture
def convert(bag, tmp_path):
    """The outcome of a mapping, its rows, and what the dataset says about ``action``."""

    def run(mapping):
        (outcome,) = run_job(Job((bag,), mapping, tmp_path / "out")).bags
        assert outcome.error == ""
        rows = pq.read_table(tmp_path / "out/data/chunk-000/file-000.parquet").to_pydict()
        info = json.loads((tmp_path / "out/meta/info.json").read_text())
        return np.array(rows["action"], np.float64), info["features"]["action"], outcome

    return run


@pytest.fixture
def refuse(bag, tmp_path):
    def run(mapping):
        (outcome,) = run_job(Job((bag,), mapping, tmp_path / "out")).bags
        assert outcome.state == "refused"
        assert list(tmp_path.iterdir()) == []
        return outcome.reason, outcome.error

    return run


# Claw messages come at 4, 54, 104 ms: the one nearest to frame i has number 2 i.
CLAWS = 2 * np.arange(ROWS)


def arms(offset_ms=0):
    return np.stack([arm_at(100 * row + offset_ms) for row in range(ROWS)])


def test_slices_of_several_topics_are_joined_in_their_order(convert):
    rows, described, _ = convert(mapping_of(LEFT_ARM, LEFT_CLAW, RIGHT_ARM, RIGHT_CLAW))
    expected = np.column_stack([arms()[:, :2], CLAWS, arms()[:, 2:], 100 + CLAWS])
    np.testing.assert_array_equal(rows, expected)
    assert (described["dtype"], described["shape"], described["names"]) == ("float32", [6], None)


def test_each_part_has_its_own_scale(convert):
    rows, _, _ = convert(
        mapping_of({**LEFT_ARM, "scale": 0.5}, {**LEFT_CLAW, "scale": -1 / 100}, RIGHT_CLAW)
    )
    expected = np.column_stack([arms()[:, :2] * 0.5, -CLAWS / 100, 100 + CLAWS])
    np.testing.assert_allclose(rows, expected, rtol=1e-6)


@pytest.mark.parametrize("dtype", ["float64", "int64"])
def test_the_type_is_that_of_the_feature(convert, dtype):
    mapping = mapping_of(LEFT_CLAW, RIGHT_CLAW)
    feature = mapping.features["action"].model_copy(update={"dtype": dtype})
    mapping = mapping.model_copy(update={"features": {**mapping.features, "action": feature}})
    rows, described, _ = convert(mapping)
    assert described["dtype"] == dtype
    np.testing.assert_array_equal(rows, np.column_stack([CLAWS, 100 + CLAWS]))


@pytest.mark.parametrize(
    ("parts", "labels", "expected"),
    [
        ((LEFT_ARM, LEFT_CLAW), ["x", "y", "claw"], ["x", "y", "claw"]),
        (
            ({**LEFT_ARM, "labels": ["x", "y"]}, {**LEFT_CLAW, "labels": ["claw"]}),
            None,
            ["x", "y", "claw"],
        ),
        # Those of the feature go before those of its parts.
        (({**LEFT_ARM, "labels": ["x", "y"]}, LEFT_CLAW), ["1", "2", "3"], ["1", "2", "3"]),
        # Joints by name have theirs; elements without any are told by topic.
        (({"topic": ARM, "names": ["c", "a"]}, LEFT_CLAW), None, ["c", "a", "/claw[0]"]),
        ((LEFT_CLAW, {"topic": ARM}), None, ["/claw[0]", "a", "b", "c", "d"]),
        ((LEFT_ARM, LEFT_CLAW), None, None),
    ],
)
def test_labels_are_own_ones_or_those_of_joints(convert, parts, labels, expected):
    _, described, _ = convert(mapping_of(*parts, labels=labels))
    assert described["names"] == expected


def test_joints_are_found_by_name(convert):
    rows, _, _ = convert(mapping_of({"topic": ARM, "names": ["d", "a"]}, LEFT_CLAW))
    np.testing.assert_array_equal(rows, np.column_stack([arms()[:, 3], arms()[:, 0], CLAWS]))


@pytest.mark.parametrize("align", ["nearest", "hold", "interpolate"])
def test_numbers_decoded_together_are_those_of_each_message(bag, tmp_path, monkeypatch, align):
    part = {"topic": ARM, "names": ["d", "a"], "scale": 3.0, "align": align, "offset_s": 0.013}
    together = []
    decode_alike = Bag.decode_alike

    def decode(self, topic, messages):
        found = decode_alike(self, topic, messages)
        together.append(found is not None)
        return found

    def rows(folder, frames):
        monkeypatch.setattr(recording, "_NUMBERS_TOGETHER", frames)
        (outcome,) = run_job(Job((bag,), mapping_of(part, LEFT_CLAW), folder)).bags
        assert outcome.error == ""
        return pq.read_table(folder / "data/chunk-000/file-000.parquet")["action"].to_pylist()

    monkeypatch.setattr(Bag, "decode_alike", decode)
    each = rows(tmp_path / "each", ROWS)
    # The first ones are read one by one, to learn from them.
    assert not together
    assert rows(tmp_path / "together", 3) == each
    assert together == [True] * (-(-len(each) // 3) - 1)
    assert len({row[1] for row in each}) == len(each)


def test_each_part_has_its_own_alignment_and_offset(convert):
    rows, _, outcome = convert(
        mapping_of(
            # Between joints at 0 and 20 ms, weighted by time.
            {**LEFT_ARM, "align": "interpolate", "offset_s": 0.013},
            # The last claw before the frame; the first frame has none yet.
            {**LEFT_CLAW, "align": "hold"},
            # The claw one period later.
            {**RIGHT_CLAW, "offset_s": 0.05},
        )
    )
    assert outcome.dropped == {"no action[1] yet": 1}
    assert len(rows) == ROWS - 1
    np.testing.assert_allclose(rows[:, :2], arms(13)[1:, :2], rtol=1e-6)
    np.testing.assert_array_equal(rows[:, 2], CLAWS[1:] - 1)
    np.testing.assert_array_equal(rows[:, 3], 100 + CLAWS[1:] + 1)


def test_each_part_has_its_own_clock(convert):
    # A claw stamped 80 ms before receipt: frame i, at 100 i ms, gets the one received at
    # 100 i + 104 ms, number 2 i + 2; the last frame the last claw of all, which is 26 ms older.
    rows, _, _ = convert(
        mapping_of(
            {**LEFT_CLAW, "time": "header"}, RIGHT_CLAW, rosbag={"gap": "fail", "time": "receive"}
        )
    )
    np.testing.assert_array_equal(rows[:, 0], [*(CLAWS[:-1] + 2), 2 * ROWS - 1])
    np.testing.assert_array_equal(rows[:, 1], 100 + CLAWS)


def test_each_part_has_its_own_tolerance(convert, bag, tmp_path):
    tight = mapping_of(LEFT_ARM, {**LEFT_CLAW, "tolerance_s": 0.003})
    (outcome,) = run_job(Job((bag,), tight, tmp_path / "tight")).bags
    assert outcome.reason == "NO_COMPLETE_FRAME"
    assert "action[1] fits 0 (tolerance 0.003 s, nearest 0.004 s)" in outcome.error
    assert "action[0]" not in outcome.error
    rows, _, _ = convert(mapping_of(LEFT_ARM, {**LEFT_CLAW, "tolerance_s": 0.0041}))
    assert len(rows) == ROWS


def test_a_gap_names_the_part(tmp_path):
    missing = [
        message
        for message in messages()
        if message.topic != CLAW or not 280 < (message.receive_ns - START_NS) / MS < 380
    ]
    bag = write_bag(tmp_path / "robot", missing)
    mapping = mapping_of(LEFT_ARM, {**LEFT_CLAW, "tolerance_s": 0.03})
    (outcome,) = run_job(Job((bag,), mapping, tmp_path / "out")).bags
    assert outcome.reason == "GAP"
    assert "frame 3 at" in outcome.error
    assert "no action[1] within 0.03 s (topic /claw" in outcome.error
    held = mapping_of(LEFT_ARM, {**LEFT_CLAW, "tolerance_s": 0.03}, rosbag={"gap": "hold"})
    (outcome,) = run_job(Job((bag,), held, tmp_path / "out")).bags
    assert outcome.warnings == [
        "1 frames have no action[1] within 0.03 s (topic /claw) and take that of the frame before"
    ]
    table = pq.read_table(tmp_path / "out/data/chunk-000/file-000.parquet").to_pydict()
    # The arm goes on, the claw stays.
    assert [row[0] for row in table["action"]] == [100.0 * row for row in range(ROWS)]
    assert [row[2] for row in table["action"]][2:5] == [4.0, 4.0, 8.0]


def test_a_feature_of_parts_leads_by_its_first_part(convert):
    mapping = mapping_of(
        LEFT_CLAW, LEFT_ARM, rosbag={"main": "action", "stride": 2, "drop_first": 2}
    )
    rows, _, outcome = convert(mapping)
    # Every other claw from the third on, at 104, 204, ... ms, with the nearest joints.
    assert outcome.dropped == {"drop_first": 2}
    assert rows[:, 0].tolist() == list(range(2, 2 * ROWS, 2))
    np.testing.assert_array_equal(rows[:, 1], 100.0 * np.arange(1, ROWS))


def test_hdf5_takes_features_of_parts(bag, tmp_path):
    content = mapping_of(LEFT_ARM, LEFT_CLAW).model_dump(mode="json", exclude_unset=True)
    # Rewards end a frame early, so that there is an observation after the last row.
    content["features"] = {
        "observation.images.camera": {"topic": CAMERA},
        "observation.state": {"parts": [RIGHT_ARM, {**LEFT_ARM, "scale": 2.0}]},
        "action": {"parts": [RIGHT_CLAW, LEFT_CLAW]},
        "reward": {"parts": [{**LEFT_CLAW, "offset_s": 0.1, "tolerance_s": 0.03}]},
    }
    content["outputs"] = {
        "hdf5": {
            "joint": "observation.state",
            "actions": "action",
            "rewards": "reward",
            "terminals": "reward",
            "images": {"image": "observation.images.camera"},
        }
    }
    mapping = parse_mapping(yaml.safe_dump(content))
    (outcome,) = run_job(Job((bag,), mapping, tmp_path / "out")).bags
    assert (outcome.error, outcome.frames, outcome.next_observation) == ("", ROWS - 1, True)
    with h5py.File(tmp_path / "out/hdf5/episode_000000.hdf5") as file:
        joint, actions = file["observations/joint"][:], file["actions"][:]
        images = [number_of(image) for image in file["observations/image"][:]]
    np.testing.assert_array_equal(joint, np.hstack([arms()[:, 2:], 2 * arms()[:, :2]]))
    np.testing.assert_array_equal(actions, np.column_stack([100 + CLAWS, CLAWS])[:-1])
    assert images == list(range(ROWS))


def test_chunks_of_any_size_give_the_same_rows(convert, bag, tmp_path):
    parts = ({**LEFT_ARM, "align": "interpolate", "offset_s": 0.013}, RIGHT_CLAW)
    rows, _, _ = convert(mapping_of(*parts, rosbag={"chunk_size": 1}))
    run_job(Job((bag,), mapping_of(*parts, rosbag={"chunk_size": None}), tmp_path / "whole"))
    whole = pq.read_table(tmp_path / "whole/data/chunk-000/file-000.parquet").to_pydict()
    np.testing.assert_array_equal(rows, np.array(whole["action"]))


def test_a_part_whose_topic_is_missing_is_named(refuse):
    reason, error = refuse(mapping_of(LEFT_ARM, {"topic": "/other_claw"}))
    assert reason == "NO_SUCH_TOPIC"
    assert "no topic /other_claw: the topics are /arm, /camera, /claw" in error


def test_a_camera_is_no_part(refuse):
    reason, error = refuse(mapping_of(LEFT_ARM, {"topic": CAMERA}))
    assert reason == "NOT_NUMBERS"
    assert "action[1] is a camera (topic /camera): parts are numbers" in error


@pytest.mark.parametrize(
    ("parts", "labels"),
    [
        ((LEFT_ARM, LEFT_CLAW), ["x", "y"]),
        (({**LEFT_ARM, "labels": ["x"]}, LEFT_CLAW), None),
    ],
)
def test_labels_that_are_too_few_are_refused(refuse, parts, labels):
    reason, error = refuse(mapping_of(*parts, labels=labels))
    assert reason == "LABEL_COUNT"
    assert "feature action has 3 elements and 2 labels" in error


@pytest.mark.parametrize("field", ["position[0:5]", "position[3:9]", "position[-5:]"])
def test_a_slice_that_reaches_too_far_is_refused(refuse, field):
    reason, error = refuse(mapping_of(LEFT_CLAW, {"topic": ARM, "field": field}))
    assert reason == "NO_SUCH_FIELD"
    assert "message 0 of topic /arm" in error
    assert f"'{field}': [{field[9:-1]}] does not fit" in error
    assert "it has 4 elements" in error


def test_a_part_that_changes_its_length_is_named(tmp_path):
    changed = messages()
    claw = [message for message in changed if message.topic == CLAW][4]
    claw.fields["position"] = np.array([1.0, 2.0, 3.0])
    bag = write_bag(tmp_path / "robot", changed)
    mapping = mapping_of(LEFT_ARM, {"topic": CLAW, "field": "position[:]"})
    (outcome,) = run_job(Job((bag,), mapping, tmp_path / "out")).bags
    assert outcome.reason == "SCHEMA_MISMATCH"
    told = "message 4 of topic /claw: action[1] has 3 elements, but 2 before"
    assert told in outcome.error


FEATURE = """
task: t
fps: 10
features:
  action:
    parts:
      - {topic: /arm, field: position}
      - {topic: /claw, field: position, scale: 0.01}
"""


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ("features.action.topic=/arm", "a feature has a topic, or parts with a topic each"),
        ("features.action.parts=null", "a feature has a topic, or parts with a topic each"),
        ("features.action.parts=[]", "at least 1 item"),
        ("features.action.scale=2", "scale: belongs to the parts, one by one"),
        ("features.action.align=hold", "align: belongs to the parts, one by one"),
        ("features.action.dtype=video", "an image has one topic"),
        ("features.action.parts[0].align=interpolate features.action.dtype=int64", "interpolate"),
        ("features.action.parts[1].labels=[a, a]", "labels ['a', 'a'] repeat one"),
        (
            "features.action.parts[0].labels=[a, b] features.action.parts[1].labels=[c, a]",
            "labels of the parts, a, b, c, a, repeat one",
        ),
        ("features.action.parts[1].scale=.nan", "finite number"),
        ("features.action.parts[1].topc=/x", "parts.1.topc is not known: the keys there are field"),
        ("features.action.parts[1].dtype=video", "parts.1.dtype is not known"),
        ("features.action.parts[1].field=a..b", "a..b"),
        ("features.action.parts[2].scale=1", "'2' is none of the 2 items, which count from 0"),
        ("features.action.parts.last.scale=1", "'last' is none of the 2 items"),
        ("features.action.parts[0].topic.x=1", "'topic' holds no 'x'"),
    ],
)
def test_what_does_not_hold_is_named(change, words):
    with pytest.raises(InvalidInput) as caught:
        parse_mapping(FEATURE, change.replace(" features", "\nfeatures").split("\n"))
    assert words in caught.value.message


def test_overrides_reach_parts_by_their_number():
    mapping = parse_mapping(
        FEATURE, ["features.action.parts[1].scale=0.5", "features.action.parts.0.topic=/other"]
    )
    first, second = mapping.features["action"].sources
    assert (first.topic, second.scale) == ("/other", 0.5)
    assert mapping.sources["action[1]"] == second
    assert mapping.topics == ["/other", "/claw"]
