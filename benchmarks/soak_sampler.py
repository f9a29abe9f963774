"""A day of a sampler in twenty minutes: memory, descriptors and threads stay where they were.

Run: ``make soak-sampler``. Two servers serve recordings that come, go and change, with frame caches
that hold about half of them. One client samples all the time, another one opens and closes the
dataset again and again, by all ways in turn; others stop reading, ask for absurd sizes, over gRPC
and at the direct port, or are killed as they read;
cached files are damaged, and aged so that they are evicted. ``A_DAY`` says how often: what a day
of ordinary use brings. Once a second it is noted what the servers and the two good clients hold.
After a warm-up of a fifth of the time, the median of the first quarter is compared with that of the
last one. The exit status is 1 when one has grown by more than its bound, when a process has ended,
or when something never happened.
Writes ``benchmarks/results/soak_sampler.json``.
"""

from __future__ import annotations

import argparse
import itertools
import os
import random
import shutil
import statistics
import time
import urllib.request
from collections import Counter
from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np
import psutil
from prometheus_client.parser import text_string_to_metric_families
from recordings import CAMERAS, DATA, STATE_DIM
from report import machine, write_results
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table
from serving import Server, anonymous_bytes, cached_files, running_server
from soak_clients import STALL_S, Clients

from penstock.server.port import free_port

A_DAY_MINUTES = 20.0
A_DAY = {
    "batches": 86_400,
    "direct answers": 1_440,
    "sessions": 288,
    "killed clients": 48,
    "stalled streams": 96,
    "absurd requests": 288,
    "dataset changes": 144,
    "damaged files": 48,
    "evictions": 288,
    "rebuilds": 48,
}
"""One batch a second; clients that come every five minutes; a recording that comes, goes or is
replaced every ten. What is not planned is counted where it happens."""

WARM_UP = 0.2
BOUNDS = {"rss_mb": (0.05, 5.0), "descriptors": (0.0, 16.0), "threads": (0.0, 4.0)}
"""Growth that is allowed: a share of the first median, and a number."""

ROOT = DATA / "soak"
STEADY, FEWEST, MOST = 12, 4, 8
ROWS, SIDE = 200, 32
SERVERS, WORKERS, CACHE_BYTES = 2, 24, 50_000_000
AGE_EVERY_S, SAMPLE_EVERY_S = 5.0, 1.0


def write_recording(path: Path, rng: np.random.Generator) -> None:
    """Noise, which no codec makes small; it appears under its name when it is whole."""
    staged = path.with_suffix(".part")
    with h5py.File(staged, "w") as file:
        for camera in CAMERAS:
            images = rng.integers(0, 256, (ROWS, SIDE, SIDE, 3), dtype=np.uint8)
            file[f"observations/{camera}"] = images
        file["observations/joint"] = rng.normal(size=(ROWS, STATE_DIM)).astype(np.float32)
        file["actions"] = rng.normal(size=(ROWS, STATE_DIM)).astype(np.float32)
        file["rewards"] = rng.normal(size=ROWS).astype(np.float32)
        file["terminals"] = np.arange(1, ROWS + 1) % (ROWS // 4) == 0
    staged.rename(path)


@dataclass
class Wear:
    """What happens to the files.

    Attributes:
        caches: Folders of cached frames.
        seed: Of all choices.
    """

    caches: list[Path]
    seed: int
    _made: int = 0

    def __post_init__(self) -> None:
        self._dice = random.Random(self.seed)  # noqa: S311 - dice, no secret
        self._rng = np.random.default_rng(self.seed)
        shutil.rmtree(ROOT, ignore_errors=True)
        for folder in ("steady", "changing"):
            (ROOT / folder).mkdir(parents=True)
        for number in range(STEADY):
            write_recording(ROOT / "steady" / f"{number:03d}.hdf5", self._rng)
        for _ in range(FEWEST):
            self._add()

    def change(self) -> None:
        """Add, remove or replace one recording."""
        present = sorted((ROOT / "changing").glob("*.hdf5"))
        acts = ["replace"]
        acts += ["add"] * (len(present) < MOST) + ["remove"] * (len(present) > FEWEST)
        act = self._dice.choice(acts)
        if act == "add":
            self._add()
        elif act == "remove":
            self._dice.choice(present).unlink()
        else:
            write_recording(self._dice.choice(present), self._rng)

    def damage(self) -> bool:
        """Change bytes all over one cached file; whether there was one."""
        found = [path for cache in self.caches for path in cached_files(cache)]
        with suppress(FileNotFoundError, IndexError), self._dice.choice(found).open("r+b") as file:
            size = os.fstat(file.fileno()).st_size
            for _ in range(256):
                file.seek(self._dice.randrange(size))
                file.write(self._dice.randbytes(1))
            return True
        return False

    def age(self) -> None:
        """Let half of the cached files look as if nobody had used them for an hour."""
        then = time.time() - 3600
        for path in itertools.chain.from_iterable(map(cached_files, self.caches)):
            if self._dice.random() < 0.5:
                with suppress(FileNotFoundError):
                    os.utime(path, (then, then))

    def _add(self) -> None:
        self._made += 1
        write_recording(ROOT / "changing" / f"{self._made:05d}.hdf5", self._rng)


@dataclass
class Habit:
    """Something that is done every so many seconds."""

    every_s: float
    act: Callable[[], None]
    done: int = 0

    def run_if_due(self, now_s: float) -> None:
        """Do it as often as it is due, ``now_s`` after the beginning."""
        while now_s >= (self.done + 0.5) * self.every_s:
            self.act()
            self.done += 1


def used_by(process: psutil.Process) -> dict[str, float]:
    """What a process holds now."""
    return {
        "rss_mb": anonymous_bytes([process]) / 1e6,
        "descriptors": float(process.num_fds()),
        "threads": float(process.num_threads()),
    }


def counted(server: Server, port: int) -> Counter[str]:
    """What a server says it has done."""
    server.check()
    names = {
        "penstock_sampler_dataset_changes_total": "dataset changes",
        "penstock_sampler_cache_evictions_total": "evictions",
        "penstock_sampler_cache_rebuilds_total": "rebuilds",
        "penstock_sampler_stalled_streams_total": "stalled streams",
        "penstock_sampler_direct_answers_total": "direct answers",
        "penstock_sampler_direct_refusals_total": "direct refusals",
    }
    found: Counter[str] = Counter()
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics") as answer:
        for family in text_string_to_metric_families(answer.read().decode()):
            for sample in family.samples:
                if sample.name in names:
                    found[names[sample.name]] += int(sample.value)
    return found


def judge(series: dict[str, list[dict[str, float]]]) -> list[dict[str, str | float]]:
    """First and last quarter of each series after the warm-up, and whether it has grown."""
    found: list[dict[str, str | float]] = []
    for name, samples in series.items():
        kept = samples[int(WARM_UP * len(samples)) :]
        quarter = max(1, len(kept) // 4)
        for what, (share, number) in BOUNDS.items():
            first, last = (
                statistics.median(sample[what] for sample in part)
                for part in (kept[:quarter], kept[-quarter:])
            )
            bound = first * share + number
            found.append(
                {
                    "process": name,
                    "what": what,
                    "first": first,
                    "last": last,
                    "bound": bound,
                    "flat": last - first <= bound,
                }
            )
    return found


class Soak:
    """Servers, clients and wear, for so many minutes."""

    def __init__(self, minutes: float, console: Console) -> None:
        self._total_s, self._console = 60 * minutes, console
        self.counts: Counter[str] = Counter()
        self.series: dict[str, list[dict[str, float]]] = {}

    def run(self) -> None:
        """Take the samples.

        Raises:
            RuntimeError: A server has ended, or a client that should not.
        """
        caches = [DATA / "caches" / f"soak-{number}" for number in range(SERVERS)]
        for cache in caches:
            shutil.rmtree(cache, ignore_errors=True)
        wear = Wear(caches, seed=0)
        with ExitStack() as stack:
            ports = {free_port(): cache for cache in caches}
            running = {
                port: stack.enter_context(_serving(port, cache)) for port, cache in ports.items()
            }
            for server in running.values():
                server.wait_until_serving()
            places = ",".join(s.target.removeprefix("grpc://") for s in running.values())
            clients = stack.enter_context(Clients(f"grpc://{places}", DATA / "logs"))
            day_s = 60 * A_DAY_MINUTES
            habits = [
                Habit(day_s / A_DAY["dataset changes"], wear.change),
                Habit(day_s / A_DAY["damaged files"], lambda: self._damage(wear)),
                Habit(day_s / A_DAY["killed clients"], clients.kill_one),
                Habit(AGE_EVERY_S, wear.age),
                Habit(SAMPLE_EVERY_S, lambda: self._sample(running, clients)),
            ]
            self._live(habits)
            self.counts.update(clients.counts)
            told = [counted(server, port) for port, server in running.items()]
            self.counts.update(sum(told, Counter()))
            self.counts["dataset changes"] = min(each["dataset changes"] for each in told)
        shutil.rmtree(ROOT)
        for cache in caches:
            shutil.rmtree(cache)

    def _live(self, habits: list[Habit]) -> None:
        begun_s = time.monotonic()
        columns = (TextColumn("{task.description}"), BarColumn(), TimeRemainingColumn())
        with Progress(*columns, console=self._console) as progress:
            bar = progress.add_task("soaking", total=self._total_s)
            while (now_s := time.monotonic() - begun_s) < self._total_s:
                for habit in habits:
                    habit.run_if_due(now_s)
                held = {name: samples[-1]["rss_mb"] for name, samples in self.series.items()}
                shown = "  ".join(f"{name} {rss_mb:.0f} MB" for name, rss_mb in held.items())
                progress.update(bar, completed=now_s, description=shown or "soaking")
                time.sleep(0.05)

    def _damage(self, wear: Wear) -> None:
        self.counts["damaged files"] += wear.damage()

    def _sample(self, servers: dict[int, Server], clients: Clients) -> None:
        processes: dict[str, psutil.Process] = {}
        for number, server in enumerate(servers.values()):
            server.check()
            processes[f"server {number}"] = server.process
        for name, process in {**processes, **clients.watched()}.items():
            self.series.setdefault(name, []).append(used_by(process))


def _serving(port: int, cache: Path) -> AbstractContextManager[Server]:
    return running_server(
        str(ROOT),
        DATA / "logs" / f"{cache.name}.log",
        cache_dir=cache,
        cache_bytes=CACHE_BYTES,
        metrics_port=port,
        watch_s=1,
        stall_s=STALL_S,
        workers=WORKERS,
        log_level="warning",
    )


def main() -> None:
    """Soak, show what came of it, and write the results."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--minutes",
        type=float,
        default=A_DAY_MINUTES,
        help="How long; less than 20 is less than a day.",
    )
    options = parser.parse_args()
    console = Console()
    soak = Soak(options.minutes, console)
    soak.run()
    judged = judge(soak.series)
    _show(console, judged, soak.counts)
    write_results(
        "soak_sampler",
        {
            "machine": machine(),
            "minutes": options.minutes,
            "counts": dict(soak.counts),
            "a_day": A_DAY,
            "held": judged,
        },
    )
    missing = [event for event in A_DAY if not soak.counts[event]]
    for event in missing:
        console.print(f"[red]there were no {event}: nothing is said about them")
    if missing or not all(entry["flat"] for entry in judged):
        raise SystemExit(1)


def _show(console: Console, judged: list[dict[str, str | float]], counts: Counter[str]) -> None:
    table = Table(title="Medians of the first and of the last quarter")
    for heading in ("process", "what", "first", "last", "may grow by"):
        table.add_column(heading, justify="left" if heading in ("process", "what") else "right")
    for entry in judged:
        colour = "" if entry["flat"] else "[red]"
        figures = (f"{colour}{entry[name]:.1f}" for name in ("first", "last", "bound"))
        table.add_row(str(entry["process"]), str(entry["what"]), *figures)
    console.print(table)
    table = Table(title="What happened")
    for heading in ("", "times", "in a day"):
        table.add_column(heading, justify="right" if heading else "left")
    for event, times in sorted(counts.items(), key=lambda item: (item[0] not in A_DAY, item[0])):
        table.add_row(event, f"{times:,}", f"{A_DAY[event]:,}" if event in A_DAY else "")
    console.print(table)


if __name__ == "__main__":
    main()
