from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from penstock_sampler.scalars import ScalarStore

from penstock.errors import LimitExceeded


def test_records_come_back_with_their_neighbours() -> None:
    rng = np.random.default_rng(0)
    joint = rng.normal(size=(6, 3)).astype(np.float32)
    action = rng.normal(size=(5, 2)).astype(np.float32)
    reward = rng.normal(size=5).astype(np.float32)
    store = ScalarStore(3, 2)
    store.append(joint[:4], action[:4], reward[:4])
    store.append(joint[4:], action[4:], reward[4:])
    rows = np.array([4, 0, 2, 2], np.int64)
    following = np.array([5, 1, 2, 3], np.int64)
    current, after = store.read(rows, following)
    np.testing.assert_array_equal(current[:, :3], joint[rows])
    np.testing.assert_array_equal(current[:, 3:5], action[rows])
    np.testing.assert_array_equal(current[:, 5], reward[rows])
    np.testing.assert_array_equal(after[:, :3], joint[following])
    store.close()


def test_a_folder_that_cannot_hold_it_is_named(tmp_path: Path) -> None:
    with pytest.raises(LimitExceeded, match="spool_dir"):
        ScalarStore(3, 2, tmp_path / "missing")


def test_a_full_disk_says_so() -> None:
    store = ScalarStore(3, 2)
    store._file.close()
    store._file = Path("/dev/full").open("r+b", buffering=0)  # noqa: SIM115
    with pytest.raises(LimitExceeded, match="No space left") as caught:
        store.append(
            np.zeros((2, 3), np.float32), np.zeros((2, 2), np.float32), np.zeros(2, np.float32)
        )
    assert caught.value.reason == "DISK_FULL"
    store.close()
