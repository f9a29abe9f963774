"""What operators see."""

from penstock_checkpointer.rollouts.metrics import RolloutCollector
from prometheus_client import CollectorRegistry
from rollout_samples import push_into

from penstock.streams import StreamSettings


def test_metrics_tell_what_streams_hold_and_what_happened(store, take):
    registry = CollectorRegistry()
    registry.register(RolloutCollector(store))
    store.configure("s", StreamSettings(capacity=2, when_full="drop-oldest"))
    for number in range(4):
        push_into(store, number, policy_version=10 * number)
    take()
    size = sum(info.digest.size_bytes for info in store.list("s"))

    def value(name, **labels):
        return registry.get_sample_value(f"penstock_rollouts_{name}", labels)

    assert value("events_total", event="pushed") == 4
    assert value("events_total", event="dropped") == 2
    assert value("events_total", event="taken") == 1
    assert value("stored", stream="s") == 2
    assert value("stored_bytes", stream="s") == size
    assert value("newest_policy_version", stream="s") == 30
    assert value("waiting", stream="s", consumer="trainer") == 2
    assert value("taken", stream="s", consumer="trainer") == 1
    # It took version 20, the newest is 30.
    assert value("policy_lag", stream="s", consumer="trainer") == 10
