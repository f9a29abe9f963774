import numpy as np
import pytest

from penstock.batch import Batch, FrameSpec
from penstock.dataset import Camera, DatasetInfo
from penstock.errors import InvalidInput

INFO = DatasetInfo("v", (Camera("left", 4, 5), Camera("right", 4, 5)), 3, 2, 100, 4, ())


def filled(size):
    batch = Batch.allocate(size, INFO, FrameSpec())
    for array in (batch.frames, *batch.columns.values(), batch.transition_ids):
        array[...] = np.arange(array.size).reshape(array.shape) % 251
    return batch


def test_a_batch_without_windows_is_all_real():
    batch = Batch.allocate(6, INFO, FrameSpec())
    assert (batch.window, batch.mask.tolist()) == (1, [True] * 6)


def test_windows_are_views_with_an_axis_of_their_own():
    batch = filled(6)
    batch.window = 3
    batch.mask = np.array([True, True, True, True, False, False])
    windowed = batch.windowed
    assert {name: values.shape for name, values in windowed.items()} == {
        "frames": (2, 3, 2, 2, 4, 5, 3),
        "joint": (2, 3, 3),
        "next_joint": (2, 3, 3),
        "action": (2, 3, 2),
        "reward": (2, 3),
        "terminal": (2, 3),
        "transition_ids": (2, 3),
        "mask": (2, 3),
    }
    for name, values in windowed.items():
        plain = getattr(batch, name)
        assert np.shares_memory(values, plain)
        assert (values[1, 2] == plain[5]).all()


def test_rows_share_memory_and_keep_their_part_of_the_mask():
    batch = filled(6)
    batch.window, batch.mask = 3, np.array([True, True, True, True, False, False])
    rows = batch.rows(2, 5)
    rows.reward[:] = 7
    assert batch.reward[2:5].tolist() == [7, 7, 7]
    assert (rows.mask.tolist(), rows.window) == ([True, True, False], 1)


def test_an_unknown_camera_is_answered_with_the_known_ones():
    with pytest.raises(InvalidInput, match="no camera 'top' in this batch: its cameras are left"):
        filled(1).images["top"]


def test_one_side_of_an_image_is_not_enough():
    with pytest.raises(InvalidInput, match="image size 4x0: give both sides"):
        FrameSpec(4, 0)
