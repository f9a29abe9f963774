"""The summary says what was measured, and whether it is good enough."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from bag_to_policy.summary import Score, Summary, shortfalls
from two_arm_reach.behaviour import EpisodeSummary
from two_arm_reach.evaluate import Evaluation


def score(return_mean: float) -> Score:
    return Score(return_mean, 8.0, 0.5, 100)


SUMMARY = Summary(
    behaviour=score(-14.0),
    bc=score(-16.0),
    lapo=score(-6.0),
    batches_per_s=80.0,
    seconds=300.0,
    stage_seconds={"record": 20.0},
    batch_compression=12.0,
    checkpoint_compression=1.2,
    training_steps_per_s={"bc": 50.0, "lapo": 25.0},
    sizes_mb={"bags": 137.0},
)


def test_scores_are_means_over_episodes() -> None:
    recorded = Score.of_recording(
        [EpisodeSummary(30, -20.0, success=False), EpisodeSummary(10, -2.0, success=True)]
    )
    assert recorded == Score(-11.0, 9.0, 0.5, 2)
    evaluation = Evaluation(np.array([-20.0, -2.0]), np.array([False, True]), np.array([30, 10]))
    assert Score.of_evaluation(evaluation) == recorded


@pytest.mark.parametrize(
    ("lapo", "behaviour", "bc", "missed"),
    [
        (-6.0, -14.0, -16.0, []),
        (-10.0, -14.0, -15.0, []),
        (-10.1, -14.0, -16.0, ["the recorded behaviour"]),
        (-9.0, -14.0, -13.9, ["behaviour cloning"]),
        (-14.0, -14.0, -14.0, ["the recorded behaviour", "behaviour cloning"]),
        (float("nan"), -14.0, -16.0, ["the recorded behaviour", "behaviour cloning"]),
    ],
)
def test_lapo_has_to_gain_four_over_the_behaviour_and_five_over_cloning(
    lapo: float, behaviour: float, bc: float, missed: list[str]
) -> None:
    summary = replace(SUMMARY, lapo=score(lapo), behaviour=score(behaviour), bc=score(bc))
    reasons = shortfalls(summary)
    assert len(reasons) == len(missed)
    assert all(name in reason for name, reason in zip(missed, reasons, strict=True))


def test_summary_json_has_the_documented_fields(tmp_path: Path) -> None:
    SUMMARY.write(tmp_path / "summary.json")
    found = json.loads((tmp_path / "summary.json").read_text())
    for name in ("behaviour", "bc", "lapo"):
        assert set(found[name]) == {"return_mean", "return_std", "success_rate", "episodes"}
    assert found["lapo"]["return_mean"] == -6.0
    assert found["batches_per_s"] == 80.0
    assert found["seconds"] == 300.0
    assert [path.name for path in tmp_path.iterdir()] == ["summary.json"]
