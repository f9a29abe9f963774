"""Looking at recordings: what is in them, and a mapping to begin with."""

import json
from pathlib import Path

import numpy as np
import pytest
from bag_recording import BAG_FORMATS, START_NS, Message, robot_messages, write_bag
from click.testing import CliRunner
from penstock_converter.jobs.job import run_job
from penstock_converter.jobs.request import Job
from penstock_converter.mapping.parsing import parse_mapping
from penstock_converter.recordings.inspection import NumberField, inspect_bag
from penstock_converter.recordings.proposal import propose_mapping

from penstock.cli import penstock
from penstock.errors import AlreadyExists

ROWS = 12


def run(*arguments):
    return CliRunner().invoke(penstock, ["convert", "inspect", *map(str, arguments)])


def by_name(found):
    return {topic.name: topic for topic in found.topics}


@pytest.mark.parametrize("bag_format", BAG_FORMATS)
def test_topics_rates_and_contents_are_named(tmp_path, bag_format):
    name = "robot.bag" if bag_format == "ros1" else "robot"
    bag = write_bag(tmp_path / name, robot_messages(ROWS), bag_format)
    found = inspect_bag(bag)
    topics = by_name(found)
    assert found.bag == name
    assert found.duration_s == pytest.approx(1.3, abs=0.1)
    camera = topics["/cam_left/compressed"]
    assert (camera.kind, camera.image) == ("sensor_msgs/msg/CompressedImage", "64x32 jpg")
    assert (camera.messages, camera.rate_hz) == (ROWS + 1, pytest.approx(10))
    assert camera.first_s == pytest.approx(0, abs=0.01)
    joints = topics["/joint_states"]
    assert joints.rate_hz == pytest.approx(50)
    assert NumberField("position", 3) in joints.numbers
    assert not any("header" in field.path for field in joints.numbers)
    assert {topic.gaps for topic in found.topics} == {0}
    assert {topic.problem for topic in found.topics} == {""}


def test_pauses_are_counted_and_the_longest_is_told(tmp_path):
    times_ms = [0, 100, 200, 300, 900, 1000, 1100, 1350, 1450, 1550, 3000]
    messages = [
        Message(START_NS + ms * 1_000_000, "/x", "std_msgs/msg/Float32", {"data": 1.0})
        for ms in times_ms
    ]
    (topic,) = inspect_bag(write_bag(tmp_path / "robot", messages)).topics
    assert topic.rate_hz == pytest.approx(10)
    assert (topic.gaps, topic.longest_gap_s) == (2, pytest.approx(1.45))


def test_image_that_does_not_decode_is_told_and_the_others_are_looked_at(tmp_path):
    broken = {"format": "jpeg", "data": np.frombuffer(b"\xff\xd8 cut off", np.uint8)}
    kind = "sensor_msgs/msg/CompressedImage"
    messages = [*robot_messages(3), Message(START_NS + 5, "/broken", kind, broken, START_NS)]
    found = inspect_bag(write_bag(tmp_path / "robot", messages))
    topics = by_name(found)
    assert topics["/broken"].problem == "a jpg of 10 bytes does not decode: its end is missing"
    assert topics["/cam_left/compressed"].image == "64x32 jpg"
    proposal = propose_mapping(found)
    assert "left out: /broken (a jpg of 10 bytes" in proposal
    assert "observation.images.broken" not in proposal


def test_proposal_converts_the_recording_that_it_was_made_from(bag, tmp_path):
    text = propose_mapping(inspect_bag(bag))
    mapping = parse_mapping(text)
    assert mapping.fps == 10
    assert mapping.features["observation.images.cam_left"].topic == "/cam_left/compressed"
    assert mapping.features["observation.images.cam_global"].topic == "/cam_global/compressed"
    assert mapping.features["observation.state"].topic == "/joint_states"
    assert mapping.features["action"].topic == "/joint_cmd"
    assert mapping.features["action"].align == "hold"
    outcome = run_job(Job((bag,), mapping, tmp_path / "out"))
    assert [each.state for each in outcome.bags] == ["converted"]
    assert outcome.frames >= ROWS - 1


def test_recording_without_images_or_numbers_gets_a_proposal_that_says_so(tmp_path):
    messages = [Message(START_NS, "/say", "std_msgs/msg/String", {"data": "hello"})]
    text = propose_mapping(inspect_bag(write_bag(tmp_path / "robot", messages)))
    assert "Nothing in it is an image or numbers" in text
    assert "left out: /say (std_msgs/msg/String)" in text


def test_every_real_recording_is_shown_or_refused(real_data):
    bags = real_data / "bags"
    done = run(*sorted(bags.iterdir())[1:], "--json")
    found = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    assert done.exit_code == 3, done.output
    assert "empty-file.bag" in done.stderr
    names = {inspection["bag"] for inspection in found}
    assert {"waist_diagnostics.bag", "soccer_goal_single", "split_db3", "split_mcap"} <= names
    waist = next(each for each in found if each["bag"] == "waist_diagnostics.bag")
    joints = next(t for t in waist["topics"] if t["name"] == "/wx200/joint_states")
    assert joints["messages"] == 10598
    assert joints["rate_hz"] == pytest.approx(100, rel=0.01)
    events = next(each for each in found if each["bag"] == "service_events_mcap")
    assert any("cannot be parsed" in topic["problem"] for topic in events["topics"])


def test_command_prints_a_table_and_writes_a_mapping_once(bag, tmp_path):
    path = tmp_path / "robot.yaml"
    done = run(bag, "--mapping-out", path)
    assert done.exit_code == 0, done.output
    assert "/joint_states" in done.output
    assert parse_mapping(path.read_text()).features
    again = run(bag, "--mapping-out", path)
    assert isinstance(again.exception, AlreadyExists)
    # What was written is taken by the command that converts.
    arguments = [bag, "--mapping", path, "--out", tmp_path / "out"]
    converted = CliRunner().invoke(penstock, ["convert", *map(str, arguments)])
    assert converted.exit_code == 0, converted.output


def test_nothing_readable_is_a_failure(tmp_path):
    (tmp_path / "empty.bag").touch()
    done = run(tmp_path / "empty.bag")
    assert done.exit_code == 1
    assert "Nothing was recorded" in done.stderr


@pytest.mark.parametrize("command", [[], ["run"]], ids=["short", "run"])
def test_options_may_come_first(bag, mapping_text, tmp_path, command):
    mapping = tmp_path / "mapping.yaml"
    mapping.write_text(mapping_text)
    arguments = ["--mapping", mapping, "--out", tmp_path / "out", bag]
    done = CliRunner().invoke(penstock, ["convert", *command, *map(str, arguments)])
    assert done.exit_code == 0, done.output
    assert (tmp_path / "out/meta/info.json").exists()
    assert Path(tmp_path / "out/conversion.json").exists()
