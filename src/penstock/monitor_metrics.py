"""Timers of a monitor for Prometheus; needs ``prometheus_client``, which servers bring."""

from __future__ import annotations

from collections.abc import Iterator

from prometheus_client import REGISTRY, CollectorRegistry, Metric
from prometheus_client.registry import Collector

from penstock.monitor import PerformanceMonitor

__all__ = ["export_prometheus"]

_NAME = "penstock_timer_seconds"


class _TimerCollector(Collector):
    """Gives the statistics of a monitor whenever it is scraped.

    Args:
        monitor: Whose.
    """

    def __init__(self, monitor: PerformanceMonitor) -> None:
        self._monitor = monitor

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


def export_prometheus(
    monitor: PerformanceMonitor, registry: CollectorRegistry | None = None
) -> None:
    """Have all timers scraped: ``penstock_timer_seconds``, by timer and quantile.

    Args:
        monitor: Whose.
        registry: Where it collects; None takes the usual one of the process.
    """
    (REGISTRY if registry is None else registry).register(_TimerCollector(monitor))
