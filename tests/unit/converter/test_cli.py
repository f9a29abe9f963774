"""The command line: what it prints and how it ends."""

import pytest
from bag_recording import robot_messages, write_bag
from click.testing import CliRunner

from penstock.cli import penstock
from penstock.errors import InvalidInput, NotFound


@pytest.fixture
def mapping_file(tmp_path, mapping_text):
    path = tmp_path / "mapping.yaml"
    path.write_text(mapping_text)
    return path


def run(*arguments):
    return CliRunner().invoke(penstock, ["convert", *map(str, arguments)])


def test_recordings_become_a_dataset_and_a_second_run_says_it_is_done(bag, mapping_file, tmp_path):
    arguments = (bag, "--mapping", mapping_file, "--out", tmp_path / "out", "rosbag.chunk_size=5")
    first = run(*arguments)
    assert first.exit_code == 0, first.output
    assert "1 episodes, 12 frames, 24 images" in first.output.replace("\n", " ")
    assert "left out 1 frames: no action within 0.05 s" in first.output
    second = run(*arguments)
    assert second.exit_code == 0
    assert "done before" in second.output


def test_the_exit_status_tells_some_refused_from_all_refused(bag, mapping_file, tmp_path):
    empty = tmp_path / "empty.bag"
    empty.touch()
    some = run(bag, empty, "--mapping", mapping_file, "--out", tmp_path / "out")
    assert some.exit_code == 3
    assert "BAG_UNREADABLE" in some.output
    everything = run(empty, "--mapping", mapping_file, "--out", tmp_path / "none")
    assert everything.exit_code == 1
    assert "nothing was made" in everything.output


def test_mistakes_are_named(bag, mapping_file, tmp_path):
    out = ("--out", tmp_path / "out")
    missing = run(tmp_path / "nowhere*", "--mapping", mapping_file, *out)
    assert isinstance(missing.exception, NotFound)
    unknown = run(bag, "--mapping", mapping_file, *out, "rosbag.chunks=5")
    assert isinstance(unknown.exception, InvalidInput)
    assert run("fps=3", "--mapping", mapping_file, *out).exit_code == 2


def test_a_recording_with_an_equals_sign_in_its_name_is_no_override(mapping_file, tmp_path):
    odd = write_bag(tmp_path / "run=1", robot_messages(3))
    done = run(odd, "--mapping", mapping_file, "--out", tmp_path / "out")
    assert done.exit_code == 0, done.output


def test_help_shows_examples_that_can_be_run():
    assert "penstock convert session.bag --mapping robot.yaml" in run("--help").output


def test_episodes_are_counted_where_recordings_are_split(bag, mapping_file, tmp_path):
    arguments = (bag, "--mapping", mapping_file, "--out", tmp_path / "out")
    done = run(*arguments, "rosbag.split_episodes=5")
    assert done.exit_code == 0, done.output
    assert "3 episodes, 12 frames" in done.output.replace("\n", " ")
