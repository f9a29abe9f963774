"""Checkpointers on one machine of two."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Generator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil
from environments import last_lines
from network_namespaces import Machine
from processes import PeerFailed

__all__ = ["Checkpointer", "running_checkpointers"]

_FIRST_PORT = 50053
_START_S, _END_S = 60.0, 10.0
_PROBE = "import socket, sys; socket.create_connection(('127.0.0.1', int(sys.argv[1])), 1).close()"


@dataclass(frozen=True)
class Checkpointer:
    """A running checkpointer.

    Attributes:
        process: Of it.
        port: Where it listens, on all addresses of its machine.
        root: Directory of its store.
    """

    process: psutil.Popen
    port: int
    root: Path

    def read_bytes(self) -> int:
        """What it has read so far, at least of files: the kernel does not count sockets."""
        return self.process.io_counters().read_chars


@contextmanager
def running_checkpointers(
    machine: Machine, roots: Sequence[Path], logs: Path
) -> Generator[list[Checkpointer]]:
    """Serve a store in each of ``roots`` until the block ends.

    Raises:
        PeerFailed: One does not come up.
    """
    with ExitStack() as running:
        servers: list[Checkpointer] = []
        for number, root in enumerate(roots):
            servers.append(
                running.enter_context(
                    _serve(machine, root, _FIRST_PORT + number, logs / f"server-{number}.log")
                )
            )
        yield servers


@contextmanager
def _serve(machine: Machine, root: Path, port: int, log: Path) -> Generator[Checkpointer]:
    penstock = str(Path(sys.executable).with_name("penstock"))
    flags = (f"--root={root}", "--host=0.0.0.0", f"--port={port}", "--scrub-interval-s=0")
    with log.open("w") as output:
        process = psutil.Popen(
            machine.command(penstock, "serve", "checkpointer", *flags, "--log-format=json"),
            stdout=output,
            stderr=subprocess.STDOUT,
            env={**os.environ, "PYTHONUNBUFFERED": "1"},
        )
    try:
        deadline = time.monotonic() + _START_S
        while not _listens(machine, port):
            if process.poll() is not None or time.monotonic() > deadline:
                raise PeerFailed(f"no checkpointer: {last_lines(log.read_text())}")
            time.sleep(0.1)
        yield Checkpointer(process, port, root)
    finally:
        process.terminate()
        try:
            process.wait(_END_S)
        except psutil.TimeoutExpired:
            process.kill()
            process.wait()


def _listens(machine: Machine, port: int) -> bool:
    command = machine.command(sys.executable, "-S", "-c", _PROBE, str(port))
    return subprocess.run(command, capture_output=True, check=False).returncode == 0
