"""Drawing a contact sheet: tiles with captions in rows, distances in colours with their scale."""

from __future__ import annotations

from collections.abc import Sequence
from textwrap import wrap
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

__all__ = ["INK", "PAPER", "TITLE_TEXT", "draw_sheet", "draw_tile", "text_width", "write_text"]

_WIDTH, _HEIGHT = 320, 240
"""Pixels of a tile; images keep their proportions in it."""

_TITLE, _CAPTION, _GAP = 28, 20, 8
_SCALE_WIDTH, _SCALE_TEXT = 12, 54
PAPER, _EMPTY, INK, _ALARM = (255, 255, 255), (228, 228, 228), (40, 40, 40), (40, 40, 220)
"""In the order of OpenCV: blue, green, red."""

_PROBLEM_LETTERS, _PROBLEM_LINES = 40, 6
_UNKNOWN = 96
"""Grey of pixels without a distance."""

_FONT, _TEXT, TITLE_TEXT = cv2.FONT_HERSHEY_SIMPLEX, 0.42, 0.5

Tile = NDArray[np.uint8]


def draw_tile(pixels: NDArray[Any] | None, caption: str, problem: str) -> Tile:
    """An image, (H, W, 3) uint8 RGB or (H, W) uint16 mm, with a caption below; BGR."""
    tile = np.full((_HEIGHT + _CAPTION, _WIDTH, 3), PAPER, np.uint8)
    tile[:_HEIGHT] = _EMPTY
    if pixels is None:
        cv2.rectangle(tile, (0, 0), (_WIDTH - 1, _HEIGHT - 1), _ALARM, 2)
        for line, text in enumerate(wrap(problem, _PROBLEM_LETTERS)[:_PROBLEM_LINES]):
            write_text(tile, text, 8, _HEIGHT // 3 + 18 * line, _WIDTH - 16, _ALARM)
    elif pixels.ndim == 2:  # noqa: PLR2004 - height and width
        _put_distances(tile, pixels)
    else:
        _put(tile[:_HEIGHT], np.ascontiguousarray(pixels[..., ::-1]), cv2.INTER_AREA)
    write_text(tile, caption, 0, _HEIGHT + _CAPTION - 6, _WIDTH, INK)
    return tile


def draw_sheet(title: str, rows: Sequence[Sequence[Tile]]) -> Tile:
    """All rows below each other, (H, W, 3) uint8 BGR."""
    columns = max((len(row) for row in rows), default=1)
    width = _GAP + columns * (_WIDTH + _GAP)
    step = _HEIGHT + _CAPTION + _GAP
    sheet = np.full((_TITLE + len(rows) * step, width, 3), PAPER, np.uint8)
    write_text(sheet, title, _GAP, _TITLE - 10, width - 2 * _GAP, INK, TITLE_TEXT)
    for number, row in enumerate(rows):
        top = _TITLE + number * step
        for column, tile in enumerate(row):
            left = _GAP + column * (_WIDTH + _GAP)
            sheet[top : top + len(tile), left : left + _WIDTH] = tile
    return sheet


def _put(space: Tile, image: Tile, smaller: int) -> None:
    """Put an image into the middle of a space, as large as fits."""
    height, width = image.shape[:2]
    factor = min(space.shape[1] / width, space.shape[0] / height)
    size = max(1, round(width * factor)), max(1, round(height * factor))
    way = smaller if factor < 1 else cv2.INTER_NEAREST
    scaled = cv2.resize(image, size, interpolation=way)
    top, left = (space.shape[0] - size[1]) // 2, (space.shape[1] - size[0]) // 2
    space[top : top + size[1], left : left + size[0]] = scaled


def _put_distances(tile: Tile, distances: NDArray[Any]) -> None:
    """Distances from near (blue) to far (red); what was not measured is grey."""
    known = distances[distances > 0]
    near, far = (np.percentile(known, (1, 99)) if len(known) else np.zeros(2)).tolist()
    span = max(far - near, 1.0)
    levels = np.clip((distances.astype(np.float32) - near) / span * 255, 0, 255).astype(np.uint8)
    coloured = np.asarray(cv2.applyColorMap(levels, cv2.COLORMAP_TURBO), np.uint8)
    coloured[distances == 0] = _UNKNOWN
    # Nearest: a blend of two distances is a third one that nobody measured.
    _put(tile[:_HEIGHT, : _WIDTH - _SCALE_TEXT], coloured, cv2.INTER_NEAREST)
    left, top, bottom = _WIDTH - _SCALE_TEXT + 4, 20, _HEIGHT - 20
    ramp = np.linspace(255, 0, bottom - top).astype(np.uint8)[:, None]
    bar = cv2.applyColorMap(np.repeat(ramp, _SCALE_WIDTH, axis=1), cv2.COLORMAP_TURBO)
    tile[top:bottom, left : left + _SCALE_WIDTH] = np.asarray(bar, np.uint8)
    missing = 1 - len(known) / max(distances.size, 1)
    for text, base in ((f"{far:.0f}", top - 6), (f"{near:.0f} mm", bottom + 14)):
        write_text(tile, text, left - 2, base, _SCALE_TEXT - 2, INK)
    for line, text in enumerate(("grey", f"{missing:.0%}")):
        write_text(tile, text, left + 16, _HEIGHT // 2 + 14 * line, _SCALE_TEXT - 20, INK)


def write_text(
    picture: Tile,
    text: str,
    left: int,
    base: int,
    width: int,
    colour: tuple[int, int, int],
    size: float = _TEXT,
) -> None:
    """Write one line from ``left`` on, its letters standing on row ``base``, all in pixels.

    What does not fit into ``width`` is cut off at its end.
    """
    shown = _plain(text)
    while len(shown) > 1 and text_width(shown, size) > width:
        shown = shown[:-1]
    cv2.putText(picture, shown, (left, base), _FONT, size, colour, 1, cv2.LINE_AA)


def text_width(text: str, size: float = _TEXT) -> int:
    """Pixels that a line takes."""
    return cv2.getTextSize(_plain(text), _FONT, size, 1)[0][0]


def _plain(text: str) -> str:
    return text.encode("ascii", "replace").decode()  # OpenCV's letters know no others
