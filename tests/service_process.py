"""Runs a service as the command line does, as a process of its own."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path
from typing import Self

import tenacity

from penstock.client.health import check_health
from penstock.errors import PenstockError
from penstock.server.port import free_port
from penstock.targets import Target

__all__ = ["ServiceProcess"]

START_S = 60


class ServiceProcess:
    """``penstock serve NAME ...`` on a free port; can be killed and started again."""

    def __init__(self, name: str, *arguments: str, log: Path) -> None:
        self.name, self.arguments, self.log = name, arguments, log
        self.port = free_port()
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def target(self) -> str:
        return f"grpc://127.0.0.1:{self.port}"

    def start(self) -> Self:
        """Start it and return when it reports healthy."""
        command = [sys.executable, "-m", "penstock.cli", "serve", self.name, *self.arguments]
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [*command, "--port", str(self.port)], stdout=log, stderr=log
            )
        self.wait_until_healthy()
        return self

    @tenacity.retry(
        retry=tenacity.retry_if_exception_type(PenstockError),
        wait=tenacity.wait_fixed(0.1),
        stop=tenacity.stop_after_delay(START_S),
        reraise=True,
    )
    def wait_until_healthy(self) -> None:
        assert self.process is not None
        assert self.process.poll() is None, f"{self.name} ended:\n{self.log.read_text()}"
        assert check_health(Target.parse(self.target)).serving

    def kill(self) -> None:
        """Kill it as an operator, or a kernel out of memory, would."""
        assert self.process is not None
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()

    def resume(self) -> None:
        """Let it go on if it was paused (SIGSTOP); one that has ended is left alone."""
        if self.process is not None and self.process.poll() is None:
            self.process.send_signal(signal.SIGCONT)

    def stop(self, timeout_s: float = 30) -> int:
        """Ask it to end and return its exit status."""
        assert self.process is not None
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        return self.process.wait(timeout_s)

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        assert self.process is not None
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
