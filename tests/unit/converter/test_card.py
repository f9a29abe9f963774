"""The dataset card: the Hub reads its front matter, people the rest."""

import json
import re

import pytest
import yaml
from bag_recording import robot_messages, write_bag
from huggingface_hub import DatasetCard, metadata_load
from penstock_converter.jobs.job import run_job
from penstock_converter.jobs.outcome import BagOutcome, Outcome, read_outcome
from penstock_converter.jobs.request import Job
from penstock_converter.mapping.parsing import parse_mapping
from penstock_converter.outputs.card import dataset_card


@pytest.fixture(scope="module")
def dataset(bag, make_mapping, tmp_path_factory):
    folder = tmp_path_factory.mktemp("card")
    empty = folder / "empty.bag"
    empty.touch()
    second = write_bag(folder / "second|run", robot_messages(5))
    run_job(Job((bag, empty, second), make_mapping(), folder / "out"))
    return folder / "out"


def rows_of(text, heading):
    """Cells of the first table after a heading."""
    table = text.split(heading, 1)[1].split("\n\n| ", 1)[1].split("\n\n", 1)[0]
    return [re.split(r" \| ", line.strip("| ")) for line in table.splitlines()][2:]


def test_the_hub_finds_tables_tags_and_no_licence_that_nobody_chose(dataset):
    found = metadata_load(dataset / "README.md")
    assert found == {
        "task_categories": ["robotics"],
        "tags": ["LeRobot", "penstock", "made_up"],
        "configs": [{"config_name": "default", "data_files": "data/*/*.parquet"}],
    }
    card = DatasetCard.load(dataset / "README.md")
    assert card.data.license is None
    assert card.data.configs == found["configs"]
    assert list(dataset.glob(found["configs"][0]["data_files"]))


def test_people_find_what_is_in_it_and_where_it_came_from(dataset, bag):
    text = (dataset / "README.md").read_text()
    assert "# count\n" in text
    assert "| Episodes | 2 |" in text
    assert "| Frames | 17 |" in text
    assert "| Duration | 1.7 s |" in text
    features = {row[0]: row[1:] for row in rows_of(text, "## Features")}
    assert features["observation.state"] == ["float32", "3", "a, b, c"]
    assert features["observation.images.left"][:2] == ["video (h264)", "32 x 64 x 3"]
    info = json.loads((dataset / "meta/info.json").read_text())
    assert list(features) == list(info["features"])
    assert "- 2 frames left out: no action within 0.05 s" in text
    assert "- 1 recordings refused: `BAG_UNREADABLE`" in text
    assert "- robot\n- second\\|run\n" in text
    assert str(bag.parent) not in text


def test_its_mapping_makes_the_dataset_again(dataset, make_mapping):
    shown = re.search(r"```yaml\n(.*?)```", (dataset / "README.md").read_text(), re.DOTALL)
    assert parse_mapping(shown[1]).without_speed() == make_mapping().without_speed()


def test_it_is_a_function_of_the_dataset_alone(dataset):
    info = json.loads((dataset / "meta/info.json").read_text())
    outcome = read_outcome(dataset)
    expected = (dataset / "README.md").read_text()
    outcome.seconds, outcome.peak_rss_bytes = 1e6, 1
    outcome.mapping["rosbag"]["chunk_size"] = 3
    assert dataset_card(info, outcome) == expected


def test_long_lists_say_how_much_is_missing(dataset):
    info = json.loads((dataset / "meta/info.json").read_text())
    info["features"]["action"]["names"] = [f"joint_{number}" for number in range(40)]
    mapping = read_outcome(dataset).mapping
    bags = [BagOutcome(f"bags/run_{number}", state="converted") for number in range(1000)]
    text = dataset_card(info, Outcome("", bags, mapping=mapping))
    assert "joint_31, and 8 more |" in text
    assert "- run_199\n- and 800 more\n" in text


def test_a_task_of_several_lines_breaks_neither_title_nor_front_matter(dataset):
    info = json.loads((dataset / "meta/info.json").read_text())
    info["robot_type"] = "a: [robot"
    mapping = {**read_outcome(dataset).mapping, "task": "---\npick | *place*\n---"}
    text = dataset_card(info, Outcome("", [], mapping=mapping))
    front, body = text.removeprefix("---\n").split("\n---\n", 1)
    assert yaml.safe_load(front)["tags"][-1] == "a: [robot"
    assert "# --- pick \\| \\*place\\* ---\n" in body


def test_images_in_tables_are_announced_as_such(bag, make_mapping, tmp_path):
    run_job(Job((bag,), make_mapping("outputs.lerobot.video=false"), tmp_path / "out"))
    text = (tmp_path / "out/README.md").read_text()
    assert "it holds all features" in text
    assert "`videos/`" not in text
