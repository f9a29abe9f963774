"""Files for other tools: whole and synced or not there, LZ4 in bounded memory, read back equal."""

import os
import tracemalloc
from pathlib import Path

import lz4.frame
import pytest
import torch
from click.testing import CliRunner

import penstock
from penstock.cli import penstock as command
from penstock.client.checkpoint_files import export as checkpoint_export
from penstock.client.checkpoint_files.export import write_safetensors, write_torch
from penstock.client.checkpoint_files.load import load_file

STATE = {"model": {"w": torch.arange(6.0).reshape(2, 3)}, "step": 7}


@pytest.mark.parametrize("name", ["a.pt.lz4", "a.pth.lz4"])
def test_lz4_file_holds_what_torch_saves(tmp_path, name):
    write_torch(STATE, tmp_path / name)
    with lz4.frame.open(tmp_path / name) as frame:
        plain = tmp_path / "plain.pt"
        plain.write_bytes(frame.read())
    loaded = torch.load(plain, weights_only=True)
    assert torch.equal(loaded["model"]["w"], STATE["model"]["w"])
    assert loaded["step"] == 7
    assert load_file(tmp_path / name, only=("step",)) == 7


def test_only_a_name_that_ends_in_lz4_is_compressed(tmp_path):
    write_torch({"w": torch.zeros(100_000)}, tmp_path / "a.pt")
    write_torch({"w": torch.zeros(100_000)}, tmp_path / "a.pt.lz4")
    assert (tmp_path / "a.pt").stat().st_size > 400_000
    assert (tmp_path / "a.pt.lz4").stat().st_size < 10_000


def test_lz4_is_written_in_memory_that_does_not_grow_with_a_tensor(tmp_path):
    write_torch(STATE, tmp_path / "first.pt.lz4")
    noise = {"w": torch.randint(0, 256, (64 << 20,), dtype=torch.uint8)}
    tracemalloc.start()
    write_torch(noise, tmp_path / "a.pt.lz4")
    _, peak_bytes = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert (tmp_path / "a.pt.lz4").stat().st_size > 64 << 20
    assert peak_bytes < 16 << 20


WRITERS = {
    "a.pt": write_torch,
    "a.pt.lz4": write_torch,
    "a.safetensors": lambda state, path: write_safetensors(state["model"], path),
}


@pytest.mark.parametrize("name", WRITERS)
def test_content_is_synced_before_the_name_and_the_name_before_the_answer(
    tmp_path, monkeypatch, name
):
    done = []
    replace = Path.replace

    def synced(handle):
        done.append(Path(f"/proc/self/fd/{handle}").readlink().name)

    def replaced(path, to):
        done.append("replaced")
        return replace(path, to)

    monkeypatch.setattr(os, "fsync", synced)
    monkeypatch.setattr(Path, "replace", replaced)
    WRITERS[name](STATE, tmp_path / name)
    assert done == [f".{name}.part", "replaced", tmp_path.name]


@pytest.mark.parametrize("name", WRITERS)
def test_write_that_fails_keeps_the_file_that_was_there(tmp_path, monkeypatch, name):
    (tmp_path / name).write_bytes(b"before")

    def fail(handle):
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(checkpoint_export.os, "fsync", fail)
    with pytest.raises(OSError, match="Input/output error"):
        WRITERS[name](STATE, tmp_path / name)
    assert [path.name for path in tmp_path.iterdir()] == [name]
    assert (tmp_path / name).read_bytes() == b"before"


def test_export_and_convert_write_lz4(tmp_path):
    target = f"file://{tmp_path}/store"
    with penstock.open_checkpoints(target) as client:
        client.save(STATE, "arm", 1)
    typed = (["export", target, "arm", "a.pt.lz4"], ["convert", "a.pt.lz4", "b.pt.lz4"])
    for arguments in typed:
        words = [f"{tmp_path}/{word}" if ".pt" in word else word for word in arguments]
        done = CliRunner().invoke(command, ["checkpoints", *words], catch_exceptions=False)
        assert done.exit_code == 0
        assert "bytes" in done.output
    assert torch.equal(load_file(tmp_path / "b.pt.lz4")["model"]["w"], STATE["model"]["w"])
