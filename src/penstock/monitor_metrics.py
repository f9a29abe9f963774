"""Timers of a monitor as Prometheus metrics: the part of it that needs ``prometheus_client``."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from prometheus_client import REGISTRY, CollectorRegistry, Metric
from prometheus_client.registry import Collector

if TYPE_CHECKING:
    from penstock.monitor import PerformanceMonitor

__all__ = ["TimerCollector"]

_NAME = "penstock_timer_seconds"


class TimerCollector(Collector):
    """Gives the statistics of a monitor whenever it is scraped.

    Args:
        monitor: Whose.
    """

    def __init__(self, monitor: PerformanceMonitor) -> None:
        self._monitor = monitor

    def register(self, registry: CollectorRegistry | None = None) -> None:
        """Be scraped with ``registry``, or with the usual one of the process."""
        (REGISTRY if registry is None else registry).register(self)

    def collect(self) -> Iterator[Metric]:
        """One summary, with a label for the timer."""
        metric = Metric(_NAME, "Time that named parts of the program took.", "summary")
        for name, found in self._monitor.get_summary().items():
            for quantile, value in (("0.5", found["p50"]), ("0.95", found["p95"])):
                metric.add_sample(_NAME, {"timer": name, "quantile": quantile}, value)
            metric.add_sample(_NAME, {"timer": name, "quantile": "0.99"}, found["p99"])
            metric.add_sample(f"{_NAME}_count", {"timer": name}, found["count"])
            metric.add_sample(f"{_NAME}_sum", {"timer": name}, found["total"])
        yield metric
