"""A process that has loaded everything and forks: processes that start in a millisecond.

It forks before gRPC or any thread is started, so each fork can use them as a fresh process would.
"""

from __future__ import annotations

import importlib
import json
import os
import signal
import subprocess
import sys
import traceback
from pathlib import Path
from typing import Any, Self

__all__ = ["Fork", "Forks"]


class Forks:
    """Starts functions as processes.

    Args:
        modules: Loaded ahead.
        log: Where forks and what they start write what they print.
    """

    def __init__(self, *modules: str, log: Path) -> None:
        self._modules, self.log = modules, log
        self._process: subprocess.Popen[str] | None = None

    def start(self, function: str, failpoint: str = "", **arguments: Any) -> Fork:
        """Start ``module:function`` with arguments that JSON can hold.

        Args:
            function: What.
            failpoint: As in ``PENSTOCK_FAILPOINT``; where it dies.
            **arguments: For the function.
        """
        return Fork(self, self.ask(function=function, failpoint=failpoint, arguments=arguments))

    def ask(self, **request: Any) -> int:
        """Tell the forking process something and return its answer."""
        assert self._process is not None
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        answer = self._process.stdout.readline()
        assert answer, f"the forking process ended:\n{self.log.read_text()[-3000:]}"
        return int(answer)

    def __enter__(self) -> Self:
        command = [sys.executable, __file__, str(self.log), *self._modules]
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
        )
        return self

    def __exit__(self, *_: object) -> None:
        assert self._process is not None
        self._process.communicate()


class Fork:
    """A process that was forked."""

    def __init__(self, forks: Forks, pid: int) -> None:
        self._forks, self.pid = forks, pid
        self._status: int | None = None

    def poll(self) -> int | None:
        """Its exit status, negative for a signal; None while it runs."""
        if self._status is None:
            answer = self._forks.ask(poll=self.pid)
            self._status = None if answer == _RUNNING else answer
        return self._status

    def kill(self) -> None:
        """Kill it and wait until it is gone."""
        if self._status is None:
            self._status = self._forks.ask(kill=self.pid)


_RUNNING = 1 << 20


def _poll(pid: int, options: int = os.WNOHANG) -> int:
    found, status = os.waitpid(pid, options)
    return os.waitstatus_to_exitcode(status) if found else _RUNNING


def _kill(pid: int) -> int:
    os.kill(pid, signal.SIGKILL)
    return _poll(pid, 0)


def _run(log: Path, function: str, failpoint: str, arguments: dict[str, Any]) -> None:
    from penstock import failpoints

    handle = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.dup2(handle, 1)
    os.dup2(handle, 2)
    os.environ["PENSTOCK_FAILPOINT"] = failpoint
    failpoints._trigger = failpoints._Trigger(failpoint)
    module, _, name = function.partition(":")
    getattr(importlib.import_module(module), name)(**arguments)


def main(log: Path, modules: list[str]) -> None:
    """Fork as standard input asks for it, until it ends."""
    for module in modules:
        importlib.import_module(module)
    running: set[int] = set()
    for line in sys.stdin:
        request = json.loads(line)
        if "poll" in request:
            answer = _poll(request["poll"])
        elif "kill" in request:
            answer = _kill(request["kill"])
        else:
            answer = os.fork()
            if answer == 0:
                status = 1
                try:
                    _run(log, **request)
                    status = 0
                except SystemExit as error:
                    status = error.code if isinstance(error.code, int) else 1
                except BaseException:  # noqa: BLE001 - nothing may get past a fork's end
                    traceback.print_exc()
                finally:
                    sys.stderr.flush()
                    os._exit(status)
            running.add(answer)
        if "function" not in request and answer != _RUNNING:
            running.discard(request.get("poll", request.get("kill")))
        sys.stdout.write(f"{answer}\n")
        sys.stdout.flush()
    for pid in running:
        _kill(pid)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
