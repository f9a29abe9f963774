"""Time every peer and Penstock over loopback at the same task, each in its own environment.

Run: ``make bench-sampler-peers``, or ``python benchmarks/sampler_peers/run_all.py grain ray`` for a
few. Peers run one after the other, Penstock before and after them. What favours whom stands at the
top of each peer's file. A peer whose environment cannot be made here, or that fails, is recorded
with the reason and does not stop the others.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import shutil
import statistics
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cv2
import h5py
import numpy as np
from rich.console import Console
from rich.table import Table

from penstock import Plan, SamplerClient, open_sampler

sys.path.insert(0, str(Path(__file__).parents[1]))
from environments import environment, last_lines
from recordings import CAMERA_SET, CAMERAS, DATA, ROWS
from report import machine, write_results
from serving import fill_cache, running_server
from tables import write_docs

HERE = Path(__file__).parent
FOLDER = DATA / "peers"
SIDE = 224
_TIMEOUT_S = 900.0
_GROUPS, _BATCHES = 5, 6


@dataclass(frozen=True)
class Peer:
    """How one peer is run.

    Attributes:
        script: File below this folder.
        environment: Its environment and requirements file.
        batches: Batches of each of five groups, a multiple of its workers: of two that take turns,
            one is waited for, and the next batch is there already.
        limit: Transitions it may use; None for all.
    """

    script: str
    environment: str
    batches: int = 4
    limit: int | None = None
    variables: dict[str, str] = field(default_factory=dict)


_QUIET = {"TF_CPP_MIN_LOG_LEVEL": "3", "CUDA_VISIBLE_DEVICES": ""}
PEERS = {
    "torch_dataloader": Peer("peer_torch_dataloader.py", "torch_dataloader"),
    "grain": Peer("peer_grain.py", "grain"),
    "mosaicml": Peer("peer_mosaicml.py", "mosaicml"),
    "reverb": Peer("peer_reverb.py", "reverb", variables=_QUIET),
    "tfdata_service": Peer("peer_tfdata.py", "reverb", variables=_QUIET),
    "webdataset": Peer("peer_webdataset.py", "webdataset"),
    "torchrl": Peer("peer_torchrl.py", "torchrl"),
    "ray": Peer(
        "peer_ray.py",
        "ray",
        variables={"RAY_USAGE_STATS_ENABLED": "0", "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0"},
    ),
    "lerobot": Peer(
        "peer_lerobot.py",
        "lerobot",
        batches=2,
        limit=300,
        variables={"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"},
    ),
}


def prepare() -> Path:
    """Write what peers share; the folder with the recording."""
    source = FOLDER / "source"
    source.mkdir(parents=True, exist_ok=True)
    recording = source / "0000.hdf5"
    if not recording.exists():
        os.link(CAMERA_SET.paths()[0], recording)
    if (FOLDER / "pairs.npy").exists():
        return source
    shape = (ROWS + 1, len(CAMERAS), SIDE, SIDE, 3)
    resized = np.empty(shape, np.uint8)
    with h5py.File(recording) as file:
        recorded = np.stack([file[f"observations/{name}"][:] for name in CAMERAS], axis=1)
    for row, camera in np.ndindex(shape[:2]):
        cv2.resize(recorded[row, camera], (SIDE, SIDE), dst=resized[row, camera])
    np.save(FOLDER / "recorded.npy", recorded)
    np.save(FOLDER / "resized.npy", resized)
    with h5py.File(FOLDER / "resized.hdf5", "w") as file:
        for camera, name in enumerate(CAMERAS):
            file.create_dataset(f"observations/{name}", data=resized[:, camera])
    # The recording's episodes play no part here: a pair is two neighbours.
    np.save(FOLDER / "pairs.npy", np.stack([np.arange(ROWS), np.arange(1, ROWS + 1)], axis=1))
    return source


def run(name: str, peer: Peer, *flags: str) -> dict[str, Any]:
    """One peer's answer, or ``{"error": reason}``."""
    try:
        requirements = HERE / "requirements" / f"{peer.environment}.txt"
        python = environment(peer.environment, requirements)
        command = [str(python), str(HERE / peer.script), "--folder", str(FOLDER)]
        command += ["--batches", str(peer.batches), *flags]
        command += [] if peer.limit is None else ["--limit", str(peer.limit)]
        log = FOLDER / f"{name}.log"
        with log.open("w") as output:
            done = subprocess.run(
                command,
                stdout=subprocess.PIPE,
                stderr=output,
                text=True,
                check=False,
                timeout=_TIMEOUT_S,
                env={**os.environ, **peer.variables},
            )
        if done.returncode:
            return {"error": f"exit status {done.returncode}: {last_lines(log.read_text())}"}
        return json.loads(done.stdout.strip().splitlines()[-1])
    except subprocess.TimeoutExpired:
        return {"error": f"no answer within {_TIMEOUT_S:.0f} s"}
    except (RuntimeError, ValueError, IndexError) as error:
        return {"error": str(error)}


def run_ours(source: Path) -> dict[str, list[float]]:
    """Penstock over loopback at the same recordings, from a warm cache: times of groups.

    Returns:
        Milliseconds of a batch as it comes by itself, ``grpc``, and by grpcio alone, ``grpcio``.
    """
    plan = Plan(batch_size=256, split="all")
    cache = FOLDER / "penstock"
    with (
        running_server(
            f"{source}/*.hdf5", FOLDER / "penstock.log", cache_dir=cache, local_socket="none"
        ) as server,
        open_sampler(server.target, image_size=(SIDE, SIDE)) as sampler,
        open_sampler(server.target, image_size=(SIDE, SIDE), direct=False) as grpcio,
    ):
        fill_cache(sampler, plan, cache)
        return {"grpc": _groups_ms(sampler, plan), "grpcio": _groups_ms(grpcio, plan)}


def _groups_ms(sampler: SamplerClient, plan: Plan) -> list[float]:
    batches = sampler.batches(plan, start_step=1000)
    for _ in range(4):
        next(batches)
    walls: list[float] = []
    for _ in range(_GROUPS):
        begun = time.perf_counter()
        for _ in range(_BATCHES):
            next(batches)
        walls.append((time.perf_counter() - begun) / _BATCHES * 1e3)
    batches.close()
    return walls


def show(console: Console, results: dict[str, Any], timed: dict[str, float]) -> None:
    """Print the peers, fastest first."""
    grpc_ms, grpcio_ms = results["grpc_ms"], results["grpcio_ms"]
    table = Table("loader", "ms a batch", "against Penstock", "CPU ms", "ms, resized offline")
    table.add_row("Penstock", f"{grpc_ms:.0f}", "1.00", "", "")
    table.add_row("Penstock, grpcio", f"{grpcio_ms:.0f}", f"{grpcio_ms / grpc_ms:.2f}", "", "")
    for name, wall in sorted(timed.items(), key=lambda item: item[1]):
        offline = results["resized_offline_ms"].get(name, math.nan)
        cpu = results["cpu_ms"][name]
        ratio = f"{wall / grpc_ms:.2f}"
        table.add_row(name, f"{wall:.0f}", ratio, f"{cpu:.0f}", f"{offline:.0f}")
    console.print(table)


def _values(found: dict[str, dict[str, Any]], key: str) -> dict[str, Any]:
    return {name: each[key] for name, each in found.items() if key in each}


def main() -> None:
    """Run what is asked for and write ``benchmarks/results/sampler_peers.json``."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("peers", nargs="*", help=f"Of {', '.join(PEERS)}; all by default.")
    options = parser.parse_args()
    unknown = sorted(set(options.peers) - set(PEERS))
    if unknown:
        parser.error(f"{', '.join(unknown)}: peers are {', '.join(PEERS)}")
    cv2.setNumThreads(1)
    console = Console()
    source = prepare()
    ours = [run_ours(source)]
    found: dict[str, dict[str, Any]] = {}
    easier: dict[str, dict[str, Any]] = {}
    for name in options.peers or PEERS:
        console.print(f"{name} ...", style="dim")
        found[name] = run(name, PEERS[name])
        if "ms" in found[name]:
            easier[name] = run(name, PEERS[name], "--resized")
        for folder in (name, f"{name}_resized"):
            shutil.rmtree(FOLDER / folder, ignore_errors=True)
    ours.append(run_ours(source))
    ours_ms = {
        f"{way}_ms": statistics.median(wall for each in ours for wall in each[way])
        for way in ("grpc", "grpcio")
    }
    timed = _values(found, "ms")
    results: dict[str, Any] = {
        **ours_ms,
        **timed,
        "cpu_ms": _values(found, "cpu_ms"),
        "resized_offline_ms": _values(easier, "ms"),
        "not_run": _values(found, "error"),
        "machine": machine(),
    }
    if not options.peers:
        write_results("sampler_peers", results)
        write_docs()
    show(console, results, timed)
    for name, reason in results["not_run"].items():
        console.print(f"[red]{name}[/red]: {reason}")


if __name__ == "__main__":
    main()
