"""Checks of HDF5 files: their layout, and that they hold what the tables and videos hold."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from penstock.errors import DataFault
from penstock_converter.checks.comparison import bound_told, compare_images, psnr_bound_db
from penstock_converter.checks.dataset import Dataset, batch_rows
from penstock_converter.checks.findings import Check, Ledger
from penstock_converter.checks.images import CameraImages, TableColumn, open_camera, sampled
from penstock_converter.mapping.model import Hdf5Output

__all__ = ["check_hdf5", "episode_file", "row_datasets"]

_ROLES = {"joint": np.float32, "actions": np.float32, "rewards": np.float32, "terminals": np.bool_}
_OBSERVED = "observations"


def check_hdf5(dataset: Dataset, folder: Path, ledger: Ledger, *, full: bool) -> None:
    """Check all HDF5 files of a folder; numbers in blocks, images one at a time."""
    layout = ledger.open("hdf5 layout", "N rows, N or N + 1 observations")
    files = sorted(folder.glob("*.hdf5"))
    _check_names(dataset, folder, files, layout)
    output = dataset.mapping.outputs.hdf5 if dataset.mapping is not None else None
    rows = 0
    for path in files:
        file = dataset.relative(path)
        with layout.guard(file=file), h5py.File(path, "r") as opened:
            rows += _Layout(opened, output, file, layout).check(dataset, _number(path))
    expected = dataset.outcome.frames if dataset.outcome is not None else rows
    if dataset.episodes is None and rows != expected:
        layout.fail(f"{rows} rows in all files, conversion.json says {expected}")
    if dataset.episodes is None or output is None:
        why = "there are no tables" if output is not None else "conversion.json is missing"
        ledger.skip("hdf5 against tables", why)
        return
    numbers = ledger.open("hdf5 against tables", "exact")
    bound = psnr_bound_db(dataset.mapping.outputs.lerobot if dataset.mapping is not None else None)
    images = ledger.open("hdf5 against images", f"images in tables exact, {bound_told(bound)}")
    for episode in range(len(dataset.episodes)):
        path = episode_file(folder, episode)
        if not path.is_file():
            continue  # said above
        file = dataset.relative(path)
        with numbers.guard(file=file, episode=episode), h5py.File(path, "r") as opened:
            _compare_rows(dataset, output, opened, episode, file, numbers)
    for name in sorted(set(output.images.values())):
        if name not in dataset.cameras:
            images.fail("is no camera of info.json", feature=name)
            continue
        camera = open_camera(dataset, name)
        try:
            _compare_images(dataset, output, folder, name, camera, images, bound, full=full)
        finally:
            camera.close()


def episode_file(folder: Path, episode: int) -> Path:
    """The HDF5 file of an episode."""
    return folder / f"episode_{episode:06d}.hdf5"


def row_datasets(output: Hdf5Output) -> dict[str, str]:
    """Feature by dataset, of those that are numbers."""
    return {
        f"{_OBSERVED}/joint": output.joint,
        "actions": output.actions,
        "rewards": output.rewards,
        "terminals": output.terminals,
    }


def _number(path: Path) -> int:
    digits = path.stem.removeprefix("episode_")
    return int(digits) if digits.isdigit() else -1


def _check_names(dataset: Dataset, folder: Path, files: list[Path], check: Check) -> None:
    if not files:
        check.fail("holds no .hdf5 files", file=str(folder))
    count = len(dataset.episodes) if dataset.episodes is not None else len(files)
    expected = [episode_file(folder, episode) for episode in range(count)]
    for episode, path in enumerate(expected):
        if not path.is_file():
            check.fail("is missing", file=dataset.relative(path), episode=episode)
    known = {*expected, folder / "conversion.json", folder / "validation.json"}
    for path in sorted(folder.iterdir()):
        if path not in known and path.name != "validation":
            check.warn("belongs to no episode", file=dataset.relative(path))


class _Layout:
    """The datasets of one file."""

    def __init__(
        self, opened: h5py.File, output: Hdf5Output | None, file: str, check: Check
    ) -> None:
        self._opened, self._output, self._file, self._check = opened, output, file, check

    def check(self, dataset: Dataset, episode: int) -> int:
        """Check the file of an episode; returns its rows."""
        self._check.count("files")
        actions = self._dataset("actions")
        if actions is None:
            self._fail("actions", "is missing", episode)
            return 0
        rows = len(actions)
        table = dataset.episodes
        if table is not None and 0 <= episode < len(table) and rows != table.length[episode]:
            self._fail("actions", f"has {rows} rows, {table.length[episode]} in tables", episode)
        self._check_observations(rows, episode)
        for role, dtype in _ROLES.items():
            name = f"{_OBSERVED}/joint" if role == "joint" else role
            self._check_numbers(name, dtype, rows, episode)
        if self._dataset("truncateds") is not None:
            self._check_numbers("truncateds", np.bool_, rows, episode)
        return rows

    def _check_observations(self, rows: int, episode: int) -> None:
        group: Any = self._opened.get(_OBSERVED)
        if not isinstance(group, h5py.Group):
            self._fail(_OBSERVED, "is missing", episode)
            return
        lengths = {name: len(each) for name, each in group.items()}
        for name, length in lengths.items():
            self._check.count("datasets")
            if length not in (rows, rows + 1) or length != lengths.get("joint", length):
                self._fail(
                    f"{_OBSERVED}/{name}",
                    f"has {length} rows, joint has {lengths.get('joint', 0)}, actions {rows}",
                    episode,
                )
        wanted = self._output.images if self._output is not None else {}
        for name in sorted(set(wanted) - set(lengths)):
            self._fail(f"{_OBSERVED}/{name}", "is missing", episode)
        for name, each in group.items():
            if name == "joint":
                continue
            colours = each.dtype == np.uint8 and each.ndim == 4 and each.shape[3] == 3  # noqa: PLR2004
            distances = each.dtype == np.uint16 and each.ndim == 3  # noqa: PLR2004 - N, H, W
            if not (colours or distances):
                self._fail(
                    f"{_OBSERVED}/{name}",
                    f"is {each.dtype} {each.shape}: expected (N, H, W, 3) uint8 or (N, H, W) "
                    "uint16",
                    episode,
                )

    def _check_numbers(self, name: str, dtype: Any, rows: int, episode: int) -> None:
        found = self._dataset(name)
        if found is None:
            self._fail(name, "is missing", episode)
            return
        self._check.count("datasets")
        if found.dtype != dtype:
            self._fail(name, f"is {found.dtype}, expected {np.dtype(dtype)}", episode)
        if not name.startswith(_OBSERVED) and len(found) != rows:
            self._fail(name, f"has {len(found)} rows, actions has {rows}", episode)
        if found.dtype.kind != "f":
            return
        step = batch_rows(int(np.prod(found.shape[1:], dtype=np.int64)))
        for start in range(0, len(found), step):
            values = np.asarray(found[start : start + step]).reshape(-1, *found.shape[1:])
            bad = np.argwhere(~np.isfinite(values))
            if len(bad):
                self._check.fail(
                    f"{name} is {values[tuple(bad[0])]}",
                    file=self._file,
                    episode=episode,
                    frame=start + int(bad[0][0]),
                    feature=name,
                    times=len(bad),
                )

    def _dataset(self, name: str) -> Any:
        found: Any = self._opened.get(name)
        return found if isinstance(found, h5py.Dataset) else None

    def _fail(self, name: str, message: str, episode: int) -> None:
        self._check.fail(message, file=self._file, episode=episode, feature=name)


def _compare_rows(
    dataset: Dataset,
    output: Hdf5Output,
    opened: h5py.File,
    episode: int,
    file: str,
    check: Check,
) -> None:
    assert dataset.episodes is not None  # noqa: S101 - the caller knows
    length = int(dataset.episodes.length[episode])
    for name, feature in row_datasets(output).items():
        with check.guard(file=file, episode=episode, feature=feature):
            if feature not in dataset.numbers:
                raise DataFault("is no numbers in info.json")
            stored: Any = opened[name]
            column = TableColumn(dataset, feature)
            try:
                for start, values in column.blocks(episode, length):
                    block = np.asarray(stored[start : start + len(values)])
                    expected = values.reshape(len(values), *block.shape[1:])
                    wrong = np.argwhere(~_same(block, expected))
                    check.count("rows", len(values))
                    if len(wrong):
                        at = tuple(wrong[0])
                        check.fail(
                            f"{name} is {block[at]}, the table has {expected[at]}",
                            file=file,
                            episode=episode,
                            frame=start + int(at[0]),
                            feature=feature,
                            times=len(wrong),
                        )
            finally:
                column.close()


def _same(block: NDArray[Any], expected: NDArray[Any]) -> NDArray[np.bool_]:
    """Where HDF5 numbers are those of a table; whole ones of the table were cut, not rounded."""
    if "b" in (block.dtype.kind, expected.dtype.kind):
        return (block != 0) == (expected != 0)
    if expected.dtype.kind in "iu":
        return np.trunc(block) == expected.astype(block.dtype)
    return block == expected.astype(block.dtype)


def _compare_images(
    dataset: Dataset,
    output: Hdf5Output,
    folder: Path,
    name: str,
    camera: CameraImages,
    check: Check,
    bound_db: float,
    *,
    full: bool,
) -> None:
    assert dataset.episodes is not None  # noqa: S101 - the caller knows
    stored = [key for key, feature in output.images.items() if feature == name]
    video = dataset.is_video(name)
    for episode, length in enumerate(dataset.episodes.length.tolist()):
        path = episode_file(folder, episode)
        if not path.is_file():
            continue  # said with the layout
        file = dataset.relative(path)
        with check.guard(file=file, episode=episode, feature=name), h5py.File(path, "r") as opened:
            for picture in camera.of(episode, sampled(length, full=full)):
                if picture.pixels is None:
                    continue  # said with the images
                for key in stored:
                    found: Any = opened[f"{_OBSERVED}/{key}"]
                    verdict = compare_images(
                        np.asarray(found[picture.frame]),
                        picture.pixels,
                        bound_db if video else None,
                        "the video" if video else "the table",
                        check,
                    )
                    check.count("images")
                    if verdict.problem:
                        note = check.fail if verdict.certain else check.warn
                        note(
                            f"{key} {verdict.problem}",
                            file=file,
                            episode=episode,
                            frame=picture.frame,
                            feature=name,
                        )
