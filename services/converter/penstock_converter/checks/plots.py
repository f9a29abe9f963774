"""Plots of vectors over time, one line an element."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from penstock_converter.checks.axes import Axis, fit_axis
from penstock_converter.checks.curves import COLUMNS, Series
from penstock_converter.checks.sheet import INK, PAPER, TITLE_TEXT, text_width, write_text

__all__ = ["plot_vector"]

_MOST_LINES = 64
_TITLE, _HEADING, _HEIGHT, _FOOT = 26, 22, 366, 44
"""Pixels from top to bottom: title, number of the episode, lines, seconds."""

_GAP, _BETWEEN, _TICK, _ROW, _SAMPLE = 10, 24, 4, 15, 22
"""Pixels at the edges, between panels, of a tick, of a row of the legend, and of the line in it."""

_MOST_TEXT = 320
_X_TICKS, _Y_TICKS = 6, 7
_GRID = (228, 228, 228)
_THICKNESS, _DOT = 1, 2
_DASH, _PERIOD = 7, 11
_SHIFT = 4
"""Binary digits of a pixel's fraction."""

_LARGEST = 1e300
"""Beyond it the difference of two numbers may not be a number."""

_TABLEAU = (
    "1f77b4 ff7f0e 2ca02c d62728 9467bd 8c564b e377c2 7f7f7f bcbd22 17becf "
    "aec7e8 ffbb78 98df8a ff9896 c5b0d5 c49c94 f7b6d2 c7c7c7 dbdb8d 9edae5"
)
"""Red, green, blue: strong colours first, then their pale ones."""

_COLOURS = [tuple(bytes.fromhex(colour)[::-1]) for colour in _TABLEAU.split()]

Picture = NDArray[np.uint8]


class _Panel(NamedTuple):
    """Where an episode is drawn: its left edge in pixels, and its axes."""

    left: int
    seconds: Axis
    values: Axis

    def column(self, seconds: NDArray[np.float64]) -> NDArray[np.float64]:
        return self.left + self.seconds.share(seconds) * (COLUMNS - 1)

    def row(self, values: NDArray[np.float64]) -> NDArray[np.float64]:
        return _TITLE + _HEADING + (1 - self.values.share(values)) * (_HEIGHT - 1)


def plot_vector(
    name: str, series: Sequence[Series], fps: int, labels: Sequence[str] | None
) -> Picture:
    """One panel an episode, (H, W, 3) uint8 BGR.

    An element has the same colour in every plot, so that states and actions can be compared.
    Where a number is not finite, its line has a gap.

    Args:
        name: Of the feature.
        series: Episode, frames (n,), and numbers (n, D) of them.
        fps: Frames a second.
        labels: Names of the elements.
    """
    width = series[0][2].shape[1]
    shown = min(width, _MOST_LINES)
    drawn = [_drawable(values[:, :shown]) for _, _, values in series]
    scale = fit_axis(drawn, 0.05, _Y_TICKS)
    legend = _legend(labels, shown, width)
    left = _GAP + max(map(text_width, scale.texts), default=0) + 2 * _TICK
    right = _GAP + (_SAMPLE + 6 + min(_MOST_TEXT, max(map(text_width, legend))) if legend else 0)
    step = COLUMNS + _BETWEEN
    end = left + len(series) * step - _BETWEEN + _GAP
    size = (_TITLE + _HEADING + _HEIGHT + _FOOT, end + right, 3)
    picture = np.full(size, PAPER, np.uint8)
    for place, ((episode, frames, _), values) in enumerate(zip(series, drawn, strict=True)):
        seconds = frames / fps
        panel = _Panel(left + place * step, fit_axis([seconds], 0.01, _X_TICKS), scale)
        _draw_axes(picture, panel, f"episode {episode}", numbered=not place)
        for element in range(shown):
            points = np.stack([panel.column(seconds), panel.row(values[:, element])], axis=1)
            _draw_line(picture, points, element)
    left_out = f", the first {shown} are shown" if shown < width else ""
    plural = "" if width == 1 else "s"
    title = f"{name}: {width} element{plural}{left_out}"
    write_text(picture, title, _GAP, _TITLE - 8, size[1] - 2 * _GAP, INK, TITLE_TEXT)
    _draw_legend(picture, legend, end, shown)
    return picture


def _drawable(values: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.where(np.abs(values) < _LARGEST, values, np.nan)


def _legend(labels: Sequence[str] | None, shown: int, width: int) -> list[str]:
    """Names of the first elements, and how many have lines but no room for theirs."""
    if width == 1:
        return []
    names = labels if labels is not None and len(labels) == width else list(map(str, range(width)))
    room = _HEIGHT // _ROW
    if shown <= room:
        return list(names[:shown])
    return [*names[: room - 1], f"and {shown - room + 1} more"]


def _draw_axes(picture: Picture, panel: _Panel, heading: str, *, numbered: bool) -> None:
    top, left = _TITLE + _HEADING, panel.left
    bottom, right = top + _HEIGHT - 1, left + COLUMNS - 1
    columns = np.rint(panel.column(panel.seconds.ticks)).astype(int).tolist()
    rows = np.rint(panel.row(panel.values.ticks)).astype(int).tolist()
    for column in columns:
        cv2.line(picture, (column, top), (column, bottom), _GRID)
    for row in rows:
        cv2.line(picture, (left, row), (right, row), _GRID)
    cv2.rectangle(picture, (left, top), (right, bottom), INK)
    for column, text in zip(columns, panel.seconds.texts, strict=True):
        cv2.line(picture, (column, bottom), (column, bottom + _TICK), INK)
        _write_centred(picture, text, column, bottom + 18)
    for row, text in zip(rows, panel.values.texts if numbered else [], strict=False):
        cv2.line(picture, (left - _TICK, row), (left, row), INK)
        length = text_width(text)
        write_text(picture, text, left - 2 * _TICK - length, row + 4, length, INK)
    _write_centred(picture, heading, (left + right) // 2, top - 7)
    _write_centred(picture, "seconds", (left + right) // 2, bottom + 36)


def _write_centred(picture: Picture, text: str, middle: int, base: int) -> None:
    length = text_width(text)
    write_text(picture, text, middle - length // 2, base, length, INK)


def _draw_line(picture: Picture, points: NDArray[np.float64], element: int) -> None:
    """A line through points (n, 2), column and row; dashed where colours are used again."""
    colour = _COLOURS[element % len(_COLOURS)]
    known = np.flatnonzero(np.isfinite(points[:, 1]))
    for run in np.split(known, np.flatnonzero(np.diff(known) > 1) + 1):
        line = points[run]
        if len(line) == 1:  # it has no length
            centre = _fixed(line)[0].tolist()
            cv2.circle(picture, centre, _DOT << _SHIFT, colour, -1, cv2.LINE_AA, _SHIFT)
        elif len(line):
            pieces = [_fixed(line)] if element < len(_COLOURS) else list(_fixed(_dashes(line)))
            cv2.polylines(
                picture, pieces, isClosed=False, color=colour, thickness=_THICKNESS,
                lineType=cv2.LINE_AA, shift=_SHIFT,
            )  # fmt: skip


def _fixed(points: NDArray[np.float64]) -> NDArray[np.int32]:
    return np.rint(points * (1 << _SHIFT)).astype(np.int32)


def _dashes(line: NDArray[np.float64]) -> NDArray[np.float64]:
    """The dashes of a line, (k, n, 2)."""
    way = np.concatenate([[0.0], np.cumsum(np.hypot(*np.diff(line, axis=0).T))])
    starts = np.arange(0, way[-1], _PERIOD)
    places = starts[:, None] + np.arange(_DASH + 1)
    return np.stack([np.interp(places, way, line[:, axis]) for axis in (0, 1)], axis=-1)


def _draw_legend(picture: Picture, legend: Sequence[str], left: int, shown: int) -> None:
    for number, text in enumerate(legend):
        middle = _TITLE + _HEADING + number * _ROW + _ROW // 2
        begin = left
        if number < len(legend) - 1 or len(legend) == shown:
            sample = np.array([[left, middle], [left + _SAMPLE, middle]], np.float64)
            for lower in (0.0, 1.0):
                _draw_line(picture, sample + np.array([0.0, lower]), number)
            begin += _SAMPLE + 6
        write_text(picture, text, begin, middle + 4, _MOST_TEXT, INK)
