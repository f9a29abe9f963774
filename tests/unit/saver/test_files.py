"""Files of every kind are told apart by their content, and refused with the way out."""

import pickle

import lz4.frame
import pytest
import safetensors.torch
import torch

import penstock
from penstock import container
from penstock.errors import Corrupt, DataFault, InvalidInput, NotFound

STATE = {"model": {"w": torch.arange(6.0).reshape(2, 3)}, "step": 7}


def write(kind, path):
    """Write STATE as ``kind``; names say nothing on purpose."""
    if kind.startswith("pstk"):
        container.write_file(STATE, path)
    elif kind.startswith("legacy"):
        torch.save(STATE, path, _use_new_zipfile_serialization=False)
    else:
        torch.save(STATE, path)
    if kind.endswith("lz4"):
        path.write_bytes(lz4.frame.compress(path.read_bytes()))


KINDS = ["pstk", "pstk.lz4", "pt", "pt.lz4", "legacy pt", "legacy pt.lz4"]


@pytest.mark.parametrize("kind", KINDS)
def test_kind_is_found_by_content(kind, tmp_path):
    path = tmp_path / "checkpoint"
    write(kind, path)
    for name in (path, str(path), f"file://{path}"):
        state = penstock.load_checkpoint(name)
        assert torch.equal(state["model"]["w"], STATE["model"]["w"])
        assert state["step"] == 7
    assert penstock.load_checkpoint(path, only=("step",)) == 7
    with pytest.raises(InvalidInput, match="no 'nope'"):
        penstock.load_checkpoint(path, only=("model", "nope"))


@pytest.mark.parametrize("kind", KINDS)
def test_truncated_file_is_refused(kind, tmp_path):
    path = tmp_path / "checkpoint"
    write(kind, path)
    data = path.read_bytes()
    for length in (0, 3, len(data) // 2, len(data) - 1):
        path.write_bytes(data[:length])
        with pytest.raises((Corrupt, DataFault), match="checkpoint"):
            penstock.load_checkpoint(path)


def test_safetensors_is_found_by_content(tmp_path):
    path = tmp_path / "checkpoint"
    safetensors.torch.save_file(STATE["model"], path)
    assert torch.equal(penstock.load_checkpoint(path)["w"], STATE["model"]["w"])
    path.write_bytes(path.read_bytes()[:-4])
    with pytest.raises(Corrupt, match="safetensors"):
        penstock.load_checkpoint(path)


class Bomb:
    def __reduce__(self):
        return (pytest.fail, ("a pickle was executed",))


@pytest.mark.parametrize("wrap", [lambda data: data, lz4.frame.compress], ids=["pickle", "lz4"])
def test_pickled_object_is_refused_and_never_executed(wrap, tmp_path):
    path = tmp_path / "checkpoint"
    for write_bomb in (lambda: torch.save(Bomb(), path), lambda: pickle_to(path)):
        write_bomb()
        path.write_bytes(wrap(path.read_bytes()))
        with pytest.raises(DataFault, match="in the program that made it, save its state_dict"):
            penstock.load_checkpoint(path)


def pickle_to(path):
    path.write_bytes(pickle.dumps(Bomb(), protocol=2))


def test_unknown_content_is_refused_with_what_is_expected(tmp_path):
    path = tmp_path / "model.pt"
    path.write_bytes(b"\x89HDF\r\n\x1a\n" + bytes(100))
    with pytest.raises(DataFault, match=r"expected \.pstk, \.pt, an LZ4 frame"):
        penstock.load_checkpoint(path)


def test_lz4_frame_of_noise_is_refused(tmp_path):
    path = tmp_path / "model.pt.lz4"
    path.write_bytes(b"\x04\x22\x4d\x18" + bytes(range(200)))
    with pytest.raises(Corrupt, match="damaged or cut off"):
        penstock.load_checkpoint(path)


def test_lz4_frames_inside_each_other_are_refused(tmp_path):
    path = tmp_path / "model.pt.lz4"
    path.write_bytes(lz4.frame.compress(lz4.frame.compress(b"x" * 100)))
    with pytest.raises(DataFault, match="decompress it once"):
        penstock.load_checkpoint(path)


def test_lz4_bomb_is_stopped_at_the_limit(tmp_path, monkeypatch):
    from penstock.client.checkpoint_files import load as checkpoint_files
    from penstock.container import Limits
    from penstock.errors import LimitExceeded

    monkeypatch.setattr(checkpoint_files, "Limits", lambda: Limits(raw_size_bytes=2 << 20))
    path = tmp_path / "model.pt.lz4"
    path.write_bytes(lz4.frame.compress(bytes(30 << 20)))
    with pytest.raises(LimitExceeded, match="decompresses to more than 2097152"):
        penstock.load_checkpoint(path)


def test_missing_file_and_missing_run_are_told(tmp_path):
    with pytest.raises(NotFound, match="there is no file"):
        penstock.load_checkpoint(tmp_path / "nope.pt")
    with pytest.raises(InvalidInput, match="is a store: give the run"):
        penstock.load_checkpoint(tmp_path)


def test_refused_pickle_says_what_it_holds(tmp_path):
    torch.save(torch.nn.Linear(1, 1), tmp_path / "whole.pt")
    with pytest.raises(DataFault, match=r"whole\.pt .* holds torch\.nn\.modules\.linear\.Linear"):
        penstock.load_checkpoint(tmp_path / "whole.pt")
    (tmp_path / "new.pt").write_bytes(pickle.dumps(Bomb(), protocol=4))
    with pytest.raises(DataFault, match="not read, since that could run code"):
        penstock.load_checkpoint(tmp_path / "new.pt")
