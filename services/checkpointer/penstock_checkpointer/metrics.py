"""Prometheus metrics of the checkpointer, read from the store when they are scraped."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from penstock_checkpointer.store import Store

__all__ = ["StoreCollector"]


class StoreCollector(Collector):
    """Tells what a store holds and what happened in it.

    Args:
        store: The store.
        root: Its directory.
    """

    def __init__(self, store: Store, root: Path) -> None:
        self._store, self._root = store, root

    def collect(self) -> Iterator[Metric]:
        """All metrics as they are now."""
        events = CounterMetricFamily(
            "penstock_checkpointer_events",
            "What happened: commits, resumed, refused and expired uploads, fenced writers, ...",
            labels=["event"],
        )
        for event, count in sorted(self._store.counts.items()):
            events.add_metric([event], count)
        yield events
        checkpoints = GaugeMetricFamily(
            "penstock_checkpointer_checkpoints", "Checkpoints in the store.", labels=["run"]
        )
        stored = GaugeMetricFamily(
            "penstock_checkpointer_stored_bytes", "Size of the checkpoints.", labels=["run"]
        )
        damaged = GaugeMetricFamily(
            "penstock_checkpointer_damaged_checkpoints",
            "Checkpoints that the last check found damaged.",
            labels=["run"],
        )
        runs, damages = self._store.runs(), self._store.damaged()
        for run in runs:
            checkpoints.add_metric([run.name], run.checkpoints)
            stored.add_metric([run.name], run.stored_bytes)
            damaged.add_metric([run.name], damages.get(run.name, 0))
        yield checkpoints
        yield stored
        yield damaged
        yield GaugeMetricFamily(
            "penstock_checkpointer_store_bytes",
            "Size of all checkpoints, to be held against the quota of the store.",
            value=sum(run.stored_bytes for run in runs),
        )
        quotas = GaugeMetricFamily(
            "penstock_checkpointer_quota_bytes",
            "What one run, and the store, may hold; 0 for no quota.",
            labels=["scope"],
        )
        quotas.add_metric(["run"], self._store.limits.run_bytes)
        quotas.add_metric(["store"], self._store.limits.store_bytes)
        yield quotas
        yield GaugeMetricFamily(
            "penstock_checkpointer_disk_free_bytes",
            "Free space on the disk of the store.",
            value=shutil.disk_usage(self._root).free,
        )
