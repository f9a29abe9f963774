"""The rollouts command, as it is typed."""

import io
import json
import pickle
import threading
import zipfile

import lz4.frame
import numpy as np
import pytest
import torch
from click.testing import CliRunner
from rollout_collectors import rollout_of, same

from penstock.cli import penstock as command
from penstock.errors import Corrupt, InvalidInput, LimitExceeded, NotFound
from penstock.rollout_file import flatten, read, read_index
from penstock.rollouts import Encoding, open_rollouts
from penstock.streams import StreamSettings, Take, Which


@pytest.fixture
def target(tmp_path):
    """A directory: a server in this process would log into what the command prints."""
    return f"file://{tmp_path}/store"


@pytest.fixture
def run():
    def invoke(*arguments, code=0, raises=None):
        result = CliRunner().invoke(command, ["rollouts", *map(str, arguments)])
        if raises is not None:
            assert isinstance(result.exception, raises), result.output
            return str(result.exception)
        assert result.exit_code == code, (result.output, result.exception)
        return result.output

    return invoke


@pytest.fixture
def filled(target):
    """A store with two rollouts of a stream, one of them taken by a trainer."""
    with open_rollouts(target) as client:
        client.configure("nav", StreamSettings(capacity=4, when_full="drop-oldest"))
        client.push(rollout_of(1), "nav", 1, policy_version=3)
        client.push(rollout_of(2), "nav", 2, policy_version=4, encoding=Encoding(codec="zstd"))
        client.pull("nav", Which(take=Take(consumer="trainer")))
    return target


def test_streams_shows_settings_producers_and_consumers(run, filled):
    shown = run("streams", filled)
    for expected in ("nav", "4, drop-oldest", "trainer", "main"):
        assert expected in shown
    (state,) = json.loads(run("streams", filled, "--json"))
    assert state["rollouts"] == 2
    assert state["consumers"][0] == {
        "name": "trainer",
        "waiting": 2,
        "taken": 1,
        "settled": 0,
        "skipped_stale": 0,
        "dropped": 0,
    }


def test_list_shows_each_rollout(run, filled):
    listed = run("list", filled, "nav")
    assert "16 x 4" in listed
    assert [
        info["policy_version"] for info in json.loads(run("list", filled, "nav", "--json"))
    ] == [
        3,
        4,
    ]
    (info,) = json.loads(run("list", filled, "nav", "--after", 1, "--json"))
    assert info["sequence"] == 2
    assert len(info["digest"]["xxh3_128"]) == 32


@pytest.mark.parametrize(
    ("which", "codec"), [((), "zstd"), (("latest",), "zstd"), ((1,), "lz4"), (("main/1",), "lz4")]
)
def test_show_tells_how_each_field_is_stored(run, filled, which, codec):
    document = json.loads(run("show", filled, "nav", *which, "--json"))
    assert document["envs"] == 16
    assert document["raw_size_bytes"] == 64 * (3 * 4 + 8 + 1 + 8)
    fields = {field["name"]: field for field in document["fields"]}
    assert fields["observation/state"]["shape"] == [3]
    assert fields["observation/state"]["raw_bytes"] == 64 * 3 * 4
    assert {field["codec"] for field in fields.values()} == {codec}
    stored = sum(field["stored_bytes"] for field in fields.values())
    assert 0 < stored < document["size_bytes"]
    shown = run("show", filled, "nav", *which)
    assert "observation/state" in shown
    assert f"policy version {4 if codec == 'zstd' else 3}" in shown


def test_pull_writes_what_was_pushed_as_npz(run, filled, tmp_path):
    out = tmp_path / "last.npz"
    assert "16 envs x 4 steps of 4 fields" in run("pull", filled, "nav", "--out", out)
    with np.load(out) as arrays:
        assert same(dict(arrays), flatten(rollout_of(2)))
    assert "exists" in run("pull", filled, "nav", "--out", out, code=1)
    run("pull", filled, "nav", "1", "--out", out, "--force")
    with np.load(out) as arrays:
        assert same(arrays["id"], rollout_of(1)["id"])


def test_pull_of_a_part_writes_that_part(run, filled, tmp_path):
    out = tmp_path / "part.rollout"
    chosen = ("--envs", "2-3,0", "--fields", "observation, id", "--steps", "1:3")
    run("pull", filled, "nav", "main/1", "--out", out, *chosen)
    whole = rollout_of(1)
    with out.open("rb") as file:
        leaves = read(file)
    assert leaves.keys() == {"observation/state", "id"}
    assert same(leaves["id"], whole["id"][[2, 3, 0], 1:3])
    assert same(leaves["observation/state"], whole["observation"]["state"][[2, 3, 0], 1:3])


def test_pulled_file_can_be_pushed_and_keeps_every_byte(run, filled, tmp_path):
    out = tmp_path / "it_12.rollout"
    run("pull", filled, "nav", "1", "--out", out, "--codec", "zstd")
    assert "copy/main/12, sequence 1" in run("push", filled, "copy", out)
    with open_rollouts(filled) as client:
        pulled = client.pull("copy", Which(sequence=1))
        assert pulled.info.digest.size_bytes == out.stat().st_size
        assert same(pulled.data, rollout_of(1))
        with out.open("rb") as file:
            assert pulled.index.data == read_index(file).data


def test_npz_files_are_pushed_in_order(run, target, tmp_path):
    for name, number in (("b.npz", 1), ("a.npz", 2)):
        np.savez(tmp_path / name, **flatten(rollout_of(number)))
    files = (tmp_path / "b.npz", tmp_path / "a.npz")
    message = run("push", target, "nav", *files, raises=InvalidInput)
    assert "--first-iteration" in message
    run("push", target, "nav", *files, "--first-iteration", 7, "--policy-version", 5)
    with open_rollouts(target) as client:
        assert [info.iteration for info in client.list("nav")] == [7, 8]
        assert same(client.pull("nav", Which(iteration=("main", 8))).data, rollout_of(2))


def test_push_names_the_file_that_is_damaged(run, target, tmp_path):
    for name in ("it1.rollout", "it2.npz"):
        (tmp_path / name).write_bytes(b"nothing of that kind" * 20)
        assert name in run("push", target, "nav", tmp_path / name, raises=Corrupt)
    assert "expected a name" in run("push", target, "nav", __file__, raises=InvalidInput)


def test_npz_of_objects_is_not_unpickled(run, target, tmp_path):
    np.savez(tmp_path / "it1.npz", x=np.array([{"a": 1}], object), allow_pickle=True)
    assert "plain arrays" in run("push", target, "nav", tmp_path / "it1.npz", raises=Corrupt)


def test_npz_that_claims_more_than_it_has_allocates_nothing(run, target, tmp_path):
    array = io.BytesIO()
    header = {"descr": "<f8", "fortran_order": False, "shape": (1 << 30, 1 << 10)}
    np.lib.format.write_array_header_1_0(array, header)
    array.write(bytes(100))
    with zipfile.ZipFile(tmp_path / "it1.npz", "w") as archive:
        archive.writestr("x.npy", array.getvalue())
    assert "bytes for" in run("push", target, "nav", tmp_path / "it1.npz", raises=Corrupt)


def test_configure_changes_what_is_given_alone(run, target):
    assert "capacity 4, when full refuse" in run("configure", target, "nav", "--capacity", 4)
    changed = run("configure", target, "nav", "--when-full", "drop-oldest", "--keep-last", 2)
    assert "capacity 4, when full drop-oldest, keep last 2" in changed
    with open_rollouts(target) as client:
        settings = client.stream("nav").settings
    assert settings == StreamSettings(capacity=4, when_full="drop-oldest", keep_last=2)


def test_push_to_a_full_stream_does_not_wait(run, target, tmp_path):
    np.savez(tmp_path / "it1.npz", **flatten(rollout_of(1)))
    np.savez(tmp_path / "it2.npz", **flatten(rollout_of(2)))
    run("configure", target, "nav", "--capacity", 1)
    run("push", target, "nav", tmp_path / "it1.npz", tmp_path / "it2.npz", raises=LimitExceeded)


def test_delete_removes_and_says_what_is_not_there(run, filled):
    assert "nav/2 deleted" in run("delete", filled, "nav", 2)
    run("delete", filled, "nav", 2, raises=NotFound)
    assert len(json.loads(run("list", filled, "nav", "--json"))) == 1


def test_forget_removes_a_consumer_and_says_what_is_not_there(run, filled):
    assert "consumer trainer forgotten" in run("forget", filled, "nav", "trainer")
    assert json.loads(run("streams", filled, "--json"))[0]["consumers"] == []
    assert "trainer" in run("forget", filled, "nav", "trainer", raises=NotFound)
    run("forget", filled, "none", "trainer", raises=NotFound)
    assert "penstock rollouts forget grpc://" in run("forget", "--help")


def test_watch_prints_what_is_there_and_what_comes(run, filled):
    lines = run("watch", filled, "nav", "--count", 2, "--json").splitlines()
    assert [json.loads(line)["iteration"] for line in lines] == [1, 2]

    def push():
        with open_rollouts(filled) as client:
            client.push(rollout_of(3), "nav", 3)

    pushing = threading.Timer(0, push)
    pushing.start()
    assert "main/3" in run("watch", filled, "nav", "--after", 2, "--count", 1)
    pushing.join()


def test_advise_says_what_and_why(run, target, tmp_path):
    np.savez(tmp_path / "last.npz", x=np.zeros((64, 32, 8), np.float32))
    assert "none: same" in run("advise", target, tmp_path / "last.npz")
    assert not (tmp_path / "store").exists()
    slow = ("--bandwidth", "1e5")
    shown = run("advise", target, tmp_path / "last.npz", *slow)
    assert "brings 65.5 kB to" in shown
    assert "100.0 kB/s" in shown
    advice = json.loads(run("advise", target, tmp_path / "last.npz", *slow, "--json"))
    assert advice["plan"].startswith("full")
    assert advice["bandwidth_bytes_per_s"] == 1e5


def tensors(tree):
    if isinstance(tree, dict):
        return {key: tensors(value) for key, value in tree.items()}
    return torch.from_numpy(tree)


def test_convert_puts_old_files_into_a_stream(run, target, tmp_path):
    paths = [tmp_path / f"rollout_{number:06}.lz4" for number in (10, 20)]
    for number, path in zip((10, 20), paths, strict=True):
        state = {**tensors(rollout_of(number)), "iteration": number}
        path.write_bytes(lz4.frame.compress(pickle.dumps(state)))
    shown = run("convert", "--trust", *paths, "--to", target, "--stream", "old")
    assert "2 converted, 0 failed" in shown
    assert f"{paths[0]}: left out: iteration" in shown
    with open_rollouts(target) as client:
        assert [info.iteration for info in client.list("old")] == [10, 20]
        assert same(client.pull("old", Which(iteration=("main", 20))).data, rollout_of(20))
    again = run("convert", "--trust", *paths, "--to", target, "--stream", "old")
    assert "2 converted, 0 failed" in again
    with open_rollouts(target) as client:
        assert client.stream("old").rollouts == 2


def test_convert_reports_a_bad_file_and_goes_on(run, target, tmp_path):
    good, bad, saved = (tmp_path / f"r{n}.lz4" for n in (1, 2, 3))
    good.write_bytes(lz4.frame.compress(pickle.dumps(rollout_of(1))))
    bad.write_bytes(lz4.frame.compress(pickle.dumps({"x": threading.Event}))[:-5])
    file = io.BytesIO()
    torch.save(tensors(rollout_of(3)), file)
    saved.write_bytes(file.getvalue())
    shown = run("convert", "--trust", good, bad, saved, "--to", target, code=1)
    assert "2 converted, 1 failed" in shown
    assert f"failed: {bad}" in shown
    refused = run("convert", good, saved, "--to", target, "--producer", "other", code=1)
    assert "1 converted, 1 failed" in refused
    assert "--trust" in refused


@pytest.mark.parametrize("arguments", [("streams",), ("list", "nav"), ("show", "nav")])
def test_directory_that_is_not_there_is_not_made(run, tmp_path, arguments):
    name, *rest = arguments
    assert "no store" in run(name, f"file://{tmp_path}/none", *rest, raises=NotFound)
    assert not (tmp_path / "none").exists()


@pytest.mark.parametrize("which", ["newest", "-1", "/3", "main/"])
def test_which_that_reads_otherwise_is_told(run, filled, which):
    assert "main/120" in run("show", filled, "nav", "--", which, raises=InvalidInput)
