"""Settings and commands."""

from __future__ import annotations

import pytest
from click.testing import CliRunner
from penstock_trainer.cli import serve, train
from penstock_trainer.config import TrainSettings, parse_options
from penstock_trainer.hardware import choose_device

from penstock.errors import AlreadyExists, InvalidInput


def test_settings_keep_the_names_of_the_source_system():
    names = {
        "hdf5_path",
        "ExpID",
        "batch_size",
        "max_timesteps",
        "eval_freq",
        "save_freq",
        "discount",
        "expectile",
        "kl_beta",
        "tau",
        "obs_feature_dim",
        "train_test_split",
        "load_model",
        "device",
    }
    assert names <= TrainSettings.model_fields.keys()


def test_results_lie_where_the_source_system_put_them():
    assert str(TrainSettings(ExpID="7").run_dir) == "results/Exp7/multimodal_robot"


def test_options_as_texts_become_settings():
    settings = parse_options(
        {"batch-size": "64", "image_size": "(32, 48)", "lr": "5e-4", "num_traj": "None"}
    )
    assert (settings.batch_size, settings.image_size, settings.lr) == (64, (32, 48), 5e-4)
    assert parse_options({"image_size": "32x48"}).image_size == (32, 48)
    assert settings.num_traj is None


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"batchsize": "1"}, "batchsize"),
        ({"discount": "1"}, "discount"),
        ({"image_size": "32"}, "image_size"),
        ({"ExpID": "a/b"}, "ExpID"),
        ({"hdf5_path": "http://x"}, "hdf5_path"),
        ({"algo": "ppo"}, "algo"),
    ],
)
def test_option_that_does_not_fit_is_named(options, named):
    with pytest.raises(InvalidInput, match=named):
        parse_options(options)


@pytest.mark.parametrize("name", ["cuda:99", "tpu", "meta"])
def test_device_that_is_not_there_is_refused(name):
    with pytest.raises(InvalidInput, match="device"):
        choose_device(name)


def test_command_trains_and_a_second_start_is_refused(dataset, tmp_path):
    flags = ["--hdf5_path", dataset, "--results-dir", str(tmp_path), "--ExpID", "cli"]
    flags += ["--batch_size", "8", "--max-timesteps", "3", "--encoder", "none"]
    flags += ["--train-test-split", "0.7", "--device", "cpu"]
    result = CliRunner().invoke(train, flags, catch_exceptions=False)
    assert result.exit_code == 0
    assert "Trained 3 steps" in result.output
    assert (tmp_path / "Expcli" / "multimodal_robot" / "model_final").is_file()
    with pytest.raises(AlreadyExists):
        CliRunner().invoke(train, flags, catch_exceptions=False)


@pytest.mark.parametrize("command", [train, serve])
def test_help_ends_with_examples(command):
    text = CliRunner().invoke(command, ["--help"]).output
    assert "Examples:" in text
    assert "penstock" in text.split("Examples:")[1]
