"""Bad input as a user meets it: one clear line, no traceback, and the rest goes on."""

import subprocess
import sys
import urllib.request

import h5py
import numpy as np
import pytest
import torch
import yaml
from bag_recording import compressed, robot_messages, write_bag
from service_process import ServiceProcess

import penstock
from penstock.cli import main
from penstock.container import write_file
from penstock.server.port import free_port

ROWS = 12
IMAGE = "observations/left_image"
# What each file has instead of sound data, and words that the refusal must hold.
BAD_DATA = {
    "no_actions": ({"actions": None}, "looked for actions in the root"),
    "no_camera": ({IMAGE: None}, "looked for left_image, left_wrist_image in observations/"),
    "rank": ({IMAGE: np.zeros((ROWS, 8, 9), np.uint8)}, "has shape (12, 8, 9)"),
    "dtype": ({IMAGE: np.zeros((ROWS, 8, 9, 3), np.float32)}, "has dtype float32: expected uint8"),
    "length": (
        {IMAGE: np.zeros((ROWS - 1, 8, 9, 3), np.uint8)},
        "has 11 rows, actions has 12: expected 12 (N) or 13 (N+1)",
    ),
    "ambiguous": ({IMAGE: np.zeros((ROWS, 3, 9, 3), np.uint8)}, "both HWC and CHW fit"),
}
BAD_FILES = {"cut": "truncated HDF5 file", "empty": "has 0 bytes", "text": "is not an HDF5 file"}


def write_hdf5(path, changes):
    arrays = {
        "observations/joint": np.ones((ROWS, 3), np.float32),
        IMAGE: np.zeros((ROWS, 8, 9, 3), np.uint8),
        "actions": np.ones((ROWS, 2), np.float32),
        "rewards": np.ones(ROWS, np.float32),
        "terminals": np.arange(ROWS) == ROWS - 1,
    }
    with h5py.File(path, "w") as file:
        for name, values in {**arrays, **changes}.items():
            if values is not None:
                file[name] = values


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """One sound file among one of every bad kind."""
    folder = tmp_path_factory.mktemp("data")
    for name, (changes, _) in BAD_DATA.items():
        write_hdf5(folder / f"{name}.hdf5", changes)
    for name in ("sound", "cut"):
        write_hdf5(folder / f"{name}.hdf5", {})
    (folder / "cut.hdf5").write_bytes((folder / "cut.hdf5").read_bytes()[:3000])
    (folder / "empty.hdf5").touch()
    (folder / "text.hdf5").write_text("hello " * 100)
    return folder


@pytest.fixture
def typed(monkeypatch, capsys):
    """Types a command; gives its exit status, what it printed, and what it said of errors."""
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.setenv("PENSTOCK_CAMERAS", "left")

    def run(*words):
        monkeypatch.setattr(sys, "argv", ["penstock", *map(str, words)])
        with pytest.raises(SystemExit) as ended:
            main()
        printed = capsys.readouterr()
        assert "Traceback" not in printed.err
        return ended.value.code or 0, printed.out, printed.err

    return run


def said_of_bad_files():
    return {**{name: words for name, (_, words) in BAD_DATA.items()}, **BAD_FILES}


@pytest.mark.e2e
def test_every_bad_file_is_refused_by_name_and_the_sound_one_served(data, tmp_path, monkeypatch):
    monkeypatch.setenv("PENSTOCK_CAMERAS", "left")
    log, metrics_port = tmp_path / "sampler.log", free_port()
    options = ("--data", f"{data}/*.hdf5", "--metrics-port", str(metrics_port))
    plan = penstock.Plan(batch_size=ROWS, split="all", sampling="epoch")
    with ServiceProcess("sampler", *options, log=log) as process:
        for target in (process.target, f"file://{data}/*.hdf5"):
            with penstock.open_sampler(target, retry_s=5) as sampler:
                refused = {file.file_id: file.message for file in sampler.info.refused}
                assert sampler.sample(plan, 0).frames.shape == (ROWS, 2, 1, 8, 9, 3)
            assert refused.keys() == {f"{name}.hdf5" for name in said_of_bad_files()}
            for name, words in said_of_bad_files().items():
                assert words in refused[f"{name}.hdf5"]
                assert f"{data}/{name}.hdf5" in refused[f"{name}.hdf5"]
        url = f"http://127.0.0.1:{metrics_port}/metrics"
        metrics = urllib.request.urlopen(url).read().decode()
    assert "penstock_sampler_refused_files 9.0" in metrics
    logged = log.read_text()
    assert all(f"file {name}.hdf5 is refused" in logged for name in said_of_bad_files())


def test_doctor_says_of_every_file_what_is_wrong_and_what_to_do(data, typed):
    code, shown, _ = typed("doctor", data)
    assert code == 1
    assert shown.count("would be served") == 1
    assert shown.count("would be REFUSED") == 9
    lines = shown.splitlines()
    faults = [row for row, line in enumerate(lines) if line.startswith("  fail")]
    assert len(faults) >= 9
    assert all(lines[row + 1].lstrip().startswith("what to do: ") for row in faults)
    for words in said_of_bad_files().values():
        assert words in shown.replace("\n", " ")


@pytest.mark.e2e
def test_server_that_is_away_ends_a_command_with_one_line():
    target = f"grpc://127.0.0.1:{free_port()}"
    ended = subprocess.run(
        [sys.executable, "-m", "penstock.cli", "sample", target, "--retry-s", "0"],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (ended.returncode, ended.stdout) == (1, "")
    (line,) = ended.stderr.splitlines()
    assert line.startswith(f"error: {target} does not answer")
    assert line.endswith("is the service running there?")


@pytest.mark.parametrize(
    ("line", "code", "said"),
    [
        ("sample {data}/gone*.hdf5", 1, "gone*.hdf5: no file matches"),
        ("sample {data}/cut.hdf5", 1, "none of 1 files can be served: {data}/cut.hdf5"),
        ("sample {data}/sound.hdf5 --batch-size 0", 1, "plan.batch_size is 0"),
        ("sample {data}/sound.hdf5 --batches -3", 2, "'--batches': -3 is not in"),
        ("sample {data}/sound.hdf5 --split test", 2, "'test' is not one of"),
        ("sample http://there", 1, "unknown scheme 'http'"),
        ("health grpc:/there", 1, "two slashes follow the scheme"),
        ("serve sampler", 1, "setting 'data' is missing: give --data or PENSTOCK_DATA"),
        ("serve sampler --data x --port 99999", 1, "setting port is 99999"),
        ("serve checkpointer --root {data}/text.hdf5", 1, "name a directory"),
        ("checkpoints list file://{data}/typo", 1, "no checkpoint store"),
        ("train --batch-size 0", 1, "setting batch_size is 0"),
        ("train --algo sac", 2, "'sac' is not one of"),
        (
            "train --hdf5-path {data}/sound.hdf5 --sampling epoch --results-dir {tmp}",
            1,
            "batch_size 256 x world 1 is larger than the split 'train' with 12 transitions",
        ),
        ("convert {data}/gone.bag --mapping m --out o", 1, "no recording matches"),
    ],
)
def test_mistakes_are_one_line_with_what_was_wrong(typed, data, tmp_path, line, code, said):
    places = {"data": data, "tmp": tmp_path}
    found, _, error = typed(*line.format(**places).split())
    assert found == code
    last = error.strip().splitlines()[-1]
    assert last.startswith(("error: ", "Error: "))
    assert said.format(**places) in last


@pytest.mark.parametrize("damage", ["truncated", "flipped", "pickle"])
def test_damaged_checkpoint_is_refused_and_the_next_one_saved(typed, tmp_path, damage):
    bad, sound, store = tmp_path / "bad", tmp_path / "sound.pt", f"file://{tmp_path}/store"
    torch.save({"w": torch.ones(3)}, sound)
    write_file({"w": torch.arange(1000.0)}, bad)
    content = bytearray(bad.read_bytes())
    content[100] ^= 1
    if damage == "pickle":
        torch.save(torch.nn.Linear(1, 1), bad)
    else:
        bad.write_bytes(content if damage == "flipped" else content[:-100])
    code, _, error = typed("checkpoints", "save", store, "run", "1", bad)
    assert code == 1
    assert error.startswith(f"error: {bad}")
    wanted = {
        "truncated": "cut off or damaged: use another copy",
        "flipped": "the chunk at byte 8 (storage 0) does not match its hash: use another copy",
        "pickle": "is a pickle that holds torch.nn.modules.linear.Linear",
    }
    assert wanted[damage] in error
    assert typed("checkpoints", "save", store, "run", "2", sound)[0] == 0


def test_bad_recordings_are_refused_by_name_and_the_sound_one_converted(typed, tmp_path):
    bags = tmp_path / "bags"
    bags.mkdir()
    messages = robot_messages(6, cameras=("global",))
    sound = write_bag(bags / "sound.bag", messages, "ros1")
    (bags / "cut.bag").write_bytes(sound.read_bytes()[:-2000])
    (bags / "empty.bag").touch()
    write_bag(bags / "no_reward", [m for m in messages if m.topic != "/reward"])
    broken = compressed(np.zeros((32, 64, 3), np.uint8))
    broken["data"] = broken["data"][:60]
    images = [m for m in messages if m.topic == "/cam_global/compressed"]
    torn = [m._replace(fields=broken) if m is images[3] else m for m in messages]
    write_bag(bags / "torn_image", torn)
    mapping = tmp_path / "mapping.yaml"
    features = {
        "observation.images.global": {"topic": "/cam_global/compressed"},
        "observation.state": {"topic": "/joint_states"},
        "action": {"topic": "/joint_cmd"},
        "next.reward": {"topic": "/reward", "offset_s": 0.1},
    }
    mapping.write_text(
        yaml.safe_dump({"fps": 10, "task": "t", "features": features, "outputs": {"lerobot": {}}})
    )
    code, _, error = typed("convert", bags, "--mapping", mapping, "--out", tmp_path / "out")
    assert code == 3
    for name, words in {
        "cut.bag": "cannot be opened as a recording",
        "empty.bag": "Nothing was recorded",
        "no_reward": "no topic /reward: the topics are /cam_global/compressed, /joint_cmd",
        "torn_image": "message 3 of topic /cam_global/compressed: a jpg of 60 bytes",
    }.items():
        (line,) = (row for row in error.splitlines() if row.startswith(f"refused {bags}/{name}"))
        assert words in line
    assert f"{tmp_path}/out: 1 episodes, 6 frames" in error
