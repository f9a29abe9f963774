"""The service over a real connection."""

from __future__ import annotations

import numpy as np
import pytest
from penstock_trainer.config import TrainerSettings
from penstock_trainer.policy import Policy
from penstock_trainer.service import SERVICE_NAME, TrainerService

from penstock import load_checkpoint, open_sampler, open_trainer
from penstock.errors import AlreadyExists, InvalidInput, NotFound
from penstock.server import start

OPTIONS = {
    "batch_size": 8,
    "max_timesteps": 8,
    "eval_freq": 4,
    "save_freq": 4,
    "log-freq": 2,
    "train_test_split": 0.7,
    "obs_feature_dim": 32,
    "image_size": "8x8",
    "num_traj": None,
}


@pytest.fixture
def serving(tmp_path, dataset):
    """Starts a trainer on one state folder; may be called again after it was stopped."""
    running = []

    def serve():
        settings = TrainerSettings(
            state_dir=tmp_path / "state",
            results_dir=tmp_path / "results",
            hdf5_path=dataset,
            device="cpu",
            port=0,
        )
        service = TrainerService(settings)
        server = start("trainer", settings, service.register)
        running.append((service, server))
        return service, server

    yield serve
    for service, server in running:
        service.drain()
        server.stop(drain_s=0)


def test_training_runs_to_its_end_and_its_best_policy_acts(serving, dataset, tmp_path):
    _, server = serving()
    with open_trainer(server.target, retry_s=5) as trainer, open_sampler(dataset) as sampler:
        with pytest.raises(NotFound, match="unheard"):
            next(trainer.watch("unheard"))
        assert trainer.start("run-1", OPTIONS).state in ("queued", "running")
        reports = list(trainer.watch("run-1"))
        assert (reports[-1].state, reports[-1].step, reports[-1].error) == ("succeeded", 8, "")
        assert {"critic_loss", "batches_per_s", "val_score"} <= reports[-1].metrics.keys()
        assert [training.exp_id for training in trainer.list()] == ["run-1"]
        assert trainer.start("run-1", OPTIONS).state == "succeeded"
        with pytest.raises(AlreadyExists, match="batch_size"):
            trainer.start("run-1", OPTIONS | {"batch_size": 4})
        batch = sampler.fetch(np.arange(3))
        action = trainer.select_action("run-1", batch.images, batch.joint)
        best = tmp_path / "results" / "Exprun-1" / "multimodal_robot" / "model_best"
        policy = Policy.from_checkpoint(load_checkpoint(best))
        np.testing.assert_array_equal(action, policy.select_action(batch.images, batch.joint))
        with pytest.raises(InvalidInput, match="cameras"):
            trainer.select_action("run-1", {"left": batch.images["left"]}, batch.joint)
        best.unlink()  # another machine's results: the checkpointer has the policy too
        again = trainer.select_action("run-1", batch.images, batch.joint)
        np.testing.assert_array_equal(again, action)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"unheard": 1}, "'unheard' is not known"),
        ({"batch_size": 0}, "batch_size"),
        ({"lr": "fast"}, "lr"),
        ({"results_dir": "/etc"}, "cannot be set over the wire"),
        ({"load_model": "/etc/passwd"}, "cannot be set over the wire"),
        ({"encoder_weights": "/etc/passwd"}, "cannot be set over the wire"),
        ({"hdf5_path": "file:///etc/*.hdf5"}, "a path on the service's machine"),
        ({"checkpoints": "/etc"}, "a path on the service's machine"),
    ],
)
def test_option_that_does_not_fit_is_named_and_nothing_is_queued(serving, options, message):
    _, server = serving()
    with open_trainer(server.target, retry_s=5) as trainer:
        with pytest.raises(InvalidInput, match=message):
            trainer.start("run-1", options)
        with pytest.raises(InvalidInput, match="ExpID"):
            trainer.start("../evil", OPTIONS)
        assert trainer.list() == []


def test_training_goes_on_where_it_was_after_the_service_came_back(serving, tmp_path):
    service, server = serving()
    options = OPTIONS | {"max_timesteps": 400, "log-freq": 1, "eval_freq": 1000, "save_freq": 1000}
    with open_trainer(server.target, retry_s=5) as trainer:
        trainer.start("run-1", options)
        for report in trainer.watch("run-1"):
            if report.step >= 3:
                break
        with pytest.raises(NotFound, match="no policy yet"):
            trainer.select_action("run-1", {}, np.zeros((1, 3), np.float32))
    service.drain()
    server.stop(drain_s=0)
    left_at = service.jobs.get("run-1")
    assert (left_at.state, 3 <= left_at.step < 400) == ("queued", True)
    _, server = serving()
    with open_trainer(server.target, retry_s=5) as trainer:
        for report in trainer.watch("run-1"):
            if report.step > left_at.step:
                break
        trainer.cancel("run-1")
        last = list(trainer.watch("run-1"))[-1]
    assert last.state == "cancelled"
    text = (tmp_path / "results" / "Exprun-1" / "multimodal_robot" / "progress.csv").read_text()
    steps = [int(line.split(",")[0]) for line in text.splitlines()[1:]]
    assert steps == list(range(1, last.step + 1))


def test_service_goes_by_the_name_in_its_proto():
    assert SERVICE_NAME == "penstock.v1.TrainerService"
