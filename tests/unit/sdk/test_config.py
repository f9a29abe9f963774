from pathlib import Path

import click
import pytest
from click.testing import CliRunner
from pydantic import Field

from penstock.config import Settings, settings_options
from penstock.errors import InvalidInput


class Robot(Settings):
    arms: int = Field(2, ge=1, description="Number of arms.")
    name: str = Field(description="Name of the robot.")
    cameras: tuple[str, ...] = Field((), description="Cameras; repeat the flag.")
    image_size: tuple[int, int] | None = Field(None, description="Height and width.")
    verbose: bool = Field(default=False, description="Say more.")
    folder: Path = Field(Path(), description="Where it records.")


def test_flags_win_over_environment_over_file(tmp_path, monkeypatch):
    config = tmp_path / "robot.yaml"
    config.write_text("arms: 3\nname: file\nverbose: true\n")
    monkeypatch.setenv("PENSTOCK_NAME", "environment")
    monkeypatch.setenv("PENSTOCK_ARMS", "4")
    loaded = Robot.load(config, {"arms": 5, "folder": None})
    assert (loaded.arms, loaded.name, loaded.verbose) == (5, "environment", True)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("legs: 2\nname: x\n", "setting 'legs' is not known: the settings are arms"),
        ("arms: none\nname: x\n", "setting arms is 'none'"),
        ("arms: 2\n", "setting 'name' is missing: give --name or PENSTOCK_NAME"),
    ],
)
def test_a_bad_setting_is_named(tmp_path, text, said):
    config = tmp_path / "robot.yaml"
    config.write_text(text)
    with pytest.raises(InvalidInput) as caught:
        Robot.load(config)
    assert said in str(caught.value)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"arms: [5", r"robot\.yaml cannot be read: while parsing.*line 1"),
        (b"\xff\xfe", r"robot\.yaml cannot be read: 'utf-8'"),
        (b"- arms", r"robot\.yaml holds no settings: write lines of the form"),
        (b"just a text", r"robot\.yaml holds no settings"),
    ],
)
def test_a_broken_settings_file_is_one_line_that_names_it(tmp_path, content, said):
    config = tmp_path / "robot.yaml"
    config.write_bytes(content)
    with pytest.raises(InvalidInput, match=said) as caught:
        Robot.load(config)
    assert "\n" not in caught.value.message


def test_a_missing_settings_file_is_named(tmp_path):
    with pytest.raises(InvalidInput, match=r"none\.yaml does not exist"):
        Robot.load(tmp_path / "none.yaml")
    with pytest.raises(InvalidInput, match="is no file"):
        Robot.load(tmp_path)


def test_every_field_is_a_flag():
    seen = []

    @click.command()
    @settings_options(Robot)
    def command(settings):
        seen.append(settings)

    arguments = [
        "--name",
        "r",
        "--cameras",
        "a",
        "--cameras",
        "b",
        "--image-size",
        "3",
        "4",
        "--verbose",
        "--folder",
        "/x",
    ]
    result = CliRunner().invoke(command, arguments, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    assert seen[0].model_dump() == {
        "arms": 2,
        "name": "r",
        "cameras": ("a", "b"),
        "image_size": (3, 4),
        "verbose": True,
        "folder": Path("/x"),
    }
    help_text = CliRunner().invoke(command, ["--help"]).output
    assert "Number of arms.  [default: 2]" in " ".join(help_text.replace("\n", " ").split(" "))
