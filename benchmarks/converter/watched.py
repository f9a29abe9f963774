"""Runs a command as a process of its own; says what it and all below it took."""

from __future__ import annotations

import contextlib
import os
import subprocess
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil

__all__ = ["Run", "run_watched"]

_PERIOD_S = 0.02


@dataclass(frozen=True)
class Run:
    """What a process and its descendants took.

    Attributes:
        status: Exit status of the first process, negative for a signal.
        cpu_s: User and system time of it and of all descendants that were waited for.
        wall_s: Time that passed.
        peak_mb: Largest memory of all of them together. One process: its ``VmHWM``. Several: the
            sum of their PSS, so that pages they share count once.
        processes: Most of them at the same time.
        said: End of what it printed.
    """

    status: int
    cpu_s: float
    wall_s: float
    peak_mb: float
    processes: int
    said: str


def run_watched(
    command: Sequence[str | Path],
    *,
    log: Path,
    fed_by: Sequence[str | Path] | None = None,
    environment: Mapping[str, str] | None = None,
) -> Run:
    """Run ``command`` to its end.

    Args:
        command: What.
        log: File for what it prints.
        fed_by: A second command whose output it reads; what that takes is not counted.
        environment: Added to this process's own.
    """
    variables = {**os.environ, **(environment or {})}
    feeder = None
    with contextlib.ExitStack() as stack:
        output = stack.enter_context(log.open("w+b"))
        if fed_by is not None:
            feeder = subprocess.Popen(fed_by, stdout=subprocess.PIPE, env=variables)
            stack.callback(feeder.wait)
            stack.callback(feeder.kill)
        begun_s = time.perf_counter()
        process = subprocess.Popen(
            command,
            stdin=feeder.stdout if feeder else subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env=variables,
        )
        if feeder is not None and feeder.stdout is not None:
            feeder.stdout.close()
        watch = _Watch(process.pid)
        try:
            _, status, usage = os.wait4(process.pid, 0)
        except BaseException:
            process.kill()
            raise
        finally:
            watch.stop()
        wall_s = time.perf_counter() - begun_s
        process.returncode = os.waitstatus_to_exitcode(status)
        output.seek(max(0, output.seek(0, os.SEEK_END) - 4000))
        said = output.read().decode(errors="replace")
    return Run(
        status=process.returncode,
        cpu_s=usage.ru_utime + usage.ru_stime,
        wall_s=wall_s,
        peak_mb=watch.peak_bytes / 1e6,
        processes=watch.processes,
        said=said,
    )


class _Watch:
    """Looks at a tree of processes every 20 ms.

    ``ru_maxrss`` would not do: until its ``exec``, a child counts the memory of its parent.
    """

    def __init__(self, pid: int) -> None:
        self._root = psutil.Process(pid)
        self._stop = threading.Event()
        self.peak_bytes, self.processes = 0, 1
        self._thread = threading.Thread(target=self._look, daemon=True)
        self._thread.start()

    def _look(self) -> None:
        while not self._stop.wait(_PERIOD_S):
            with contextlib.suppress(psutil.Error):
                tree = [self._root, *self._root.children(recursive=True)]
                self.processes = max(self.processes, len(tree))
                # A process on its own keeps its peak itself.
                found = (
                    _field_bytes(self._root.pid, "status", "VmHWM:")
                    if len(tree) == 1
                    else sum(_field_bytes(each.pid, "smaps_rollup", "Pss:") for each in tree)
                )
                self.peak_bytes = max(self.peak_bytes, found)

    def stop(self) -> None:
        """Look no more."""
        self._stop.set()
        self._thread.join()


def _field_bytes(pid: int, file: str, field: str) -> int:
    """A size that the kernel gives in kB; 0 for a process that has ended."""
    with contextlib.suppress(OSError):
        for line in Path(f"/proc/{pid}/{file}").read_text().splitlines():
            if line.startswith(field):
                return int(line.split()[1]) * 1024
    return 0
