"""Times batches of Penstock beside a hand-written buffer and beside what the machine can do.

Run: ``make bench-sampler``. A batch is 256 random transitions, each with the current and the next
observation of three cameras, recorded at 256x256, delivered as uint8 at 224x224. Every figure is
the median over turns that all ways take one after the other. Writes
``benchmarks/results/sampler.json`` and the tables of ``docs/benchmarks.md``.
"""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import cv2
import h5py
import numpy as np
from floors import (
    Copier,
    DirectReader,
    Loopback,
    drop_page_cache,
    fill_page_cache,
    loopback,
)
from handwritten import HandWrittenBuffer
from recordings import CAMERA_SET, CAMERAS, DATA, MANY_SET, RENDERED_SET, STATE_DIM, DataSet
from report import machine, write_results
from rich.console import Console
from rich.table import Table
from serving import Server, cached_files, fill_cache, running_server
from tables import write_docs
from timing import Timing, Way, median_ms, take_turns

from penstock import Batch, Plan, SamplerClient, open_sampler
from penstock.torch import MultimodalReplayBuffer

BATCH, SIDE = 256, 224
PLAN = Plan(batch_size=BATCH, split="all")
PIECE_BYTES = 2 * 3 * SIDE * SIDE * 3
BATCH_BYTES = BATCH * PIECE_BYTES
CACHES, LOGS = DATA / "caches", DATA / "logs"
_PREFETCH = 2
_COLD_STEP = 5000


def pull(sampler: SamplerClient, first: int, batches: int) -> None:
    """Use consecutive batches as a training loop does; what starting costs is in it."""
    for _ in sampler.batches(PLAN, first, stop_step=first + batches, prefetch=_PREFETCH):
        pass


def fetch_alone(sampler: SamplerClient, first: int, batches: int) -> None:
    """Fetch each batch only when the one before has come."""
    for step in range(first, first + batches):
        sampler.sample(PLAN, step)


def repeated(run: Callable[[], None]) -> Way:
    """A way of which every batch is the same work."""

    def turn(_first: int, batches: int) -> None:
        for _ in range(batches):
            run()

    return Way(turn)


@contextmanager
def served(data: DataSet, name: str, **settings: str | int) -> Iterator[tuple[Server, Any]]:
    """A server and a client of it; cached in a folder that all servers of ``data`` share."""
    settings = {"cache_dir": str(CACHES / data.name), "local_socket": "none", **settings}
    with (
        running_server(f"{data.folder}/*.hdf5", LOGS / f"{name}.log", **settings) as server,
        open_sampler(server.target, image_size=(SIDE, SIDE)) as sampler,
    ):
        yield server, sampler


@contextmanager
def embedded(data: DataSet, cache: Path | str) -> Iterator[SamplerClient]:
    """The same without a server."""
    os.environ["PENSTOCK_CACHE_DIR"] = str(cache)
    with open_sampler(data.target, image_size=(SIDE, SIDE)) as sampler:
        yield sampler


def loaded_drop_in(data: DataSet, cache: Path) -> MultimodalReplayBuffer:
    """The drop-in for a hand-written buffer, embedded, on the CPU."""
    os.environ["PENSTOCK_CACHE_DIR"] = str(cache)
    buffer = MultimodalReplayBuffer(STATE_DIM, STATE_DIM, image_size=(SIDE, SIDE), seed=0)
    buffer.load_from_hdf5(data.target)
    return buffer


def check_equal(samplers: dict[str, SamplerClient], buffer: HandWrittenBuffer) -> None:
    """Refuse to time ways that do not give the same batch.

    Raises:
        RuntimeError: They differ.
    """
    batches: dict[str, Batch] = {name: each.sample(PLAN, 0) for name, each in samplers.items()}
    buffer.fill(next(iter(samplers.values())).view(PLAN).transition_ids(0))
    first = next(iter(batches.values()))
    for name, batch in batches.items():
        if not np.array_equal(batch.frames, first.frames):
            raise RuntimeError(f"{name} gives other frames than {next(iter(batches))}")
    for ours, theirs in zip(first.frames, buffer.frames, strict=True):
        if not np.array_equal(ours, theirs):
            raise RuntimeError("the hand-written buffer gives other frames")


def measure_warm(stack: ExitStack, turns: int, batches: int) -> dict[str, Any]:
    """Hot and cold batches of camera-like frames by every way, and the floors beside them."""
    paths = CAMERA_SET.paths()
    server, remote = stack.enter_context(served(CAMERA_SET, "grpc"))
    grpcio = stack.enter_context(open_sampler(server.target, image_size=(SIDE, SIDE), direct=False))
    fill_cache(remote, PLAN, CACHES / CAMERA_SET.name)
    local_server, local = stack.enter_context(served(CAMERA_SET, "local", local_socket="auto"))
    inside = stack.enter_context(embedded(CAMERA_SET, CACHES / CAMERA_SET.name))
    drop_in = stack.enter_context(loaded_drop_in(CAMERA_SET, CACHES / CAMERA_SET.name))
    buffer = stack.enter_context(HandWrittenBuffer(paths, BATCH, SIDE))
    wire: Loopback = stack.enter_context(loopback(BATCH_BYTES))
    ours = {"gRPC": remote, "grpcio": grpcio, "same host": local, "embedded": inside}
    check_equal(ours, buffer)
    ids = inside.view(PLAN).transition_ids

    before = remote.transfer.wire_bytes, remote.transfer.batches
    pull(remote, 0, 4)
    count = remote.transfer.batches - before[1]
    encoded_bytes = (remote.transfer.wire_bytes - before[0]) // count

    def by_hand(first: int, count: int) -> None:
        for step in range(first, first + count):
            buffer.fill(ids(step))

    cached = cached_files(CACHES / CAMERA_SET.name)
    fill_page_cache([*cached, *paths])
    copiers = [Copier(BATCH_BYTES, PIECE_BYTES, threads) for threads in (1, 2)]
    hot = take_turns(
        {
            "baseline": Way(by_hand),
            "grpc": Way(lambda first, n: pull(remote, first, n), server.tree),
            "grpcio": Way(lambda first, n: pull(grpcio, first, n), server.tree),
            "same_host": Way(lambda first, n: pull(local, first, n), local_server.tree),
            "embedded": Way(lambda first, n: pull(inside, first, n)),
            "drop_in": repeated(lambda: drop_in.sample(BATCH)),
            "one_copy": repeated(copiers[0].copy),
            "one_copy_2_threads": repeated(copiers[1].copy),
            "socket": repeated(lambda: wire.transfer(BATCH_BYTES)),
            "socket_encoded": repeated(lambda: wire.transfer(encoded_bytes)),
            "grpc_alone": Way(lambda first, n: fetch_alone(remote, first, n), server.tree),
            "grpcio_alone": Way(lambda first, n: fetch_alone(grpcio, first, n), server.tree),
        },
        turns=turns,
        batches=batches,
    )
    disk = DirectReader(cached)
    stack.callback(disk.close)

    def forget() -> None:
        drop_page_cache(cached)

    cold = take_turns(
        {
            "cold": Way(lambda first, n: pull(remote, first, n), server.tree, forget),
            "cold_grpcio": Way(lambda first, n: pull(grpcio, first, n), server.tree, forget),
            "cold_disk": Way(
                lambda _, n: disk.read(n * BATCH, encoded_bytes // BATCH), before=forget
            ),
            "cold_same_host": Way(lambda first, n: pull(local, first, n), before=forget),
            "cold_embedded": Way(lambda first, n: pull(inside, first, n), before=forget),
        },
        turns=turns,
        batches=batches,
        first=_COLD_STEP,
    )
    return {
        **_walls(hot),
        **_walls(cold),
        "baseline_cpu_ms": median_ms(hot["baseline"].cpu),
        "server_cpu_ms": median_ms(hot["grpc"].server_cpu),
        "client_cpu_ms": median_ms(hot["grpc"].cpu),
        "grpcio_server_cpu_ms": median_ms(hot["grpcio"].server_cpu),
        "grpcio_client_cpu_ms": median_ms(hot["grpcio"].cpu),
        "same_host_cpu_ms": median_ms(hot["same_host"].cpu),
        "same_host_server_cpu_ms": median_ms(hot["same_host"].server_cpu),
        "embedded_cpu_ms": median_ms(hot["embedded"].cpu),
        "batch_mb": BATCH_BYTES / 1e6,
        "encoded_mb": encoded_bytes / 1e6,
        "camera_ratio": BATCH_BYTES / encoded_bytes,
    }


def measure_variant(
    data: DataSet, name: str, turns: int, batches: int, **settings: str | int
) -> dict[str, Any]:
    """Batches over loopback with other settings or data."""
    with served(data, name, **settings) as (server, sampler):
        if settings.get("cache_dir") != "none":
            folder = Path(settings.get("cache_dir", CACHES / data.name))
            fill_cache(sampler, PLAN, folder)
            fill_page_cache(cached_files(folder))
        else:
            fill_page_cache(data.paths())
        way = Way(lambda first, n: pull(sampler, first, n), server.tree)
        timing = take_turns({name: way}, turns=turns, batches=batches)[name]
        transfer = sampler.transfer
        ratio = transfer.raw_bytes / max(1, transfer.wire_bytes)
    return {
        f"{name}_grpc_ms": median_ms(timing.wall),
        f"{name}_server_cpu_ms": median_ms(timing.server_cpu),
        f"{name}_ratio": ratio,
    }


def read_what_an_index_needs(path: Path) -> None:
    """All numbers of a recording, and two frames of each camera, as one would read them with h5py.

    In one process, without checks and without writing anything.
    """
    with h5py.File(path) as file:
        for name in ("actions", "rewards", "terminals", "observations/joint"):
            file[name][()]
        for camera in CAMERAS:
            frames = file[f"observations/{camera}"]
            _ = frames[0], frames[-1]


def measure_start(turns: int) -> dict[str, Any]:
    """Seconds until 1000 files are indexed, and until the first batch of uncached data."""
    target = MANY_SET.target
    MANY_SET.paths()
    index_s: list[float] = []
    h5py_s: list[float] = []
    embedded_s: list[float] = []
    server_s: list[float] = []
    for turn in range(turns):
        for times, name in ((embedded_s, CAMERA_SET), (index_s, MANY_SET)):
            cache = CACHES / f"start-{turn}-{name.name}"
            os.environ["PENSTOCK_CACHE_DIR"] = str(cache)
            begun = time.perf_counter()
            with open_sampler(name.target, image_size=(SIDE, SIDE)) as sampler:
                if name is CAMERA_SET:
                    sampler.sample(PLAN, 0)
                times.append(time.perf_counter() - begun)
        begun = time.perf_counter()
        for path in MANY_SET.paths():
            read_what_an_index_needs(path)
        h5py_s.append(time.perf_counter() - begun)
        cache = CACHES / f"start-{turn}-server"
        begun = time.perf_counter()
        with served(CAMERA_SET, "start", cache_dir=str(cache)) as (_, sampler):
            sampler.sample(PLAN, 0)
            server_s.append(time.perf_counter() - begun)
    # Not before: ext4 looks at each file that was removed within minutes when it makes a new one.
    for cache in CACHES.glob("start-*"):
        shutil.rmtree(cache, ignore_errors=True)
    with embedded(MANY_SET, CACHES / "many") as _:
        begun = time.perf_counter()
    with open_sampler(target, image_size=(SIDE, SIDE)):
        again_s = time.perf_counter() - begun
    return {
        "index_1000_files_s": statistics.median(index_s),
        "index_1000_files_again_s": again_s,
        "h5py_1000_files_s": statistics.median(h5py_s),
        "first_batch_embedded_s": statistics.median(embedded_s),
        "first_batch_server_s": statistics.median(server_s),
    }


def _walls(timings: dict[str, Timing]) -> dict[str, float]:
    return {f"{name}_ms": median_ms(timing.wall) for name, timing in timings.items()}


def show(console: Console, found: dict[str, Any]) -> None:
    """Print what was measured, with its ratio to the baseline."""
    table = Table("one batch", "ms", "baseline / this")
    for name, value in found.items():
        if name.endswith("_ms"):
            ratio = found["baseline_ms"] / value if value else 0.0
            table.add_row(
                name.removesuffix("_ms").replace("_", " "), f"{value:.1f}", f"{ratio:.2f}"
            )
    console.print(table)
    for name, value in found.items():
        if not name.endswith("_ms") and isinstance(value, float):
            console.print(f"{name.replace('_', ' ')}: {value:.2f}")


def main() -> None:
    """Measure everything and write the results."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--turns", type=int, default=7, help="Turns of every way.")
    parser.add_argument("--batches", type=int, default=4, help="Batches of a turn.")
    parser.add_argument("--only-warm", action="store_true", help="Leave out variants and starts.")
    options = parser.parse_args()
    console = Console()
    cv2.setNumThreads(1)
    begun = time.monotonic()
    found: dict[str, Any] = {}
    with ExitStack() as stack:
        found.update(measure_warm(stack, options.turns, options.batches))
    if not options.only_warm:
        few = max(2, options.turns // 2)
        RENDERED_SET.paths()
        found.update(measure_variant(RENDERED_SET, "rendered", few, options.batches))
        found.update(
            measure_variant(
                CAMERA_SET, "lz4", few, options.batches, codec="lz4", cache_dir=str(CACHES / "lz4")
            )
        )
        shutil.rmtree(CACHES / "lz4", ignore_errors=True)
        found.update(
            measure_variant(CAMERA_SET, "on_the_fly", few, options.batches, cache_dir="none")
        )
        found.update(measure_start(few))
    found["run_s"] = time.monotonic() - begun
    show(console, found)
    if not options.only_warm:
        write_results("sampler", {**found, "machine": machine()})
        console.print(f"wrote {write_docs()}")


if __name__ == "__main__":
    main()
