"""Plots of vectors over time, one line an element. Imports matplotlib, so import it late."""

from __future__ import annotations

from collections.abc import Sequence

import matplotlib as mpl
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from numpy.typing import NDArray

__all__ = ["plot_vector"]

_MOST_LINES, _MOST_NAMED = 64, 24
_DPI = 100
_PANEL, _HEIGHT, _LEFT, _RIGHT = 4.6, 4.2, 0.9, 2.2
"""Inches: a panel, and room for numbers at its left and names at its right."""


def plot_vector(
    name: str,
    series: Sequence[tuple[int, NDArray[np.int64], NDArray[np.float64]]],
    fps: int,
    labels: Sequence[str] | None,
) -> NDArray[np.uint8]:
    """One panel an episode, (H, W, 3) uint8 BGR.

    An element has the same colour in every plot, so that states and actions can be compared.

    Args:
        name: Of the feature.
        series: Episode, frames (n,), and numbers (n, D) of them.
        fps: Frames a second.
        labels: Names of the elements.
    """
    width = series[0][2].shape[1]
    shown = min(width, _MOST_LINES)
    colours = _colours()
    size = (_PANEL * len(series) + _LEFT + _RIGHT, _HEIGHT)
    figure = Figure(figsize=size, dpi=_DPI)
    # Set by hand: matplotlib's own layouts draw everything three times.
    figure.subplots_adjust(
        left=_LEFT / size[0], right=1 - _RIGHT / size[0], top=0.86, bottom=0.13, wspace=0.06
    )
    canvas = FigureCanvasAgg(figure)
    panels = figure.subplots(1, len(series), sharey=True, squeeze=False)[0]
    for panel, (episode, frames, values) in zip(panels, series, strict=True):
        for element in range(shown):
            label = _label(labels, element, width)
            style = "-" if element < len(colours) else "--"
            # A single frame has no line.
            marker = "o" if len(frames) == 1 else None
            panel.plot(
                frames / fps,
                values[:, element],
                style,
                color=colours[element % len(colours)],
                linewidth=1.4,
                marker=marker,
                markersize=3,
                label=label,
            )
        panel.set_title(f"episode {episode}", fontsize=10)
        panel.set_xlabel("seconds")
        panel.grid(visible=True, alpha=0.3)
        panel.margins(x=0.01)
    left_out = f", the first {shown} are shown" if shown < width else ""
    plural = "" if width == 1 else "s"
    figure.suptitle(f"{_plain(name)}: {width} element{plural}{left_out}", fontsize=11)
    if width > 1:
        handles, texts = panels[-1].get_legend_handles_labels()
        figure.legend(
            handles[:_MOST_NAMED],
            texts[:_MOST_NAMED],
            loc="upper left",
            bbox_to_anchor=(1 - (_RIGHT - 0.1) / size[0], 0.88),
            fontsize=8,
            frameon=False,
        )
    canvas.draw()
    pixels = np.asarray(canvas.buffer_rgba(), np.uint8)
    return np.ascontiguousarray(pixels[..., 2::-1])


def _colours() -> list[tuple[float, ...]]:
    # Strong ones first, then their pale ones.
    order = [*range(0, 20, 2), *range(1, 20, 2)]
    return [tuple(mpl.colormaps["tab20"](number)) for number in order]


def _label(labels: Sequence[str] | None, element: int, width: int) -> str:
    if labels is None or len(labels) != width:
        return str(element)
    return _plain(labels[element])


def _plain(text: str) -> str:
    """Text that the fonts that come along can write, and that is no formula."""
    return text.encode("ascii", "replace").decode().replace("$", r"\$").lstrip("_")[:40]
