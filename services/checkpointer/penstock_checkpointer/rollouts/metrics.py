"""Prometheus metrics of rollouts, read from the store when they are scraped."""

from __future__ import annotations

from collections.abc import Iterator

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from penstock_checkpointer.rollouts.store import RolloutStore

__all__ = ["RolloutCollector"]


class RolloutCollector(Collector):
    """Tells what streams hold and what happened in them.

    Args:
        store: The store.
    """

    def __init__(self, store: RolloutStore) -> None:
        self._store = store

    def collect(self) -> Iterator[Metric]:
        """All metrics as they are now."""
        events = CounterMetricFamily(
            "penstock_rollouts_events",
            "What happened: rollouts pushed, refused, dropped, taken, settled, adopted, ...",
            labels=["event"],
        )
        for event, count in sorted(self._store.counts.items()):
            events.add_metric([event], count)
        yield events
        stored = _gauge("stored", "Rollouts in the stream.", "stream")
        size = _gauge("stored_bytes", "Size of their files.", "stream")
        version = _gauge("newest_policy_version", "Of any rollout of the stream.", "stream")
        waiting = _gauge(
            "waiting", "Rollouts that the consumer has not settled.", "stream", "consumer"
        )
        taken = _gauge("taken", "Rollouts that its members work on.", "stream", "consumer")
        lag = _gauge(
            "policy_lag",
            "Versions between the newest policy and that of the rollout it took last.",
            *("stream", "consumer"),
        )
        for state in self._store.streams():
            stored.add_metric([state.name], state.rollouts)
            size.add_metric([state.name], state.stored_bytes)
            version.add_metric([state.name], state.newest_policy_version)
            lags = self._store.policy_lags(state.name)
            for consumer in state.consumers:
                labels = [state.name, consumer.name]
                waiting.add_metric(labels, consumer.waiting)
                taken.add_metric(labels, consumer.taken)
                lag.add_metric(labels, lags.get(consumer.name, 0))
        yield from (stored, size, version, waiting, taken, lag)


def _gauge(name: str, documentation: str, *labels: str) -> GaugeMetricFamily:
    return GaugeMetricFamily(f"penstock_rollouts_{name}", documentation, labels=labels)
