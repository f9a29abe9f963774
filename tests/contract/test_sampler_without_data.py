"""A sampler on an empty folder: an error at the start, or, if told so, patience."""

import subprocess
import sys

import h5py
import numpy as np
import pytest
from service_process import ServiceProcess

import penstock
from penstock.errors import DataFault

ROWS = 12


def write_dataset(path):
    partial = path.with_suffix(".partial")
    with h5py.File(partial, "w") as file:
        observations = file.create_group("observations")
        observations["joint"] = np.zeros((ROWS, 3), np.float32)
        observations["left_image"] = np.zeros((ROWS, 8, 8, 3), np.uint8)
        file["actions"] = np.zeros((ROWS, 2), np.float32)
        file["rewards"] = np.zeros(ROWS, np.float32)
        file["terminals"] = np.arange(ROWS) == ROWS - 1
    partial.rename(path)


def test_sampler_refuses_to_start_when_nothing_matches(tmp_path):
    pattern = str(tmp_path / "*.hdf5")
    started = subprocess.run(
        [sys.executable, "-m", "penstock.cli", "serve", "sampler", "--data", pattern],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert started.returncode == 1
    assert f"{pattern}: no file matches" in started.stderr


def test_waiting_sampler_is_healthy_and_serves_what_appears_later(tmp_path):
    data = tmp_path / "data"
    data.mkdir()
    options = ("--data", f"{data}/**/*.hdf5", "--cameras", "left", "--wait-for-data")
    with ServiceProcess("sampler", *options, log=tmp_path / "sampler.log") as process:
        with pytest.raises(DataFault, match=r"nothing to serve yet.*no file matches") as raised:
            penstock.open_sampler(process.target)
        assert raised.value.reason == "NO_DATA_YET"
        write_dataset(data / "episode.hdf5")
        with penstock.open_sampler(process.target) as sampler:
            assert sampler.info.transitions == ROWS
            assert sampler.sample(penstock.Plan(batch_size=4, split="all"), 0).joint.shape == (4, 3)
