"""Anonymous memory of a sampler server: with 1 M transitions in use, with an index of 100 M.

Run: ``make bench-sampler-memory``. Memory is ``RssAnon`` of the server and all processes below it
(plus shared memory), its largest value while batches are pulled; that of opening, when other
processes help to read files that are not indexed yet, stands beside it. The million are real
recordings under many names (hard links), read from their files while the cache is built, then from
the cache. The hundred million have the rows, episodes and shapes of real data and take little disk:
frames are holes, joints and actions are fill values but for the first.
Writes ``benchmarks/results/sampler_memory.json``; the exit status is 1 above a limit.
"""

from __future__ import annotations

import argparse
import os
import shutil
import threading
import time
from collections.abc import Callable
from itertools import takewhile
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from recordings import CAMERA_SET, CAMERAS, DATA, EPISODE_ROWS, ROWS
from report import machine, write_results
from rich.console import Console
from rich.table import Table
from serving import Server, anonymous_bytes, cached_files, running_server
from tables import write_docs

from penstock import Plan, SamplerClient, open_sampler

MILLION = 1_000_000
LIMIT_SERVING_MB, LIMIT_INDEX_MB = 100, 150
_EPISODE_ROWS = 200
_WRITTEN_ROWS = 10_000
_POLL_S = 0.05
_FILL_S = 300.0
_CACHES = DATA / "caches" / "memory"

Pull = Callable[[SamplerClient], int]


class PeakMemory:
    """Looks at a server's memory until it is stopped."""

    def __init__(self, server: Server) -> None:
        self._server, self._stop = server, threading.Event()
        self.peak_bytes = 0
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()

    def _watch(self) -> None:
        while not self._stop.wait(_POLL_S):
            self.peak_bytes = max(self.peak_bytes, anonymous_bytes(self._server.tree))

    def restart(self) -> float:
        """Begin anew; the largest value seen until now, in MB."""
        peak_mb, self.peak_bytes = self.peak_bytes / 1e6, 0
        return peak_mb

    def stop(self) -> float:
        """The largest value seen, in MB."""
        self._stop.set()
        self._thread.join()
        return self.peak_bytes / 1e6


def link_million(folder: Path) -> None:
    """A million transitions: the camera recordings under a thousand names."""
    recordings = CAMERA_SET.paths()
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(MILLION // ROWS):
        name = folder / f"{number:04d}.hdf5"
        source = recordings[number % len(recordings)]
        if not (name.exists() and name.samefile(source)):
            name.unlink(missing_ok=True)
            os.link(source, name)


def write_sparse(path: Path, rows: int, side: int, width: int) -> None:
    """A recording of which only flags take disk.

    Args:
        path: File to write.
        rows: Transitions; one observation more.
        side: Height and width of the images, which get their place in the file and stay holes.
        width: Of joints and of actions.
    """
    rng = np.random.default_rng(int(path.stem))
    terminals = np.zeros(rows, np.uint8)
    lengths = rng.integers(_EPISODE_ROWS, 2 * _EPISODE_ROWS, rows // _EPISODE_ROWS)
    ends = np.cumsum(lengths) - 1
    terminals[ends[ends < rows]] = 1
    with h5py.File(path, "w") as file:
        group = file.create_group("observations")
        for camera in CAMERAS:
            places = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
            places.set_alloc_time(h5py.h5d.ALLOC_TIME_EARLY)
            places.set_fill_time(h5py.h5d.FILL_TIME_NEVER)
            space = h5py.h5s.create_simple((rows + 1, side, side, 3))
            h5py.h5d.create(group.id, camera.encode(), h5py.h5t.NATIVE_UINT8, space, places)
        for name, shape in (
            ("observations/joint", (rows + 1, width)),
            ("actions", (rows, width)),
            ("rewards", (rows,)),
        ):
            chunk = (_WRITTEN_ROWS, *shape[1:])
            column = file.create_dataset(name, shape, np.float32, chunks=chunk, fillvalue=0.5)
            column[:_WRITTEN_ROWS] = rng.normal(size=chunk)
        file.create_dataset(
            "terminals", data=terminals, chunks=(_WRITTEN_ROWS,), compression="gzip"
        )


def write_hundred_million(folder: Path) -> None:
    """A hundred files of a million transitions, written once."""
    whole = folder / ".complete"
    if whole.exists():
        return
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    for number in range(100):
        write_sparse(folder / f"{number:04d}.hdf5", MILLION, side=64, width=2)
    whole.touch()


def measure(
    name: str, data: str, side: int, pull: Pull, fill: Pull | None, *, direct: bool = True
) -> dict[str, float]:
    """Serve ``data``, pull from it, and say what the server took.

    Args:
        name: Of the figures.
        data: Files to serve.
        side: Height and width of the images that are asked for.
        pull: Takes batches and says how many.
        fill: Called before it; what the server takes meanwhile does not count.
        direct: Whether batches come over the direct port where that can be.
    """
    begun = time.perf_counter()
    log = DATA / "logs" / f"memory-{name}.log"
    with running_server(data, log, cache_dir=_CACHES / name.removesuffix("_grpcio")) as server:
        memory = PeakMemory(server)
        server.wait_until_serving()
        ways = {"local": False, "direct": direct}
        with open_sampler(server.target, image_size=(side, side), **ways) as sampler:
            open_s = time.perf_counter() - begun
            opened_mb = anonymous_bytes(server.tree) / 1e6
            opening_mb = memory.restart()
            if fill is not None:
                fill(sampler)
                memory.restart()
            before = time.monotonic()
            batches = pull(sampler)
            batch_ms = 1e3 * (time.monotonic() - before) / batches
            transitions = sampler.info.transitions
        peak_mb = memory.stop()
    return {
        "transitions": transitions,
        "open_s": open_s,
        "opening_mb": opening_mb,
        "opened_mb": opened_mb,
        "peak_mb": peak_mb,
        "batches": batches,
        "batch_ms": batch_ms,
    }


def touch_all(sampler: SamplerClient, plan: Plan, cache: Path) -> int:
    """Draw from the first recordings until the server has cached all of them."""
    files, step = len(CAMERA_SET.paths()), 0
    deadline = time.monotonic() + _FILL_S
    while len(cached_files(cache)) < files:
        if time.monotonic() > deadline:
            raise TimeoutError(f"{files} files are not cached in {cache} after {_FILL_S:.0f} s")
        sampler.sample(plan, step)
        step += 1
    return step


def main() -> None:
    """Measure both and write the results."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=30.0, help="How long to pull batches.")
    parser.add_argument("--only", choices=("serving", "index"))
    options = parser.parse_args()

    def pull(sampler: SamplerClient, episodes: int | None = None) -> int:
        plan = Plan(batch_size=256, split="all", num_traj=episodes)
        until = time.monotonic() + options.seconds
        batches = sampler.batches(plan, prefetch=2)
        return sum(1 for _ in takewhile(lambda _: time.monotonic() < until, batches))

    cached_episodes = len(CAMERA_SET.paths()) * ROWS // EPISODE_ROWS

    def pull_cached(sampler: SamplerClient) -> int:
        return pull(sampler, cached_episodes)

    def fill(sampler: SamplerClient) -> int:
        plan = Plan(batch_size=256, split="all", num_traj=cached_episodes)
        return touch_all(sampler, plan, _CACHES / "cached_1m")

    found: dict[str, dict[str, float]] = {}
    limits = dict.fromkeys(("serving_1m", "cached_1m", "cached_1m_grpcio"), LIMIT_SERVING_MB)
    limits["index_100m"] = LIMIT_INDEX_MB
    shutil.rmtree(_CACHES, ignore_errors=True)
    if options.only != "index":
        folder = DATA / "million"
        link_million(folder)
        data = f"{folder}/*.hdf5"
        found["serving_1m"] = measure("serving_1m", data, 224, pull, None)
        found["cached_1m"] = measure("cached_1m", data, 224, pull_cached, fill)
        found["cached_1m_grpcio"] = measure(
            "cached_1m_grpcio", data, 224, pull_cached, None, direct=False
        )
    if options.only != "serving":
        folder = DATA / "hundred-million"
        write_hundred_million(folder)
        found["index_100m"] = measure("index_100m", f"{folder}/*.hdf5", 64, pull, None)
    shutil.rmtree(_CACHES, ignore_errors=True)
    _show(found, limits)
    if options.only is None:
        results: dict[str, Any] = {"machine": machine(), "limits_mb": limits, **found}
        write_results("sampler_memory", results)
        Console().print(f"wrote {write_docs()}")
    if any(figures["peak_mb"] > limits[name] for name, figures in found.items()):
        raise SystemExit(1)


def _show(found: dict[str, dict[str, float]], limits: dict[str, int]) -> None:
    table = Table(title="Anonymous memory of the server, MB")
    for heading in ("", "transitions", "open s", "opening", "opened", "peak", "limit", "batch ms"):
        table.add_column(heading, justify="right")
    for name, figures in found.items():
        over = figures["peak_mb"] > limits[name]
        table.add_row(
            name,
            f"{figures['transitions']:,.0f}",
            f"{figures['open_s']:.1f}",
            f"{figures['opening_mb']:.0f}",
            f"{figures['opened_mb']:.0f}",
            f"{'[red]' if over else ''}{figures['peak_mb']:.0f}",
            f"{limits[name]}",
            f"{figures['batch_ms']:.0f}",
        )
    Console().print(table)


if __name__ == "__main__":
    main()
