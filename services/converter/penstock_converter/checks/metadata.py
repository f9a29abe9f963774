"""Checks of what a dataset says about itself: info.json, tasks, the table of episodes, files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from penstock_converter.checks.dataset import (
    FRAME_COLUMNS,
    Dataset,
    Episodes,
    read_episodes,
    read_json,
    read_tasks,
)
from penstock_converter.checks.findings import Check, Ledger
from penstock_converter.outputs.lerobot import VERSION
from penstock_converter.outputs.shards import Shard

__all__ = ["check_metadata"]

_INFO: dict[str, type | tuple[type, ...]] = {
    "codebase_version": str,
    "robot_type": (str, type(None)),
    "total_episodes": int,
    "total_frames": int,
    "total_tasks": int,
    "chunks_size": int,
    "data_files_size_in_mb": int,
    "video_files_size_in_mb": int,
    "fps": int,
    "splits": dict,
    "data_path": str,
    "video_path": (str, type(None)),
    "features": dict,
}
_DATA_PATH = "data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet"
_VIDEO_PATH = "videos/{video_key}/chunk-{chunk_index:03d}/file-{file_index:03d}.mp4"
_DTYPES = frozenset(
    {"video", "image", "string", "bool", "float16", "float32", "float64"}
    | {f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64)}
)
_EXACT_S, _DRIFT_S = 1e-9, 1e-4
"""How far times in videos may be off: rounding, and what players forgive."""

_MB = 1 << 20
_BESIDE = frozenset(
    {
        "meta", "data", "videos", "hdf5", "validation", "images", "conversion.json",
        "validation.json", "README.md", "LICENSE", ".gitattributes", ".gitignore", ".cache",
    }
)  # fmt: skip


def check_metadata(dataset: Dataset, ledger: Ledger) -> None:
    """Read all metadata into ``dataset`` and check it."""
    with ledger.check("info.json") as check, check.guard(file="meta/info.json"):
        dataset.info = read_json(dataset.root / "meta" / "info.json")
        _check_info(dataset, check)
    with ledger.check("tasks") as check, check.guard(file="meta/tasks.parquet"):
        dataset.tasks = read_tasks(dataset.root)
        _check_tasks(dataset, check)
    with ledger.check("episodes table", f"times in videos within {_EXACT_S:g} s") as check:
        dataset.episodes = read_episodes(dataset)
        _check_episodes(dataset, dataset.episodes, check)
    with ledger.check("stats.json") as check, check.guard(file="meta/stats.json"):
        dataset.statistics = read_json(dataset.root / "meta" / "stats.json")
        check.count("features", len(dataset.statistics))
        for name in sorted(set(dataset.statistics) - set(dataset.features)):
            check.warn("statistics of a feature that there is not", feature=name)
    with ledger.check("files", "each that is named is there, and no others") as check:
        _check_files(dataset, check)


def _check_info(dataset: Dataset, check: Check) -> None:
    info, file = dataset.info, "meta/info.json"
    for key, kinds in _INFO.items():
        check.count("keys")
        if key not in info:
            check.fail(f"{key} is missing", file=file)
        elif not isinstance(info[key], kinds):
            check.fail(f"{key} is {info[key]!r}: a {type(info[key]).__name__}", file=file)
    if info.get("codebase_version") != VERSION:
        check.fail(
            f"codebase_version is {info.get('codebase_version')!r}: expected {VERSION}", file=file
        )
    if not dataset.fps:
        check.fail(f"fps is {info.get('fps')!r}: expected a whole number from 1", file=file)
    if dataset.mapping is not None and dataset.fps not in (0, dataset.mapping.fps):
        check.fail(
            f"fps is {dataset.fps}, the mapping in conversion.json has {dataset.mapping.fps}",
            file=file,
        )
    _check_paths(dataset, check)
    _check_features(dataset, check)


def _check_features(dataset: Dataset, check: Check) -> None:
    file = "meta/info.json"
    described: Any = dataset.info.get("features")
    if not isinstance(described, dict):
        return
    for name, found in described.items():
        check.count("features")
        if name not in dataset.features:
            check.fail(f"has no dtype or shape: {found}", file=file, feature=name)
        elif (dtype := dataset.features[name]["dtype"]) not in _DTYPES:
            check.fail(f"has dtype {dtype!r}", file=file, feature=name)
    for name, dtype in FRAME_COLUMNS.items():
        found = dataset.features.get(name, {})
        if (found.get("dtype"), found.get("shape")) != (dtype, [1]):
            check.fail(f"is to be {dtype} of shape [1], found {found}", file=file, feature=name)
    for name in dataset.cameras:
        _check_camera(dataset, name, check)


def _check_paths(dataset: Dataset, check: Check) -> None:
    info, file = dataset.info, "meta/info.json"
    if info.get("data_path") != _DATA_PATH:
        check.fail(f"data_path is {info.get('data_path')!r}: expected {_DATA_PATH}", file=file)
    videos = [name for name in dataset.cameras if dataset.is_video(name)]
    if videos and info.get("video_path") != _VIDEO_PATH:
        check.fail(f"video_path is {info.get('video_path')!r}: expected {_VIDEO_PATH}", file=file)
    splits, total = info.get("splits"), info.get("total_episodes")
    if isinstance(splits, dict) and isinstance(total, int):
        for name, span in splits.items():
            first, _, last = str(span).partition(":")
            if not (first.isdigit() and last.isdigit() and int(first) <= int(last) <= total):
                check.fail(f"split {name} is {span!r}: there are {total} episodes", file=file)


def _check_camera(dataset: Dataset, name: str, check: Check) -> None:
    file = "meta/info.json"
    described = dataset.features[name]
    shape = dataset.shape(name)
    if len(shape) != 3 or shape[2] not in (1, 3):  # noqa: PLR2004 - height, width, channels
        check.fail(f"has shape {list(shape)}: expected [H, W, 3] or [H, W, 1]", feature=name)
        return
    stated = described.get("info") or described.get("video_info") or {}
    if not dataset.is_video(name) or not isinstance(stated, dict):
        return
    expected = dict(zip(("height", "width", "channels", "fps"), (*shape, dataset.fps), strict=True))
    for key, value in expected.items():
        found = stated.get(f"video.{key}", value)
        if found != value:
            check.fail(f"video.{key} is {found}, expected {value}", file=file, feature=name)


def _check_tasks(dataset: Dataset, check: Check) -> None:
    tasks, file = dataset.tasks, "meta/tasks.parquet"
    check.count("tasks", len(tasks))
    if sorted(tasks) != list(range(len(tasks))):
        check.fail(f"task_index is {sorted(tasks)[:20]}: expected 0 and on", file=file)
    total = dataset.info.get("total_tasks", len(tasks))
    if total != len(tasks):
        check.fail(f"{len(tasks)} tasks, info.json says {total}", file=file)
    if not all(tasks.values()):
        check.fail("a task has no text", file=file)


def _check_episodes(dataset: Dataset, episodes: Episodes, check: Check) -> None:
    info = dataset.info
    count, rows = len(episodes), int(episodes.length.sum())
    check.count("episodes", count)
    check.count("rows", rows)
    for key, found in (("total_episodes", count), ("total_frames", rows)):
        if info.get(key, found) != found:
            check.fail(f"{found} by its rows, {key} of info.json is {info[key]}")
    stops = np.cumsum(episodes.length)
    columns = {
        "episode_index": (episodes.number, np.arange(count)),
        "dataset_from_index": (episodes.start, stops - episodes.length),
        "dataset_to_index": (episodes.stop, stops),
    }
    for name, (found, expected) in columns.items():
        _compare(check, found, expected, name)
    short = np.flatnonzero(episodes.length < 1)
    if len(short):
        length = int(episodes.length[short[0]])
        check.fail(f"has {length} rows", episode=int(short[0]), times=len(short))
    misplaced = np.flatnonzero((episodes.meta != episodes.lies).any(axis=1))
    if len(misplaced):
        at = int(misplaced[0])
        check.fail(
            f"meta/episodes chunk and file are {episodes.meta[at].tolist()}, the row lies in "
            f"{episodes.lies[at].tolist()}",
            episode=at,
            times=len(misplaced),
        )
    texts = set(dataset.tasks.values())
    for episode, tasks in enumerate(episodes.tasks):
        if not tasks or not texts.issuperset(tasks):
            check.fail(f"tasks {list(tasks)} are not all in tasks.parquet", episode=episode)
    for name in episodes.videos:
        _check_video_times(dataset, episodes, name, check)


def _compare(
    check: Check, found: NDArray[np.int64], expected: NDArray[np.int64], name: str
) -> None:
    wrong = np.flatnonzero(found != expected)
    if len(wrong):
        at = int(wrong[0])
        check.fail(
            f"{name} is {int(found[at])}, expected {int(expected[at])}",
            episode=at,
            feature=name,
            times=len(wrong),
        )


def _check_video_times(dataset: Dataset, episodes: Episodes, name: str, check: Check) -> None:
    """Episodes follow each other in each file, without gaps, and times are frames / fps."""
    if not dataset.fps:
        return
    places = episodes.videos[name]
    for shard in dataset.video_shards(name):
        inside = episodes.of_video_file(name, shard)
        stops = np.cumsum(episodes.length[inside])
        begins = (stops - episodes.length[inside]) / dataset.fps
        file = dataset.relative(dataset.video_path(name, shard))
        for key, found, expected in (
            ("from_timestamp", places.begin_s[inside], begins),
            ("to_timestamp", places.end_s[inside], stops / dataset.fps),
        ):
            check.count("times in videos", len(inside))
            off = np.abs(found - expected)
            check.most("largest deviation of times in videos, s", float(off.max()))
            for note, wrong in (
                (check.fail, np.flatnonzero(off > _DRIFT_S)),
                (check.warn, np.flatnonzero((off > _EXACT_S) & (off <= _DRIFT_S))),
            ):
                if len(wrong):
                    at = int(wrong[0])
                    note(
                        f"{key} is {found[at]:.9g} s, expected {expected[at]:.9g} s",
                        file=file,
                        episode=int(inside[at]),
                        feature=name,
                        times=len(wrong),
                    )


def _check_files(dataset: Dataset, check: Check) -> None:
    root, info = dataset.root, dataset.info
    known = {root / "meta" / name for name in ("info.json", "stats.json", "tasks.parquet")}
    known |= set(dataset.episode_files())
    for name, shards in {"": dataset.data_shards(), **_video_shards(dataset)}.items():
        limit_mb = info.get("video_files_size_in_mb" if name else "data_files_size_in_mb")
        for shard in shards:
            path = dataset.video_path(name, shard) if name else dataset.data_path(shard)
            known.add(path)
            _check_number(dataset, shard, path, check)
            _check_size(dataset, name, shard, path, limit_mb, check)
    if dataset.episodes is not None:
        _check_strays(dataset, known, check)
    for path in sorted(root.iterdir()):
        if path.name not in _BESIDE:
            check.warn("belongs to no part of the dataset", file=path.name)


def _video_shards(dataset: Dataset) -> dict[str, list[Shard]]:
    videos = dataset.episodes.videos if dataset.episodes is not None else {}
    return {name: dataset.video_shards(name) for name in videos}


def _check_size(
    dataset: Dataset, name: str, shard: Shard, path: Path, limit_mb: Any, check: Check
) -> None:
    check.count("files")
    if not path.is_file():
        check.fail("is missing", file=dataset.relative(path))
        return
    assert dataset.episodes is not None  # noqa: S101 - the file is named by one
    episodes = dataset.episodes
    inside = episodes.of_video_file(name, shard) if name else episodes.of_data_file(shard)
    size = path.stat().st_size
    # One episode may be larger than a file.
    if isinstance(limit_mb, int) and size > limit_mb * _MB and len(inside) > 1:
        check.warn(
            f"has {size / 1e6:.1f} MB and {len(inside)} episodes, info.json says at most "
            f"{limit_mb} MB",
            file=dataset.relative(path),
        )


def _check_number(dataset: Dataset, shard: Shard, path: Path, check: Check) -> None:
    most = dataset.info.get("chunks_size")
    if isinstance(most, int) and not 0 <= shard.file < most:
        check.fail(f"chunks_size is {most}", file=dataset.relative(path))


def _check_strays(dataset: Dataset, known: set[Path], check: Check) -> None:
    for part in ("data", "meta", "videos"):
        for path in sorted((dataset.root / part).rglob("*")):
            if path.is_dir() or path in known:
                continue
            # Loaders read every table that lies there.
            note = check.fail if path.suffix == ".parquet" else check.warn
            note("is named by no episode", file=dataset.relative(path))
