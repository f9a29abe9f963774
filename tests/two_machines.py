"""Collector and trainer of ``navigation_ppo`` on two machines, and what may go wrong there."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Self

from network_namespaces import Machine, two_machines

__all__ = ["Part", "TwoMachines", "lines_of", "wait_for"]

ROOT = Path(__file__).resolve().parents[1]
PATIENCE_S = 120


def wait_for(condition: Callable[[], bool], told: Callable[[], str]) -> None:
    """Wait until a condition holds; if it never does, fail with what is told then."""
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline, f"waited in vain; {told()}"
        time.sleep(0.02)


def lines_of(journal: Path) -> list[dict]:
    """The whole lines of a journal."""
    if not journal.exists():
        return []
    whole, _, _ = journal.read_bytes().rpartition(b"\n")
    return [json.loads(line) for line in whole.splitlines()]


class Part:
    """A process on one of the machines, that can be killed and started again."""

    def __init__(self, machine: Machine, log: Path, *command: str) -> None:
        self._command = machine.command(sys.executable, "-u", "-m", *command)
        self.log = log
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        examples = os.pathsep.join((str(ROOT / "examples"), os.environ.get("PYTHONPATH", "")))
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                self._command, stdout=log, stderr=log, env=os.environ | {"PYTHONPATH": examples}
            )

    def kill(self) -> None:
        """As a kernel out of memory would."""
        if self.process is not None:
            self.process.send_signal(signal.SIGKILL)
            self.process.wait()

    def kill_and_start(self) -> None:
        self.kill()
        self.start()

    def said(self) -> str:
        return self.log.read_text() if self.log.exists() else ""


class TwoMachines:
    """Checkpointer and trainer on one machine, the collector on another.

    Attributes:
        collected: Journal of the collector.
        trained: Journal of the trainer.
        checkpointer, collector, trainer: The processes.
        cable: Between the machines.
    """

    def __init__(self, folder: Path, *options: str) -> None:
        self._folder, self._options = folder, options
        self.collected, self.trained = folder / "collector.jsonl", folder / "trainer.jsonl"
        self._machines = two_machines()

    def __enter__(self) -> Self:
        near, far, self.cable = self._machines.__enter__()
        anywhere = "0.0.0.0"  # noqa: S104 - the machine has a network of its own
        serve = ["penstock.cli", "serve", "checkpointer", "--host", anywhere]
        serve += ["--root", str(self._folder / "store")]
        self.checkpointer = Part(near, self._folder / "checkpointer.log", *serve)
        self.trainer = Part(
            near,
            self._folder / "trainer.log",
            *("navigation_ppo", "train", "--target", "grpc://127.0.0.1:50053"),
            *("--journal", str(self.trained), *self._options),
        )
        self.collector = Part(
            far,
            self._folder / "collector.log",
            *("navigation_ppo", "collect", "--target", f"grpc://{near.address}:50053"),
            *("--journal", str(self.collected)),
        )
        for part in self.parts:
            part.start()
        return self

    def __exit__(self, *error: object) -> None:
        for part in self.parts:
            part.kill()
        self._machines.__exit__(None, None, None)

    @property
    def parts(self) -> tuple[Part, Part, Part]:
        return self.checkpointer, self.trainer, self.collector

    def wait_for_rollouts(self, count: int) -> None:
        """Until so many more were trained on."""
        wanted = len(lines_of(self.trained)) + count
        wait_for(lambda: len(lines_of(self.trained)) >= wanted or self.is_over(), self._told)

    def wait_for_a_push(self) -> None:
        """Until the collector begins to push another one, or the run is over."""
        begun = len(lines_of(self.collected))
        wait_for(lambda: len(lines_of(self.collected)) > begun or self.is_over(), self._told)

    def wait_until_trainer_waits(self) -> None:
        """Until the trainer has had nothing to do for some seconds, or the run is over."""
        before = self.trainer.said().count("waiting for rollouts")
        wait_for(
            lambda: self.trainer.said().count("waiting for rollouts") > before or self.is_over(),
            self._told,
        )

    def wait_for_the_end(self) -> tuple[int, int]:
        """Exit codes of trainer and collector."""
        ends = []
        for part in (self.trainer, self.collector):
            process = part.process
            assert process is not None
            wait_for(lambda process=process: process.poll() is not None, self._told)
            ends.append(process.returncode)
        return ends[0], ends[1]

    def is_over(self) -> bool:
        """Whether the trainer has come to an end of its own."""
        assert self.trainer.process is not None
        return self.trainer.process.poll() is not None

    def _told(self) -> str:
        tails = (f"{part.log.name}:\n{part.said()[-1500:]}" for part in self.parts)
        return "\n".join(tails)
