"""Times rollouts: codecs beside others, parts of one, and the way from a collector to a trainer.

Run: ``make bench-rollouts`` (about 10 minutes; as root, for two network namespaces are the
machines). The rollout is one of ``examples/navigation_ppo``: 1024 environments, 32 steps, a
mediocre policy. All ways take turns, each peer in processes and an environment of its own; what
favours whom stands at the top of each peer's file. Prints each figure beside what is wanted of it;
a figure is no test. A run of all parts at full length writes ``benchmarks/results/rollouts.json``
and the tables of ``docs/benchmarks.md``; what did not run is recorded with the reason.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

sys.path.insert(0, str(Path(__file__).parents[2] / "examples"))
sys.path.insert(0, str(Path(__file__).parents[2] / "tests"))
sys.path.insert(0, str(Path(__file__).parents[1]))
from calibrated import time_calibrated
from codecs_in_turn import time_codecs
from document import write_docs
from goals import GOALS, KEYS, compare
from navigation_ppo.collecting import collect_random
from network_namespaces import why_not
from peers import peer_versions
from processes import PeerFailed
from pulls import count_pulls
from report import machine, write_results
from transfers import machines, time_transfers
from worker import Leaves, digest, save

from penstock.rollout_file import flatten

ENVS, STEPS, SEED = 1024, 32, 7
PARTS = ("codecs", "transfers")
_WIDTH = 110
"""Of tables in a file or a log."""
_VERSIONS = ("penstock", "numpy", "grpcio", "lz4", "blosc2")


@dataclass(frozen=True)
class Amount:
    """How much is done.

    Attributes:
        codec_turns: Of every codec.
        rates: Turns of all transfers by rate.
    """

    codec_turns: int = 7
    rates: Mapping[str, int] = field(
        default_factory=lambda: {"0.1": 3, "1": 9, "10": 13, "unshaped": 13}
    )


QUICK = Amount(1, {"1": 1, "10": 1})


class Bench:
    """Everything that is measured.

    Args:
        folder: For the rollout, logs and a store on a disk.
        amount: How much is done.
        console: Where to say what goes on.
    """

    def __init__(self, folder: Path, amount: Amount, console: Console) -> None:
        self._folder, self._amount, self._console = folder, amount, console
        self._data = folder / "data"
        with console.status("collecting"):
            leaves: Leaves = flatten(collect_random(ENVS, STEPS, SEED))
        save(self._data, leaves)
        self._raw_bytes = sum(array.nbytes for array in leaves.values())
        self._digest = digest(leaves)
        self.found: dict[str, Any] = {
            "raw_mb": self._raw_bytes / 1e6,
            "fields": len(leaves),
            "envs": ENVS,
            "steps": STEPS,
        }
        self.not_run: dict[str, str] = {}

    def codecs(self) -> None:
        """Ratios and speeds."""
        with self._console.status("codecs") as status:
            self.found["codecs"], failed = time_codecs(
                self._data,
                self._folder,
                raw_bytes=self._raw_bytes,
                digest=self._digest,
                turns=self._amount.codec_turns,
                say=status.update,
            )
            status.update("codecs, rollouts as regular as those of the wanted figures")
            self.found["calibrated"] = time_calibrated(ENVS, STEPS, SEED, self._amount.codec_turns)
        self.not_run |= failed

    def transfers(self) -> None:
        """Parts of a rollout, and the way between two machines."""
        reason = why_not()
        if reason is not None:
            self.not_run["transfers"] = reason
            return
        disk = self._folder / "store"
        with (
            self._console.status("transfers") as status,
            tempfile.TemporaryDirectory(prefix="rollouts-", dir="/dev/shm") as store,
        ):
            try:
                with machines(self._data, self._folder, Path(store), disk, status.update) as shaped:
                    found = time_transfers(
                        shaped, dict(self._amount.rates), self._digest, status.update
                    )
                    self.found |= found
                    self.not_run |= shaped.failed
                    status.update("parts of a rollout")
                    self.found["pulls"] = count_pulls(shaped)
            except PeerFailed as error:
                self.not_run["transfers"] = str(error)


def show(console: Console, found: Mapping[str, Any]) -> None:
    """Print each figure beside what is wanted of it, and all tables."""
    table = Table("figure", "measured", "wanted", "", title="Rollouts")
    for goal in GOALS:
        there = goal.name in found
        met = "met" if goal.is_met(found) else "[red]missed" if there else ""
        measured = goal.show(found[goal.name]) if there else "missing"
        table.add_row(goal.text, measured, goal.show_bound(), met)
    console.print(table)
    codecs = Table("codec", "ratio", "MB/s in", "MB/s out", title="One core")
    for way, each in found.get("codecs", {}).items():
        row = (each["ratio"], each["in_mb_s"], each["out_mb_s"])
        codecs.add_row(way, f"{row[0]:.2f}", f"{row[1]:,.0f}", f"{row[2]:,.0f}")
    console.print(codecs)
    for rate, ways in found.get("transfers", {}).items():
        columns = (
            "way",
            "ms",
            "least",
            "most",
            "sent ms",
            "MB sent",
            "collector",
            "server",
            "trainer",
        )
        transfers = Table(*columns, title=f"{rate} Gb/s; CPU in ms")
        for way, each in ways.items():
            turns, cpu = each["turns_ms"], ("collector_cpu_ms", "server_cpu_ms", "trainer_cpu_ms")
            milliseconds = (each["ms"], min(turns), max(turns), each["sent_ms"])
            transfers.add_row(
                way,
                *(f"{value:.0f}" for value in milliseconds),
                f"{each['wire_mb']:.2f}",
                *(f"{each[name]:.0f}" for name in cpu),
            )
        console.print(transfers)
    for rate, advice in found.get("advice", {}).items():
        console.print(f"advice at {rate} Gb/s: {advice['reason']}", highlight=False)
    for choice, each in found.get("pulls", {}).items():
        shares = {name: f"{100 * each[name]:.2f} %" for name in each if name.endswith("share")}
        console.print(f"8 {choice}: {shares}", highlight=False)
    for name, value in found.items():
        if isinstance(value, (int, float)):
            console.print(f"{name}: {value:.4g}", highlight=False)
    for name, reason in found["not_run"].items():
        console.print(f"[red]{name}[/red]: {reason}", highlight=False, soft_wrap=True)


def main() -> int:
    """Measure what is asked for; write the results of a run of everything."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="A few turns; writes nothing.")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS, help="Only these.")
    parser.add_argument("--keep-logs", type=Path, help="Folder for what all processes say.")
    options = parser.parse_args()
    console = Console()
    if not console.is_terminal:
        console = Console(width=_WIDTH)
    begun_s = time.monotonic()
    at = machine() | {name: version(name) for name in _VERSIONS} | peer_versions()
    with tempfile.TemporaryDirectory(prefix="rollouts-") as name:
        folder = options.keep_logs or Path(name)
        folder.mkdir(parents=True, exist_ok=True)
        bench = Bench(folder, QUICK if options.quick else Amount(), console)
        for part in options.parts:
            getattr(bench, part)()
    found = bench.found | compare(bench.found)
    found |= {"not_run": bench.not_run, "run_s": time.monotonic() - begun_s}
    found["goals_met"] = {goal.name: goal.is_met(found) for goal in GOALS}
    show(console, found)
    console.print(", ".join(f"{key} {value}" for key, value in at.items()), highlight=False)
    left_out = [key for key in KEYS if key not in found]
    if options.quick or left_out:
        console.print(f"nothing is written{': no ' if left_out else ''}{', '.join(left_out)}")
        return 0 if options.quick or len(options.parts) < len(PARTS) else 1
    console.print(f"wrote {write_results('rollouts', {**found, 'machine': at})}")
    console.print(f"wrote {write_docs()}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
