"""Times saving beside a training loop, and other ways to do so; says what each profile saves.

Run: ``make bench-checkpointer``. A policy learns first, so that what is saved is trained. Then, all
in one run: profiles on its state; training with a save every 20 steps and without, in turns; calls
of every way to save, in turns. Prints each figure beside what is wanted of it; a figure is no test,
the exit status is 0. Writes ``benchmarks/results/checkpointer.json`` and the tables of
``docs/benchmarks.md``.
"""

from __future__ import annotations

import argparse
import logging
import shutil
import sys
import time
import warnings
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import structlog
import torch
from rich.console import Console
from rich.table import Table
from torch.distributed.checkpoint.state_dict_saver import AsyncCheckpointerType

sys.path.insert(0, str(Path(__file__).parents[1]))
from document import write_docs
from encoding import Encoded, base_of, encode, lz4_alone
from goals import GOALS
from loops import SAVE_EVERY, Calls, copy_ms, memory_mb, time_calls, time_throughput
from report import machine, write_results
from training import Training, size_bytes, tensors_of
from ways import (
    DeepCopyAndSave,
    DistributedSave,
    PenstockSave,
    TorchSave,
    Way,
    single_process_group,
)

FOLDER = Path(__file__).parents[1] / "data" / "checkpointer"
DELTA_STEPS = 10
_WARM_UP = 8
_DCP_COPYING = ("dcp_thread", "dcp_process", "dcp_kept")
"""Their calls copy; that of ``dcp_async`` leaves it to a thread."""
_DCP = (*_DCP_COPYING, "dcp_async")


@dataclass(frozen=True)
class Amount:
    """How much is done.

    Attributes:
        training_steps: Before anything is measured.
        encodings: Turns of each profile.
        pairs: Pairs of turns with and without saves, one thread.
        pairs_two_threads: The same, two threads.
        turns: Turns of all ways to save.
        calls: Calls of ``save_async`` in one turn; the first 8 of the first turn come on top.
        calls_dcp: Calls of each kind of DCP in one turn; one comes on top.
        calls_other: Calls of the others in one turn; one comes on top.
    """

    training_steps: int = 300
    encodings: int = 5
    pairs: int = 8
    pairs_two_threads: int = 5
    turns: int = 3
    calls: int = 42
    calls_dcp: int = 4
    calls_other: int = 2


QUICK = Amount(40, 1, 1, 1, 1, 12, 2, 1)


def measure_profiles(training: Training, turns: int) -> dict[str, Any]:
    """What the profiles save of the trained state, and how fast."""
    state = training.state()
    encoded: dict[str, Encoded] = {**encode(state, ("small", "fast"), turns=turns)}
    policy = {"policy": training.model.state_dict()}
    encoded["policy_bf16"] = encode(policy, ("policy-bf16",), turns=turns)["policy-bf16"]
    found: dict[str, Any] = {"lz4_alone_saved": lz4_alone(state)}
    with base_of(state, training.steps) as base:
        training.run(DELTA_STEPS)
        later = training.state()
        encoded["delta10"] = encode(later, ("delta",), turns=turns, base=base)["delta"]
    return {**found, **_profile_figures(encoded), "sections": _sections(encoded)}


def measure_frozen(training: Training, turns: int) -> dict[str, Any]:
    """The second checkpoint of a run that leaves the encoder as it is."""
    training.freeze_encoder()
    training.run(DELTA_STEPS)
    with base_of(training.state(), training.steps) as base:
        training.run(DELTA_STEPS)
        later = training.state()
        found = encode(later, ("delta",), turns=turns, base=base)["delta"]
    return _profile_figures({"frozen": found})


def measure_throughput(training: Training, amount: Amount) -> dict[str, Any]:
    """Training with a save every 20 steps beside training without, and what saving takes."""
    training_mb = memory_mb(psutil.Process(), "VmRSS")
    with closing(PenstockSave(FOLDER / "store")) as ours:
        one = time_throughput(training, ours, pairs=amount.pairs, threads=1)
        two = time_throughput(training, ours, pairs=amount.pairs_two_threads, threads=2)
        training_saving_mb = memory_mb(psutil.Process(), "VmRSS")
        buffers = ours.buffers()
    return {
        "throughput_ratio": one.ratio,
        "throughput_ratio_two_threads": two.ratio,
        "step_ms": one.plain_step_ms,
        "step_ms_two_threads": two.plain_step_ms,
        "durable_s": float(np.median(one.durable_s)),
        "uploader_cpu_s": float(np.median(one.uploader_cpu_s)),
        "save_every_steps": SAVE_EVERY,
        "turns_late": one.late + two.late,
        "training_mb": training_mb,
        "training_saving_mb": training_saving_mb,
        "buffers_every_20_steps": buffers,
    }


def measure_calls(training: Training, amount: Amount, durable_s: float) -> dict[str, Any]:
    """Calls of every way and the stalls after them."""
    single_process_group()
    process = AsyncCheckpointerType.PROCESS
    memory = {"uploader_mb": 0.0, "uploader_anonymous_mb": 0.0}
    buffers = 0
    with (
        closing(PenstockSave(FOLDER / "store", when_full="drop-oldest")) as ours,
        closing(DistributedSave(FOLDER, process, keep=True)) as kept,
        closing(DistributedSave(FOLDER, process, keep=True, overlap=True)) as overlapping,
    ):
        ways: dict[str, Way] = {
            "ours": ours,
            "dcp_thread": DistributedSave(FOLDER, AsyncCheckpointerType.THREAD),
            "dcp_process": DistributedSave(FOLDER, process),
            "dcp_kept": kept,
            "dcp_async": overlapping,
            "deepcopy": DeepCopyAndSave(FOLDER),
            "torch_save": TorchSave(FOLDER),
        }

        def watch() -> None:
            nonlocal buffers
            buffers = max(buffers, ours.buffers())
            for name, kind in (("uploader_mb", "VmRSS"), ("uploader_anonymous_mb", "RssAnon")):
                memory[name] = max(memory[name], memory_mb(ours.uploader, kind))

        counts = dict.fromkeys(ways, amount.calls_other) | dict.fromkeys(_DCP, amount.calls_dcp)
        calls, state_dict_ms = time_calls(
            training,
            ways,
            counts | {"ours": amount.calls},
            turns=amount.turns,
            warm_up=dict.fromkeys(ways, 1) | {"ours": _WARM_UP},
            watch=watch,
        )
        dropped, plans = ours.saver.counts["dropped"], ours.saver.counts["plans"]
    table = {name: _way_figures(each, ways[name].durable_s) for name, each in calls.items()}
    table["ours"]["durable_s"] = durable_s
    return {
        **_call_figures(table, calls["ours"]),
        "state_dict_ms": state_dict_ms,
        "ways": table,
        **memory,
        "buffers": buffers,
        "buffers_mb": buffers * size_bytes(training.state()) / 1e6,
        "dropped": dropped,
        "plans": plans,
    }


def _call_figures(table: dict[str, dict[str, Any]], ours: Calls) -> dict[str, Any]:
    call_p99, stall_p99 = np.percentile(ours.call_ms, 99), np.percentile(ours.stall_ms, 99)
    stage_ms = float(np.median(ours.stage_ms))
    call_ms, stall_ms = table["ours"]["call_ms_p50"], table["ours"]["stall_ms_p50"]
    shortest_ms = min(table[name]["call_ms_p50"] for name in _DCP_COPYING)
    beside = table["dcp_async"]
    return {
        "call_ms_p50": call_ms,
        "call_ms_p99": float(call_p99),
        "first_call_ms": table["ours"]["first_call_ms"],
        "stall_ms_p50": stall_ms,
        "stall_ms_p99": float(stall_p99),
        "copy_ms": stage_ms,
        "stall_share": stall_ms / stage_ms,
        "dcp_call_ms_p50": shortest_ms,
        "dcp_over_ours": shortest_ms / (call_ms + stall_ms),
        "dcp_async_wait_ms_p50": beside["call_ms_p50"] + beside["stall_ms_p50"],
        "deepcopy_call_ms": table["deepcopy"]["call_ms_p50"],
        "torch_save_ms": table["torch_save"]["call_ms_p50"],
    }


def _way_figures(calls: Calls, durable_s: list[float]) -> dict[str, Any]:
    found: dict[str, Any] = {
        "call_ms_p50": float(np.median(calls.call_ms)),
        "stall_ms_p50": float(np.median(calls.stall_ms)),
        "first_call_ms": calls.first_ms,
        "calls": len(calls.call_ms),
    }
    if durable_s:
        found["durable_s"] = float(np.median(durable_s))
    return found


def _profile_figures(encoded: dict[str, Encoded]) -> dict[str, float]:
    found: dict[str, float] = {}
    for name, each in encoded.items():
        found[f"saved_{name}"] = each.saved
        found[f"{name}_mb_s"] = each.mb_s
        found[f"{name}_cpu_mb_s"] = each.cpu_mb_s
    return found


def _sections(encoded: dict[str, Encoded]) -> dict[str, dict[str, dict[str, float]]]:
    return {name: each.sections for name, each in encoded.items()}


def measure(amount: Amount, console: Console) -> dict[str, Any]:
    """Measure everything, in one process."""
    begun_s = time.monotonic()
    training = Training()
    torch.set_num_threads(1)
    with console.status("training"):
        training.run(amount.training_steps)
    found: dict[str, Any] = {
        "tensors": len(tensors_of(training.state())),
        "state_mb": size_bytes(training.state()) / 1e6,
        "training_steps": training.steps,
        "loss_first": float(np.mean(training.losses[:10])),
        "loss_last": float(np.mean(training.losses[-10:])),
    }
    with console.status("profiles"):
        found |= measure_profiles(training, amount.encodings)
    with console.status("copying"):
        copied = copy_ms(training, 3 * amount.encodings)
        found["memcpy_ms"], found["memcpy_tensors_ms"] = copied
    with console.status("training with saves and without"):
        found |= measure_throughput(training, amount)
    before = len(training.forward_backward_ms)
    with console.status("calls"):
        found |= measure_calls(training, amount, found["durable_s"])
    found["forward_backward_ms"] = float(np.median(training.forward_backward_ms[before:]))
    with console.status("profiles, encoder frozen"):
        found |= measure_frozen(training, amount.encodings)
    found["goals_met"] = {goal.name: goal.is_met(found) for goal in GOALS}
    found["run_s"] = time.monotonic() - begun_s
    return found


def show(console: Console, found: dict[str, Any]) -> None:
    """Print each figure beside what is wanted, and all others."""
    table = Table("figure", "measured", "wanted", "", title="Saving checkpoints")
    for goal in GOALS:
        met = "" if goal.is_met(found) else "[red]missed"
        table.add_row(goal.text, goal.show(found[goal.name]), goal.show_bound(), met)
    console.print(table)
    ways = Table("way", "call ms", "stall ms", "first call ms", "durable s", "calls")
    for name, way in found["ways"].items():
        row = (way["call_ms_p50"], way["stall_ms_p50"], way["first_call_ms"], way["durable_s"])
        ways.add_row(name, *(f"{value:.2f}" for value in row), str(way["calls"]))
    console.print(ways)
    for name, value in found.items():
        if isinstance(value, (int, float)):
            console.print(f"{name.replace('_', ' ')}: {value:.4g}", highlight=False)
    for profile, sections in found["sections"].items():
        parts = (f"{name} {100 * each['saved']:.1f} %" for name, each in sections.items())
        console.print(f"{profile}: {', '.join(parts)}", highlight=False)


def main() -> None:
    """Measure everything and write the results."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="A few of each; writes nothing.")
    options = parser.parse_args()
    console = Console()
    # One line for each snapshot that is dropped or removed, and there are many.
    logging.getLogger("penstock").setLevel(logging.ERROR)
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.ERROR))
    warnings.filterwarnings("ignore", module=r"torch\.distributed")
    shutil.rmtree(FOLDER, ignore_errors=True)
    FOLDER.mkdir(parents=True)
    try:
        found = measure(QUICK if options.quick else Amount(), console)
    finally:
        shutil.rmtree(FOLDER, ignore_errors=True)
    at = machine() | {"torch": torch.__version__}
    show(console, found)
    console.print(", ".join(f"{name} {value}" for name, value in at.items()), highlight=False)
    if not options.quick:
        write_results("checkpointer", {**found, "machine": at})
        console.print(f"wrote {write_docs()}")


if __name__ == "__main__":
    main()
