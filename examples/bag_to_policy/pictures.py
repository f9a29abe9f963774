"""The pictures of the report: learning curves as SVG, a contact sheet of a batch as PNG."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from io import BytesIO, StringIO

import cv2
import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from penstock import Batch

__all__ = ["Curve", "contact_sheet", "curves_svg"]

Curve = tuple[Sequence[float], Sequence[float]]
"""Steps and values."""

_COLOURS = ("#0b6e99", "#d9730d", "#6b5b95", "#448361")
_TILE_PIXELS, _GAP_PIXELS = 96, 4
_GRID_COLUMNS = 8


def curves_svg(
    curves: Mapping[str, Curve],
    *,
    title: str,
    y_label: str,
    level: tuple[str, float] | None = None,
) -> str:
    """Curves over optimiser steps as an ``<svg>`` element.

    Args:
        curves: Name to steps and values.
        title: What is shown.
        y_label: Quantity and unit of the values.
        level: A named horizontal line to compare with.
    """
    # Text stays text and ids do not change from run to run.
    with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": title}):
        figure = Figure(figsize=(5.0, 3.2), layout="constrained")
        axes = figure.add_subplot()
        for colour, (name, (steps, values)) in zip(_COLOURS, curves.items(), strict=False):
            axes.plot(steps, values, label=name, color=colour, marker="o", markersize=3)
        if level is not None:
            axes.axhline(level[1], label=level[0], color="#787774", linestyle="--", linewidth=1)
        axes.set(title=title, xlabel="optimiser steps", ylabel=y_label)
        axes.grid(visible=True, alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(frameon=False)
        text = StringIO()
        figure.savefig(text, format="svg", metadata={"Date": None})
    svg = text.getvalue()
    return svg[svg.index("<svg") :]


def contact_sheet(batch: Batch, transitions: int = 16) -> bytes:
    """Current above next image of every camera for the first transitions of a batch, as PNG.

    Args:
        batch: As a trainer receives it.
        transitions: How many to show, eight in a row.
    """
    shown = batch.frames[: min(transitions, len(batch))]
    rows: list[NDArray[np.uint8]] = []
    for start in range(0, len(shown), _GRID_COLUMNS):
        group = shown[start : start + _GRID_COLUMNS]
        for moment, camera in np.ndindex(group.shape[1:3]):
            tiles = [_tile(frame[moment, camera]) for frame in group]
            blank = np.full_like(tiles[0], 255)
            tiles += [blank] * (_GRID_COLUMNS - len(tiles))
            rows.append(np.concatenate(tiles, axis=1))
        rows.append(np.full((2 * _GAP_PIXELS, rows[-1].shape[1], 3), 255, np.uint8))
    sheet = np.concatenate(rows[:-1], axis=0)
    encoded, data = cv2.imencode(".png", cv2.cvtColor(sheet, cv2.COLOR_RGB2BGR))
    if not encoded:
        raise RuntimeError(f"OpenCV could not encode a sheet of shape {sheet.shape} as PNG")
    return BytesIO(data.tobytes()).getvalue()


def _tile(frame: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """A frame enlarged without smoothing, so that its true pixels show, with a white edge."""
    side = _TILE_PIXELS - _GAP_PIXELS
    large = cv2.resize(frame, (side, side), interpolation=cv2.INTER_NEAREST)
    tile = np.full((_TILE_PIXELS, _TILE_PIXELS, 3), 255, np.uint8)
    tile[:side, :side] = large
    return tile
