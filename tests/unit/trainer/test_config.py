import pytest
from penstock_trainer.config import TrainSettings


def test_learning_rate_stays_where_no_decay_is_asked_for():
    settings = TrainSettings(lr=3e-4, max_timesteps=100)
    assert {settings.lr_at(step) for step in range(100)} == {3e-4}


def test_learning_rate_falls_linearly_over_the_last_part_of_a_run():
    settings = TrainSettings(lr=1e-3, max_timesteps=100, lr_decay_from=0.6)
    assert settings.lr_at(59) == 1e-3
    assert settings.lr_at(60) == pytest.approx(1e-3)
    assert settings.lr_at(80) == pytest.approx(0.5e-3)
    assert settings.lr_at(99) == pytest.approx(1e-3 / 40)


def test_decay_over_a_whole_run_never_divides_by_nothing():
    settings = TrainSettings(lr=1e-3, max_timesteps=1, lr_decay_from=0.0)
    assert settings.lr_at(0) == pytest.approx(1e-3)
