"""The processes of the demo: started in groups of their own, watched, and stopped without fail."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

from penstock.client.health import check_health
from penstock.errors import TimedOut, Unavailable
from penstock.targets import Target

__all__ = ["Processes"]

_RESTARTS = 3
_STOP_S = 30.0
_POLL_S = 0.2
_LOG_TAIL_LINES = 15


@dataclass
class _Service:
    name: str
    command: Sequence[str]
    log_path: Path
    process: subprocess.Popen[bytes]
    until_done: bool = False
    restarts: int = 0
    watcher: threading.Thread = field(init=False)


class Processes:
    """Children of this process. Leaving the block stops them all, the last started first.

    A service that ends by itself is started again, a few times at most: clients wait for it.

    Args:
        log_folder: Where each service's output goes, ``<name>.log``.
        say: Tells people about restarts.
    """

    def __init__(self, log_folder: Path, say: Callable[[str], None] = print) -> None:
        self._log_folder = log_folder
        self._say = say
        self._services: list[_Service] = []
        self._foreground: subprocess.Popen[bytes] | None = None
        self._lock = threading.Lock()
        self._stopping = False

    def __enter__(self) -> Self:
        self._log_folder.mkdir(parents=True, exist_ok=True)
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def run(self, command: Sequence[str]) -> int:
        """Run a command to its end, on this terminal, and return its exit code."""
        # A group of its own, so that stopping it reaches its children too.
        with subprocess.Popen(  # noqa: S603 - the demo's own command
            _mortal(command), stdin=subprocess.DEVNULL, start_new_session=True
        ) as process:
            self._foreground = process
            try:
                return process.wait()
            finally:
                _stop_group(process, signal.SIGINT)
                self._foreground = None

    def serve(self, name: str, command: Sequence[str], *, until_done: bool = False) -> None:
        """Start a service and keep it running until :meth:`stop`.

        Args:
            name: Of the service.
            command: What to start.
            until_done: It may end by itself: with exit code 0 its work is done.
        """
        log_path = self._log_folder / f"{name}.log"
        service = _Service(name, command, log_path, _spawn(command, log_path), until_done)
        service.watcher = threading.Thread(target=self._watch, args=(service,), daemon=True)
        self._services.append(service)
        service.watcher.start()

    def wait_until_healthy(self, name: str, target: str, timeout_s: float = 120.0) -> None:
        """Wait until a service answers that it serves.

        Raises:
            Unavailable: It gave up or did not answer in time; the message ends with its log.
        """
        service = next(service for service in self._services if service.name == name)
        deadline = time.monotonic() + timeout_s
        while time.monotonic() < deadline and service.watcher.is_alive():
            with contextlib.suppress(Unavailable, TimedOut):
                if check_health(Target.parse(target), timeout_s=2.0).serving:
                    return
            time.sleep(_POLL_S)
        raise Unavailable(
            f"{name} does not serve at {target}; the end of {service.log_path}:\n"
            + _tail(service.log_path)
        )

    def stop(self) -> None:
        """Ask every process to end, and end those that do not."""
        with _ignored(signal.SIGINT), _ignored(signal.SIGTERM):
            with self._lock:
                self._stopping = True
            if self._foreground is not None:
                _stop_group(self._foreground, signal.SIGINT)
            for service in reversed(self._services):
                _stop_group(service.process, signal.SIGTERM)
                service.watcher.join()

    @property
    def process_ids(self) -> dict[str, int]:
        """Process id of each service now."""
        return {service.name: service.process.pid for service in self._services}

    def _watch(self, service: _Service) -> None:
        while True:
            code = service.process.wait()
            _kill_group(service.process)
            with self._lock:
                if self._stopping or (service.until_done and code == 0):
                    return
                if service.restarts == _RESTARTS:
                    self._say(f"{service.name} ended {_RESTARTS + 1} times, see {service.log_path}")
                    return
                service.restarts += 1
                self._say(f"{service.name} ended with code {code}: it is started again")
                service.process = _spawn(service.command, service.log_path)


def _spawn(command: Sequence[str], log_path: Path) -> subprocess.Popen[bytes]:
    with log_path.open("ab") as log:
        return subprocess.Popen(  # noqa: S603 - the demo's own command
            _mortal(command),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )


def _mortal(command: Sequence[str]) -> list[str]:
    """The command, told to end when this process is killed and can tell nobody any more."""
    setpriv = shutil.which("setpriv")  # of util-linux; elsewhere such a service has to be ended
    return [setpriv, "--pdeathsig", "TERM", "--", *command] if setpriv else [*command]


def _stop_group(process: subprocess.Popen[bytes], number: signal.Signals) -> None:
    """Ask a process to end, then make sure that nothing of its group is left."""
    with contextlib.suppress(ProcessLookupError):
        if process.poll() is None:
            os.killpg(process.pid, number)
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(_STOP_S)
    _kill_group(process)
    process.wait()


def _kill_group(process: subprocess.Popen[bytes]) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)


@contextlib.contextmanager
def _ignored(number: signal.Signals) -> Generator[None]:
    """A second Ctrl-C must not leave half of the processes behind."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(number, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(number, before)


def _tail(path: Path) -> str:
    lines = path.read_text("utf-8", errors="replace").splitlines()
    return "\n".join(lines[-_LOG_TAIL_LINES:])
