"""Several server processes on one port: started, watched, replaced and drained together.

The parent speaks no gRPC. It holds the port, counts restarts, serves the metrics of all, and starts
each process afresh, as gRPC must not be forked. The kernel gives each connection of a client to one
of the processes. Each is a replica of its own; they share the frame cache and the index on disk.
"""

from __future__ import annotations

import contextlib
import signal
import subprocess
import sys
import threading
import time
from dataclasses import dataclass
from multiprocessing.connection import Connection, Pipe
from queue import Empty, SimpleQueue
from types import FrameType

import structlog

from penstock.errors import Internal, InvalidInput
from penstock.server import configure_logging
from penstock.server.port import hold_port
from penstock_sampler.metrics import WORKER_RESTARTS
from penstock_sampler.serving.worker_metrics import WorkerMetrics
from penstock_sampler.settings import SamplerSettings

__all__ = ["serve_workers"]

log = structlog.get_logger(__name__)

_FIRST_WAIT_S, _LONGEST_WAIT_S = 0.2, 30.0
_STEADY_S = 60.0
"""The end of a process that has served for so long is no failure to start."""
_KILL_AFTER_DRAIN_S = 10.0
_NEVER = float("inf")


def serve_workers(settings: SamplerSettings) -> None:
    """Serve with ``settings.process_count`` processes until SIGTERM or SIGINT.

    Raises:
        InvalidInput: ``local_socket`` or ``direct_port`` names one for all of them.
        Unavailable: A port is taken.
        Internal: A process ended before it served, and did not say why.
        PenstockError: What kept a process from serving.
    """
    if settings.local_socket.endswith(".sock"):
        raise InvalidInput(
            f"local_socket {settings.local_socket} is one socket, each of "
            f"{settings.process_count} processes needs its own: name a folder",
            field="local_socket",
        )
    if settings.direct_port.isdecimal():
        raise InvalidInput(
            f"direct_port {settings.direct_port} is one port, each of {settings.process_count} "
            "processes needs its own: say auto, or none",
            field="direct_port",
        )
    configure_logging(settings.log_level, settings.log_format, pid=True)
    with (
        hold_port("sampler", settings.host, settings.port) as held,
        WorkerMetrics(settings) as metrics,
    ):
        own = settings.model_copy(update={"port": held.port, "metrics_port": 0})
        _Workers(own, metrics).run()
    log.info("stopped", service="sampler")


@dataclass(eq=False)
class _Worker:
    """A place for one process, and the process that has it now.

    Attributes:
        number: Of the place, from 0.
        start_at_s: When to start a process, ``time.monotonic()``.
        process: Alive, or ended and not heard of yet.
        served_from_s: Since when the process serves; None before.
        has_served: Whether any process in this place has ever served.
        failures: Processes here that ended soon, in a row.
    """

    number: int
    start_at_s: float = _NEVER
    process: subprocess.Popen[bytes] | None = None
    served_from_s: float | None = None
    has_served: bool = False
    failures: int = 0


@dataclass(frozen=True)
class _Serves:
    worker: _Worker


@dataclass(frozen=True)
class _Ended:
    worker: _Worker
    status: int
    error: Exception | None


class _Workers:
    """All processes; a thread for each tells of it, the calling thread decides.

    Args:
        settings: Of each process; the port is held.
        metrics: Where they count.
    """

    def __init__(self, settings: SamplerSettings, metrics: WorkerMetrics) -> None:
        self._settings, self._metrics = settings, metrics
        self._workers = [_Worker(number) for number in range(settings.process_count)]
        # Unlike a Queue, it may be put to by a signal handler.
        self._news: SimpleQueue[_Serves | _Ended | signal.Signals] = SimpleQueue()

    def run(self) -> None:
        """Serve until a signal asks to end, then drain.

        Raises:
            Exception: What kept a process from serving; the others are drained.
        """

        def ask(number: int, _: FrameType | None) -> None:
            self._news.put(signal.Signals(number))

        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, ask)
        # The others start when it serves: what keeps it from that would keep them, too, and they
        # find the index on the disk that it has made.
        self._workers[0].start_at_s = 0.0
        try:
            while True:
                for worker in self._workers:
                    if worker.start_at_s <= time.monotonic():
                        self._start(worker)
                news = self._next(min(worker.start_at_s for worker in self._workers))
                if isinstance(news, _Serves):
                    self._note_serving(news.worker)
                elif isinstance(news, _Ended):
                    self._note_end(news)
                elif news is not None:
                    log.info("draining", service="sampler", signal=news.name)
                    return
        finally:
            self._stop()

    def _next(self, until_s: float) -> _Serves | _Ended | signal.Signals | None:
        """The next news; None when there is none by then, ``time.monotonic()``."""
        wait_s = None if until_s == _NEVER else max(0.0, until_s - time.monotonic())
        try:
            return self._news.get(timeout=wait_s)
        except Empty:
            return None

    def _start(self, worker: _Worker) -> None:
        link, child_link = Pipe()
        # -P: a file in the current folder must not pass for a module.
        command = [sys.executable, "-P", "-m", "penstock_sampler.serving.worker"]
        command += [str(child_link.fileno()), str(worker.number)]
        with child_link:
            worker.process = subprocess.Popen(  # noqa: S603 - our own module
                command,
                pass_fds=[child_link.fileno()],
                env=self._metrics.environment,
                stdin=subprocess.DEVNULL,
                # Ctrl-C in a terminal reaches the parent alone, which drains.
                process_group=0,
            )
        worker.start_at_s, worker.served_from_s = _NEVER, None
        threading.Thread(
            target=self._watch, args=(worker, worker.process, link), daemon=True
        ).start()

    def _watch(self, worker: _Worker, process: subprocess.Popen[bytes], link: Connection) -> None:
        """Tell what a process does; its end of the link closes when it ends, however it does."""
        error: Exception | None = None
        with link:  # kept open until then: a process whose parent closes it ends itself
            with contextlib.suppress(EOFError, OSError):
                link.send(self._settings)
                while error is None:
                    error = link.recv()
                    if error is None:
                        self._news.put(_Serves(worker))
            status = process.wait()
        self._news.put(_Ended(worker, status, error))

    def _note_serving(self, worker: _Worker) -> None:
        worker.served_from_s, worker.has_served = time.monotonic(), True
        for other in self._workers:
            if other.process is None and not other.has_served:
                other.start_at_s = 0.0

    def _note_end(self, ended: _Ended) -> None:
        """Plan the replacement of a process that has ended.

        Raises:
            Exception: It has never served, or no other does, and will not by being started again.
        """
        worker, served_from_s = ended.worker, ended.worker.served_from_s
        self._forget(worker)
        served_s = 0.0 if served_from_s is None else time.monotonic() - served_from_s
        others_serve = any(other.served_from_s is not None for other in self._workers)
        if served_from_s is None and not (others_serve and (worker.has_served or not ended.error)):
            raise ended.error or Internal(
                f"server process {worker.number} {_how(ended.status)} before it served: what it "
                "wrote above may say why",
                reason="WORKER_ENDED",
            )
        worker.failures = 0 if served_s >= _STEADY_S else worker.failures + 1
        wait_s = min(_LONGEST_WAIT_S, _FIRST_WAIT_S * 2 ** min(worker.failures, 16))
        worker.start_at_s = time.monotonic() + wait_s
        WORKER_RESTARTS.inc()
        log.warning(
            "a server process ended and is started again",
            number=worker.number,
            how=_how(ended.status),
            error=ended.error and str(ended.error),
            served_s=round(served_s, 1),
            wait_s=wait_s,
        )

    def _forget(self, worker: _Worker) -> None:
        worker.process = worker.served_from_s = None
        self._metrics.forget(worker.number)

    def _stop(self) -> None:
        """Have all processes drain, and wait for them."""
        for worker in self._workers:
            worker.start_at_s = _NEVER
            if worker.process is not None:
                worker.process.terminate()
        end_s = time.monotonic() + self._settings.drain_s + _KILL_AFTER_DRAIN_S
        while left := [worker for worker in self._workers if worker.process is not None]:
            news = self._next(end_s)
            if isinstance(news, _Ended):
                self._forget(news.worker)
            elif news is None:
                for worker in left:
                    log.error("a server process does not end and is killed", number=worker.number)
                    if worker.process is not None:
                        worker.process.kill()
                end_s = _NEVER


def _how(status: int) -> str:
    """How a process ended, for people."""
    if status >= 0:
        return f"ended with exit status {status}"
    try:
        return f"was ended by {signal.Signals(-status).name}"
    except ValueError:  # a real-time signal has no name
        return f"was ended by signal {-status}"
