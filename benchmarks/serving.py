"""A sampler server as a process of its own, and what it and its children use."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import psutil

from penstock import Plan, SamplerClient
from penstock.client.health import check_health
from penstock.errors import PenstockError
from penstock.server.port import free_port
from penstock.targets import Target

__all__ = [
    "Server",
    "anonymous_bytes",
    "cached_files",
    "cpu_s",
    "fill_cache",
    "running_server",
]

_END_S = 20.0
_LAST_LINES = 20
_FILL_S = 240.0


@dataclass(frozen=True)
class Server:
    """A running server.

    Attributes:
        process: Its first process.
        target: Where it listens.
        log: File that gets its output.
    """

    process: psutil.Popen
    target: str
    log: Path

    @property
    def tree(self) -> list[psutil.Process]:
        """The process and all below it."""
        return [self.process, *self.process.children(recursive=True)]

    def check(self) -> None:
        """Raise RuntimeError with its last words if it has ended."""
        status = self.process.poll()
        if status is not None:
            words = "\n".join(self.log.read_text().splitlines()[-_LAST_LINES:])
            raise RuntimeError(f"{self.target} has ended with status {status}:\n{words}")

    def wait_until_serving(self) -> None:
        """Wait until it answers.

        Raises:
            RuntimeError: It has ended.
        """
        while True:
            self.check()
            try:
                if check_health(Target.parse(self.target)).serving:
                    return
            except PenstockError:
                time.sleep(0.1)


@contextmanager
def running_server(data: str, log: Path, **settings: str | int | Path) -> Iterator[Server]:
    """Serve ``data`` on loopback until the block ends.

    Args:
        data: Files to serve.
        log: File that gets its output.
        settings: Settings by their names, such as ``cache_dir``.
    """
    port = free_port()
    flags = [f"--{name.replace('_', '-')}={value}" for name, value in settings.items()]
    command = [str(Path(sys.executable).with_name("penstock")), "serve", "sampler"]
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("w") as output:
        process = psutil.Popen(
            [*command, f"--data={data}", f"--port={port}", "--log-format=json", *flags],
            stdout=output,
            stderr=subprocess.STDOUT,
            env={**os.environ, "PYTHONUNBUFFERED": "1"},
        )
    try:
        yield Server(process, f"grpc://127.0.0.1:{port}", log)
    finally:
        process.terminate()
        try:
            process.wait(_END_S)
        except psutil.TimeoutExpired:
            process.kill()
            process.wait()


def fill_cache(sampler: SamplerClient, plan: Plan, folder: Path) -> None:
    """Have every file of the dataset cached: touch each, then wait for the last to be there.

    Raises:
        TimeoutError: They are not all in ``folder`` in time.
    """
    files = len(sampler.info.files)
    deadline = time.monotonic() + _FILL_S
    epoch = replace(plan, sampling="epoch")
    while len(cached_files(folder)) < files:
        if time.monotonic() > deadline:
            raise TimeoutError(f"{len(cached_files(folder))} of {files} files cached in {folder}")
        sampler.sample(epoch, 0)  # an epoch's batch touches every file of a few
        time.sleep(0.5)
    os.sync()  # what is still being written would take the disk and cores from what is timed


def cached_files(folder: Path) -> list[Path]:
    """What the frame cache holds in ``folder``."""
    return sorted(folder.glob("*.frames"))


def cpu_s(processes: Sequence[psutil.Process]) -> float:
    """Seconds of CPU, user and system, that ``processes`` have used."""
    times = [process.cpu_times() for process in processes]
    return sum(each.user + each.system for each in times)


def anonymous_bytes(processes: Sequence[psutil.Process]) -> int:
    """Anonymous memory of ``processes`` (``RssAnon``): what no file on a disk backs.

    Shared memory (``RssShmem``) is counted once, as the largest share that one process maps.
    """
    anonymous, shared = 0, 0
    for process in processes:
        try:
            status = Path(f"/proc/{process.pid}/status").read_text()
        except (FileNotFoundError, ProcessLookupError):
            continue  # it has ended, and holds nothing
        sizes = dict(line.split(":", 1) for line in status.splitlines() if ":" in line)
        if "RssAnon" in sizes:  # not of one that has ended and is not waited for yet
            anonymous += 1024 * int(sizes["RssAnon"].split()[0])
            shared = max(shared, 1024 * int(sizes["RssShmem"].split()[0]))
    return anonymous + shared
