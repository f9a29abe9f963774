"""The metrics of several server processes, added up and served on one port."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Self

from prometheus_client import CollectorRegistry, Metric
from prometheus_client.multiprocess import MultiProcessCollector, mark_process_dead
from prometheus_client.registry import Collector

from penstock.server.metrics_port import serve_metrics
from penstock.server.settings import ServerSettings
from penstock_sampler.metrics import WORKER_RESTARTS
from penstock_sampler.serving.worker import METRICS_FOLDER

__all__ = ["WorkerMetrics"]


class WorkerMetrics:
    """A folder in which processes count, and a port on which the sums are read.

    Args:
        settings: Without a ``metrics_port`` there is neither.
    """

    def __init__(self, settings: ServerSettings) -> None:
        self._settings = settings
        self._folder: Path | None = None
        self._stack = contextlib.ExitStack()

    @property
    def environment(self) -> dict[str, str]:
        """The variables of a process that is to count here."""
        inherited = {name: text for name, text in os.environ.items() if name != METRICS_FOLDER}
        return (
            inherited if self._folder is None else {**inherited, METRICS_FOLDER: str(self._folder)}
        )

    def forget(self, number: int) -> None:
        """Take the gauges of a process that has ended out of the sums; its counts stay."""
        if self._folder is not None:
            # By number, as processes name their files: see worker.py.
            mark_process_dead(number, str(self._folder))

    def __enter__(self) -> Self:
        """Begin to serve.

        Raises:
            Unavailable: The port is taken.
        """
        if not self._settings.metrics_port:
            return self
        with contextlib.ExitStack() as stack:
            folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="penstock-metrics-"))
            registry = CollectorRegistry()
            registry.register(_Sums(folder))
            server = serve_metrics("sampler", self._settings, registry)
            if server is not None:
                stack.callback(server.stop)
            self._folder, self._stack = Path(folder), stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._folder = None
        self._stack.close()


class _Sums(Collector):
    """What the processes have counted, with what only their parent knows in its place."""

    def __init__(self, folder: str) -> None:
        self._counted = MultiProcessCollector(None, folder)

    def collect(self) -> Iterator[Metric]:
        own = {metric.name: metric for metric in WORKER_RESTARTS.collect()}
        yield from (metric for metric in self._counted.collect() if metric.name not in own)
        yield from own.values()
