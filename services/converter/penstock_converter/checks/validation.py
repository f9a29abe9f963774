"""All checks of a dataset, one after the other; what is broken never hides the rest."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

import cv2

from penstock.errors import NotFound
from penstock_converter.checks.dataset import Dataset, open_dataset
from penstock_converter.checks.drawing import draw_pictures
from penstock_converter.checks.findings import Ledger, Validation
from penstock_converter.checks.hdf5_files import check_hdf5
from penstock_converter.checks.image_statistics import check_images
from penstock_converter.checks.metadata import check_metadata
from penstock_converter.checks.number_statistics import check_numbers
from penstock_converter.checks.recordings import check_recordings
from penstock_converter.checks.tables import check_tables
from penstock_converter.checks.videos import check_videos
from penstock_converter.jobs.request import HDF5_FOLDER

__all__ = ["validate_dataset"]


def validate_dataset(
    folder: Path,
    *,
    full: bool = False,
    bags: Sequence[Path] | None = None,
    hdf5: Path | None = None,
    pictures: Path | None = None,
) -> Validation:
    """Check a dataset; nothing is written but the pictures.

    Memory: some numbers an episode, one number of all rows, an image a camera.

    Args:
        folder: The dataset.
        full: Decode all images and compare all frames with the recordings, not a sample.
        bags: Recordings that it was made of; None: those that ``conversion.json`` names, where
            they still are; empty: none.
        hdf5: Folder of its HDF5 files; None: ``hdf5`` in the dataset, if there is one.
        pictures: Folder to draw contact sheets and plots into, made if needed; None: none.

    Raises:
        NotFound: There is no such folder.
    """
    if not folder.is_dir():
        raise NotFound(f"{folder}: there is no such folder")
    begun = time.monotonic()
    threads = cv2.getNumThreads()
    cv2.setNumThreads(1)  # images are small, and come one by one
    try:
        ledger, dataset = Ledger(), open_dataset(folder)
        files = hdf5 if hdf5 is not None else _own_hdf5(folder)
        _check_lerobot(dataset, files, ledger, full=full)
        if files is not None:
            check_hdf5(dataset, files, ledger, full=full)
        elif dataset.mapping is not None and dataset.mapping.outputs.hdf5 is not None:
            ledger.skip("hdf5 layout", "the mapping asks for HDF5 files: name their folder")
        check_recordings(dataset, files, bags, ledger, full=full)
        drawn: list[Path] = []
        if pictures is not None:
            with ledger.check("pictures") as check:
                drawn = draw_pictures(dataset, files, pictures, check)
    finally:
        cv2.setNumThreads(threads)
    episodes = dataset.episodes
    outcome = dataset.outcome
    found = Validation(
        str(folder), full, ledger.checks, pictures=[dataset.relative(path) for path in drawn]
    )
    if episodes is not None:
        found.episodes, found.frames = len(episodes), int(episodes.length.sum())
    elif outcome is not None:
        found.episodes = sum(bag.episodes for bag in outcome.converted)
        found.frames = outcome.frames
    found.seconds = round(time.monotonic() - begun, 3)
    return found


def _own_hdf5(folder: Path) -> Path | None:
    """The folder of HDF5 files in a dataset, or the dataset itself if it is nothing else."""
    inside = folder / HDF5_FOLDER
    if inside.is_dir():
        return inside
    bare = not (folder / "meta").exists() and any(folder.glob("*.hdf5"))
    return folder if bare else None


def _check_lerobot(dataset: Dataset, hdf5: Path | None, ledger: Ledger, *, full: bool) -> None:
    root, mapping = dataset.root, dataset.mapping
    nothing = not any((root / part).exists() for part in ("meta", "data", "videos"))
    expected = mapping is not None and mapping.outputs.lerobot is not None and hdf5 != root
    if nothing and hdf5 is not None and not expected:
        ledger.skip("LeRobot dataset", "there are HDF5 files only")
        return
    check_metadata(dataset, ledger)
    check_tables(dataset, ledger)
    check_numbers(dataset, ledger)
    check_videos(dataset, ledger)
    check_images(dataset, ledger, full=full)
