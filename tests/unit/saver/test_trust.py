"""Pickles: read only where the user vouches for them, and kept as far as a checkpoint can."""

import ast
import collections
import io
import pickle
import zipfile
from dataclasses import dataclass
from pathlib import Path

import lz4.frame
import numpy as np
import pytest
import torch
from click.testing import CliRunner

import penstock
from penstock.cli import penstock as command
from penstock.client.checkpoint_files.load import load_file
from penstock.client.checkpoint_files.trust import load_trusted
from penstock.errors import Corrupt, DataFault, InvalidInput

ROOT = Path(penstock.__file__).parent


@dataclass
class Settings:
    lr: float = 0.1


class Vanishing:
    """A class that the reader of a pickle does not have."""


class Failing:
    def __reduce__(self):
        return (int, ("no number",))


STATE = {
    "buffer": {"obs": np.arange(6.0).reshape(2, 3), "done": [np.float32(1.5), np.int64(3)]},
    "step": 7,
    "rng": (1, 2.5, None, b"x"),
}


def pickled(state=STATE, protocol=4):
    return pickle.dumps(state, protocol=protocol)


def saved(state, **options):
    file = io.BytesIO()
    torch.save(state, file, **options)
    return file.getvalue()


def put(path, data):
    path.write_bytes(data)
    return path


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
@pytest.mark.parametrize("wrap", [bytes, lz4.frame.compress], ids=["plain", "lz4"])
def test_pickle_of_plain_values_is_read_with_trust(tmp_path, wrap, protocol):
    state = load_trusted(put(tmp_path / "old", wrap(pickled(protocol=protocol))))
    np.testing.assert_array_equal(state["buffer"]["obs"], STATE["buffer"]["obs"])
    assert state["buffer"]["done"] == [1.5, 3]
    assert type(state["buffer"]["done"][0]) is np.float32
    assert state["rng"] == STATE["rng"]


@pytest.mark.parametrize("legacy", [False, True])
def test_torch_file_that_needs_more_than_weights_is_read_with_trust(tmp_path, legacy):
    state = {"w": torch.ones(3), "a": np.arange(4)}
    path = put(tmp_path / "old.pt", saved(state, _use_new_zipfile_serialization=not legacy))
    with pytest.raises(DataFault, match="holds numpy"):
        load_file(path)
    loaded = load_trusted(path)
    assert torch.equal(loaded["w"], torch.ones(3))
    assert loaded["a"].tolist() == [0, 1, 2, 3]


@pytest.mark.parametrize(
    ("state", "place"),
    [
        ({"a": [1, {"cfg": Settings()}]}, r"state\['a'\]\[1\]\['cfg'\] is .*Settings"),
        ({"seen": {1, 2}}, r"state\['seen'\] is \{1, 2\} of type builtins\.set"),
        ({"d": collections.Counter("ab")}, r"state\['d'\] is .*collections\.Counter"),
        ({"o": np.array([object()])}, r"state\['o'\] is an array of dtype object"),
    ],
)
@pytest.mark.parametrize("save", [pickled, saved], ids=["pickle", "pt"])
def test_what_a_checkpoint_cannot_hold_is_refused_with_path_and_class(tmp_path, state, place, save):
    with pytest.raises(InvalidInput, match=f"old: {place}"):
        load_trusted(put(tmp_path / "old", save(state)))


def test_class_that_is_not_there_is_named_with_the_way_out(tmp_path, monkeypatch):
    data = pickled({"x": Vanishing()})
    monkeypatch.delattr(f"{__name__}.Vanishing", raising=False)
    monkeypatch.delitem(globals(), "Vanishing", raising=False)
    with pytest.raises(DataFault, match=r"Vanishing.*in the environment of the program"):
        load_trusted(put(tmp_path / "old", data))


def test_object_that_fails_while_it_is_made_is_a_fault_of_the_file(tmp_path):
    with pytest.raises(DataFault, match=r"its objects cannot be made \(ValueError"):
        load_trusted(put(tmp_path / "old", pickled({"x": Failing()})))


@pytest.mark.parametrize("data", [pickled(), saved({"w": torch.ones(9)})], ids=["pickle", "pt"])
def test_cut_file_is_refused(tmp_path, data):
    for length in (5, 40, len(data) // 2, len(data) - 1):
        with pytest.raises((Corrupt, DataFault)):
            load_trusted(put(tmp_path / "old", data[:length]))


@pytest.mark.parametrize("wrap", [bytes, lz4.frame.compress], ids=["plain", "lz4"])
@pytest.mark.parametrize(
    "data", [pickled(), pickled(protocol=2), saved({"s": Settings()})], ids=["4", "2", "pt"]
)
def test_without_trust_the_message_says_how(tmp_path, data, wrap):
    with pytest.raises(DataFault, match=r"could run code.*where you trust.*convert --trust FILE"):
        load_file(put(tmp_path / "old", wrap(data)))


def test_files_that_need_no_trust_are_read_the_same_with_it(tmp_path):
    penstock.container.write_file({"a": 1}, tmp_path / "a.pstk")
    assert load_trusted(tmp_path / "a.pstk") == {"a": 1}


def convert(*words):
    return CliRunner().invoke(command, ["checkpoints", "convert", *map(str, words)])


def test_command_converts_with_trust_only_and_warns(tmp_path):
    old, new = put(tmp_path / "old.pkl", pickled()), tmp_path / "new.pstk"
    refused = convert(old, new)
    assert isinstance(refused.exception, DataFault)
    assert not new.exists()
    done = convert("--trust", old, new)
    assert done.exit_code == 0, done.output
    assert f"warning: {old} is read as a pickle" in done.stderr
    assert "runs whatever code it names" in done.stderr
    assert penstock.load_checkpoint(new)["step"] == 7


@pytest.mark.parametrize("name", ["new.pstk", "new.pt", "new.pt.lz4", "new.safetensors"])
def test_command_writes_nothing_of_what_cannot_be_kept(tmp_path, name):
    old = put(tmp_path / "old.pkl", pickled({"cfg": Settings()}))
    done = convert("--trust", old, tmp_path / name)
    assert isinstance(done.exception, InvalidInput)
    assert [path.name for path in tmp_path.iterdir()] == ["old.pkl"]


def test_nothing_but_the_command_leads_to_the_unpickler():
    """Whatever a server or a loading program imports, it never comes there."""
    places = [*ROOT.rglob("*.py"), *(ROOT.parent.parent / "services").rglob("*.py")]
    importers = {
        "/".join(path.parts[-3:])
        for path in places
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.ImportFrom) and "checkpoint_files.trust" in (node.module or "")
    }
    assert importers == {"client/checkpoint_cli/files.py"}


def test_packed_archive_is_refused_before_it_is_unpacked(tmp_path):
    path = tmp_path / "packed.pt"
    with (
        zipfile.ZipFile(io.BytesIO(saved({"w": torch.zeros(1_000_000)}))) as source,
        zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as to,
    ):
        for entry in source.infolist():
            to.writestr(entry.filename, source.read(entry))
    with pytest.raises(DataFault, match=r"packed\.pt \(\d+ bytes, 400\d+ unpacked\).*zip -0"):
        load_file(path)
