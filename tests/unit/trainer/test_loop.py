"""Whole runs on a tiny dataset, with embedded sampler and checkpointer."""

from __future__ import annotations

import csv
import json
import threading

import numpy as np
import pytest
import torch
from penstock_trainer.loop import train
from penstock_trainer.policy import Policy

from penstock import load_checkpoint, open_checkpoints, open_sampler
from penstock.errors import (
    AlreadyExists,
    Corrupt,
    DataFault,
    InvalidInput,
    LimitExceeded,
    NotFound,
)


def rows(result):
    with (result.run_dir / "progress.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def leaves(tree, path=""):
    if isinstance(tree, dict):
        for key, value in tree.items():
            yield from leaves(value, f"{path}.{key}")
    elif isinstance(tree, (list, tuple)):
        for index, value in enumerate(tree):
            yield from leaves(value, f"{path}[{index}]")
    else:
        yield path, tree


def assert_same_state(one, other):
    """Equal to the bit, but for how long it took and what the run was called."""
    one, other = dict(leaves(one)), dict(leaves(other))
    assert one.keys() == other.keys()
    for path, value in one.items():
        if path == ".seconds" or path.startswith(".settings."):
            continue
        equal = torch.equal(value, other[path]) if torch.is_tensor(value) else value == other[path]
        assert equal, path


@pytest.mark.parametrize("algo", ["lapo", "bc"])
def test_resumed_run_equals_an_uninterrupted_one_to_the_bit(settings, algo):
    whole = train(settings(ExpID="whole", algo=algo))
    train(settings(ExpID="parts", algo=algo, max_timesteps=6))
    parts = train(settings(ExpID="parts", algo=algo, load_model="latest"))
    assert whole.finished
    assert parts.finished
    assert_same_state(
        load_checkpoint(whole.run_dir / "model_final"),
        load_checkpoint(parts.run_dir / "model_final"),
    )


def test_stopped_run_saves_its_state_and_goes_on_to_the_same_end(settings):
    whole = train(settings(ExpID="whole"))
    stop = threading.Event()

    def stop_at_five(report):
        if report.step >= 4:
            stop.set()

    stopped = train(settings(ExpID="parts"), progress=stop_at_five, should_stop=stop)
    assert not stopped.finished
    assert 4 < stopped.step < 12
    resumed = train(settings(ExpID="parts", load_model="latest"))
    steps = [int(row["step"]) for row in rows(resumed)]
    assert steps == sorted(set(steps))
    assert steps[-1] == 12
    assert_same_state(
        load_checkpoint(whole.run_dir / "model_final"),
        load_checkpoint(resumed.run_dir / "model_final"),
    )


def test_evaluations_do_not_change_what_is_learned(settings):
    often = train(settings(ExpID="often", eval_freq=1))
    never = train(settings(ExpID="never", eval_freq=12))
    one = load_checkpoint(often.run_dir / "model_final")["algorithm"]
    other = load_checkpoint(never.run_dir / "model_final")["algorithm"]
    assert_same_state(one, other)


def test_run_leaves_its_files_and_checkpoints_under_their_tags(settings):
    options = settings()
    reports = []
    result = train(options, progress=reports.append)
    table = rows(result)
    assert [int(row["step"]) for row in table] == [2, 4, 6, 8, 10, 12]
    assert all((row["val_score"] != "") == (int(row["step"]) % 4 == 0) for row in table)
    assert all(float(row["critic_loss"]) > 0 for row in table)
    assert [report.step for report in reports] == [2, 4, 6, 8, 10, 12]
    params = json.loads((result.run_dir / "params.json").read_text())
    assert params["settings"]["discount"] == 0.99
    held, learned = (params["dataset"][f"{n}_transitions"] for n in ("held_out", "train"))
    assert held + learned == params["dataset"]["transitions"] == 120
    assert list((result.run_dir / "tensorboard").glob("events.*"))
    with open_checkpoints(options.checkpoint_target) as store:
        steps = {entry.step: entry for entry in store.list("test")}
        assert {6, 12} <= steps.keys() <= {4, 6, 8, 12}
        assert store.get("test", "final").step == 12
        best = store.get("test", "best")
        assert best.step == result.best_step
        assert best.metrics["val_score"] == pytest.approx(
            float(next(r["val_score"] for r in table if int(r["step"]) == best.step)), rel=1e-4
        )
        assert load_checkpoint(result.run_dir / "model_best")["step"] == best.step


def test_starting_a_run_that_exists_is_refused_before_anything_is_lost(settings):
    result = train(settings())
    before = (result.run_dir / "progress.csv").read_text()
    with pytest.raises(AlreadyExists, match=r"step 12.*--load-model latest"):
        train(settings())
    assert (result.run_dir / "progress.csv").read_text() == before


def test_latest_of_a_run_without_checkpoints_starts_from_scratch(settings):
    assert train(settings(load_model="latest")).finished


def test_finished_run_has_nothing_more_to_do(settings):
    train(settings())
    again = train(settings(load_model="latest"))
    assert (again.step, again.finished) == (12, True)


def test_new_run_can_begin_from_another_runs_step_or_file(settings):
    first = train(settings(ExpID="first"))
    second = train(settings(ExpID="second", load_model="first:6", lr=1e-3, max_timesteps=8))
    assert second.step == 8
    state = load_checkpoint(second.run_dir / "model_final")
    groups = state["algorithm"]["critic_optimiser"]["param_groups"]
    assert [group["lr"] for group in groups] == [1e-3]
    file = str(first.run_dir / "model_final")
    assert train(settings(ExpID="third", load_model=file, max_timesteps=14)).step == 14
    with pytest.raises(NotFound):
        train(settings(ExpID="fourth", load_model="first:unheard"))


def test_checkpoint_of_other_networks_is_refused_with_the_field(settings):
    train(settings(max_timesteps=6))
    with pytest.raises(InvalidInput, match=r"encoder\.feature_dim 32.*64"):
        train(settings(load_model="latest", obs_feature_dim=64))
    with pytest.raises(InvalidInput, match="algo 'lapo'"):
        train(settings(load_model="latest", algo="bc"))


def test_everything_learned_from_leaves_no_best_model(settings):
    result = train(settings(train_test_split=1.0))
    assert result.best_step == 0
    assert not (result.run_dir / "model_best").exists()
    assert (result.run_dir / "model_final").exists()


def test_joints_alone_can_be_learned_from(settings):
    assert train(settings(encoder="none", max_timesteps=4)).finished


def test_missing_data_and_empty_target_are_named(settings, tmp_path):
    with pytest.raises(InvalidInput, match="hdf5_path is missing"):
        train(settings(hdf5_path=""))
    with pytest.raises(NotFound):
        train(settings(hdf5_path=f"file://{tmp_path}/nothing/*.hdf5"))


def test_what_load_model_names_is_told_when_it_is_none(settings, tmp_path):
    torch.save({"w": torch.ones(2)}, tmp_path / "other.pt")
    with pytest.raises(Corrupt, match=r"load_model .*other\.pt is no checkpoint of a training run"):
        train(settings(load_model=str(tmp_path / "other.pt")))
    with pytest.raises(NotFound, match=r"load_model is 'gone\.pstk': no file.*store is empty"):
        train(settings(load_model="gone.pstk"))


@pytest.mark.parametrize("name", ["progress.csv", "params.json", "model_final"])
def test_full_disk_of_the_results_is_named(settings, name):
    """The file that is being written is a device that is always full."""
    chosen = settings(max_timesteps=2)
    chosen.run_dir.mkdir(parents=True)
    (chosen.run_dir / f"{name}.part").symlink_to("/dev/full")
    with pytest.raises(LimitExceeded, match=rf"writing .*{chosen.run_dir}.*: the disk is full"):
        train(chosen)


def test_diverging_run_ends_with_an_error_that_says_so(settings):
    with pytest.raises(DataFault, match="diverged"):
        train(settings(lr=1e30))


def test_best_policy_of_a_run_acts_in_the_robots_units(settings, dataset):
    result = train(settings())
    policy = Policy.from_checkpoint(load_checkpoint(result.run_dir / "model_best"))
    with open_sampler(dataset) as sampler:
        batch = sampler.fetch(np.arange(5))
        action = sampler.info.statistics["action"]
    chosen = policy.select_action(batch.images, batch.joint)
    assert chosen.shape == (5, 2)
    assert chosen.dtype == np.float32
    assert (chosen >= action.min).all()
    assert (chosen <= action.max).all()
