"""A contact sheet: one picture of the frames of many files, to judge them at a glance.

Of several files each is a row, with the first, a middle and the last frame of every camera; of a
single file each camera is a row. Frames are scaled down one by one as they are read, and at most 24
files are shown, so memory does not grow with the data.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import cv2
import numpy as np

from penstock.disk import full_disk_named
from penstock.errors import DataFault, InvalidInput
from penstock_sampler.checks.diagnosis import Diagnosis
from penstock_sampler.checks.findings import Findings
from penstock_sampler.checks.sheet_drawing import Picture, Row, draw_sheet, draw_tile
from penstock_sampler.options import DataOptions
from penstock_sampler.sources.images import ImageColumn
from penstock_sampler.sources.layout import read_layout
from penstock_sampler.sources.opening import HDF5_ERRORS, Hdf5File

__all__ = ["ContactSheet", "SheetReport"]

_SUFFIXES = (".png", ".jpg", ".jpeg")
_MOST_FILES = 24
_FRAMES_OF_ONE_FILE = 8
_FRAMES, _MANY_CAMERAS = 3, 4
"""Frames of each camera in a row of several files; one frame where cameras are more than this."""

_LABELS = {
    "BGR_IMAGES": "BGR",
    "COLOURS_SWAPPED": "BGR?",
    "MAYBE_BGR": "BGR?",
    "DARK_IMAGES": "dark",
    "FLAT_IMAGES": "flat",
    "FROZEN_IMAGES": "frozen",
}


@dataclass
class _File:
    """A file to show, and what is to be said of its cameras, by name."""

    path: Path
    labels: dict[str, str] = field(default_factory=dict[str, str])


@dataclass(frozen=True)
class SheetReport:
    """What became of a sheet.

    Attributes:
        path: The picture.
        shown: Files in it; with 0, no picture was written.
        left_out: Files that could be served, for which there was no room.
    """

    path: Path
    shown: int
    left_out: int


class ContactSheet:
    """Collects files to show, then draws them.

    Files with a finding about their images come first, the others are spread over all files.

    Args:
        path: Where the picture goes, ``.png`` or ``.jpg``.
        options: Cameras and image order.
        files: How many files there are to choose from.

    Raises:
        InvalidInput: The suffix is unknown, or the folder is missing or may not be written to.
    """

    def __init__(self, path: Path, options: DataOptions, files: int) -> None:
        _check_path(path)
        self._path = path
        self._options = options
        self._only = files == 1
        spread = np.linspace(0, files - 1, min(files, _MOST_FILES))
        self._picked = frozenset(spread.astype(np.int64).tolist())
        self._offered, self._with_images = 0, 0
        self._flagged: list[_File] = []
        self._plain: list[_File] = []

    def offer(self, diagnosis: Diagnosis) -> None:
        """Consider the next file."""
        place = self._offered
        self._offered += 1
        scan = diagnosis.scan
        if scan is None or not (diagnosis.served and scan.layout.images):
            return
        self._with_images += 1
        labels = _labels(diagnosis.findings, scan.layout.images)
        chosen = self._flagged if labels else self._plain
        if len(chosen) < _MOST_FILES and (labels or place in self._picked):
            chosen.append(_File(Path(diagnosis.findings.file), labels))

    def write(self, suspects: Iterable[tuple[str, str]] = ()) -> SheetReport:
        """Draw what was offered, and write it under a temporary name first.

        Args:
            suspects: Files and cameras that may be BGR, found by comparing files.

        Raises:
            LimitExceeded: The disk is full.
        """
        files = self._choose(suspects)
        if not files:
            return SheetReport(self._path, 0, 0)
        rows = [row for file in files for row in self._read(file)]
        left_out = self._with_images - len(files)
        footer = f"{len(files)} of {self._with_images} files are shown" if left_out else ""
        _save(draw_sheet(rows, footer), self._path)
        return SheetReport(self._path, len(files), left_out)

    def _choose(self, suspects: Iterable[tuple[str, str]]) -> list[_File]:
        chosen: dict[Path, _File] = {}
        for name, camera in sorted(suspects):
            file = chosen.setdefault(Path(name), _File(Path(name)))
            file.labels[camera] = _LABELS["COLOURS_SWAPPED"]
        for file in (*self._flagged, *self._plain):
            known = chosen.setdefault(file.path, file)
            known.labels.update(file.labels)
        return sorted(list(chosen.values())[:_MOST_FILES], key=lambda file: file.path)

    def _read(self, file: _File) -> list[Row]:
        """The rows of a file; a file that went bad since says so in its place."""
        name = str(file.path)
        try:
            with Hdf5File(file.path) as opened:
                layout = read_layout(opened, self._options, Findings(name))
                if layout is None:
                    return [Row(f"{name}: was changed meanwhile", [])]
                last = layout.observations - 1
                if self._only:
                    rows = _spread(last, _FRAMES_OF_ONE_FILE)
                    return [
                        Row(name, _tiles(opened, image, rows, file.labels))
                        for image in layout.images
                    ]
                frames = 1 if len(layout.images) > _MANY_CAMERAS else _FRAMES
                rows = _spread(last, frames)
                tiles = [
                    tile
                    for image in layout.images
                    for tile in _tiles(opened, image, rows, file.labels)
                ]
                return [Row(name, tiles)]
        except (DataFault, *HDF5_ERRORS) as error:
            return [Row(f"{name}: cannot be read any more ({error})", [])]


def _check_path(path: Path) -> None:
    if path.suffix.lower() not in _SUFFIXES:
        raise InvalidInput(
            f"contact sheet {path}: the suffix {path.suffix or 'none'!r} is unknown: name it "
            f"{' or '.join(_SUFFIXES)}",
            field="contact_sheet",
        )
    if not path.parent.is_dir():
        raise InvalidInput(
            f"contact sheet {path}: the folder {path.parent} is not there: make it first",
            field="contact_sheet",
        )
    if path.is_dir() or not os.access(path.parent, os.W_OK):
        what = "it is a folder" if path.is_dir() else f"{path.parent} may not be written to"
        raise InvalidInput(
            f"contact sheet {path}: {what}: name a file elsewhere", field="contact_sheet"
        )


def _labels(findings: Findings, images: Iterable[ImageColumn]) -> dict[str, str]:
    """What warnings say of the cameras, in a word each."""
    cameras = {image.dataset: image.camera for image in images}
    labels: dict[str, list[str]] = {}
    for warning in findings.warnings:
        if warning.reason in _LABELS and warning.dataset in cameras:
            labels.setdefault(cameras[warning.dataset], []).append(_LABELS[warning.reason])
    return {camera: " ".join(words) for camera, words in labels.items()}


def _spread(last: int, count: int) -> list[int]:
    return np.unique(np.linspace(0, last, count).astype(np.int64)).tolist()


def _tiles(
    file: Hdf5File, image: ImageColumn, rows: list[int], labels: Mapping[str, str]
) -> list[Picture]:
    column = file.column(image.dataset)
    return [
        draw_tile(
            column.read(row, row + 1)[0],
            image.order,
            caption=f"{image.camera}  row {row}",
            label=labels.get(image.camera, ""),
        )
        for row in rows
    ]


def _save(sheet: Picture, path: Path) -> None:
    encoded, data = cv2.imencode(path.suffix.lower(), sheet)
    if not encoded:
        raise RuntimeError(f"OpenCV could not encode a sheet of shape {sheet.shape}")
    part = path.with_name(f".{path.name}.part")
    try:
        with full_disk_named(f"writing {path}"):
            part.write_bytes(data.tobytes())
            part.replace(path)
    finally:
        part.unlink(missing_ok=True)
