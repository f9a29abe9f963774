"""Record episodes to bags, on every core, and carry on where an earlier recording stopped.

python -m two_arm_reach.record --episodes 700 --out demo/bags --format mcap --seed 0
"""

from __future__ import annotations

import json
import os
import shutil
import signal
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict
from multiprocessing import get_context
from pathlib import Path

import click
import cv2
import numpy as np
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from two_arm_reach.bags import (
    BAG_FORMATS,
    PARTIAL,
    BagFormat,
    RecordingSpec,
    bag_path,
    record_episode,
)
from two_arm_reach.behaviour import replay

__all__ = ["RecordingMismatchError", "main", "record"]

_EPISODES_PER_TASK = 10
_SPEC_FILE = "recording.json"


class RecordingMismatchError(Exception):
    """The folder holds a recording that was made with other settings."""


def record(
    folder: Path,
    episodes: int,
    spec: RecordingSpec,
    *,
    workers: int | None = None,
    on_progress: Callable[[int], None] | None = None,
) -> list[Path]:
    """Record episodes 0 to ``episodes - 1``; those that are there are kept.

    Args:
        folder: Where the bags go, one an episode; made if missing.
        episodes: How many there shall be.
        spec: Format, seed and image settings.
        workers: Processes; every core that this process may use by default.
        on_progress: Called with the number of further episodes that are there.

    Returns:
        The bags in the order of their episodes.

    Raises:
        RecordingMismatchError: The folder was recorded with another ``spec``.
    """
    folder.mkdir(parents=True, exist_ok=True)
    _claim(folder, spec)
    on_progress = on_progress or (lambda _: None)
    bags = [bag_path(folder, episode, spec.bag_format) for episode in range(episodes)]
    missing = [episode for episode, bag in enumerate(bags) if not bag.exists()]
    on_progress(episodes - len(missing))
    if not missing:
        return bags
    workers = workers or len(os.sched_getaffinity(0))
    tasks = [
        missing[start : start + _EPISODES_PER_TASK]
        for start in range(0, len(missing), _EPISODES_PER_TASK)
    ]
    with ProcessPoolExecutor(
        min(workers, len(tasks)), mp_context=get_context("spawn"), initializer=_prepare_worker
    ) as pool:
        try:
            running = [pool.submit(_record_some, folder, task, spec) for task in tasks]
            for done in as_completed(running):
                on_progress(done.result())
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    shutil.rmtree(folder / PARTIAL, ignore_errors=True)
    return bags


def _claim(folder: Path, spec: RecordingSpec) -> None:
    """Write down the settings of a recording, or check them against those written down."""
    path = folder / _SPEC_FILE
    settings = asdict(spec)
    if path.exists():
        found = json.loads(path.read_text("utf-8"))
        if found != settings:
            raise RecordingMismatchError(
                f"{folder} was recorded with {found}, asked for is {settings}: "
                "choose another folder, or delete this one"
            )
        return
    partial = path.with_suffix(".partial")
    partial.write_text(json.dumps(settings, indent=2) + "\n", "utf-8")
    partial.replace(path)


def _prepare_worker() -> None:
    # Ctrl-C reaches the whole process group; the parent alone decides how to end.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    cv2.setNumThreads(1)


def _record_some(folder: Path, episodes: list[int], spec: RecordingSpec) -> int:
    for episode in episodes:
        record_episode(folder, episode, spec)
    return len(episodes)


@click.command(
    epilog="Example: python -m two_arm_reach.record --episodes 700 --out demo/bags --seed 0"
)
@click.option("--episodes", type=click.IntRange(min=1), default=700, show_default=True)
@click.option("--out", type=click.Path(path_type=Path, file_okay=False), required=True)
@click.option("--format", "bag_format", type=click.Choice(BAG_FORMATS), default="mcap")
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True)
@click.option("--image-size", type=click.IntRange(16, 1024), default=64, show_default=True)
@click.option("--jpeg-quality", type=click.IntRange(1, 100), default=95, show_default=True)
@click.option("--workers", type=click.IntRange(min=1), help="Processes; every core by default.")
def main(
    *,
    episodes: int,
    out: Path,
    bag_format: BagFormat,
    seed: int,
    image_size: int,
    jpeg_quality: int,
    workers: int | None,
) -> None:
    """Record the two-arm robot's mixed behaviour to bags, one an episode."""
    spec = RecordingSpec(bag_format, seed, image_size, jpeg_quality)
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns) as progress:
        task = progress.add_task("recording episodes", total=episodes)
        try:
            record(
                out,
                episodes,
                spec,
                workers=workers,
                on_progress=lambda count: progress.advance(task, count),
            )
        except RecordingMismatchError as mismatch:
            raise click.ClickException(str(mismatch)) from None
    summaries = [replay(seed, episode) for episode in range(episodes)]
    print(
        f"{episodes} episodes, {sum(s.steps for s in summaries)} steps: "
        f"mean return {np.mean([s.episode_return for s in summaries]):.2f}, "
        f"success {np.mean([s.success for s in summaries]):.1%}"
    )


if __name__ == "__main__":
    main()
