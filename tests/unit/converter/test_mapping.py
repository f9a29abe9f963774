"""Mappings say what is wrong with them."""

import pytest
from penstock_converter.mapping.parsing import load_mapping, parse_mapping

from penstock.errors import InvalidInput


def refusal(text, *overrides):
    with pytest.raises(InvalidInput) as caught:
        parse_mapping(text, overrides)
    return caught.value


def test_defaults_are_those_of_the_documentation(make_mapping):
    mapping = make_mapping()
    assert (mapping.rosbag.chunk_size, mapping.rosbag.stride, mapping.rosbag.gap) == (
        "auto",
        1,
        "fail",
    )
    assert mapping.tolerance_s("action") == 0.05
    assert mapping.tolerance_s("observation.images.left") == 0.03


def test_dotted_overrides_reach_every_value(make_mapping):
    mapping = make_mapping(
        "rosbag.chunk_size=7",
        "fps=15",
        "features[next.reward].topic=/other",
        "features.action.names=[x, y]",
        "outputs.hdf5=null",
        "rosbag.main=null",
    )
    assert mapping.rosbag.chunk_size == 7
    assert mapping.fps == 15
    assert mapping.features["next.reward"].topic == "/other"
    assert mapping.features["action"].names == ("x", "y")
    assert mapping.outputs.hdf5 is None
    assert mapping.rosbag.main is None


def test_an_override_of_an_unknown_key_names_the_known_ones(mapping_text):
    error = refusal(mapping_text, "rosbag.chunksize=7")
    assert error.field == "rosbag.chunksize"
    assert "chunk_size" in error.message


@pytest.mark.parametrize("text", ["rosbag.chunk_size", "=3", "fps.deep=1", "features[a=1"])
def test_an_override_that_is_none_is_refused(mapping_text, text):
    assert repr(text) in refusal(mapping_text, text).message


@pytest.mark.parametrize(
    ("override", "field", "word"),
    [
        ("rosbag.chunk_size=0", "rosbag.chunk_size", "a whole number of frames"),
        ("rosbag.chunk_size=1.5", "rosbag.chunk_size", "a whole number of frames"),
        ("rosbag.chunk_size=true", "rosbag.chunk_size", "a whole number of frames"),
        ("rosbag.chunk_size=many", "rosbag.chunk_size", "'many'"),
        ("features.action.align=closest", "features.action.align", "'closest'"),
        ("features.action.field=a..b", "features.action", "a..b"),
        ("rosbag.main=camera", "", "observation.state"),
        ("outputs.hdf5.joint=joints", "", "outputs.hdf5.joint"),
        ("outputs={}", "", "lerobot, hdf5, or both"),
        ("features.timestamp={topic: /t}", "", "timestamp"),
    ],
)
def test_a_value_that_does_not_hold_is_named(mapping_text, override, field, word):
    error = refusal(mapping_text, override)
    assert error.field == field
    assert word in error.message


def test_what_is_no_mapping_is_refused():
    assert "not YAML" in refusal("a: [").message
    assert "list" in refusal("[1]").message
    assert "task" in refusal("fps: 3\nfeatures: {a: {topic: /a}}").message


def test_yaml_that_would_build_objects_is_refused():
    assert "not YAML" in refusal("!!python/object/apply:os.system ['true']").message


def test_a_file_that_is_missing_or_huge_is_refused(tmp_path):
    with pytest.raises(InvalidInput, match=r"missing\.yaml"):
        load_mapping(tmp_path / "missing.yaml")
    huge = tmp_path / "huge.yaml"
    huge.write_bytes(b"#" * (1 << 21))
    with pytest.raises(InvalidInput, match="larger"):
        load_mapping(huge)


def test_chunk_size_alone_does_not_make_another_dataset(make_mapping):
    assert make_mapping("rosbag.chunk_size=1").without_speed() == make_mapping().without_speed()
    assert make_mapping("fps=11").without_speed() != make_mapping().without_speed()


def test_overrides_do_not_read_the_environment(mapping_text, monkeypatch):
    monkeypatch.setenv("SECRET", "hidden")
    mapping = parse_mapping(mapping_text, ["task=${oc.env:SECRET}"])
    assert mapping.task == "${oc.env:SECRET}"


def test_a_message_does_not_unfold_what_aliases_fold(mapping_text):
    bomb = "a: &a [1, 1]\n" + "".join(
        f"{name}: &{name} [*{before}, *{before}]\n"
        for before, name in zip(
            "abcdefghijklmnopqrstuvwxy", "bcdefghijklmnopqrstuvwxyz", strict=True
        )
    )
    assert len(refusal(bomb + "task: *z\n").message) < 1000
