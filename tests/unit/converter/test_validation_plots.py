"""Plots: lines are where the values are, and few points stand for long curves."""

import numpy as np
import pytest
from penstock_converter.checks.axes import fit_axis
from penstock_converter.checks.curves import COLUMNS, thin_curves
from penstock_converter.checks.plots import plot_vector

BLUE, ORANGE, GREEN = (180, 119, 31), (14, 127, 255), (44, 160, 44)
"""The first three elements' colours, blue first."""


def pixels_of(picture, colour):
    """Rows and columns where a line is seen; its edges are blended with the paper."""
    near = np.abs(picture.astype(int) - colour).max(axis=2) < 70
    return np.nonzero(near)


def frame_of(picture):
    """Rows of the top and bottom of the first panel, columns of its left and right."""
    dark = (picture == 40).all(axis=2)
    top, bottom = np.flatnonzero(dark.sum(axis=1) > 400)
    left, right = np.flatnonzero(dark.sum(axis=0) > 300)[:2]
    return top, bottom, left, right


def curve_of(picture, colour):
    """The columns of a line in the first panel, and its middle row in each of them."""
    top, bottom, left, right = frame_of(picture)
    rows, columns = pixels_of(picture[top + 1 : bottom, left + 1 : right], colour)
    found = np.unique(columns)
    middles = [rows[columns == column].mean() for column in found]
    return found + left + 1, np.array(middles) + top + 1


def test_a_line_for_each_element_in_the_same_colour_everywhere():
    frames = np.arange(50)
    values = np.stack([np.zeros(50), np.ones(50)], axis=1)
    state = plot_vector("state", [(0, frames, values)], 10, ["a", "b"])
    action = plot_vector("action", [(0, frames, values), (3, frames, values)], 10, None)
    for picture in (state, action):
        for colour in (BLUE, ORANGE):
            assert len(pixels_of(picture, colour)[0]) > COLUMNS
    assert action.shape[1] > state.shape[1]


def test_constants_are_level_at_their_heights_and_a_ramp_rises_between_them():
    frames = np.arange(101)
    values = np.stack([np.zeros(101), np.full(101, 4.0), frames / 25], axis=1)
    picture = plot_vector("state", [(0, frames, values)], 10, None)
    top, bottom, left, right = frame_of(picture)
    height, width = (bottom - top) / 1.1, (right - left) / 1.02  # between the margins
    middle = (top + bottom) / 2
    for colour, level in ((BLUE, middle + height / 2), (ORANGE, middle - height / 2)):
        columns, rows = curve_of(picture, colour)
        assert len(columns) == pytest.approx(width, abs=10)
        assert np.abs(rows - level).max() < 1
    columns, rows = curve_of(picture, GREEN)
    share = (columns - (left + right) / 2) / width
    assert len(columns) > 0.95 * width
    assert np.abs(rows - (middle - share * height)).max() < 1.5


def test_ticks_stand_where_their_numbers_are():
    frames = np.arange(11)
    values = np.stack([np.full(11, 1.0), np.full(11, 3.0)], axis=1)
    picture = plot_vector("state", [(0, frames, values)], 10, None)
    top, bottom, left, _ = frame_of(picture)
    ticks = np.flatnonzero((picture[top:bottom, left - 2] == 40).all(axis=1)) + top
    assert fit_axis([values], 0.05, 7).texts == ["1.0", "1.5", "2.0", "2.5", "3.0"]
    assert len(ticks) == 5
    for colour, tick in ((BLUE, ticks[-1]), (ORANGE, ticks[0])):
        assert np.median(curve_of(picture, colour)[1]) == pytest.approx(tick, abs=1)


@pytest.mark.parametrize(
    ("values", "texts"),
    [
        ([0.0], ["-0.4", "-0.2", "0.0", "0.2", "0.4"]),
        ([1e-7, 3e-7], ["1.0e-07", "1.5e-07", "2.0e-07", "2.5e-07", "3.0e-07"]),
        ([-100.0, 100.0], ["-100", "-50", "0", "50", "100"]),
        ([2e9, 4e9, np.nan], ["2.0e+09", "2.5e+09", "3.0e+09", "3.5e+09", "4.0e+09"]),
        ([np.nan], ["-0.4", "-0.2", "0.0", "0.2", "0.4"]),
    ],
)
def test_axes_have_round_numbers(values, texts):
    assert fit_axis([np.array(values)], 0.05, 7).texts == texts


def test_what_is_not_finite_is_a_gap():
    frames = np.arange(100)
    values = np.zeros((100, 1))
    whole = plot_vector("reward", [(0, frames, values)], 10, None)
    values[40:50], values[50:60] = np.nan, np.inf
    holed = plot_vector("reward", [(0, frames, values)], 10, None)
    gap = len(pixels_of(whole, BLUE)[0]) - len(pixels_of(holed, BLUE)[0])
    # From frame 39 to frame 60, of 99 steps and a margin.
    assert gap / len(pixels_of(whole, BLUE)[0]) == pytest.approx(21 / 99, abs=0.02)


def test_a_single_frame_is_a_dot():
    picture = plot_vector("state", [(0, np.arange(1), np.array([[1.0]]))], 10, None)
    rows, columns = pixels_of(picture, BLUE)
    assert 3 <= np.ptp(rows) == np.ptp(columns) <= 6


def test_names_that_have_no_room_are_counted(monkeypatch):
    written = []
    monkeypatch.setattr(
        "penstock_converter.checks.plots.write_text", lambda _, text, *rest: written.append(text)
    )
    names = [f"joint {number}" for number in range(100)]
    for width, named, rest in ((24, 24, []), (25, 23, ["and 2 more"]), (100, 23, ["and 41 more"])):
        written.clear()
        values = np.arange(20.0)[:, None] + np.arange(width)
        plot_vector("state", [(0, np.arange(20), values)], 10, names[:width])
        assert [text for text in written if text.startswith(("joint", "and"))] == [
            *names[:named],
            *rest,
        ]
    assert "state: 100 elements, the first 64 are shown" in written


def test_a_peak_of_one_frame_stays_in_a_long_curve():
    values = np.zeros((100_003, 2))
    values[77_777, 0], values[5, 1] = 9.0, -3.0
    blocks = ((start, values[start : start + 1000]) for start in range(0, len(values), 1000))
    frames, kept = thin_curves(blocks, len(values))
    assert len(frames) == len(kept) <= 4 * COLUMNS
    assert kept.max(axis=0).tolist() == [9.0, 0.0]
    assert kept.min(axis=0).tolist() == [0.0, -3.0]
    assert abs(int(frames[kept[:, 0].argmax()]) - 77_777) <= 100_003 / COLUMNS
    assert (np.diff(frames) >= 0).all()


def test_thinned_curves_do_not_depend_on_blocks():
    values = np.random.default_rng(5).normal(size=(5000, 3)).cumsum(axis=0)
    whole = thin_curves([(0, values)], 5000)
    parts = thin_curves(((start, values[start : start + 7]) for start in range(0, 5000, 7)), 5000)
    for one, other in zip(whole, parts, strict=True):
        np.testing.assert_array_equal(one, other)
    bucket = -(-5000 // COLUMNS)
    for number in (0, 17, 400):
        rows = values[number * bucket : (number + 1) * bucket]
        points = whole[1][4 * number : 4 * number + 4]
        np.testing.assert_array_equal(points[[0, 3]], rows[[0, -1]])
        np.testing.assert_array_equal(points.min(axis=0), rows.min(axis=0))
        np.testing.assert_array_equal(points.max(axis=0), rows.max(axis=0))


def test_short_curves_stay_as_they_are():
    values = np.arange(60, dtype=np.float32).reshape(30, 2)
    frames, kept = thin_curves([(0, values[:20]), (20, values[20:])], 30)
    np.testing.assert_array_equal(frames, np.arange(30))
    np.testing.assert_array_equal(kept, values)
