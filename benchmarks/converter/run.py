"""Times the converter beside lerobot's own writers, and measures memory by the size of a bag.

Run: ``make bench-converter``. All bags are made for the run (see ``bags.py``) in a folder that is
removed at its end. Everything that is measured is a process of its own: memory is the peak of it
and all below it, rates are images by CPU seconds (user and system), not by time that passed. Beside
lerobot, both decode with OpenCV and encode with x264 at lerobot's settings, in which it leaves no
choice (preset medium, crf 30, a key frame every 2 frames); ours leaves out B-frames and takes
statistics of every image, not of some. Turns alternate; figures are medians. Prints each figure
beside what is wanted of it; a figure is no test. A run of all parts at full size writes
``benchmarks/results/converter.json``, if nothing is missing.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Generator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

sys.path.insert(0, str(Path(__file__).parents[1]))
from bags import CAMERAS, MAPPING, Scenes, write_bag
from goal import Goal
from peers import LEROBOT, SETTINGS, Peer, best_options, write_with_lerobot
from recordings import DATA
from report import machine, write_results
from watched import Run, run_watched

KEYS = (
    "rss_mb_2gb",
    "rss_mb_8gb",
    "images_per_core_s",
    "lerobot_images_per_core_s",
    "lerobot_streaming_images_per_core_s",
    "lerobot_rss_mb",
    "copy_images_per_core_s",
    "file_copy_images_per_core_s",
)
"""What others read of the results."""

GOALS = (
    Goal("peak memory, bag of 2 GB", "rss_mb_2gb", 200.0, " MB", at_most=True),
    Goal("peak memory, 8 GB / 2 GB", "rss_8gb_over_2gb", 1.1, at_most=True),
    Goal("images by core and second / lerobot's writer", "over_lerobot", 5.0),
    Goal("the same / lerobot's streaming encoder", "over_lerobot_streaming", 1.5),
    Goal("memory of lerobot's writer / ours", "lerobot_rss_over_ours", 5.0),
    Goal("copying JPEG files / encoding them again", "copy_over_encoding", 5.0),
    Goal("a plain copy of the bag / copying JPEG files", "file_copy_over_copy", 3.0, at_most=True),
    Goal("the same by time that passed", "file_copy_over_copy_by_time", 3.0, at_most=True),
    Goal("the same, bag of 8 GB", "file_copy_over_copy_8gb", 3.0, at_most=True),
    Goal("the same by time that passed", "file_copy_over_copy_by_time_8gb", 3.0, at_most=True),
)
RATIOS = (
    ("rss_8gb_over_2gb", "rss_mb_8gb", "rss_mb_2gb"),
    ("over_lerobot", "images_per_core_s", "lerobot_images_per_core_s"),
    ("over_lerobot_streaming", "images_per_core_s", "lerobot_streaming_images_per_core_s"),
    ("lerobot_rss_over_ours", "lerobot_rss_mb", "rss_mb_2gb"),
    ("copy_over_encoding", "copy_images_per_core_s", "default_images_per_core_s_2gb"),
    ("file_copy_over_copy", "file_copy_images_per_core_s", "copy_images_per_core_s"),
    ("file_copy_over_copy_by_time", "file_copy_images_per_s", "copy_images_per_s"),
    ("file_copy_over_copy_8gb", "file_copy_images_per_core_s_8gb", "copy_images_per_core_s_8gb"),
    ("file_copy_over_copy_by_time_8gb", "file_copy_images_per_s_8gb", "copy_images_per_s_8gb"),
)
PARTS = ("memory", "copy", "writers", "workers")
_GB = 1e9
_DATASETS = 3
"""Room for a bag, its dataset and what is staged for it, in sizes of the bag."""
_PNG_BYTES = 700_000
_ALONE = ("--no-validate",)
"""No peer checks what it made: rates are without that, memory is with it."""


class Missing(Exception):
    """The converter cannot do that."""


@dataclass(frozen=True)
class Amount:
    """How much is done.

    Attributes:
        sizes_gb: Bags of the memory table, and of copying, from the smallest.
        scenes: Distinct images of a camera.
        turns: Of everything that is timed.
        copy_turns: Of copying, whose time is that of memory and of the disk, and varies most.
        frames: Of the bag for all writers.
        trial_frames: Of the bag that settles lerobot's options.
        workers: Bags for several workers, and frames of each.
    """

    sizes_gb: tuple[float, ...] = (2.0, 8.0)
    scenes: int = 100
    turns: int = 3
    copy_turns: int = 5
    frames: int = 400
    trial_frames: int = 90
    workers: tuple[int, int] = (4, 400)


QUICK = Amount((0.03, 0.06), 10, 1, 1, 60, 30, (2, 40))


class Bench:
    """Everything that is measured, in one folder.

    Args:
        folder: For bags and what is made of them; empty.
        amount: How much is done.
        console: Where to say what goes on.
    """

    def __init__(self, folder: Path, amount: Amount, console: Console) -> None:
        self._folder, self._amount, self._console = folder, amount, console
        self._mapping = folder / "mapping.yaml"
        self._mapping.write_text(MAPPING)
        self._scenes = Scenes(amount.scenes)
        self.found: dict[str, float] = {}
        self.missing: list[str] = []

    def needed_bytes(self, parts: Sequence[str]) -> float:
        """Room on the disk that the largest of ``parts`` takes."""
        amount, frame = self._amount, self._scenes.frame_bytes
        sizes = {
            "memory": _DATASETS * max(amount.sizes_gb) * _GB,
            "copy": _DATASETS * max(amount.sizes_gb) * _GB,
            "writers": amount.frames * (_DATASETS * frame + len(CAMERAS) * _PNG_BYTES),
            "workers": _DATASETS * amount.workers[0] * amount.workers[1] * frame,
        }
        return max(sizes[part] for part in parts)

    def memory(self) -> None:
        """Peak memory of one episode by the size of its bag, all settings at their defaults."""
        for size_gb in self._amount.sizes_gb:
            frames = round(size_gb * _GB / self._scenes.frame_bytes)
            with self._bag("memory", frames) as bag:
                bag_gb = bag.stat().st_size / _GB
                run, images = self._convert([bag])
            name = f"{size_gb:g}gb"
            self.found |= {
                f"bag_gb_{name}": bag_gb,
                f"rss_mb_{name}": run.peak_mb,
                f"default_images_per_core_s_{name}": images / run.cpu_s,
                f"default_images_per_s_{name}": images / run.wall_s,
                f"images_{name}": images,
                f"wall_s_{name}": run.wall_s,
            }

    def copy(self) -> None:
        """JPEG files put into videos as they are, beside copying the bag.

        Both sync what they write, and both find the bag in the system's cache of files and memory
        that another copy has just given back. Without that copy, whichever comes first may pay for
        the other: the host of a virtual machine takes memory away that is free for seconds, and
        writing to it then costs three times as much.

        The figures without a size in their names are those of the smallest bag.
        """
        for size_gb in self._amount.sizes_gb:
            found = self._copied(round(size_gb * _GB / self._scenes.frame_bytes))
            self.found |= {f"{name}_{size_gb:g}gb": value for name, value in found.items()}
            self.found = found | self.found

    def _copied(self, frames: int) -> dict[str, float]:
        """Rates of copying a bag of so many frames."""
        copier = [sys.executable, "-S", Path(__file__).with_name("copy_file.py")]
        target = self._folder / "copied"
        copied: list[Run] = []
        converted: list[Run] = []
        images = 0

        def copy(bag: Path) -> Run:
            run = self._checked(run_watched([*copier, bag, target], log=self._log))
            target.unlink()
            return run

        with self._bag("copy", frames) as bag:
            for _ in range(self._amount.copy_turns):
                copy(bag)
                copied.append(copy(bag))
                self._say(f"  plain copy: {copied[-1].cpu_s:.1f} CPU s, {copied[-1].wall_s:.1f} s")
                run, images = self._convert([bag], "outputs.lerobot.codec=copy", options=_ALONE)
                converted.append(run)
        return {
            "copy_images_per_core_s": images / _median(converted, lambda run: run.cpu_s),
            "copy_images_per_s": images / _median(converted, lambda run: run.wall_s),
            "copy_rss_mb": max(run.peak_mb for run in converted),
            "file_copy_images_per_core_s": images / _median(copied, lambda run: run.cpu_s),
            "file_copy_images_per_s": images / _median(copied, lambda run: run.wall_s),
        }

    def writers(self) -> None:
        """Ours and lerobot's on one bag at the same settings, in turns."""
        if not LEROBOT.exists():
            raise Missing(f"{LEROBOT} is not there: run `make bench-converter`, which makes it")
        amount = self._amount
        with self._bag("trial", amount.trial_frames) as trial:
            options = {
                streaming: best_options(trial, self._folder, streaming=streaming)
                for streaming in (False, True)
            }
        for chosen in options.values():
            self._say(f"  lerobot at its best: {json.dumps(chosen)}")
        ours: list[Run] = []
        theirs: dict[bool, list[Peer]] = {streaming: [] for streaming in options}
        images = 0
        with self._bag("writers", amount.frames) as bag:
            for _ in range(amount.turns):
                run, images = self._convert([bag], *SETTINGS, options=_ALONE)
                ours.append(run)
                for streaming, chosen in options.items():
                    theirs[streaming].append(write_with_lerobot(bag, self._folder, chosen))
        default, streaming = theirs[False], theirs[True]
        found = {
            "images_per_core_s": images / _median(ours, lambda run: run.cpu_s),
            "images_per_s": images / _median(ours, lambda run: run.wall_s),
            "rss_mb": max(run.peak_mb for run in ours),
            "lerobot_images_per_core_s": _median(default, lambda peer: peer.images_per_core_s),
            "lerobot_images_per_s": _median(default, lambda peer: peer.images_per_s),
            "lerobot_rss_mb": max(peer.run.peak_mb for peer in default),
            "lerobot_frames": amount.frames,
            "lerobot_streaming_images_per_core_s": _median(
                streaming, lambda peer: peer.images_per_core_s
            ),
            "lerobot_streaming_images_per_s": _median(streaming, lambda peer: peer.images_per_s),
            "lerobot_streaming_rss_mb": max(peer.run.peak_mb for peer in streaming),
            "lerobot_streaming_dropped": max(peer.images - peer.written for peer in streaming),
            "lerobot_streaming_images": streaming[0].images,
        }
        self.found |= found

    def workers(self) -> None:
        """Several bags with one worker and with two."""
        count, frames = self._amount.workers
        with ExitStack() as stack:
            bags = [
                stack.enter_context(self._bag(f"workers_{number}", frames))
                for number in range(count)
            ]
            for workers in (1, 2):
                run, images = self._convert(bags, options=(*_ALONE, "--workers", str(workers)))
                self.found |= {
                    f"workers_{workers}_images_per_s": images / run.wall_s,
                    f"workers_{workers}_rss_mb": run.peak_mb,
                }
        one, two = (self.found[f"workers_{workers}_images_per_s"] for workers in (1, 2))
        self.found["workers_2_over_1"] = two / one

    def compare(self) -> None:
        """Ratios of what was found."""
        for name, over, under in RATIOS:
            if over in self.found and under in self.found:
                self.found[name] = self.found[over] / self.found[under]

    @property
    def _log(self) -> Path:
        return self._folder / "log"

    def _say(self, text: str) -> None:
        self._console.print(text, highlight=False, soft_wrap=True)

    @contextmanager
    def _bag(self, name: str, frames: int) -> Generator[Path]:
        path = write_bag(self._folder / f"{name}.bag", self._scenes, frames)
        self._say(f"{path.name}: {frames} frames, {path.stat().st_size / 1e6:.0f} MB")
        try:
            yield path
        finally:
            path.unlink()

    def _convert(
        self, bags: Sequence[Path], *overrides: str, options: Sequence[str] = ()
    ) -> tuple[Run, int]:
        """Convert into a dataset that is looked at and removed; returns its images too."""
        out = self._folder / "dataset"
        command = [sys.executable, "-m", "penstock.cli", "convert", "run", *map(str, bags)]
        command += ["--mapping", str(self._mapping), "--out", str(out), *options, *overrides]
        run = self._checked(run_watched(command, log=self._log))
        report = json.loads((out / "conversion.json").read_text())
        images = report["images"]
        # Up to two frames at the ends of each bag may lack a message.
        wanted = report["frames"] * len(CAMERAS)
        if images != wanted or {bag["state"] for bag in report["bags"]} != {"converted"}:
            raise RuntimeError(f"{images} of {wanted} images were converted: {report['bags']}")
        shutil.rmtree(out)
        self._say(
            f"  {' '.join((*options, *overrides)) or 'defaults'}: {images} images, "
            f"{images / run.cpu_s:.0f} by core and second, {run.wall_s:.1f} s, "
            f"{run.peak_mb:.0f} MB, processes: {run.processes}"
        )
        return run, images

    def _checked(self, run: Run) -> Run:
        if run.status == 0:
            return run
        for leftover in self._folder.glob(".dataset.*"):
            shutil.rmtree(leftover)
        raise Missing(" ".join(run.said.split())[-400:])


def _median(runs: Sequence[Any], of: Callable[[Any], float]) -> float:
    return statistics.median(of(run) for run in runs)


def show(console: Console, found: dict[str, float], missing: Sequence[str]) -> None:
    """Print each figure beside what is wanted, memory by size, and all others."""
    table = Table("figure", "measured", "wanted", "", title="Converting")
    for goal in GOALS:
        there = goal.name in found
        measured = goal.show(found[goal.name]) if there else "missing"
        met = "met" if goal.is_met(found) else "[red]missed" if there else ""
        table.add_row(goal.text, measured, goal.show_bound(), met)
    console.print(table)
    sizes = [name.removeprefix("bag_gb_") for name in found if name.startswith("bag_gb_")]
    if sizes:
        by_size = Table("bag", "images", "peak MB", "images/s", "by core and second", "seconds")
        for size in sizes:
            columns = ("images", "rss_mb", "default_images_per_s", "default_images_per_core_s")
            row = [f"{found[f'{name}_{size}']:,.0f}" for name in (*columns, "wall_s")]
            by_size.add_row(f"{found[f'bag_gb_{size}']:.2f} GB", *row)
        console.print(by_size)
    for name, value in found.items():
        console.print(f"{name}: {value:.4g}", highlight=False)
    for text in missing:
        console.print(f"missing: {text}", style="red", highlight=False, soft_wrap=True)


def main() -> int:
    """Measure what is asked for; write the results of a run of everything."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="A few of each; writes nothing.")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS, help="Only these.")
    parser.add_argument("--sizes", nargs="+", type=float, metavar="GB", help="Other bags.")
    parser.add_argument("--folder", type=Path, default=DATA, help="Where there is room for bags.")
    options = parser.parse_args()
    amount = QUICK if options.quick else Amount()
    if options.sizes:
        amount = replace(amount, sizes_gb=tuple(options.sizes))
    console = Console()
    options.folder.mkdir(parents=True, exist_ok=True)
    begun_s = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="converter-", dir=options.folder) as name:
        bench = Bench(Path(name), amount, console)
        needed, free = bench.needed_bytes(options.parts), shutil.disk_usage(name).free
        console.print(
            f"{name}: needs {needed / _GB:.1f} GB, has {free / _GB:.1f} GB", highlight=False
        )
        if needed > free:
            console.print("not enough room: name another --folder, or smaller --sizes")
            return 2
        for part in options.parts:
            console.print(f"[bold]{part}")
            try:
                getattr(bench, part)()
            except Missing as error:
                bench.missing.append(f"{part}: {error}")
    bench.compare()
    bench.found["run_s"] = time.monotonic() - begun_s
    show(console, bench.found, bench.missing)
    at = machine()
    console.print(", ".join(f"{name} {value}" for name, value in at.items()), highlight=False)
    left_out = [key for key in KEYS if key not in bench.found]
    if options.quick or left_out:
        console.print(f"nothing is written{': no ' if left_out else ''}{', '.join(left_out)}")
        return 0 if options.quick or options.sizes or len(options.parts) < len(PARTS) else 1
    console.print(f"wrote {write_results('converter', {**bench.found, 'machine': at})}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
