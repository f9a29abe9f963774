"""The checkpoints command, as it is typed."""

import os

import pytest
import safetensors.torch
import torch
from click.testing import CliRunner

import penstock
from penstock.cli import penstock as command
from penstock.errors import LimitExceeded, NotFound


@pytest.fixture
def target(tmp_path):
    target = f"file://{tmp_path}/store"
    with penstock.open_checkpoints(target) as client:
        client.save({"net": {"w": torch.ones(2, 3)}, "step": 1}, "arm", 1)
        client.save(
            {"net": {"w": torch.zeros(2, 3)}, "step": 2},
            "arm",
            2,
            tags=("best",),
            metrics={"loss": 0.5},
        )
    return target


@pytest.fixture
def penstock_command():
    def run(*arguments, code=0):
        result = CliRunner().invoke(command, ["checkpoints", *map(str, arguments)])
        assert result.exit_code == code, (result.output, result.exception)
        return result.output

    return run


def test_list_shows_runs_and_their_checkpoints(penstock_command, target):
    assert "arm" in penstock_command("list", target)
    listed = penstock_command("list", target, "arm")
    assert "best" in listed
    assert "loss 0.5" in listed


def test_show_names_the_tensors(penstock_command, target):
    shown = penstock_command("show", target, "arm", "--step", "best")
    assert "arm/2  tags: best" in shown
    assert "net.w" in shown
    assert "(2, 3)" in shown


def test_get_copies_the_stored_file(penstock_command, target, tmp_path):
    output = tmp_path / "a.pstk"
    penstock_command("get", target, "arm", output, "--step", "1")
    assert penstock.load_checkpoint(output)["step"] == 1
    assert "exists" in penstock_command("get", target, "arm", output, code=1)
    penstock_command("get", target, "arm", output, "--force")
    assert penstock.load_checkpoint(output)["step"] == 2


def test_export_writes_what_other_tools_read(penstock_command, target, tmp_path):
    penstock_command("export", target, "arm", tmp_path / "a.pt", "--step", "1")
    loaded = torch.load(tmp_path / "a.pt", weights_only=True)
    assert loaded["step"] == 1
    said = penstock_command("export", target, "arm", tmp_path / "a.safetensors", "--step", "1")
    assert "1 values are no tensors and were left out: step" in said
    tensors = safetensors.torch.load_file(tmp_path / "a.safetensors")
    assert tensors["net.w"].tolist() == [[1, 1, 1], [1, 1, 1]]


def test_convert_and_save_bring_old_files_in(penstock_command, target, tmp_path):
    torch.save({"w": torch.ones(2)}, tmp_path / "old.pt")
    penstock_command("convert", tmp_path / "old.pt", tmp_path / "new.pstk")
    assert penstock.load_checkpoint(tmp_path / "new.pstk")["w"].tolist() == [1, 1]
    penstock_command("save", target, "old", "5", tmp_path / "old.pt", "--tag", "best")
    assert penstock.load_checkpoint(target, "old", "best")["w"].tolist() == [1, 1]


def test_delete_removes_and_verify_finds_damage(penstock_command, target, tmp_path):
    assert "arm/2 intact" in penstock_command("verify", target)
    path = tmp_path / "store" / "runs" / "arm" / f"{2:019d}.pstk"
    data = bytearray(path.read_bytes())
    data[10] ^= 1
    path.write_bytes(data)
    assert "arm/2 DAMAGED" in penstock_command("verify", target, "arm", code=1)
    penstock_command("delete", target, "arm", "2")
    assert "arm/1 intact" in penstock_command("verify", target)


def test_rebuild_counts_what_it_found(penstock_command, target, tmp_path):
    assert "2 checkpoints" in penstock_command("rebuild", tmp_path / "store")


@pytest.mark.parametrize(
    "name", ["list", "show", "get", "export", "convert", "save", "delete", "verify", "rebuild"]
)
def test_help_ends_with_an_example_on_a_line_of_its_own(penstock_command, name):
    lines = penstock_command(name, "--help").splitlines()
    assert any(line.startswith(f"    penstock checkpoints {name} ") for line in lines)


@pytest.mark.parametrize("name", ["a.pstk", "a.pt", "stored.pstk"])
def test_a_full_disk_is_named_and_leaves_no_file(penstock_command, target, tmp_path, name):
    """The file that is being written is a device that is always full."""
    output = tmp_path / name
    part = f".{name}.{os.getpid()}.part" if name == "a.pstk" else f".{name}.part"
    (tmp_path / part).symlink_to("/dev/full")
    torch.save({"w": torch.ones(100_000)}, tmp_path / "old.pt")
    given = ("get", target, "arm") if name == "stored.pstk" else ("convert", tmp_path / "old.pt")
    with pytest.raises(LimitExceeded, match=f"writing {output}: the disk is full"):
        CliRunner().invoke(
            command, ["checkpoints", *map(str, (*given, output))], catch_exceptions=False
        )
    assert sorted(path.name for path in tmp_path.iterdir()) == ["old.pt", "store"]


def test_a_folder_that_is_not_there_is_said_before_anything_is_read(penstock_command, tmp_path):
    torch.save({"w": torch.ones(2)}, tmp_path / "old.pt")
    said = penstock_command("convert", tmp_path / "old.pt", tmp_path / "no" / "a.pstk", code=1)
    assert f"there is no folder {tmp_path}/no" in said


def test_reading_a_store_that_is_not_there_makes_none(tmp_path):
    for arguments in (["list"], ["verify"], ["show", "arm"], ["delete", "arm", "1"]):
        arguments.insert(1, f"file://{tmp_path}/typo")
        with pytest.raises(NotFound, match=r"no checkpoint store .*/typo: name its directory"):
            CliRunner().invoke(command, ["checkpoints", *arguments], catch_exceptions=False)
    assert list(tmp_path.iterdir()) == []
