"""Drawing a contact sheet: tiles with captions and labels, in rows below titles."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import cv2
import numpy as np
from numpy.typing import NDArray

__all__ = ["Picture", "Row", "draw_sheet", "draw_tile"]

_WIDTH, _HEIGHT = 160, 120
"""Pixels of a tile; frames keep their proportions in it."""
_TITLE, _CAPTION, _GAP = 22, 16, 6
_PAPER, _EMPTY, _INK, _ALARM = (255, 255, 255), (228, 228, 228), (40, 40, 40), (40, 40, 220)
"""In the order of OpenCV: blue, green, red."""
_FONT, _TEXT_SCALE = cv2.FONT_HERSHEY_SIMPLEX, 0.4

Picture = NDArray[np.uint8]


@dataclass(frozen=True)
class Row:
    """One line of a sheet.

    Attributes:
        title: Above it; a row whose title is that of the row before has none.
        tiles: Each as :func:`draw_tile` gives it.
    """

    title: str
    tiles: Sequence[Picture]


def draw_tile(frame: Picture, order: Literal["hwc", "chw"], *, caption: str, label: str) -> Picture:
    """A frame that is taken for RGB, with a caption below it; ``(136, 160, 3)`` BGR."""
    image = np.moveaxis(frame, 0, 2) if order == "chw" else frame
    height, width = image.shape[:2]
    scale = min(_WIDTH / width, _HEIGHT / height)
    size = max(1, round(width * scale)), max(1, round(height * scale))
    way = cv2.INTER_AREA if scale < 1 else cv2.INTER_NEAREST
    small = cv2.resize(np.ascontiguousarray(image), size, interpolation=way)[..., ::-1]
    tile = np.full((_HEIGHT + _CAPTION, _WIDTH, 3), _PAPER, np.uint8)
    tile[:_HEIGHT] = _EMPTY
    top, left = (_HEIGHT - size[1]) // 2, (_WIDTH - size[0]) // 2
    tile[top : top + size[1], left : left + size[0]] = small
    _write_text(tile, caption, 0, _HEIGHT + _CAPTION - 4, _WIDTH, _INK)
    if label:
        cv2.rectangle(tile, (0, 0), (_WIDTH - 1, _HEIGHT - 1), _ALARM, 2)
        tile[0:_CAPTION, 0 : 8 + _text_width(label)] = _PAPER
        _write_text(tile, label, 4, _CAPTION - 4, _WIDTH - 4, _ALARM)
    return tile


def draw_sheet(rows: Sequence[Row], footer: str) -> Picture:
    """All rows below each other, ``(H, W, 3)`` BGR."""
    columns = max(1, *(len(row.tiles) for row in rows))
    width = _GAP + columns * (_WIDTH + _GAP)
    step = _HEIGHT + _CAPTION + _GAP
    height = sum(_TITLE + (step if row.tiles else 0) for row in rows) + (_TITLE if footer else 0)
    sheet = np.full((height + _GAP, width, 3), _PAPER, np.uint8)
    top, titled = 0, ""
    for row in rows:
        if row.title != titled:
            _write_text(sheet, row.title, _GAP, top + _TITLE - 6, width - 2 * _GAP, _INK)
            titled = row.title
            top += _TITLE
        for column, tile in enumerate(row.tiles):
            left = _GAP + column * (_WIDTH + _GAP)
            sheet[top : top + len(tile), left : left + _WIDTH] = tile
        top += step if row.tiles else 0
    if footer:
        _write_text(sheet, footer, _GAP, top + _TITLE - 6, width - 2 * _GAP, _INK)
        top += _TITLE
    return sheet[: top + _GAP]


def _write_text(
    picture: Picture, text: str, left: int, base: int, width: int, colour: tuple[int, int, int]
) -> None:
    """One line; what does not fit is cut at its beginning, as ends of paths tell files apart."""
    shown = text.encode("ascii", "replace").decode()  # OpenCV's letters know no others
    cut = shown
    while len(cut) > 1 and _text_width(cut) > width:
        shown = shown[max(1, len(shown) // 50) :]
        cut = "..." + shown
    cv2.putText(picture, cut, (left, base), _FONT, _TEXT_SCALE, colour, 1, cv2.LINE_AA)


def _text_width(text: str) -> int:
    return cv2.getTextSize(text, _FONT, _TEXT_SCALE, 1)[0][0]
