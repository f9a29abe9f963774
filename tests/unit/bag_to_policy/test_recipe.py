"""A recipe names its trainings by what goes into them."""

from bag_to_policy.recipe import Recipe, run_name
from penstock_trainer.config import parse_options


def test_trainings_are_told_apart_by_data_and_options() -> None:
    options = Recipe().training_options("lapo")
    name = run_name("lapo", options, "v1")
    assert name == run_name("lapo", Recipe().training_options("lapo"), "v1")
    others = [
        run_name("lapo", options, "v2"),
        run_name("bc", options, "v1"),
        run_name("lapo", Recipe(seed=1).training_options("lapo"), "v1"),
        run_name("lapo", Recipe(lapo_steps=7).training_options("lapo"), "v1"),
    ]
    assert len({name, *others}) == 5


def test_the_trainer_takes_the_options_as_they_were_meant() -> None:
    for algorithm in ("bc", "lapo"):
        texts = {key: str(value) for key, value in Recipe().training_options(algorithm).items()}
        settings = parse_options({"hdf5_path": "grpc://127.0.0.1:1", **texts})
        assert settings.algo == algorithm
        assert settings.image_size == (32, 32)
        # Six checkpoints, the last one at the end.
        assert 5 * settings.save_freq < settings.max_timesteps <= 6 * settings.save_freq


def test_the_shown_batch_is_of_the_plan_that_trains() -> None:
    options = Recipe(seed=3).training_options("lapo")
    plan = Recipe(seed=3).plan()
    assert plan.batch_size == options["batch_size"]
    assert plan.seed == options["seed"] == 3
    assert plan.train_fraction == options["train_test_split"]
    assert plan.split == "train"


def test_more_checkpoints_than_steps_still_train() -> None:
    assert Recipe(bc_steps=3).training_options("bc")["save_freq"] == 1
