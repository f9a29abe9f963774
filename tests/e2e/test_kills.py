"""kill -9 of any one process in mid-run: started again, the run completes and nothing is lost."""

import csv
import json
import threading

import h5py
import numpy as np
import pytest
import tenacity
from service_process import ServiceProcess

import penstock

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600)]

STEPS, SAVE_EVERY = 240, 20
OPTIONS = {
    "algo": "lapo",
    "batch_size": 16,
    "max_timesteps": STEPS,
    "eval_freq": 80,
    "save_freq": SAVE_EVERY,
    "log_freq": 10,
    "image_size": "32x32",
    "train_test_split": 0.8,
}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Twenty short episodes, one a file."""
    folder = tmp_path_factory.mktemp("data")
    rng = np.random.default_rng(0)
    for episode in range(20):
        rows = 25
        with h5py.File(folder / f"episode_{episode:03d}.hdf5", "w") as file:
            group = file.create_group("observations")
            group["joint"] = rng.normal(size=(rows + 1, 8)).astype(np.float32)
            for camera in ("left_image", "right_image", "global_image"):
                group[camera] = rng.integers(0, 256, (rows + 1, 32, 32, 3), dtype=np.uint8)
            file["actions"] = rng.normal(size=(rows, 6)).astype(np.float32)
            file["rewards"] = rng.normal(size=rows).astype(np.float32)
            terminals = np.zeros(rows, np.uint8)
            terminals[-1] = 1
            file["terminals"] = terminals
    return folder


class Pipeline:
    """Sampler, checkpointer and trainer as processes of their own."""

    def __init__(self, data, folder):
        self.folder = folder
        self.services = {
            "sampler": ServiceProcess(
                "sampler", "--data", f"{data}/*.hdf5", log=folder / "sampler.log"
            ),
            "checkpointer": ServiceProcess(
                "checkpointer", "--root", str(folder / "store"), log=folder / "checkpointer.log"
            ),
        }
        self.services["trainer"] = ServiceProcess(
            "trainer",
            *("--hdf5-path", self.services["sampler"].target),
            *("--checkpoints", self.services["checkpointer"].target),
            *("--state-dir", str(folder / "state"), "--results-dir", str(folder / "results")),
            log=folder / "trainer.log",
        )

    def __enter__(self):
        for service in self.services.values():
            service.start()
        return self

    def __exit__(self, *_):
        for service in self.services.values():
            service.__exit__()

    def logs(self):
        return "\n".join(path.read_text()[-3000:] for path in self.folder.glob("*.log"))


@tenacity.retry(
    retry=tenacity.retry_if_exception_type((penstock.PenstockError, AssertionError)),
    wait=tenacity.wait_fixed(0.05),
    stop=tenacity.stop_after_delay(90),
    reraise=True,
)
def wait_for_checkpoints(target, run, count):
    """Steps that are acknowledged, once there are ``count`` of them."""
    with penstock.open_checkpoints(target, retry_s=1) as checkpoints:
        steps = [checkpoint.step for checkpoint in checkpoints.list(run)]
    assert len(steps) >= count
    return steps


@pytest.mark.parametrize("victim", ["sampler", "checkpointer", "trainer"])
def test_a_killed_process_is_started_again_and_the_run_completes(victim, data, tmp_path):
    with Pipeline(data, tmp_path) as pipeline:
        store = pipeline.services["checkpointer"].target
        ended = []

        def watch():
            with penstock.open_trainer(pipeline.services["trainer"].target) as trainer:
                *_, last = trainer.watch("kills")
                ended.append(last)

        with penstock.open_trainer(pipeline.services["trainer"].target) as trainer:
            trainer.start("kills", OPTIONS)
        watcher = threading.Thread(target=watch)
        watcher.start()
        acknowledged = wait_for_checkpoints(store, "kills", 3)
        assert acknowledged[-1] < STEPS, "the run ended before it was disturbed"
        pipeline.services[victim].kill()
        pipeline.services[victim].start()
        watcher.join(240)
        assert ended, pipeline.logs()
        assert (ended[0].state, ended[0].step) == ("succeeded", STEPS), pipeline.logs()

        with penstock.open_checkpoints(store) as checkpoints:
            kept = {checkpoint.step for checkpoint in checkpoints.list("kills")}
            assert set(acknowledged) <= kept
            assert kept >= set(range(SAVE_EVERY, STEPS + 1, SAVE_EVERY))
            for step in sorted(kept):
                assert checkpoints.load("kills", step)["step"] == step
            assert checkpoints.get("kills", "final").step == STEPS
    results = tmp_path / "results" / "Expkills" / "multimodal_robot"
    params = json.loads((results / "params.json").read_text())
    assert params["settings"]["batch_size"] == 16
    rows = list(csv.DictReader((results / "progress.csv").read_text().splitlines()))
    steps = [int(float(row["step"])) for row in rows]
    assert steps == sorted(set(steps))
    assert steps[-1] == STEPS
    assert (results / "model_final").exists()
    assert (results / "model_best").exists()
