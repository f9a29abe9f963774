"""A store of rollouts, and clocks that tests set."""

import pytest
from penstock_checkpointer.rollouts import queue
from penstock_checkpointer.rollouts.store import RolloutStore

from penstock.streams import Take, Which


@pytest.fixture
def root(tmp_path):
    return tmp_path / "store"


@pytest.fixture
def store(root):
    opened = RolloutStore(root)
    yield opened
    opened.close()


@pytest.fixture
def take(store):
    """Take the next rollout; None if there is none."""

    def take(consumer="trainer", *, of=store, stream="s", **options):
        from penstock.errors import NotFound

        try:
            return of.find(stream, Which(take=Take(consumer=consumer, **options)))
        except NotFound:
            return None

    return take


@pytest.fixture
def clock(monkeypatch):
    """The time that leases go by; ``clock.now_s`` may be set."""

    class Clock:
        now_s = 1_000_000.0

    monkeypatch.setattr(queue, "_now_ms", lambda: round(Clock.now_s * 1000))
    return Clock
