import os
import re
from contextlib import closing
from pathlib import Path

import h5py
import numpy as np
import pytest
from penstock_sampler.backend import open_backend
from penstock_sampler.options import parse_weight_columns
from penstock_sampler.settings import DataSettings
from unit.sampler.recording import arrays, write

from penstock.errors import DataFault, InvalidInput, LimitExceeded, NotFound
from penstock.plan import Plan
from penstock.plan_view import PlanView
from penstock.targets import Target

ROWS = 12


def recording(path, weights, *, seed=0, observations=ROWS, **extra):
    """12 rows of two episodes, the first one terminal at row 4; the last row has no next one."""
    contents = arrays(ROWS, observations=observations, cameras=(), terminals=[4], seed=seed)
    return write(path, contents | {"priority": weights} | extra)


def opened(folder, columns="priority", **flags):
    settings = DataSettings.load(flags={"cameras": "none", "weight_columns": columns, **flags})
    return closing(open_backend(Target.parse(f"file://{folder}/*.hdf5"), settings))


def test_weights_follow_the_transitions_without_the_rows_that_are_dropped(tmp_path):
    recording(tmp_path / "a.hdf5", np.arange(ROWS, dtype=np.float64))
    recording(tmp_path / "b.hdf5", np.arange(100, 100 + ROWS).reshape(-1, 1), seed=1)
    recording(tmp_path / "c.hdf5", np.ones(ROWS, np.bool_), observations=ROWS + 1, seed=2)
    with opened(tmp_path) as backend:
        weights = backend.weights("priority")
        # Row 11 of a and b has no next observation; c has one more observation.
        assert weights.tolist() == [*range(11), *range(100, 111), *[1.0] * 12]
        assert len(weights) == backend.info().transitions
        assert (weights.dtype, weights.flags.writeable) == (np.float32, False)
        assert backend.weights("priority") is weights


def test_columns_are_told_apart(tmp_path):
    recording(tmp_path / "a.hdf5", np.zeros(ROWS), advantage=np.full(ROWS, 2.0, np.float32))
    with opened(tmp_path, "priority, advantage") as backend:
        assert set(backend.weights("advantage").tolist()) == {2.0}
        assert set(backend.weights("priority").tolist()) == {0.0}


def test_a_column_that_is_not_set_is_answered_with_those_that_are(tmp_path):
    recording(tmp_path / "a.hdf5", np.ones(ROWS))
    with (
        opened(tmp_path) as backend,
        pytest.raises(NotFound, match=r"'advantage': this dataset has priority.*weight_columns"),
    ):
        backend.weights("advantage")
    with (
        opened(tmp_path, "") as backend,
        pytest.raises(NotFound, match="'priority': this dataset has none"),
    ):
        backend.weights("priority")


@pytest.mark.parametrize(
    ("weights", "reason", "message"),
    [
        ([1.0] * 7 + [-0.5] + [1.0] * 4, "WRONG_VALUE", r"priority\[7\] is -0\.5: expected a fin"),
        ([1.0] * 11 + [float("nan")], "WRONG_VALUE", r"priority\[11\] is nan"),
        ([float("inf")] + [1.0] * 11, "WRONG_VALUE", r"priority\[0\] is inf"),
        ([1.0, 1e300] + [1.0] * 10, "WRONG_VALUE", r"priority\[1\] is 1e\+300"),
        ([1.0] * 13, "ROW_COUNT_MISMATCH", r"priority has shape \(13,\): expected \(12,\)"),
        (np.ones((ROWS, 2)), "WRONG_RANK", r"priority has shape \(12, 2\)"),
        (np.float32(1), "WRONG_RANK", r"priority has shape \(\)"),
        (np.array([b"x"] * ROWS), "WRONG_DTYPE", r"priority has dtype \|S1"),
        (None, "MISSING_KEY", "no priority: looked for priority in the root"),
    ],
)
def test_a_file_with_bad_weights_is_refused_and_the_others_are_served(
    tmp_path, weights, reason, message
):
    recording(tmp_path / "good.hdf5", np.ones(ROWS))
    recording(tmp_path / "odd.hdf5", np.ones(ROWS) if weights is None else weights, seed=1)
    if weights is None:
        with h5py.File(tmp_path / "odd.hdf5", "a") as file:
            del file["priority"]
    with opened(tmp_path) as backend:
        info = backend.info()
        assert [file.file_id for file in info.files] == ["good.hdf5"]
        assert [(file.file_id, file.reason) for file in info.refused] == [("odd.hdf5", reason)]
        assert backend.weights("priority").tolist() == [1.0] * 11
        assert re.search(message, info.refused[0].message)


def test_weights_are_part_of_the_version(tmp_path):
    """The one that changes lies behind the head of the file, which is part of every version."""
    versions, rows = set(), 20_000
    contents = arrays(rows, cameras=()) | {"priority": np.ones(rows, np.float32)}
    for last in (1.0, 2.0):
        path = write(tmp_path / "a.hdf5", contents)
        with h5py.File(path, "a") as file:
            file["priority"][-1] = last
        for columns in ("priority", ""):
            with opened(tmp_path, columns) as backend:
                versions.add((columns, backend.info().version))
    assert len({version for columns, version in versions if columns}) == 2
    assert len({version for columns, version in versions if not columns}) == 1


def test_a_file_that_was_changed_since_is_named(tmp_path):
    recording(tmp_path / "a.hdf5", np.ones(ROWS))
    changed = recording(tmp_path / "b.hdf5", np.ones(ROWS), seed=1)
    with opened(tmp_path) as backend:
        os.utime(changed, ns=(1, 1))
        with pytest.raises(DataFault, match=r"b\.hdf5: was changed since it was indexed"):
            backend.weights("priority")


def test_no_room_for_the_weights_names_the_folder(tmp_path, monkeypatch):
    recording(tmp_path / "a.hdf5", np.ones(ROWS))
    spool = tmp_path / "spool"
    spool.mkdir()
    with opened(tmp_path, spool_dir=spool) as backend:
        monkeypatch.setattr(
            "penstock_sampler.weights.tempfile.TemporaryFile",
            lambda **_: Path("/dev/full").open("r+b", buffering=0),  # noqa: SIM115
        )
        with pytest.raises(LimitExceeded, match=r"spool, which cannot be written \(No space"):
            backend.weights("priority")


def test_a_weighted_plan_draws_what_its_column_says(tmp_path):
    weights = np.zeros(ROWS)
    weights[[2, 9]] = [1.0, 3.0]
    recording(tmp_path / "a.hdf5", weights)
    plan = Plan(batch_size=400, split="all", sampling="weighted", weight_column="priority")
    with opened(tmp_path) as backend:
        view = PlanView(plan, backend.episodes(), weights=backend.weights(plan.weight_column))
        counts = np.bincount(view.transition_ids(0), minlength=11)
    assert set(np.flatnonzero(counts)) == {2, 9}
    # 400 draws: 100 and 300 are expected, one standard deviation is 8.7.
    assert abs(counts[2] - 100) < 35


def test_a_list_of_columns_is_read_with_or_without_blanks():
    assert parse_weight_columns(" priority, advantage") == ("priority", "advantage")
    assert parse_weight_columns(" ") == ()
    with pytest.raises(InvalidInput, match="'priority' is empty or comes twice"):
        parse_weight_columns("priority,priority")
    with pytest.raises(InvalidInput, match="'' is empty or comes twice"):
        parse_weight_columns("priority,")
